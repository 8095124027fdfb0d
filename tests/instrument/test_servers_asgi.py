"""ASGI servers, as processes: each request that was answered is one span at the backend."""

from __future__ import annotations

from .contract_server import ServerContract
from .contract_server import receiver as receiver

ALL = ("plain_asgi", "fastapi", "django_asgi")


class Uvicorn(ServerContract):
    apps = ALL
    options: tuple[str, ...] = ()

    def command(self, target: str, port: int) -> list[str]:
        return ["uvicorn", f"--port={port}", *self.options, target]


class TestUvicorn(Uvicorn):
    """One process, which ends by the signal that it was sent."""


class TestUvicornInPython(Uvicorn):
    """Without uvloop and httptools, which it takes where they are installed."""

    apps = ("plain_asgi", "fastapi")
    options = ("--http=h11", "--loop=asyncio")


class TestUvicornWorkers(Uvicorn):
    """Two processes, started by spawn."""

    apps = ("plain_asgi", "fastapi")
    options = ("--workers=2",)


class TestUvicornReload(Uvicorn):
    """A process that is watched and started anew when a file changes."""

    apps = ("fastapi",)
    options = ("--reload",)


class TestHypercorn(ServerContract):
    """Worker processes started by spawn."""

    apps = ALL

    def command(self, target: str, port: int) -> list[str]:
        return ["hypercorn", f"--bind=127.0.0.1:{port}", target]


class TestDaphne(ServerContract):
    """Twisted."""

    apps = ALL

    def command(self, target: str, port: int) -> list[str]:
        return ["daphne", "--port", str(port), target]


class TestGranian(ServerContract):
    """A server written in Rust, with two worker processes."""

    is_up_when_it_says = ("Started worker-1", "Started worker-2")

    apps = ALL

    def command(self, target: str, port: int) -> list[str]:
        return ["granian", "--interface=asgi", f"--port={port}", "--workers=2", target]


class Gunicorn(ServerContract):
    apps = ("plain_asgi", "fastapi")
    worker = ""

    def command(self, target: str, port: int) -> list[str]:
        bind = f"--bind=127.0.0.1:{port}"
        return ["gunicorn", bind, "--no-control-socket", f"--worker-class={self.worker}", target]


class TestGunicornASGI(Gunicorn):
    """Gunicorn's own ASGI worker."""

    worker = "asgi"


class TestGunicornUvicorn(Gunicorn):
    """Uvicorn as a worker of gunicorn."""

    worker = "uvicorn.workers.UvicornWorker"
