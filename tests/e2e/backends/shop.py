"""The programs of the acceptance tests, one by role: ``shop.py front URL``, ``shop.py stock``, ``shop.py burst N``, ``shop.py patient N``.

The services print their port; they and ``patient`` go on until their standard input ends. Nothing here sets tracing up: the
agent does that, told by variables alone. Spans and attributes of their own come by the small API, as a user would add some.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.error
import urllib.request
from wsgiref.simple_server import make_server

import autoinstr
from autoinstr.model import Link, SpanContext

#: One value of each type, and what formats tend to lose: quotes, letters beyond ASCII and beyond 16 bits, large numbers.
TAGS = {
    "shop.text": 'Käse "reif" <b>🧀</b> \\ ende',
    "shop.empty": "",
    "shop.count": 7,
    "shop.negative": -3,
    "shop.large": 2**60 + 1,
    "shop.price": 2.5,
    "shop.round_price": 2.0,
    "shop.is_new": True,
    "shop.is_old": False,
    "shop.sizes": ["S", "Größe M"],
}
EVENT, EVENT_ATTRIBUTES = "checked", {"rule": "Sommer", "percent": 15, "valid": True}
LINKED = (0x0AF7651916CD43DD8448EB211C80319C, 0x00F067AA0BA902B7)
FAILURE = "out of stock: Käse"


def run_front(stock: str) -> None:
    """Asks the stock twice for each request; the second time it fails. Answers with what the stock said."""
    from flask import Flask

    app = Flask(__name__)

    @app.get("/buy/<item>")
    def buy(item):
        with autoinstr.span("price", attributes=TAGS, links=[Link(SpanContext(*LINKED))]) as span:
            span.add_event(EVENT, EVENT_ATTRIBUTES)
        answers = [fetch(f"{stock}/stock/{item}"), fetch(f"{stock}/broken")]
        return {"answers": answers}

    serve(app)


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()


def run_stock() -> None:
    """Answers with the caller's traceparent; ``/broken`` fails."""

    def app(environ, start_response):
        status = "200 OK"
        if environ["PATH_INFO"] == "/broken":
            try:
                with autoinstr.span("reserve"):
                    raise ValueError(FAILURE)
            except ValueError:
                status = "500 Internal Server Error"
        start_response(status, [("Content-Type", "text/plain")])
        return [environ.get("HTTP_TRACEPARENT", "").encode()]

    serve(app)


def serve(app) -> None:
    with make_server("127.0.0.1", 0, app) as server:
        print(server.server_port, flush=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        sys.stdin.read()
        server.shutdown()
        thread.join()


def run_burst(number: str, name: str = "burst") -> None:
    """So many spans as fast as it goes, in one trace, whose ids are printed."""
    with autoinstr.span(name):
        print(json.dumps(autoinstr.inject({})), flush=True)
        for item in range(int(number) - 1):
            with autoinstr.span("item", attributes={"item": item}):
                pass


def run_patient(number: str) -> None:
    """A trace at once, and another for each line on standard input."""
    run_burst(number, "early")
    for _ in sys.stdin:
        run_burst(number, "late")


if __name__ == "__main__":
    {"front": run_front, "stock": run_stock, "burst": run_burst, "patient": run_patient}[sys.argv[1]](*sys.argv[2:])
