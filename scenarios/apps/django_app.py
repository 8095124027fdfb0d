"""The sample service in Django, in one file (and django_settings.py). ``gunicorn django_app:app``"""

from __future__ import annotations

import os
import time

import answers
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_settings")


def text(body, status=200):
    return HttpResponse(body, content_type="text/plain; charset=utf-8", status=status)


def parameter(request, name, default):
    return int(request.GET.get(name, default))


def counting(get_response):
    """The outermost middleware, so that requests without a route count, too."""

    def middleware(request):
        if request.path != answers.STATS:
            answers.served.one_more()
        return get_response(request)

    return middleware


def hello(request):
    return text(answers.HELLO)


def item(request, number):
    return text(answers.item(number))


def fanout(request):
    return text(answers.fanout(parameter(request, "n", 3)))


def fanout_urllib(request):
    return text(answers.fanout_urllib(parameter(request, "n", 3)))


def rows(request):
    return text(answers.rows(parameter(request, "count", 10)))


def concurrent_calls(request):
    return text(answers.concurrent_calls(parameter(request, "n", 5)))


def slow(request):
    milliseconds = parameter(request, "ms", 20)
    time.sleep(answers.waiting_s(milliseconds))
    return text(answers.waited(milliseconds))


def work(request):
    return text(answers.work(parameter(request, "us", 500)))


def error(request):
    answers.go_wrong()


def stats(request):
    return text(answers.stats())


def handler404(request, exception):
    return text(answers.MISSING, 404)


def handler500(request):
    return text(answers.ERROR, 500)


urlpatterns = [
    path("", hello),
    path("items/<int:number>", item),
    path("fanout", fanout),
    path("fanout-urllib", fanout_urllib),
    path("rows", rows),
    path("concurrent", concurrent_calls),
    path("slow", slow),
    path("work", work),
    path("error", error),
    path(answers.STATS[1:], stats),
]

app = get_wsgi_application()

# After Django has set up logging.
answers.silence_expected_errors("django.request")
