"""The sample service without a framework: a WSGI callable and a table of paths. ``gunicorn bare_wsgi:app``"""

from __future__ import annotations

import time
from urllib.parse import parse_qs

import answers


def parameter(environ, name, default):
    values = parse_qs(environ["QUERY_STRING"]).get(name)
    return int(values[0]) if values else default


def slow(environ):
    milliseconds = parameter(environ, "ms", 20)
    time.sleep(answers.waiting_s(milliseconds))
    return answers.waited(milliseconds)


PATHS = {
    "/": lambda environ: answers.HELLO,
    "/fanout": lambda environ: answers.fanout(parameter(environ, "n", 3)),
    "/fanout-urllib": lambda environ: answers.fanout_urllib(parameter(environ, "n", 3)),
    "/rows": lambda environ: answers.rows(parameter(environ, "count", 10)),
    "/concurrent": lambda environ: answers.concurrent_calls(parameter(environ, "n", 5)),
    "/slow": slow,
    "/work": lambda environ: answers.work(parameter(environ, "us", 500)),
    "/error": lambda environ: answers.go_wrong(),
    answers.STATS: lambda environ: answers.stats(),
}


def answer(environ):
    path = environ["PATH_INFO"]
    if path != answers.STATS:
        answers.served.one_more()
    view = PATHS.get(path)
    if view is not None:
        return "200 OK", view(environ)
    prefix, _, number = path.rpartition("/")
    if prefix == "/items" and number.isdecimal():
        return "200 OK", answers.item(int(number))
    return "404 Not Found", answers.MISSING


def app(environ, start_response):
    try:
        status, body = answer(environ)
    except Exception as error:
        answers.log_unexpected(error)
        status, body = "500 Internal Server Error", answers.ERROR
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
