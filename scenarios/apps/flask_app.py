"""The sample service in Flask. ``gunicorn flask_app:app``"""

from __future__ import annotations

import time

import answers
from flask import Flask, Response, request

app = Flask(__name__)
answers.silence_expected_errors(app.logger.name)


def text(body, status=200):
    return Response(body, status, content_type="text/plain; charset=utf-8")


def counting(wrapped):
    """Around the whole application, so that requests without a route count, too."""

    def wsgi_app(environ, start_response):
        if environ["PATH_INFO"] != answers.STATS:
            answers.served.one_more()
        return wrapped(environ, start_response)

    return wsgi_app


app.wsgi_app = counting(app.wsgi_app)


@app.get("/")
def hello():
    return text(answers.HELLO)


@app.get("/items/<int:number>")
def item(number):
    return text(answers.item(number))


@app.get("/fanout")
def fanout():
    return text(answers.fanout(request.args.get("n", 3, type=int)))


@app.get("/fanout-urllib")
def fanout_urllib():
    return text(answers.fanout_urllib(request.args.get("n", 3, type=int)))


@app.get("/rows")
def rows():
    return text(answers.rows(request.args.get("count", 10, type=int)))


@app.get("/concurrent")
def concurrent_calls():
    return text(answers.concurrent_calls(request.args.get("n", 5, type=int)))


@app.get("/slow")
def slow():
    milliseconds = request.args.get("ms", 20, type=int)
    time.sleep(answers.waiting_s(milliseconds))
    return text(answers.waited(milliseconds))


@app.get("/work")
def work():
    return text(answers.work(request.args.get("us", 500, type=int)))


@app.get("/error")
def error():
    answers.go_wrong()


@app.get(answers.STATS)
def stats():
    return text(answers.stats())


@app.errorhandler(404)
def missing(error):
    return text(answers.MISSING, 404)


@app.errorhandler(500)
def went_wrong(error):
    return text(answers.ERROR, 500)
