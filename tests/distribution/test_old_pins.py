"""Beside a program that pins old libraries, the agent changes none of them, and traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreters import SUPPORTED, interpreters

from .conftest import Dist
from .venvs import Venv

#: Such as a service has that nobody has touched for years; the agent must not care.
PINS = ("protobuf==3.20.3", "grpcio==1.49.1", "requests==2.27.1", "urllib3==1.26.9", "flask==2.2.5", "werkzeug==2.2.3")
#: Of each: the oldest that is allowed, the last of the first version, the newest of all.
WRAPTS = ("wrapt==1.14.0", "wrapt>=1.14,<2", "wrapt>=2,<3")

PROGRAM = """\
import threading

import requests
from flask import Flask
from werkzeug.serving import make_server

app = Flask("shop")


@app.get("/buy/<item>")
def buy(item):
    return item


server = make_server("127.0.0.1", 0, app)
serving = threading.Thread(target=server.handle_request)
serving.start()
print(requests.get("http://127.0.0.1:%d/buy/teapot" % server.server_port).text)
serving.join()
server.server_close()
"""

#: wrapt alone: an instrument of each kind that needs no library, through the standard library.
STANDARD = """\
import sqlite3, threading, urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server

def shop(environ, start_response):
    sqlite3.connect(":memory:").execute("SELECT 1").fetchall()
    start_response("200 OK", [])
    return [b""]

WSGIRequestHandler.log_message = lambda *words: None
with make_server("127.0.0.1", 0, shop) as server:
    serving = threading.Thread(target=server.handle_request)
    serving.start()
    urllib.request.urlopen("http://127.0.0.1:%d/" % server.server_port).close()
    serving.join()
"""


@pytest.mark.parametrize("wrapt", WRAPTS)
def test_pins_stay_and_are_traced(dist: Dist, venv: Venv, wrapt: str) -> None:
    """``pip install autoinstr`` upgrades a library under a program, or sees nothing of its old versions."""
    venv.install(*PINS, wrapt)
    before = venv.freeze()
    venv.install(dist.wheel)
    assert {**before, "autoinstr": dist.version} == venv.freeze()
    venv.uv("pip", "check")
    venv.file("app.py", PROGRAM)
    spans = venv.spans("app.py")
    assert ["GET", "GET /buy/<item>"] == sorted(span["name"] for span in spans)
    assert 1 == len({span["traceId"] for span in spans})


@pytest.mark.parametrize("wrapt", WRAPTS)
@pytest.mark.parametrize("version", [version for version in SUPPORTED if version in interpreters()])
def test_each_wrapt_on_each_python(dist: Dist, tmp_path: Path, index: None, version: str, wrapt: str) -> None:
    """A version of wrapt is allowed that does not work there: the program would be without spans, or broken."""
    venv = Venv(tmp_path, interpreters()[version])
    venv.install(dist.wheel, wrapt)
    venv.file("app.py", STANDARD)
    spans = venv.spans("app.py")
    assert ["GET", "GET", "SELECT"] == sorted(span["name"] for span in spans)
    assert 1 == len({span["traceId"] for span in spans})
