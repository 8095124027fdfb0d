"""Settings of the sample service in Django: what ``startproject`` writes, without what needs a database.

A file of its own, and not part of django_app.py: other agents load the settings before the application.
"""

from __future__ import annotations

SECRET_KEY = "only for load tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "django_app"
INSTALLED_APPS: list[str] = []
MIDDLEWARE = [
    "django_app.counting",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
USE_TZ = True
TIME_ZONE = "UTC"
# By itself Django writes errors to nobody's mailbox, and nothing to the console.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["console"], "level": "ERROR"}},
}
