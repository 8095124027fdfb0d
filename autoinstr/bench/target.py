"""The program under test as a process: started on its cores, awaited, asked for its counts, ended with all it started.

Owns: its process group, its log file, the first requests to it, the reading of the counters of an agent inside it.
Must not know: variants, load, what its figures are good for.
Invariants: a start either answers or leaves nothing behind; a failure says its cause and the program's last lines; after
``stop`` or ``kill`` no process of the program lives and nothing listens on its port. Every request made from here is counted,
for it makes a trace like any other.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from autoinstr.bench import probe
from autoinstr.bench.parts import Refusal, SpanFigures

#: Between looks at whether something has happened.
POLL_S = 0.02
#: How long one answer may take, once the program is up.
ANSWER_S = 10.0
#: Spans of which the counters say nothing for so long are not coming any more; agents flush every second.
SETTLED_S = 2.5
#: The agent's pages: of further processes they are at the next ports, up to so many in all (as in ``autoinstr.prometheus``).
COUNTER_PORTS = 32
#: What a killed process may take to be gone: the kernel frees its memory first.
GONE_S = 10.0
#: Of the log, in a message.
LAST_LINES, LAST_BYTES = 15, 4000


class TargetFailed(Exception):
    """The program did not come up, or died: ``str()`` names the cause and quotes the end of its log."""


def free_port(count: int = 1) -> int:
    """A TCP port of the loopback interface that nobody uses; the first of ``count`` in a row.

    Below those that systems give to outgoing connections: such a one could take the port before the program does, or even
    connect to itself while we wait.
    """
    for port in random.sample(range(10_000, 32_000 - count), 200):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(count):
                probe = stack.enter_context(socket.socket())
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port + number))
            return port
    raise Refusal("200 ports of 127.0.0.1 were tried, and none is free")


@dataclass(frozen=True)
class _Address:
    host: str
    port: int
    path: str
    is_https: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Target:
    """One process of the program, with its children."""

    def __init__(self, process: subprocess.Popen[bytes], address: _Address, log: Path) -> None:
        self._process = process
        self._address = address
        self._log = log
        #: Everything that ever belonged to it, by pid: a child whose parent has ended is not found from above any more.
        self._family: dict[int, psutil.Process] = {}
        #: Requests that were answered while it was waited for; the program counts them, and an agent traces them.
        self.probes = 0
        #: Questions for the program's own count, which it leaves out of it; an agent traces them.
        self.stats_requests = 0

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        url: str,
        log: Path,
        cpus: frozenset[int] | None = None,
        ready_path: str = "",
        timeout_s: float = 30.0,
        folder: Path | None = None,
    ) -> Target:
        """Start the program and wait until ``url`` answers with a status below 500.

        ``ready_path`` replaces the path of ``url``; output goes to ``log``; ``folder`` is the program's working folder. Raises
        TargetFailed (nothing is left running then), Refusal for a URL or CPUs that cannot be.
        """
        address = _address(url, ready_path)
        if _listens(address):
            raise TargetFailed(
                f"something answers on {address} before the program was started: end it, or choose another port"
            )
        target = cls(_started(command, environment, cpus, log, folder), address, log)
        try:
            target._await_answer(timeout_s)
        except BaseException:
            target.kill()
            raise
        return target

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    def check(self) -> None:
        """Raises TargetFailed where the program has ended by itself."""
        status = self._process.poll()
        if status is not None:
            raise TargetFailed(f"the program {_how_it_ended(status)}{self._last_lines()}")

    def pids(self) -> list[int]:
        """All its processes that live, the one that was started first."""
        self._look_around()
        return [self.pid, *self._family] if self._process.poll() is None else list(self._family)

    def _look_around(self) -> None:
        """Learn who belongs to it now, and forget who has ended."""
        self._family = {pid: process for pid, process in self._family.items() if _lives(process)}
        for pid in probe.descendants(self.pid):
            self._meet(pid)

    def _meet(self, pid: int) -> None:
        if pid not in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._family[pid] = psutil.Process(pid)

    # ---- Questions --------------------------------------------------------------------------------

    def _await_answer(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        trouble = "nothing listens there"
        while time.monotonic() < deadline:
            self.check()
            try:
                status, _ = _get(self._address, self._address.path, max(deadline - time.monotonic(), POLL_S))
            except (OSError, http.client.HTTPException) as error:
                trouble = "nothing listens there" if isinstance(error, ConnectionRefusedError) else _in_words(error)
            else:
                self.probes += 1
                if status < 500:
                    self.check()  # Else it was somebody else who answered.
                    self._look_around()
                    return
                trouble = f"its last answer had status {status}"
            time.sleep(POLL_S)
        self.check()
        raise TargetFailed(
            f"the program did not answer GET {self._address.path} on {self._address} within {timeout_s:g} s:"
            f" {trouble}{self._last_lines()}"
        )

    def requests(self) -> int | None:
        """What the program says that it has served, the questions themselves left out; None where it does not say."""
        try:
            status, body = _get(self._address, "/-/stats", ANSWER_S)
        except (OSError, http.client.HTTPException):
            return None
        self.stats_requests += 1
        try:
            count = json.loads(body)["requests"] if status == 200 else None
        except (ValueError, KeyError, TypeError):
            return None
        return count if isinstance(count, int) else None

    def counters(self, port: int) -> dict[str, int] | None:
        """The counters of this project's agent in the program, by the names of ``autoinstr.metrics()``; None where nobody answers.

        Summed over its processes: each worker has a page on a port of its own, from ``port`` on.
        """
        found: Counter[str] = Counter()
        pages = [page for number in range(port, port + COUNTER_PORTS) if (page := _counters_at(number)) is not None]
        for page in pages:
            found.update(page)
        return dict(found) if pages else None

    def span_figures(self, port: int) -> SpanFigures:
        """What the agent says of its spans; None in all fields where it does not answer."""
        return span_figures(self.counters(port))

    def wait_until_drained(self, port: int, timeout_s: float) -> bool:
        """Wait until every finished span is sent or given up; whether that came in time.

        A null exporter sends nothing: with an empty queue, and counters that have stood still, all is done, too.
        """
        deadline = time.monotonic() + timeout_s
        before: dict[str, int] | None = None
        still_since = time.monotonic()
        while True:
            counts = self.counters(port)
            now = time.monotonic()
            if counts != before:
                before, still_since = counts, now
            if counts is not None:
                figures = span_figures(counts)
                is_still = now - still_since >= SETTLED_S
                if figures.left == 0 and (_adds_up(figures) or is_still):
                    return True
            if now >= deadline:
                return False
            time.sleep(POLL_S)

    # ---- The end ----------------------------------------------------------------------------------

    def stop(self, timeout_s: float) -> int:
        """End it by SIGTERM, and after ``timeout_s`` by force; its exit code, negative for a signal. Then all of it is gone.

        Raises TargetFailed where something still listens on its port, or a process does not die.
        """
        self._look_around()
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()
        if _listens(self._address):
            raise TargetFailed(
                f"the program has ended, and something still listens on {self._address}: a process that it"
                " started and let go of; end it by hand"
            )
        return int(self._process.returncode)

    def kill(self) -> None:
        """End everything at once; may be called again. Raises TargetFailed for a process that does not die."""
        deadline = time.monotonic() + GONE_S
        while True:
            # Again and again: what is being killed may have started one more.
            self._look_around()
            for pid in _session(self.pid):
                self._meet(pid)
            alive = [process for process in self._family.values() if _lives(process)]
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._process.kill()
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if self._process.poll() is not None and not alive:
                return
            if time.monotonic() >= deadline:
                names = ", ".join(str(process.pid) for process in alive) or str(self.pid)
                raise TargetFailed(f"processes of the program survive SIGKILL: {names}")
            time.sleep(POLL_S)

    def _last_lines(self) -> str:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError as error:
            return f" (its log cannot be read: {error})"
        lines = text.rstrip().splitlines()[-LAST_LINES:]
        return "; its last lines were:\n" + "\n".join(f"  {line}" for line in lines) if lines else "; it printed nothing"


# ---- Counters ---------------------------------------------------------------------------------------


def _counters_at(port: int) -> dict[str, int] | None:
    try:
        status, body = _get(_Address("127.0.0.1", port, "/metrics", is_https=False), "/metrics", ANSWER_S)
    except (OSError, http.client.HTTPException):
        return None
    return read_counters(body.decode("utf-8", "replace")) if status == 200 else None


def read_counters(text: str) -> dict[str, int]:
    """A page of ``autoinstr.prometheus`` as the counts that it was made of; lines of others are left out."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        name, brace, tags = series.partition("{")
        if name.startswith("jaeger_tracer_"):
            with contextlib.suppress(ValueError):
                counts[name.removeprefix("jaeger_tracer_").removesuffix("_total") + brace + tags] = int(float(value))
    return counts


def span_figures(counts: Mapping[str, int] | None) -> SpanFigures:
    """The accounting of the sampled spans; unsampled ones are neither queued nor sent."""
    if not counts:
        return SpanFigures()
    return SpanFigures(
        started=counts.get('started_spans{sampled="y"}'),
        finished=counts.get('finished_spans{sampled="y"}'),
        traces_sampled=sum(counts.get(f'traces{{state="{state}",sampled="y"}}', 0) for state in ("started", "joined")),
        dropped=counts.get('reporter_spans{result="dropped"}'),
        failed=counts.get('reporter_spans{result="err"}'),
        exported=counts.get('reporter_spans{result="ok"}'),
        left=counts.get("reporter_queue_length"),
    )


def _adds_up(figures: SpanFigures) -> bool:
    parts = (figures.exported, figures.dropped, figures.failed, figures.left)
    return figures.started == figures.finished == sum(part or 0 for part in parts)


# ---- Sockets ----------------------------------------------------------------------------------------


def _address(url: str, ready_path: str) -> _Address:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        parts, port = None, 0
    if parts is None or not parts.hostname:
        raise Refusal(f"{url!r} is not the URL of a program: http://127.0.0.1:8000/ is one")
    path = ready_path or (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Address(parts.hostname, port, path, parts.scheme == "https")


def _listens(address: _Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), 1.0).close()
    except OSError:
        return False
    return True


def _get(address: _Address, path: str, timeout_s: float) -> tuple[int, bytes]:
    if address.is_https:
        import ssl

        # The program's own certificate, as a rule of nobody's making; it is load that is sent, no secrets.
        context = ssl._create_unverified_context()  # noqa: S323
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address.host, address.port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _in_words(error: Exception) -> str:
    return f"the connection failed ({type(error).__name__}: {error})".replace(": )", ")")


# ---- Processes --------------------------------------------------------------------------------------


def _started(
    command: Sequence[str],
    environment: Mapping[str, str],
    cpus: frozenset[int] | None,
    log: Path,
    folder: Path | None,
) -> subprocess.Popen[bytes]:
    try:
        with log.open("wb") as output, pinned(cpus):
            return subprocess.Popen(  # noqa: S603 (this is what the user asked for)
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
            )
    except OSError as error:
        raise TargetFailed(f"{command[0]} cannot be started: {error}") from None


@contextlib.contextmanager
def pinned(cpus: frozenset[int] | None) -> Iterator[None]:
    """What this thread starts inherits its CPUs, so that the child is on its own from the first instruction.

    Not in the child before exec: Python code there may hang when other threads of this process held a lock.
    """
    if cpus is None:
        yield
        return
    set_affinity: Callable[[int, frozenset[int] | set[int]], None] | None = getattr(os, "sched_setaffinity", None)
    if set_affinity is None:
        raise Refusal("this system cannot pin a process to CPUs: leave them out")
    before = os.sched_getaffinity(0)
    try:
        set_affinity(0, cpus)
    except (OSError, ValueError) as error:
        raise Refusal(f"the program cannot be pinned to CPU {sorted(cpus)}: {error}") from None
    try:
        yield
    finally:
        set_affinity(0, before)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """What the block has started is gone after it, also what nobody knows of.

    An interrupt may come while ``Popen`` waits for the new process: then there is a process, and no object that could end it.
    """
    before = set(probe.descendants(os.getpid()))
    try:
        yield
    finally:
        deadline = time.monotonic() + GONE_S
        while time.monotonic() < deadline:
            left = [pid for pid in probe.descendants(os.getpid()) if pid not in before and _is_alive(pid)]
            if not left:
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    others = _session(pid) if os.getsid(pid) == pid else []
                    for one in (*others, pid):
                        os.kill(one, signal.SIGKILL)
            time.sleep(POLL_S)


def _is_alive(pid: int) -> bool:
    try:
        return _lives(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _session(leader: int) -> list[int]:
    """Processes of the session that ``leader`` began, itself left out: also those whose parent has ended. Linux only."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != leader:
                with contextlib.suppress(OSError):
                    if os.getsid(int(name)) == leader:
                        found.append(int(name))
    return found


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
