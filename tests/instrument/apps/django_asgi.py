"""The Django project for ASGI servers, as ``startproject`` writes it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "manage")

application = get_asgi_application()
