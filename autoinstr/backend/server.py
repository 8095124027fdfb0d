"""Sockets, and the one HTTP server behind all of them.

Owns: binding, which application a port belongs to, uvicorn's settings, the orderly end of requests.
Must not know: what the applications do.
Invariants: a port that is taken is an error that names its option; requests that only wait for more to tell (live tails) are
ended at once when the server stops.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Connections that wait until the server takes them.
BACKLOG = 1024
#: Requests that are answered at once; more get 503.
MAX_CONNECTIONS = 2_000
#: How long requests under way have at the end.
STOP_S = 3


class BindError(Exception):
    """Why a port cannot be listened on, in a sentence that names its option."""


def bind(host: str, port: int, kind: socket.SocketKind, option: str) -> socket.socket:
    """A bound socket, which is listening if it is a stream's. BindError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise BindError(f"cannot listen on {host} (--host): {error.strerror}") from error
    sock = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            # Otherwise a restart would fail for a minute. Not for UDP, where it would let two servers share a port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            # Connections may come from now on; they wait in the backlog until the server takes them.
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BindError(f"cannot listen on {host}:{port} ({option}): {error.strerror}") from error
    return sock


def serve(apps: Mapping[int, ASGIApp], sockets: list[socket.socket], on_started: Callable[[], None]) -> None:
    """Answer requests, each by the application of its port, until a signal comes; raises KeyboardInterrupt then.

    ``on_started`` is called once requests are answered and signals are awaited: from then on it ends in order.
    """
    stopping = _Stopping()
    config = uvicorn.Config(
        stopping.ending(dispatch_by_port(apps)),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_S,
    )
    _Server(config, stopping, on_started).run(sockets=sockets)


def dispatch_by_port(apps: Mapping[int, ASGIApp]) -> ASGIApp:
    """One application out of several: the request's local port chooses.

    One server with several sockets, not several servers, because only one of them could have the signals.
    """

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[scope["server"][1]](scope, receive, send)

    return dispatch


class _Stopping:
    """Tells requests without a body, which may go on for ever, that the server stops."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None

    def begin(self) -> None:
        """The server stops."""
        if self._event is not None:
            self._event.set()

    def ending(self, app: ASGIApp) -> ASGIApp:
        """``app``, to whose GET requests the client seems to hang up when the server stops."""

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "GET":
                receive = self._until_stop(receive)
            await app(scope, receive, send)

        return run

    def _until_stop(self, receive: Receive) -> Receive:
        # Made here and not before, since only now there is a loop.
        event = self._event = self._event or asyncio.Event()
        is_first = True

        async def receive_or_stop() -> Message:
            nonlocal is_first
            if is_first:
                # The request itself, which is there already.
                is_first = False
                return await receive()
            asked = asyncio.ensure_future(receive())
            stop = asyncio.ensure_future(event.wait())
            try:
                await asyncio.wait((asked, stop), return_when=asyncio.FIRST_COMPLETED)
                return asked.result() if asked.done() else {"type": "http.disconnect"}
            finally:
                asked.cancel()
                stop.cancel()

        return receive_or_stop


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stopping: _Stopping, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.begin()
        await super().shutdown(sockets)
