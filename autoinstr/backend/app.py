"""``autoinstr serve``: puts receivers, store and query together, listens, and ends in order.

Owns: which parts there are, what stands before each port, the file of ports, the order of the end.
Must not know: what flows through the parts.
Invariants: nothing is served unless every port could be bound; at the end everything that was taken is written before the
store is closed: requests under way have 3 s, datagrams in the kernel 5 s, the queue before the store 10 s.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from autoinstr.backend import guard, log, metrics, options, receive, server
from autoinstr.backend.guard import Credentials
from autoinstr.backend.options import LISTENERS, OFF
from autoinstr.backend.receive import grpc, losses, udp, writer

GRPC_STOP_S, WRITER_STOP_S = 2.0, 10.0
#: How long a thread that computes keeps Python's lock: a fifth of the usual, so that sockets wait less for the writer.
SWITCH_S = 0.001
#: Objects that are made before Python looks for cycles among them: decoding makes thousands, and no cycles.
GC_THRESHOLD = 50_000

UDP = ("agent", "agent-binary")
RECEIVERS = ("collector", "otlp", "zipkin")


class StartError(Exception):
    """Why the backend cannot start, in a sentence for whoever started it; ``status`` is the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted or terminated. 0 after that, 1 when it cannot start, 2 for a wrong command line or a missing extra."""
    chosen = options.parse(argv)
    # Ending on SIGTERM as on Ctrl-C, so that both come by the same way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if chosen.background:
            _leave_terminal(chosen.data)
        log.configure(as_json=chosen.log == "json")
        _serve(chosen)
    except (StartError, server.BindError) as error:
        print(f"autoinstr serve: {error}", file=sys.stderr)
        return error.status if isinstance(error, StartError) else 1
    except KeyboardInterrupt:
        pass
    return 0


def _serve(chosen: argparse.Namespace) -> None:
    try:
        credentials = options.credentials(chosen)
    except ValueError as error:
        raise StartError(str(error)) from error
    with ExitStack() as closing:
        sockets = _bind_all(chosen, closing)
        backend = Backend(chosen, closing)
        ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
        datagrams = udp.UdpReceiver([sockets.pop(name) for name in UDP if name in sockets], backend.take_datagrams)
        backend.watch(datagrams.figures)
        closing.callback(datagrams.close)
        ports |= _start_grpc(chosen, backend, credentials, closing)
        apps = backend.apps(chosen)
        by_port = {ports[name]: _guarded(name, apps[name], chosen, credentials) for name in sockets}
        _warn_if_open(chosen, credentials)
        _tune()
        datagrams.start()
        try:
            server.serve(by_port, list(sockets.values()), lambda: _announce(chosen, ports))
        finally:
            log.info("stopped")


class Backend:
    """What there is between the ports, made from the options; ``closing`` ends it in reverse order."""

    def __init__(self, chosen: argparse.Namespace, closing: ExitStack) -> None:
        self._chosen = chosen
        self._figures: list[metrics.Figures] = []
        self._losses = losses.LossBook()
        self._target = _open_forwarder(chosen) if chosen.forward else _open_store(chosen)
        closing.callback(self._target.close)
        self._writer = writer.QueueWriter(self._target)
        closing.callback(self._drain)
        self.intake = receive.Intake(self._writer, self._losses)
        self.take_datagrams = self.intake.take_datagrams

    def watch(self, figures: metrics.Figures) -> None:
        """Publish further numbers of the receivers."""
        self._figures.append(figures)
        self._losses.watch(figures)

    def apps(self, chosen: argparse.Namespace) -> dict[str, ASGIApp]:
        """What listens behind each HTTP port, by the listener's name."""
        made = self._forwarding_apps() if chosen.forward else self._storing_apps()
        made["collector"] = receive.jaeger_app(self.intake)
        made["otlp"] = receive.otlp_app(self.intake)
        made["zipkin"] = receive.zipkin_app(self.intake)
        return made

    def _storing_apps(self) -> dict[str, ASGIApp]:
        from autoinstr.backend import parts, query, sampling

        strategies = _open_strategies(self._chosen)
        self._writer.listen(strategies.observe)
        whole = parts.Parts(
            store=self._target,
            writer=self._writer,
            losses=self._losses,
            strategies=strategies,
            limits=_limits(self._chosen),
            figures=(strategies.figures, *self._figures),
        )
        own = Starlette(routes=metrics.routes(whole, self.intake.counters, self._writer))
        return {
            "query": _either(own, metrics.PATHS, query.query_app(whole)),
            "sampling": sampling.sampling_app(strategies),
        }

    def _forwarding_apps(self) -> dict[str, ASGIApp]:
        from autoinstr.backend import forward

        figures = (self._target.figures, self._writer.figures, *self._figures)
        own = metrics.plain_routes(figures, self.intake.counters, self._losses, self._writer)
        return {
            "query": Starlette(routes=own),
            "sampling": forward.strategies_app(options.sampling_url(self._chosen)),
        }

    def _drain(self) -> None:
        if not self._writer.close(WRITER_STOP_S):
            log.error("not_drained", payloads=self._writer.figures()["writer_queue_payloads"])


def _open_store(chosen: argparse.Namespace) -> Any:
    """The store that the options name; each module is loaded only where it is used."""
    from autoinstr.backend.store import MemoryStore, MissingExtra, StoreError

    try:
        if chosen.storage == "memory":
            return MemoryStore(chosen.max_spans, chosen.max_age)
        if chosen.storage == "postgres":
            from autoinstr.backend.store.postgres import PostgresStore

            url = options.secret(chosen.postgres, "--postgres")
            return PostgresStore(url, max_age_s=chosen.max_age, max_bytes=chosen.max_bytes)
        from autoinstr.backend.store.sqlite import SqliteStore

        return SqliteStore(_folder(chosen, "traces"), max_bytes=chosen.max_bytes, max_age_s=chosen.max_age)
    except (StoreError, ValueError, OSError) as error:
        text = f"cannot open the store (--storage {chosen.storage}): {error}"
        raise StartError(text, 2 if isinstance(error, MissingExtra) else 1) from error


def _open_forwarder(chosen: argparse.Namespace) -> Any:
    from autoinstr.backend import forward
    from autoinstr.backend.forward import spool

    try:
        headers = {name: options.secret(value, "--forward-header") for name, value in chosen.forward_header}
        folder = _folder(chosen, "spool")
        return forward.Forwarder(chosen.forward, folder=folder, max_bytes=chosen.max_bytes, headers=headers)
    except (forward.ForwardError, spool.SpoolError, ValueError) as error:
        raise StartError(f"cannot forward (--forward): {error}") from error


def _open_strategies(chosen: argparse.Namespace) -> Any:
    from autoinstr.backend import sampling
    from autoinstr.backend.sampling import adaptive

    steering = adaptive.Adaptive(chosen.adaptive) if chosen.adaptive else None
    # What was edited is kept where spans are kept.
    edits = os.path.join(_folder(chosen), "sampling.json") if chosen.storage == "sqlite" else None
    try:
        return sampling.StrategyBook(chosen.strategies_file, edits_path=edits, adaptive=steering)
    except sampling.StrategiesError as error:
        text = str(error)
        named = text if str(chosen.strategies_file) in text else f"strategies file {chosen.strategies_file}: {text}"
        raise StartError(named) from error


def _folder(chosen: argparse.Namespace, name: str = "") -> str:
    """A folder for files of ours, for its owner alone: spans may hold what is nobody else's business."""
    path = os.path.join(chosen.data, name) if name else chosen.data
    try:
        # One after the other: folders above the last one would get the usual mode.
        os.makedirs(chosen.data, mode=0o700, exist_ok=True)
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the folder {path} (--data): {error.strerror}") from error
    return path


def _limits(chosen: argparse.Namespace) -> dict[str, Any]:
    # JSON has no infinity.
    max_age_s = chosen.max_age if chosen.max_age < float("inf") else None
    limits: dict[str, Any] = {"storage": chosen.storage, "max_age_s": max_age_s}
    if chosen.storage == "memory":
        limits["max_spans"] = chosen.max_spans
    else:
        limits["max_bytes"] = chosen.max_bytes
    if chosen.storage == "sqlite":
        limits["data"] = chosen.data
    return limits


def _either(first: ASGIApp, paths: Sequence[str], second: ASGIApp) -> ASGIApp:
    """``first`` for some paths, ``second`` for all others."""

    async def choose(scope: Scope, take: Receive, send: Send) -> None:
        await (first if scope["path"] in paths else second)(scope, take, send)

    return choose


def _guarded(name: str, app: ASGIApp, chosen: argparse.Namespace, credentials: Credentials) -> ASGIApp:
    """What stands before a port, the outermost last."""
    is_receiver = name in RECEIVERS
    if name == "query":
        app = guard.check_origin(app)
    # Clients have no way to bring a password when they ask for their strategy, and it is no secret.
    needs_secret = not (chosen.open_receivers if is_receiver else name == "sampling")
    if credentials and needs_secret:
        app = guard.check_credentials(app, credentials, () if is_receiver else guard.OPEN_PATHS)
    if is_receiver:
        app = guard.allow_origins(app, chosen.cors_origin)
    if guard.is_loopback(chosen.host):
        app = guard.check_host(app, chosen.allow_host)
    return guard.add_security_headers(app)


def _start_grpc(
    chosen: argparse.Namespace, backend: Backend, credentials: Credentials, closing: ExitStack
) -> dict[str, int]:
    """Begin to listen for gRPC, if that is wanted and possible; its port."""
    if chosen.otlp_grpc_port == OFF:
        return {}
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    try:
        listener = grpc.start(
            f"{host}:{chosen.otlp_grpc_port}",
            backend.intake,
            Credentials() if chosen.open_receivers else credentials,
        )
    except grpc.NotAvailable as error:
        print(f"otlp-grpc off: {error}")
        return {}
    except OSError as error:
        # grpcio does not say why; whoever tries it by hand is told.
        server.bind(chosen.host, chosen.otlp_grpc_port, socket.SOCK_STREAM, "--otlp-grpc-port").close()
        raise StartError(f"cannot listen for gRPC (--otlp-grpc-port): {error}") from error
    closing.callback(listener.close, GRPC_STOP_S)
    listener.start()
    return {"otlp-grpc": listener.port}


def _bind_all(chosen: argparse.Namespace, closing: ExitStack) -> dict[str, socket.socket]:
    """Sockets by the name of their listener, all but gRPC's, which grpcio binds itself."""
    sockets: dict[str, socket.socket] = {}
    inherited = dict(chosen.inherit)
    for name, (_, kind, _) in LISTENERS.items():
        port = getattr(chosen, f"{name.replace('-', '_')}_port")
        if name == "otlp-grpc" or port == OFF:
            continue
        if name in inherited:
            sockets[name] = socket.socket(fileno=inherited[name])
        else:
            sockets[name] = server.bind(chosen.host, port, kind, f"--{name}-port")
        closing.callback(sockets[name].close)
    return sockets


def _warn_if_open(chosen: argparse.Namespace, credentials: Credentials) -> None:
    if not guard.is_loopback(chosen.host) and not credentials:
        log.warning(
            "open_to_the_network",
            host=chosen.host,
            advice="anybody who reaches these ports can read and delete all traces; use --user or --token",
        )


def _tune() -> None:
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


def _announce(chosen: argparse.Namespace, ports: Mapping[str, int]) -> None:
    ordered = {name: ports[name] for name in LISTENERS if name in ports}
    for name, port in ordered.items():
        print(f"{name} {chosen.host}:{port}")
    if "query" in ports and not chosen.forward:
        host = "127.0.0.1" if chosen.host in ("0.0.0.0", "::", "") else chosen.host  # noqa: S104 - it is compared
        print(f"web interface http://{f'[{host}]' if ':' in host else host}:{ports['query']}/")
    sys.stdout.flush()
    log.info("listening", host=chosen.host, **ordered)
    if chosen.ports_file:
        _write_whole(chosen.ports_file, json.dumps(ordered) + "\n")


def _write_whole(path: str, text: str) -> None:
    """A reader that polls for the file sees all of it or nothing."""
    unfinished = f"{path}.{os.getpid()}"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except OSError as error:
        raise StartError(f"cannot write {path} (--ports-file): {error.strerror}") from error


def _leave_terminal(folder: str) -> None:
    """Say in a file what nobody would read."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        sink = os.open(os.path.join(folder, "serve.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError:
        return
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
