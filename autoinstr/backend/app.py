"""``autoinstr serve``: puts receivers, store and query together, and listens.

Owns: the command line, binding, the file of ports, the end.
Must not know: what flows through the parts.
Invariants: nothing is served unless every port could be bound; a port that is taken is an error that names its option.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from autoinstr.backend import query, receive, sampling, store

#: Name of a listener, which is also the beginning of its option: default port, kind of socket, what it is for.
LISTENERS = {
    "query": (16686, socket.SOCK_STREAM, "traces as JSON (Jaeger's query API) and as text"),
    "sampling": (5778, socket.SOCK_STREAM, "sampling strategies over HTTP"),
    "collector": (14268, socket.SOCK_STREAM, "Jaeger Thrift over HTTP"),
    "otlp": (4318, socket.SOCK_STREAM, "OTLP over HTTP, protobuf and JSON"),
    "zipkin": (9411, socket.SOCK_STREAM, "Zipkin v2 JSON over HTTP"),
    "agent": (6831, socket.SOCK_DGRAM, "Jaeger Thrift over UDP, compact and binary"),
}
#: About 2 KB of memory each.
DEFAULT_MAX_SPANS = 100_000
LARGEST_PORT = 65_535


class StartError(Exception):
    """Why the backend cannot start, in a sentence for whoever started it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted or terminated. 0 after that, 1 when it cannot start, 2 for a wrong command line."""
    options = _parser().parse_args(argv)
    # Ending on SIGTERM as on Ctrl-C, so that both come by the same way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _serve(options)
    except StartError as error:
        print(f"autoinstr serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autoinstr serve", description="Receive traces and answer queries, all in one process, in memory."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    for name, (port, _, purpose) in LISTENERS.items():
        help_text = f"{purpose} (%(default)s; 0: any free port)"
        parser.add_argument(f"--{name}-port", type=_port, default=port, metavar="PORT", help=help_text)
    parser.add_argument("--strategies-file", metavar="FILE", help="sampling strategies in Jaeger's format")
    parser.add_argument(
        "--max-spans", type=_positive, default=DEFAULT_MAX_SPANS, metavar="N", help="spans to keep (%(default)s)"
    )
    parser.add_argument("--ports-file", metavar="FILE", help="write the ports here, as JSON, once all are listening")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{port} is not a port (0 to {LARGEST_PORT})")
    return port


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def _serve(options: argparse.Namespace) -> None:
    try:
        strategies = sampling.StrategiesFile(options.strategies_file)
    except sampling.StrategiesError as error:
        raise StartError(str(error)) from error

    sockets = _bind_all(options)
    spans = store.MemoryStore(options.max_spans)
    intake = receive.Intake(spans)
    udp = receive.UdpReceiver(sockets.pop("agent"), intake)
    apps = {
        "query": query.query_app(spans, intake, udp.figures),
        "sampling": sampling.sampling_app(strategies),
        "collector": receive.jaeger_app(intake),
        "otlp": receive.otlp_app(intake),
        "zipkin": receive.zipkin_app(intake),
    }
    by_port: dict[int, ASGIApp] = {sock.getsockname()[1]: apps[name] for name, sock in sockets.items()}
    config = uvicorn.Config(
        dispatch_by_port(by_port),
        lifespan="off",
        log_level="warning",
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=3,
    )
    _announce(options, {**sockets, "agent": udp.socket})
    _run(uvicorn.Server(config), sockets, udp)


def _run(server: uvicorn.Server, sockets: Mapping[str, socket.socket], udp: receive.UdpReceiver) -> None:
    udp.start()
    try:
        server.run(sockets=list(sockets.values()))
    finally:
        udp.close()


def dispatch_by_port(apps: Mapping[int, ASGIApp]) -> ASGIApp:
    """One application out of several: the request's local port chooses.

    One server with several sockets, not several servers, because only one of them could have the signals.
    """

    async def dispatch(scope: Scope, take: Receive, send: Send) -> None:
        await apps[scope["server"][1]](scope, take, send)

    return dispatch


def _bind_all(options: argparse.Namespace) -> dict[str, socket.socket]:
    sockets: dict[str, socket.socket] = {}
    try:
        for name, (_, kind, _) in LISTENERS.items():
            sockets[name] = _bind(options.host, getattr(options, f"{name}_port"), kind, f"--{name}-port")
    except StartError:
        for sock in sockets.values():
            sock.close()
        raise
    return sockets


def _bind(host: str, port: int, kind: socket.SocketKind, option: str) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise StartError(f"cannot listen on {host} (--host): {error.strerror}") from error
    sock = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            # Otherwise a restart would fail for a minute. Not for UDP, where it would let two servers share a port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            # Connections may come from now on; they wait in the backlog until the server takes them.
            sock.listen(1024)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {host}:{port} ({option}): {error.strerror}") from error
    return sock


def _announce(options: argparse.Namespace, sockets: Mapping[str, socket.socket]) -> None:
    ports = {name: sockets[name].getsockname()[1] for name in LISTENERS}
    for name, port in ports.items():
        print(f"{name} {options.host}:{port}")
    sys.stdout.flush()
    if options.ports_file:
        _write_whole(options.ports_file, json.dumps(ports) + "\n")


def _write_whole(path: str, text: str) -> None:
    """A reader that polls for the file sees all of it or nothing."""
    unfinished = f"{path}.{os.getpid()}"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except OSError as error:
        raise StartError(f"cannot write {path} (--ports-file): {error.strerror}") from error
