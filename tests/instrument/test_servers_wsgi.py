"""WSGI servers, as processes: each request that was answered is one span at the backend."""

from __future__ import annotations

from .contract_server import ServerContract
from .contract_server import receiver as receiver

ALL = ("plain_wsgi", "flask", "django_wsgi")


class TestWsgiref(ServerContract):
    """The server of the standard library."""

    apps = ("plain_wsgi",)

    def command(self, target: str, port: int) -> list[str]:
        return ["plain_wsgi.py", str(port)]


class TestFlaskRun(ServerContract):
    """Werkzeug's server."""

    apps = ("flask",)

    def command(self, target: str, port: int) -> list[str]:
        return ["flask", "--app", "flask_app", "run", "--port", str(port)]


class TestFlaskRunDebug(ServerContract):
    """With the reloader, which kills its child when it is asked to end, and the debugger, which keeps the exceptions."""

    apps = ("flask",)

    def command(self, target: str, port: int) -> list[str]:
        return ["flask", "--app", "flask_app", "run", "--debug", "--port", str(port)]


class TestFlaskScript(ServerContract):
    """``app.run()``."""

    apps = ("flask",)

    def command(self, target: str, port: int) -> list[str]:
        return ["flask_app.py", str(port)]


class Gunicorn(ServerContract):
    apps = ALL
    options: tuple[str, ...] = ()

    def command(self, target: str, port: int) -> list[str]:
        bind = f"--bind=127.0.0.1:{port}"
        return ["gunicorn", bind, "--no-control-socket", *self.options, target]


class TestGunicornSync(Gunicorn):
    """The default worker."""


class TestGunicornThreads(Gunicorn):
    """Several threads in each of two workers."""

    options = ("--worker-class=gthread", "--threads=4", "--workers=2")


class TestGunicornGevent(Gunicorn):
    """Greenlets: the agent must not have imported what gevent patches."""

    options = ("--worker-class=gevent",)


class TestGunicornPreload(Gunicorn):
    """The application is loaded before the fork."""

    apps = ("plain_wsgi", "flask")
    options = ("--preload", "--workers=2")


class TestGunicornMaxRequests(Gunicorn):
    """Workers that are replaced every few requests."""

    apps = ("flask",)
    options = ("--max-requests=7",)


class TestWaitress(ServerContract):
    """A thread pool."""

    apps = ALL

    def command(self, target: str, port: int) -> list[str]:
        return ["waitress-serve", f"--listen=127.0.0.1:{port}", target]


class TestCheroot(ServerContract):
    """CherryPy's server."""

    apps = ALL

    def command(self, target: str, port: int) -> list[str]:
        return ["-m", "cheroot", f"--bind=127.0.0.1:{port}", target]


class TestGranian(ServerContract):
    """A server written in Rust, with two worker processes."""

    is_up_when_it_says = ("Started worker-1", "Started worker-2")

    apps = ALL

    def command(self, target: str, port: int) -> list[str]:
        return ["granian", "--interface=wsgi", f"--port={port}", "--workers=2", target]


class TestUvicornWSGI(ServerContract):
    """Uvicorn's bridge, which calls the application on another thread."""

    apps = ("plain_wsgi", "flask")

    def command(self, target: str, port: int) -> list[str]:
        return ["uvicorn", "--interface=wsgi", f"--port={port}", target]


class TestHypercornWSGI(ServerContract):
    """Hypercorn's bridge."""

    apps = ("plain_wsgi", "flask")

    def command(self, target: str, port: int) -> list[str]:
        return ["hypercorn", f"--bind=127.0.0.1:{port}", "wsgi:" + target]


class TestRunserver(ServerContract):
    """Django's own server, whose reloader kills its child when it is asked to end."""

    apps = ("django_wsgi",)
    options: tuple[str, ...] = ()

    def command(self, target: str, port: int) -> list[str]:
        return ["manage.py", "runserver", str(port), *self.options]


class TestRunserverNoReload(TestRunserver):
    """The same in one process."""

    options = ("--noreload",)
