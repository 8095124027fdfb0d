"""The counting sink: a process of its own that stands in for every collector, answers success, and counts when asked.

Owns: ``Sink``, by which the harness starts, asks and stops one; ``autoinstr bench sink``, the same for people.
Must not know: who is measured; what the process does with what it receives (``sink_server``).
Invariants: a sink ends with who started it, however that ends; it is never traced; a Refusal says so when it is gone.

Between the harness and the sink: one line of JSON on stdout with the ports, ``POST /-/take``, ``GET /-/arrived``,
``PUT /-/strategy?service=``; the end of stdin ends it. Nothing on a path with ``/-/`` is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from autoinstr.bench import parts
from autoinstr.bench.parts import Refusal
from autoinstr.bench.sink_server import KEPT_BYTES, MAX_BODY_BYTES, Counts, Inbox, Receiver

__all__ = ["Counts", "Sink", "main"]

#: Asked of the kernel, which gives less unless the machine allows it or we are root (``net.core.rmem_max``).
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024

#: Seconds in which the sink starts, ends, and answers (a full inbox takes a while to count).
START_S, STOP_S, ANSWER_S = 30.0, 5.0, 600.0


class Sink:
    """A sink of one's own: started, asked, stopped. Everything raises ``Refusal`` when the sink is not there any more."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self.pid = process.pid
        #: ``receive_buffer_bytes`` is what the kernel gave, by its own way of counting.
        self.http_port = self.udp_port = self.receive_buffer_bytes = 0

    @classmethod
    def start(
        cls,
        cpus: frozenset[int] | None = None,
        *,
        kept_bytes: int = KEPT_BYTES,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> Sink:
        """Start one on free ports of the loopback interface, which may use ``cpus`` only (None: all)."""
        words = ["--child", "--http=0", "--udp=0", f"--keep={kept_bytes}", f"--receive-buffer={receive_buffer_bytes}"]
        if cpus is not None:
            words.append("--cpus=" + ",".join(map(str, sorted(cpus))))
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by ``stop``)
        try:
            process = _child(words, errors)
        except OSError as error:
            errors.close()
            raise Refusal(f"cannot start the sink: {error}") from error
        sink = cls(process, errors)
        try:
            sink._read_ports()
        except BaseException:
            sink.stop()
            raise
        return sink

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def take(self) -> Counts:
        """What arrived since the last take; the sink forgets it."""
        return parts.from_json(Counts, json.loads(self._ask("POST", "/-/take", b"")))

    def arrived(self) -> int:
        """How many requests and datagrams have come since the last take: who waits for the last ones asks this again and again.

        Costs next to nothing, for nothing is counted; a take decodes, and splits traces between itself and the next one.
        """
        return int(self._ask("GET", "/-/arrived", b""))

    def serve_strategy(self, service: str, strategy: Mapping[str, Any]) -> None:
        """From now on, answer ``/sampling?service=`` with this strategy of Jaeger's; ``""`` is every other service."""
        self._ask("PUT", f"/-/strategy?service={quote(service, safe='')}", json.dumps(strategy).encode())

    def stop(self) -> None:
        """End it. Does nothing the second time."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Sink:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read_ports(self) -> None:
        line = self._read_line()
        if not line.endswith(b"\n"):
            self._process.kill()
            raise self._gone(f"the sink did not start within {START_S:.0f} s", parts.USAGE)
        ports = json.loads(line)
        self.http_port, self.udp_port = ports["http_port"], ports["udp_port"]
        self.receive_buffer_bytes = ports["receive_buffer_bytes"]

    def _read_line(self) -> bytes:
        """Its first line, or as much as came in time."""
        output = self._process.stdout.fileno()  # type: ignore[union-attr]  # it has a pipe
        deadline = time.monotonic() + START_S
        line = b""
        while not line.endswith(b"\n") and len(line) < 1000:
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(output, 1000) if ready else b""
            if not more:
                break
            line += more
        return line

    def _ask(self, method: str, target: str, body: bytes) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=ANSWER_S)
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(f"the sink (process {self.pid}) does not answer ({error})") from error
        finally:
            connection.close()
        if response.status != 200:
            raise Refusal(f"the sink answers {method} {target} with {response.status} {response.reason}", parts.INVALID)
        return answer

    def _gone(self, what: str, exit_code: int = parts.INVALID) -> Refusal:
        """Why there is no answer, in the words of the process itself if it left any."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        status = self._process.returncode
        how = "" if status is None else f"; it has ended with status {status}"
        if self._errors.closed:
            return Refusal(f"{what}: it was stopped", exit_code)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return Refusal(f"{what}{how}{': ' + said[-1] if said else ''}", exit_code)


def _child(words: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "autoinstr.bench.sink", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=_environment(),
        # Where this package is: it need not be installed, and nothing of the user's folder is imported instead.
        cwd=Path(__file__).resolve().parents[2],
        # Ctrl-C is for the harness, which still has questions then.
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """Ours, with any tracing switched off: a traced sink would send itself spans."""
    foreign = ("AUTOINSTR_", "OTEL_", "JAEGER_", "DD_", "ELASTIC_APM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "OTEL_SDK_DISABLED": "true", "DD_TRACE_ENABLED": "false", "ELASTIC_APM_ENABLED": "false"}


# The command line ---------------------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    """``autoinstr bench sink``: receive and count until Ctrl-C. 0 after that, 2 for a wrong command line or a taken port."""
    chosen = _options(words)
    try:
        if chosen.cpus:
            _pin(chosen.cpus)
        strategy = _read_strategy(chosen.strategy) if chosen.strategy else b""
        udp = _bound(socket.SOCK_DGRAM, chosen.host, chosen.udp, "--udp")
        with udp, _bound(socket.SOCK_STREAM, chosen.host, chosen.http, "--http") as tcp:
            _ask_for_buffer(udp, chosen.receive_buffer)
            asyncio.run(_run(chosen, Receiver(udp, tcp, chosen.keep), tcp.getsockname()[1], strategy))
    except Refusal as refusal:
        print(f"autoinstr bench sink: {refusal}", file=sys.stderr)
        return refusal.status
    except KeyboardInterrupt:
        pass
    return parts.PASSED


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="autoinstr bench sink",
        description="Stand in for every collector: take what agents send, answer success, count spans.",
        epilog="HTTP has one port for all: Jaeger, OTLP, Zipkin, Datadog, Elastic, sampling strategies.",
    )
    parser.add_argument("--http", type=_port, default=4318, metavar="PORT", help="TCP (default: 4318; 0: any free one)")
    parser.add_argument("--udp", type=_port, default=6831, metavar="PORT", help="UDP (default: 6831; 0: any free one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--strategy", metavar="FILE", help="JSON to answer with when a remote sampler asks")
    parser.add_argument("--json", action="store_true", help="print counts as lines of JSON")
    parser.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="between two lines (default: 1)")
    parser.add_argument("--keep", type=int, default=KEPT_BYTES, metavar="BYTES", help="what may wait to be counted")
    parser.add_argument("--receive-buffer", type=int, default=RECEIVE_BUFFER_BYTES, help=argparse.SUPPRESS)
    parser.add_argument("--cpus", default="", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65_536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0.01 to 86400)")
    return seconds


def _pin(cpus: str) -> None:
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    except (AttributeError, OSError, ValueError) as error:
        raise Refusal(f"cannot be tied to the CPUs {cpus} ({error}): give CPUs of this machine, or none") from None


def _read_strategy(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BODY_BYTES)
        strategy = json.loads(text)
    except (OSError, ValueError) as error:
        raise Refusal(f"cannot use {path} as a sampling strategy: {error}") from None
    if not isinstance(strategy, dict) or not any(key.endswith("Sampling") for key in strategy):
        raise Refusal(
            f"{path} is not a sampling strategy as Jaeger's agent answers with, such as "
            '{"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 0.1}}'
        )
    return text


def _bound(kind: socket.SocketKind, host: str, port: int, option: str) -> socket.socket:
    what = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    opened = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
        opened = socket.socket(family, kind)
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        if kind == socket.SOCK_STREAM:
            opened.listen(128)  # Only now it shows that another one listens there as well.
    except OSError as error:
        if opened is not None:
            opened.close()
        advice = f"end what uses it, or choose another port with {option} (0: any free one)"
        raise Refusal(f"cannot listen on {what} port {port} of {host} ({error.strerror}): {advice}") from None
    return opened


def _ask_for_buffer(udp: socket.socket, size: int) -> None:
    force = getattr(socket, "SO_RCVBUFFORCE", 33)  # Beyond the machine's limit, for root on Linux (socket(7)).
    try:
        udp.setsockopt(socket.SOL_SOCKET, force, size)
    except OSError:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


async def _run(chosen: argparse.Namespace, receiver: Receiver, http_port: int, strategy: bytes) -> None:
    """Serve until the end, which is that of stdin for a child, and a signal for all."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM,) if chosen.child else (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if strategy:
        receiver.strategies[""] = strategy
    await receiver.start()
    if chosen.child:
        loop.add_reader(sys.stdin.fileno(), ended.set)
        buffer = receiver.udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        ports = {"http_port": http_port, "udp_port": receiver.udp.getsockname()[1], "receive_buffer_bytes": buffer}
        print(json.dumps(ports), flush=True)
        await ended.wait()
        loop.remove_reader(sys.stdin.fileno())
    else:
        print(_addresses(chosen, http_port, receiver.udp.getsockname()[1]), flush=True)
        await _tell(chosen, receiver, ended)


async def _tell(chosen: argparse.Namespace, receiver: Receiver, ended: asyncio.Event) -> None:
    """A line whenever something has arrived, and the totals at the end."""
    total = Inbox()
    while not ended.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), chosen.every)
        taken = await receiver.take()
        if taken.requests or taken.datagrams_lost:
            total.merge(taken)
            _print_counts(chosen, taken.counts(), "")
    _print_counts(chosen, total.counts(), "total")


def _print_counts(chosen: argparse.Namespace, counts: Counts, what: str) -> None:
    now = time.strftime("%H:%M:%S")
    if chosen.json:
        print(json.dumps({"time": now, "total": bool(what), **parts.to_json(counts)}), flush=True)
    else:
        print(f"{what or now:8}  {counts}", flush=True)


def _addresses(chosen: argparse.Namespace, http_port: int, udp_port: int) -> str:
    """What to set so that agents find the sink; as JSON, where counts are."""
    if chosen.json:
        return json.dumps({"host": chosen.host, "http_port": http_port, "udp_port": udp_port})
    # An address that stands for all of this machine's is none that an agent could send to.
    host = socket.gethostname() if chosen.host in ("", "0.0.0.0", "::") else chosen.host  # noqa: S104
    url = f"http://[{host}]:{http_port}" if ":" in host else f"http://{host}:{http_port}"
    lines = (
        ("Jaeger (UDP)", f"JAEGER_AGENT_HOST={host} JAEGER_AGENT_PORT={udp_port}"),
        ("Jaeger (HTTP)", f"JAEGER_ENDPOINT={url}/api/traces"),
        ("OpenTelemetry", f"OTEL_EXPORTER_OTLP_ENDPOINT={url} OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
        ("Zipkin", f"OTEL_EXPORTER_ZIPKIN_ENDPOINT={url}/api/v2/spans"),
        ("Datadog", f"DD_TRACE_AGENT_URL={url}"),
        ("Elastic", f"ELASTIC_APM_SERVER_URL={url}"),
        ("Sampling", f"JAEGER_SAMPLING_ENDPOINT={url}/sampling"),
    )
    shown = "\n".join(f"  {name:14} {variables}" for name, variables in lines)
    return f"Counting what agents send here; Ctrl-C ends it. Set, for the agent that you have:\n{shown}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
