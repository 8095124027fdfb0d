"""``python -m autoinstr --ui``: a backend beside the program, started when none runs, and left running.

Owns: finding out whether one runs, starting one that outlives the program, the line that says where to look.
Must not know: the backend's inside; what the program is.
Invariants: never raises, never waits for the backend; the program gets no child that it did not start itself, and no open file.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress

HOST = "127.0.0.1"
#: Jaeger's ports, on which the backend is when nobody says otherwise.
QUERY_PORT, SAMPLING_PORT, AGENT_PORT = 16686, 5778, 6831
COMMAND = (sys.executable, "-m", "autoinstr", "serve")
#: On loopback somebody listens or nobody does: an answer comes at once.
PROBE_S = 0.2
#: Datagrams that come before the backend is up wait in the kernel.
EARLY_BUFFER_BYTES = 4 * 1024 * 1024
BACKLOG = 1024
#: What a user says about sampling.
SAMPLING = ("JAEGER_SAMPLER_TYPE", "JAEGER_SAMPLER_PARAM", "OTEL_TRACES_SAMPLER")


class Taken(Exception):
    """A port that the backend needs is somebody else's."""


def ready() -> str:
    """See to it that a backend runs or starts; what to tell the user."""
    url = f"http://{HOST}:{QUERY_PORT}/"
    try:
        if _answers(QUERY_PORT) or _answers(SAMPLING_PORT):
            return f"traces at {url}"
        missing = [name for name in ("starlette", "uvicorn") if not _is_installed(name)]
        if missing:
            return f"no web interface: {' and '.join(missing)} missing (pip install 'autoinstr[backend]')"
        with ExitStack() as stack:
            sockets = _bind(stack)
            inherited = [f"--inherit={name}={sock.fileno()}" for name, sock in sockets.items()]
            _start([*COMMAND, "--background", *inherited], [sock.fileno() for sock in sockets.values()])
    except Taken as error:
        return f"no web interface: {error}, but nobody answers at {url}"
    except Exception as error:  # The program matters, not its traces.
        return f"no web interface: {type(error).__name__}: {error}"
    return f"traces at {url} (started, and left running)"


def with_first_trace(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ``, by which everything is kept until the backend has said what to keep, unless the user said otherwise.

    Until it has been asked it would be one trace in a thousand, and a short script would leave nothing to look at.
    """
    return {**environ} if any(name in environ for name in SAMPLING) else {**environ, "JAEGER_SAMPLER_PARAM": "1"}


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), PROBE_S):
        return True
    return False


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _bind(stack: ExitStack) -> dict[str, socket.socket]:
    """The sockets that the backend will read, bound already: what the program sends in its first second waits in them."""
    sockets = {}
    for name, port, kind in (
        ("query", QUERY_PORT, socket.SOCK_STREAM),
        ("sampling", SAMPLING_PORT, socket.SOCK_STREAM),
        ("agent", AGENT_PORT, socket.SOCK_DGRAM),
    ):
        sock = sockets[name] = stack.enter_context(socket.socket(socket.AF_INET, kind))
        try:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            else:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, EARLY_BUFFER_BYTES)
            sock.bind((HOST, port))
        except OSError as error:
            raise Taken(f"{HOST}:{port} ({'UDP' if kind == socket.SOCK_DGRAM else 'TCP'}) is taken") from error
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
        sock.set_inheritable(True)
    return sockets


def _start(command: list[str], keep: list[int]) -> None:
    """Run ``command`` in a session of its own, as nobody's child: the program would be told when it ends."""
    if not hasattr(os, "fork"):
        import subprocess

        # Not tested: DETACHED_PROCESS and CREATE_NEW_PROCESS_GROUP of Windows.
        subprocess.Popen(command, env=_environment(), creationflags=0x208, close_fds=False)  # noqa: S603 - our command
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            _close_others(keep)
            os.chdir("/")
            os.execve(command[0], command, _environment())  # noqa: S606 - our command
    finally:
        os._exit(0)


def _environment() -> dict[str, str]:
    """The backend itself is not traced, even where everything is."""
    return {**os.environ, "OTEL_SDK_DISABLED": "true"}


def _close_others(keep: list[int]) -> None:
    """What the program's starter left open is not the backend's."""
    at = 3
    for descriptor in sorted(keep):
        os.closerange(at, descriptor)
        at = descriptor + 1
    os.closerange(at, at + 1000)
