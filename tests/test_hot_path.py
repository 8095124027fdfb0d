"""What tracing may cost, in what can be counted: calls, locks, files, modules. Never timed: the same on every machine.

The figures are limits, not measurements: a change that needs more than they allow has to say so in ``docs/design.md``.
"""

from __future__ import annotations

import _thread
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import autoinstr
from autoinstr import runtime
from autoinstr.report import InMemoryReporter

PACKAGE = str(Path(autoinstr.__file__).parent)
DEADLINE_S = 60

#: Python calls in our own code, for one request to a WSGI application, begin to end (``docs/design.md``).
CALLS_SAMPLED, CALLS_UNSAMPLED = 12, 8
#: Calls more for a trace that a caller began: all configured formats are looked for, one is parsed.
CALLS_JOINING = 8 + (sys.version_info < (3, 11))  # There `operator.call` is not to be had.
#: Files of ours that a sampled request runs through; one more when it joins a trace.
FILES_SAMPLED = 5
#: The rooms of the configuration; the last is needed only where nobody has named the service.
CONFIG = {
    *("autoinstr.config", "autoinstr.config.forms", "autoinstr.config.table", "autoinstr.config.value"),
    "autoinstr.config.program",
}
#: Modules of ours that are loaded at start, and what is loaded with them.
STARTED = {
    *("autoinstr", *CONFIG, "autoinstr.instrument", "autoinstr.model", "autoinstr.propagate"),
    *("autoinstr.remote", "autoinstr.report", "autoinstr.runtime", "autoinstr.sampling", "autoinstr.trace"),
    "autoinstr.trouble",
}
#: Slow to import, or not to be imported before gevent has patched.
HEAVY = {
    *("asyncio", "concurrent", "dataclasses", "email", "enum", "http", "inspect", "json", "logging", "queue", "random"),
    *("re", "select", "selectors", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "traceback"),
    *("typing", "urllib", "wrapt"),
}

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/users/7",
    "QUERY_STRING": "page=2",
    "SERVER_NAME": "shop.example",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "shop.example",
    "HTTP_USER_AGENT": "curl/8",
    "REMOTE_ADDR": "10.0.0.1",
    "wsgi.url_scheme": "http",
}
UBER = {"HTTP_UBER_TRACE_ID": "abc0000000000001:77:0:1"}
TRACEPARENT = {"HTTP_TRACEPARENT": "00-abc00000000000000000000000000001-0000000000000077-01"}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


@contextmanager
def agent(monkeypatch: pytest.MonkeyPatch, param: str) -> Iterator[InMemoryReporter]:
    """The agent in this process, patching nothing, keeping all traces ("1") or none ("0")."""
    for name, value in {"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": param}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AUTOINSTR_SIGTERM", "false")
    runtime.start(os.environ, instrument=False)
    assert runtime.running is not None
    reporter = InMemoryReporter()
    runtime.running.tracing.tracer.sink = reporter
    try:
        yield reporter
    finally:
        runtime.stop()


class Counts:
    """What one piece of work took: ``calls`` by (file of ours, function), ``locks`` made, ``files`` opened."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.locks = self.threads = 0
        self.opened: list[str] = []

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.calls}

    def __repr__(self) -> str:
        return "\n".join(f"{count} {file}:{function}" for (file, function), count in self.calls.items())


def count(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Run ``work`` on this thread, counting."""
    counts = Counts()
    allocate, start = _thread.allocate_lock, _thread.start_new_thread

    def profile(frame: Any, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE):
            counts.calls[file[len(PACKAGE) + 1 :], frame.f_code.co_name] += 1

    def allocating() -> Any:
        counts.locks += 1
        return allocate()

    def starting(*arguments: Any) -> Any:
        counts.threads += 1
        return start(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "allocate_lock", allocating)
        patch.setattr(_thread, "start_new_thread", starting)
        sys.setprofile(profile)
        try:
            work()
        finally:
            sys.setprofile(None)
    return counts


def serve(app: Any, **headers: str) -> Callable[[], object]:
    environ = {**ENVIRON, **headers}
    return lambda: list(app(dict(environ), lambda status, headers, error=None: None))


def traced_request(monkeypatch: pytest.MonkeyPatch, param: str, **headers: str) -> tuple[Counts, int]:
    """The counts of one request, when everything has warmed up, and the spans that it gave."""
    with agent(monkeypatch, param) as reporter:
        work = serve(autoinstr.wrap_wsgi(application), **headers)
        work()
        reporter.spans.clear()
        return count(work, monkeypatch), len(reporter.spans)


# ---- One request ---------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, UBER, TRACEPARENT], ids=["root", "uber-trace-id", "traceparent"])
def test_calls_of_a_sampled_request(headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call costs every request of every user some 50 ns; nobody notices one, everybody notices thirty."""
    counts, spans = traced_request(monkeypatch, "1", **headers)
    assert 1 == spans
    assert counts.calls.total() <= CALLS_SAMPLED + (CALLS_JOINING if headers else 0), counts
    assert len(counts.files) <= FILES_SAMPLED + bool(headers), counts
    assert (0, 0) == (counts.locks, counts.threads)


def test_calls_of_an_unsampled_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that keeps one trace in a thousand pays this for the other 999."""
    counts, spans = traced_request(monkeypatch, "0")
    assert 0 == spans
    assert counts.calls.total() <= CALLS_UNSAMPLED, counts
    assert (0, 0) == (counts.locks, counts.threads)


def test_calls_of_a_disabled_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off means that nothing is left in the way."""
    monkeypatch.setenv("JAEGER_DISABLED", "true")
    assert autoinstr.wrap_wsgi(application) is application


def test_reporting_takes_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on the request's path is contention between threads, and a deadlock in a signal handler."""
    from autoinstr.report import Reporter

    reporter = Reporter(list, interval_s=60)
    with agent(monkeypatch, "1"):
        assert runtime.running is not None
        runtime.running.tracing.tracer.sink = reporter
        work = serve(autoinstr.wrap_wsgi(application))
        first = count(work, monkeypatch)
        later = count(work, monkeypatch)
        reporter.close(DEADLINE_S)
    assert 1 == first.threads, "the worker starts with the first span"
    assert (0, 0) == (later.locks, later.threads)
    assert later.calls.total() <= CALLS_SAMPLED + 1, later


def test_counting_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that sees nothing would let every budget pass."""
    from autoinstr.trouble import say

    counts = count(lambda: (_thread.allocate_lock(), say("counted", about="test_hot_path")), monkeypatch)
    assert (1, 1) == (counts.locks, counts.calls["trouble.py", "say"])


# ---- Modules -------------------------------------------------------------------------------------


def modules(code: str, *, traced: bool, **environ: str) -> list[str]:
    """``sys.modules`` at the end of ``code``, in a process of its own."""
    script = f"{code}\nimport sys; found = list(sys.modules); import json; print(json.dumps(found))"
    path = {"PYTHONPATH": f"{PACKAGE}/_boot"} if traced else {}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "AUTOINSTR_EXPORTER": "none", **path, **environ},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert "" == done.stderr
    loaded: list[str] = json.loads(done.stdout)
    return loaded


def added(code: str, **environ: str) -> set[str]:
    """Modules that are loaded only because the agent is there."""
    return set(modules(code, traced=True, **environ)) - set(modules(code, traced=False))


def tops(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_importing_the_package_costs_nothing() -> None:
    """``import autoinstr`` for a version or a decorator must not load the agent."""
    bare = set(modules("pass", traced=False))
    assert {"autoinstr", "__future__"} >= set(modules("import autoinstr", traced=False)) - bare


def test_start_loads_only_what_it_needs() -> None:
    """Each module more is paid for by every Python that a traced program starts."""
    found = added("pass")
    assert set() == tops(found) & HEAVY
    ours = {name for name in found if name.startswith("autoinstr")}
    assert "autoinstr.runtime" in ours
    assert set() == ours - STARTED


def test_disabled_agent_loads_next_to_nothing() -> None:
    """Who switches tracing off wants it off."""
    found = added("pass", JAEGER_DISABLED="true")
    assert {"autoinstr", *CONFIG, "autoinstr.runtime", "autoinstr.trouble"} == {
        name for name in found if name.startswith("autoinstr")
    }
    assert set() == tops(found) & HEAVY


@pytest.mark.parametrize(
    ("library", "foreign"),
    [
        ("flask", {"requests", "urllib3", "starlette", "fastapi", "django", "gunicorn", "uvicorn"}),
        ("fastapi", {"requests", "urllib3", "flask", "django", "gunicorn", "uvicorn"}),
        ("requests", {"flask", "starlette", "fastapi", "django", "werkzeug"}),
        ("django.core.handlers.wsgi", {"requests", "urllib3", "flask", "starlette"}),
        ("http.client", {"requests", "urllib3", "flask", "starlette"}),
    ],
)
def test_one_library_does_not_bring_the_others(library: str, foreign: set[str]) -> None:
    """Importing what the program does not use costs its memory and its start, and may break it."""
    found = added(f"import {library}")
    assert set() == tops(found) & foreign
    assert "urllib.request" not in found
    assert "autoinstr.transport" not in found, "nothing is sent, so nothing that sends is needed"
    assert set() == {name for name in found if name.startswith(("autoinstr.wire", "autoinstr.backend"))}


def test_backend_stays_out() -> None:
    """The receiving side needs packages that a traced program does not have."""
    found = modules("import autoinstr.runtime, autoinstr.api, autoinstr.doctor", traced=False)
    assert set() == {name for name in found if name.startswith(("autoinstr.backend", "starlette", "uvicorn"))}
