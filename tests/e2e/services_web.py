"""The application of the tests of process models, which knows nothing of tracing: ``services_web:app`` for a server.

As a program it is its own server: ``services_web.py eventlet PORT``. The variables PATCH (which monkey patching, before or after
the import of everything else) and WARM_UP (an address to call at import, as an application does that fetches its settings)
stand for what programs do before they serve.
"""

import os
import sys
import time


def patch(when):
    if os.environ.get("PATCH") == f"gevent {when}":
        from gevent import monkey

        monkey.patch_all()
    if os.environ.get("PATCH") == f"eventlet {when}":
        import eventlet

        eventlet.monkey_patch()


patch("before")
import requests
from flask import Flask

patch("after")
app = Flask(__name__)
if "WARM_UP" in os.environ:
    requests.get(os.environ["WARM_UP"], timeout=10)


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.get("/hang")
def hang():
    time.sleep(60)


if __name__ == "__main__":
    import eventlet.wsgi

    eventlet.wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[2]))), app, log_output=False)
