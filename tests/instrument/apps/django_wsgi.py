"""The Django project for WSGI servers, as ``startproject`` writes it."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "manage")

application = get_wsgi_application()
