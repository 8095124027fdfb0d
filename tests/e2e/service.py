"""The service of the trace-context tests: ``service.py flask`` or ``service.py fastapi``.

It takes POSTs of ``[{"url": ..., "arguments": [...]}, ...]`` and posts the arguments to each url. It knows nothing of tracing.
The first line on its stdout is its port.
"""

import json
import socket
import sys
import urllib.request
from typing import Any


def run_flask() -> None:
    """A WSGI application whose calls go out by requests."""
    import requests
    from flask import Flask, request
    from werkzeug.serving import make_server

    app = Flask(__name__)

    @app.post("/test")
    def test() -> str:
        for call in request.get_json():
            requests.post(call["url"], json=call["arguments"], timeout=10)
        return "done"

    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


def run_fastapi() -> None:
    """An ASGI application whose calls go out by urllib."""
    import uvicorn
    from fastapi import Body, FastAPI

    app = FastAPI()

    @app.post("/test")
    def test(calls: list[dict[str, Any]] = Body()) -> str:  # noqa: B008 - as FastAPI wants it
        for call in calls:
            request = urllib.request.Request(call["url"], json.dumps(call["arguments"]).encode())
            urllib.request.urlopen(request, timeout=10).close()
        return "done"

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(listener.getsockname()[1], flush=True)
    # httptools would refuse some of the headers that the suite sends, before the application sees them.
    uvicorn.Server(uvicorn.Config(app, log_level="error", http="h11")).run(sockets=[listener])


if __name__ == "__main__":
    {"flask": run_flask, "fastapi": run_fastapi}[sys.argv[1]]()
