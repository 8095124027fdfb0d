"""The Flask service that is measured: `/` answers, `/call` asks the origin server first."""

import os

import requests
from flask import Flask

app = Flask(__name__)
ORIGIN = os.environ.get("BENCH_ORIGIN", "")


@app.get("/")
def index() -> str:
    return "hello"


@app.get("/call")
def call() -> str:
    return str(requests.get(ORIGIN, timeout=5).json()["stock"])
