"""Process models of real servers and programs: who forks whom, who ends whom and how; each answered request is one span.

Thirty requests, then a signal straight after the last answer; the agent's worker never wakes up by itself, so that what arrives
was sent by the end of a process. docs/process-models.md says where the other models are tested.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from autoinstr.instrument import TABLE
from fakes import DEADLINE_S, Collector, SpanSink, until
from ports import free_port

from .test_lifecycle import NEVER, Programs, counted_once
from .test_lifecycle import programs as programs
from .test_lifecycle import sink as sink

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and signals")

HERE = Path(__file__).parent
REQUESTS = 30


class Service:
    """A server under the agent, in a process group of its own."""

    def __init__(self, command: list[str], sink: SpanSink, folder: Path, environ: Mapping[str, str]) -> None:
        self.port = free_port()
        self.log = folder / "server.log"
        self.answered: list[int] = []
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "autoinstr", *(word.replace("PORT", str(self.port)) for word in command)],
                cwd=HERE,
                env={**os.environ, "PATH": path, **sink.environ, **NEVER, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def said(self, text: str, times: int = 1) -> None:
        """Wait until it has been said so often."""
        until(lambda: self.process.poll() is not None or self.output().count(text) >= times, text)
        assert self.process.poll() is None, self.output()

    def get(self, path: str = "/pid", headers: Mapping[str, str] = {}) -> int:  # noqa: B006 - it is only read
        """One request on a connection of its own: the process that answered, 0 for an error. Raises OSError without answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path, headers=dict(headers))
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError from error
        finally:
            connection.close()
        if answer.status == 200 and not body.isdigit():  # Cut off by the end of the process.
            raise ConnectionError(body)
        return int(body) if answer.status == 200 else 0

    def ask(self, count: int) -> None:
        """That many requests that are answered; waits for the server to come up."""
        deadline = time.monotonic() + DEADLINE_S
        while count:
            try:
                self.answered.append(self.get())
                count -= 1
            except OSError:  # Not there yet, or a process that is just replaced.
                assert self.process.poll() is None, self.output()
                assert time.monotonic() < deadline, self.output()
                time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"does not end: {self.output()}")

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@pytest.fixture
def serve(sink: SpanSink, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """``serve(command, **environ)``; nothing of it is left behind."""
    services: list[Service] = []

    def start(command: str, **environ: str) -> Service:
        services.append(Service(command.split(), sink, tmp_path, environ))
        return services[-1]

    yield start
    for service in services:
        service.kill()


@pytest.fixture
def origin() -> Iterator[str]:
    """An address that answers."""
    server = Collector()
    yield f"http://127.0.0.1:{server.port}/"
    server.close()


def each_request_is_one_span(service: Service, sink: SpanSink) -> None:
    """As many from each process as it has answered, with ids that no other has."""
    spans = [span for span in sink.spans if span[0] == "GET /pid"]
    assert Counter(span[1] for span in spans) == Counter(service.answered), service.output()
    assert len({span[2] for span in spans}) == len({span[3] for span in spans}) == len(spans)
    assert "autoinstr:" not in service.output()


# ---- uWSGI: C code that forks past Python's hooks, and ends past Python's signal handlers ------------------------------

UWSGI = "uwsgi --http-socket=127.0.0.1:PORT --module=services_web:app --disable-logging --die-on-term"
needs_uwsgi = pytest.mark.skipif(shutil.which("uwsgi", path=Path(sys.executable).parent) is None, reason="no uwsgi")
UWSGIS = {
    "one process": "",
    "threads": "--enable-threads --threads=3",
    "workers": "--master --processes=2",
    "workers with threads": "--master --processes=2 --enable-threads --threads=2",
    "application per worker": "--master --processes=2 --lazy-apps",
    "Python's hooks": "--master --processes=2 --py-call-uwsgi-fork-hooks",
    "worker that is replaced": "--master --processes=1 --max-requests=20 --min-worker-lifetime=0",
}


def await_rest(service: Service) -> None:
    """Until no worker is inside a request: uWSGI tells Python of the end only then.

    It stays there for some microseconds after the answer, in which it waits for nothing.
    """

    def is_at_rest() -> bool:
        try:
            files = [file for pid in set(service.answered) for file in Path(f"/proc/{pid}/task").glob("*/stat")]
            return {file.read_text().rpartition(")")[2].split()[0] for file in files} <= {"S"}
        except OSError:  # A worker that has just been replaced.
            return False

    until(is_at_rest, "the end of the last request")


@needs_uwsgi
@pytest.mark.parametrize("kind", UWSGIS)
def test_uwsgi(serve: Callable[..., Service], sink: SpanSink, kind: str) -> None:
    """Workers draw the same ids, so that their traces are mixed up, or take their last spans with them."""
    service = serve(f"{UWSGI} {UWSGIS[kind]}")
    workers = 2 if "--processes=2" in UWSGIS[kind] else 1
    service.said(f"spawned uWSGI worker {workers}")
    service.said("WSGI app 0", workers if "--lazy-apps" in UWSGIS[kind] else 1)
    service.ask(REQUESTS)
    await_rest(service)
    service.end()
    each_request_is_one_span(service, sink)


@needs_uwsgi
def test_uwsgi_after_spans_of_the_master(serve: Callable[..., Service], sink: SpanSink, origin: str) -> None:
    """An application that calls others at import: each worker sends the master's span, or all of them draw the same ids."""
    service = serve(f"{UWSGI} --master --processes=2", WARM_UP=origin)
    service.said("spawned uWSGI worker 2")
    service.ask(REQUESTS)
    await_rest(service)
    service.end()
    each_request_is_one_span(service, sink)
    assert len(sink.spans) == REQUESTS  # The master never says that it ends.


@needs_uwsgi
def test_uwsgi_with_gevent(serve: Callable[..., Service], sink: SpanSink) -> None:
    """Greenlets in uWSGI, which leaves without telling Python: whatever is older than the interval has arrived."""
    service = serve(
        f"{UWSGI} --master --processes=2 --gevent=10 --gevent-monkey-patch", JAEGER_REPORTER_FLUSH_INTERVAL="50ms"
    )
    service.ask(REQUESTS)
    until(lambda: len(sink.spans) >= REQUESTS, "the last export")
    service.end()
    each_request_is_one_span(service, sink)


def test_uwsgi_without_threads(programs: Programs, sink: SpanSink) -> None:
    """Nobody knows why spans of an old uWSGI come minutes late, and what to do."""
    text = (
        "import types\nsys.modules['uwsgi'] = uwsgi = types.ModuleType('uwsgi')\nuwsgi.has_threads, uwsgi.worker_id = 0, lambda: 1\n"
        "for _ in range(3):\n with span('a'): pass\n"
    )
    done = programs.run(text, {**sink.environ, **NEVER})
    counted_once(sink, "a", "a", "a")
    (line,) = done.err.splitlines()
    assert "--enable-threads" in line


# ---- gunicorn, gevent, eventlet ----------------------------------------------------------------------------------------

GUNICORN = "gunicorn --bind=127.0.0.1:PORT --no-control-socket --config=services_gunicorn.py services_web:app"
GREENLETS = {
    "gevent": ("gunicorn", f"{GUNICORN} --worker-class=gevent --workers=2", ""),
    "gevent, patched first": ("gunicorn", f"{GUNICORN} --worker-class=gevent", "gevent before"),
    "gevent, patched last": ("gunicorn", f"{GUNICORN} --worker-class=gevent --preload --workers=2", "gevent after"),
    "eventlet, patched first": ("eventlet", "services_web.py eventlet PORT", "eventlet before"),
    "eventlet, patched last": ("eventlet", "services_web.py eventlet PORT", "eventlet after"),
}


def workers_serve(service: Service, replaced: int = 0) -> None:
    """A signal to a worker of gunicorn that does not listen yet is lost, and gunicorn then waits for it for half a minute.

    Those that the command line asks for, and so many that were started in place of others; nothing for other servers.
    """
    words: list[str] = service.process.args  # type: ignore[assignment]
    if "gunicorn" in words:
        service.said("Worker serves", (2 if "--workers=2" in words else 1) + replaced)


@pytest.mark.parametrize("kind", GREENLETS)
def test_greenlets(serve: Callable[..., Service], sink: SpanSink, kind: str) -> None:
    """The server hangs, breaks or loses its spans, because the agent holds locks and sockets of before the patching."""
    library, command, patch = GREENLETS[kind]
    pytest.importorskip(library, exc_type=ImportError)
    service = serve(command, PATCH=patch)
    workers_serve(service)
    service.ask(REQUESTS)
    service.end()
    each_request_is_one_span(service, sink)


GREEN = {
    "gevent": "from gevent import monkey\nmonkey.patch_all()\nfrom gevent import spawn, sleep\n",
    "eventlet": "import eventlet\neventlet.monkey_patch()\nfrom eventlet import spawn, sleep\n",
}
GREEN_WORK = (
    "import requests\n"
    "def work():\n with span('green'):\n  sleep(0.01)\n  requests.get(sys.argv[1], timeout=10)\n"
    "for task in [spawn(work) for _ in range(15)]: getattr(task, 'wait', getattr(task, 'get', None))()\n"
    "print('said', flush=True)\n"
)


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 15)\nwhile True: sleep(0.01)\n"], ids=["end", "SIGTERM"])
@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("library", GREEN)
def test_greenlets_of_a_script(
    programs: Programs, sink: SpanSink, origin: str, library: str, order: str, end: str
) -> None:
    """Spans hang below those of another greenlet, or the script does not end."""
    pytest.importorskip("gevent" if library == "gevent" else "greenlet")
    before = "import requests\n" if order == "last" else ""
    text = before + GREEN[library] + GREEN_WORK.replace("sys.argv[1]", repr(origin)) + end
    done = programs.run(text, {**sink.environ, **NEVER})
    assert (done.status, done.out) == (-signal.SIGTERM if end else 0, "said\n"), done.err
    counted_once(sink, *["GET"] * 15, *["green"] * 15)
    parents = {span[3] for span in sink.spans if span[0] == "green"}
    assert {span[4] for span in sink.spans if span[0] == "GET"} == parents


def test_gunicorn_reload(serve: Callable[..., Service], sink: SpanSink) -> None:
    """A deployment by SIGHUP costs the last spans of the old workers."""
    pytest.importorskip("gunicorn")
    service = serve(f"{GUNICORN} --workers=2")
    workers_serve(service)
    service.ask(REQUESTS // 2)
    service.process.send_signal(signal.SIGHUP)
    service.said("Worker exiting", 2)
    workers_serve(service, replaced=2)
    service.ask(REQUESTS // 2)
    assert service.end() == 0
    each_request_is_one_span(service, sink)


def test_gunicorn_replaces_workers(serve: Callable[..., Service], sink: SpanSink) -> None:
    """With --max-requests and several workers, the last spans of each worker are missing."""
    pytest.importorskip("gunicorn")
    service = serve(f"{GUNICORN} --workers=2 --max-requests=5 --worker-class=gthread")
    service.ask(REQUESTS)
    workers_serve(service, replaced=service.output().count("Autorestarting worker"))
    assert service.end() == 0
    each_request_is_one_span(service, sink)
    assert len(set(service.answered)) > 3


def test_gunicorn_aborts_a_worker(serve: Callable[..., Service], sink: SpanSink) -> None:
    """The request that hung, which one would like to see, is missing, and with it those that the worker had served before."""
    pytest.importorskip("gunicorn")
    service = serve(f"{GUNICORN} --timeout=1")
    service.ask(REQUESTS)
    try:
        service.get("/hang")
    except OSError:
        pass
    workers_serve(service, replaced=1)
    assert service.end() == 0
    each_request_is_one_span(service, sink)
    assert [span[1] for span in sink.spans if span[0] == "GET /hang"] == service.answered[:1]


# ---- Ends under load ---------------------------------------------------------------------------------------------------

LOADED = {
    "gunicorn sync": ("gunicorn", f"{GUNICORN} --workers=2"),
    "gunicorn gthread": ("gunicorn", f"{GUNICORN} --workers=2 --worker-class=gthread --threads=4"),
    "gunicorn gevent": ("gevent", f"{GUNICORN} --worker-class=gevent"),
    "waitress": ("waitress", "waitress-serve --listen=127.0.0.1:PORT services_web:app"),
    "uvicorn": ("uvicorn", "uvicorn --interface=wsgi --port=PORT --log-level=warning services_web:app"),
}


def fire(service: Service, enough: threading.Event, answered: list[str]) -> None:
    """Requests of traces of our own, one after the other, until there is nobody to answer."""
    while True:
        trace_id = os.urandom(16).hex()
        try:
            if service.get("/pid", {"traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"}):
                answered.append(trace_id)
        except OSError:
            return
        if len(answered) >= REQUESTS:
            enough.set()


#: But for gevent and SIGINT, at which its worker stops at once, and goes on answering while the last spans are sent.
LOADS = [(kind, name) for kind in LOADED for name in ("SIGTERM", "SIGINT") if (kind, name) != ("gunicorn gevent", "SIGINT")]


@pytest.mark.parametrize(("kind", "name"), LOADS)
def test_end_under_load(serve: Callable[..., Service], sink: SpanSink, kind: str, name: str) -> None:
    """A deployment under load: requests that were answered are missing, or twice there."""
    library, command = LOADED[kind]
    pytest.importorskip(library)
    service = serve(command)
    workers_serve(service)
    service.ask(1)
    answered: list[list[str]] = [[] for _ in range(4)]
    events = [threading.Event() for _ in answered]
    clients = [threading.Thread(target=fire, args=(service, *both)) for both in zip(events, answered, strict=True)]
    for client in clients:
        client.start()
    for event in events:
        assert event.wait(DEADLINE_S), service.output()
    service.end(signal.Signals[name])
    for client in clients:
        client.join()
    traces = Counter(span[2] for span in sink.spans)
    assert {trace for each in answered for trace in each} - set(traces) == set(), service.output()
    assert set(traces.values()) == {1}
    assert len({span[3] for span in sink.spans}) == len(sink.spans)


# ---- Pools, daemons, forks of others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pool_that_replaces_its_processes(programs: Programs, sink: SpanSink, method: str) -> None:
    """The last spans of each process of a pool with ``maxtasksperchild`` are missing."""
    text = (
        "import multiprocessing\n"
        "def work(number):\n with span('work'): pass\n return number\n"
        "if __name__ == '__main__':\n"
        f" with multiprocessing.get_context({method!r}).Pool(2, maxtasksperchild=5) as pool:\n"
        "  print(sum(pool.map(work, range(30), chunksize=1)))\n  pool.close()\n  pool.join()\n"
    )
    done = programs.run(text, {**sink.environ, **NEVER})
    assert (done.status, done.out, done.err) == (0, "435\n", "")
    counted_once(sink, *["work"] * 30)
    by_process = Counter(span[1] for span in sink.spans)
    assert max(by_process.values()) == 5  # The last ones may have less to do.
    assert len(by_process) >= 6


def test_daemon(programs: Programs, sink: SpanSink) -> None:
    """A program that goes into the background is not traced there, or its first spans are sent by each of the three."""
    text = (
        "def leave():\n"
        " if os.fork(): os._exit(0)\n"
        "with span('before'): pass\n"
        "leave()\nos.setsid()\nleave()\nos.chdir('/')\n"
        "nothing = os.open(os.devnull, os.O_RDWR)\n"
        "for number in range(3): os.dup2(nothing, number)\n"
        "os.closerange(3, 256)\n"
        "for _ in range(30):\n with span('daemon'): pass\n"
    )
    done = programs.run(text, {**sink.environ, **NEVER})
    assert (done.status, done.out, done.err) == (0, "", "")
    until(lambda: len(sink.spans) >= 31, "the end of the daemon")
    counted_once(sink, "before", *["daemon"] * 30)
    assert len({span[1] for span in sink.spans}) == 2


FOREIGN_FORKS = """\
import ctypes
fork = ctypes.PyDLL(None).fork
{before}
for _ in range(3):
    if fork() == 0:
        for _ in range(10):
            with span('child'): pass
        {end}
    os.wait()
with span('after'): pass
print('said')
"""


#: Such a fork at the very moment at which another thread wants to run leaves the child with a broken lock of Python's: the
#: thread that sends the spans has gone to sleep before.
SETTLED = "with span('before'): pass\ntime.sleep(0.3)"
FOREIGN_ENDS = [
    ("", "os._exit(0)"),
    ("", "sys.exit()"),
    (SETTLED, "os._exit(0)"),
    (SETTLED, "os.kill(os.getpid(), 15); time.sleep(9)"),
]


@pytest.mark.parametrize(("before", "end"), FOREIGN_ENDS)
def test_fork_past_the_hooks(programs: Programs, sink: SpanSink, before: str, end: str) -> None:
    """Children of C code wait for a thread that they do not have, send their parent's spans again, and lose their own."""
    started = time.monotonic()
    done = programs.run(FOREIGN_FORKS.format(before=before, end=end), {**sink.environ, **NEVER})
    assert (done.status, done.out, done.err) == (0, "said\n", "")
    assert time.monotonic() - started < DEADLINE_S / 2
    assert sink.names == sorted([*["before"] * bool(before), "after", *["child"] * 30])
    assert sorted(Counter(span[1] for span in sink.spans).values()) == [1 + bool(before), 10, 10, 10]
    if not before:
        assert len({span[3] for span in sink.spans}) == len(sink.spans)


def test_child_without_spans_past_the_hooks(programs: Programs, sink: SpanSink) -> None:
    """A child that C code has forked and that does nothing sends its parent's spans again."""
    text = (
        f"import ctypes\nfork = ctypes.PyDLL(None).fork\n{SETTLED}\n"
        "if fork() == 0: os._exit(0)\nos.wait()\nprint('said')\n"
    )
    done = programs.run(text, {**sink.environ, **NEVER})
    assert (done.status, done.out, done.err) == (0, "said\n", "")
    counted_once(sink, "before")


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "os.kill(os.getpid(), 15)\nwhile True: time.sleep(0.01)"])
def test_daemon_threads_at_the_end(programs: Programs, sink: SpanSink, end: str) -> None:
    """Threads that go on while the interpreter ends crash it, print, or lose spans that had ended long before."""
    text = (
        "import threading\nended = [0] * 8\n"
        "def work(place):\n while True:\n  with span('tick'): time.sleep(0.001)\n  ended[place] += 1\n"
        "for place in range(8): threading.Thread(target=work, args=(place,), daemon=True).start()\n"
        "while sum(ended) < 60: time.sleep(0.001)\n"
        "print(sum(ended), flush=True)\n"
    )
    done = programs.run(text + end, {**sink.environ, **NEVER})
    assert (done.status, done.err) == ({"": 0, "sys.exit(3)": 3}.get(end, -signal.SIGTERM), "")
    assert len(sink.spans) >= int(done.out)
    assert len({span[3] for span in sink.spans}) == len(sink.spans)


@pytest.mark.parametrize("options", ["", "--max-tasks-per-child=4"], ids=["", "replaced"])
@pytest.mark.skipif(all(row[0] != "celery.signals" for row in TABLE), reason="celery is not instrumented")
def test_celery_prefork(serve: Callable[..., Service], sink: SpanSink, tmp_path: Path, options: str) -> None:
    """Processes of a pool, which celery replaces after so many tasks: the last spans of each are missing.

    With an interval: when all of celery ends, the last processes may be killed before they have sent anything.
    """
    pytest.importorskip("celery")
    queue, log = tmp_path / "queue", tmp_path / "done"
    queue.mkdir()
    log.touch()
    environ = {"QUEUE": str(queue), "DONE": str(log), "C_FORCE_ROOT": "1", "JAEGER_REPORTER_FLUSH_INTERVAL": "300ms"}
    subprocess.run(
        [sys.executable, "services_celery.py"], cwd=HERE, env={**os.environ, **environ}, check=True, timeout=DEADLINE_S
    )
    quick = "--without-gossip --without-mingle --without-heartbeat --loglevel=warning --concurrency=2"
    service = serve(f"celery -A services_celery worker {quick} {options}", **environ)
    until(lambda: log.read_text().count("\n") >= 30, "the tasks")
    assert service.end() == 0
    spans = [span for span in sink.spans if span[0] in {"work", "part"}]
    assert Counter(span[0] for span in spans) == {"work": 30, "part": 30}, service.output()
    assert len({span[3] for span in sink.spans}) == len(sink.spans)
    assert service.process.pid not in {span[1] for span in spans}
