"""A Django project in one file, which names its settings where ``startproject`` does, in ``manage.py``."""

import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "manage")

ALLOWED_HOSTS = ["*"]
DEBUG = True
ROOT_URLCONF = "manage"
SECRET_KEY = "none"
USE_TZ = True
DATABASES = {}

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
else:
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    def user(request, user_id):
        return HttpResponse(f"hello {user_id}")

    def fail(request):
        raise RuntimeError("on purpose")

    def stream(request):
        return StreamingHttpResponse([b"part "] * 3)

    urlpatterns = [path("users/<int:user_id>", user), path("fail", fail), path("stream", stream)]
