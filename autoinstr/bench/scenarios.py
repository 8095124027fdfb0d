"""The catalogue: which scenarios there are, which sample services they run against, and how those are started.

Owns: names, where the files lie, the servers' words, the origin (the service behind the sample services) as a process.
Must not know: variants, measuring, how load is made (the locustfiles in ``scenarios/`` do), Locust.
Invariants: importing this reads no file and starts nothing; the origin ends with who started it, even when that is killed.
"""

from __future__ import annotations

import difflib
import json
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoinstr.bench.parts import Refusal

WSGI = ("wsgi", "flask", "django")
ASGI = ("fastapi", "starlette")

#: Seconds that the origin may take to start, and to end when asked.
START_TIMEOUT_S, STOP_TIMEOUT_S = 30.0, 5.0


@dataclass(frozen=True)
class Scenario:
    """A kind of traffic: a locustfile, and what it needs of the service."""

    name: str
    #: One line, for lists.
    text: str
    frameworks: tuple[str, ...] = WSGI + ASGI
    #: Answers 200 once the service can do what the scenario asks of it, and makes a span or more like its requests do.
    path: str = "/"
    needs_origin: bool = False
    #: What the scenario takes for success.
    ok_statuses: frozenset[int] = frozenset({200})
    #: Asks a backend for the traces (``--backend URL``): a check, which cannot be measured.
    needs_backend: bool = False
    #: Whether all its requests make equally many spans.
    is_uniform: bool = True
    #: Sets the number of users itself: Locust then passes over ``--users``.
    has_shape: bool = False

    @property
    def locustfile(self) -> Path:
        """Raises Refusal where the files are not installed."""
        return folder() / f"{self.name}.py"

    @property
    def is_measurable(self) -> bool:
        """Whether the harness can set its load, and so compare variants with it."""
        return not (self.needs_backend or self.has_shape)


@dataclass(frozen=True)
class Framework:
    """A sample service and its server: one process that serves, ended by SIGTERM."""

    name: str
    #: Words of the command, in the folder ``folder``; the first one is a program of the environment. ``{port}`` is filled in.
    program: tuple[str, ...]
    #: Distributions whose versions matter.
    packages: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        """The folder to start the command in. Raises Refusal where the files are not installed."""
        return folder() / "apps"

    def command(self, port: int) -> list[str]:
        return [word.format(port=port) for word in self.program]

    def environment(self, origin: str = "") -> dict[str, str]:
        """What the service needs beside the words, with ``origin`` the URL of the service behind, where it is called.

        PYTHONPATH is for agents that look at the program's modules (Django's settings) before its server does.
        """
        return {"PYTHONPATH": str(self.folder), **dict(self.variables), **({"SCENARIO_ORIGIN": origin} if origin else {})}


def _gunicorn(module: str) -> tuple[str, ...]:
    # Not --config: opentelemetry-instrument takes that for the beginning of options of its own.
    return ("gunicorn", "-c", "gunicorn.conf.py", "--bind", "127.0.0.1:{port}", f"{module}:app")


def _uvicorn(module: str) -> tuple[str, ...]:
    # Users keep their connections, and may be silent for minutes when the rate is low (as in gunicorn.conf.py).
    settings = ("--timeout-keep-alive", "600", "--backlog", "4096", "--no-access-log", "--log-level", "warning")
    return ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", *settings, f"{module}:app")


_OF_GUNICORN = ("gunicorn", "requests", "urllib3")
# What uvicorn takes for the event loop and for HTTP depends on what is installed.
_OF_UVICORN = ("uvicorn", "uvloop", "httptools", "starlette", "requests", "urllib3")

FRAMEWORKS: Mapping[str, Framework] = {
    framework.name: framework
    for framework in (
        Framework("wsgi", _gunicorn("bare_wsgi"), _OF_GUNICORN),
        Framework("flask", _gunicorn("flask_app"), (*_OF_GUNICORN, "Flask", "Werkzeug")),
        Framework(
            "django",
            _gunicorn("django_app"),
            (*_OF_GUNICORN, "Django"),
            (("DJANGO_SETTINGS_MODULE", "django_settings"),),
        ),
        Framework("fastapi", _uvicorn("fastapi_app"), (*_OF_UVICORN, "fastapi", "pydantic")),
        Framework("starlette", _uvicorn("starlette_app"), _OF_UVICORN),
    )
}

CATALOGUE: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("hello", "one short answer: what tracing adds to the cheapest request"),
        Scenario(
            "fanout_requests", "three calls through requests for each request", path="/fanout?n=3", needs_origin=True
        ),
        Scenario(
            "fanout_urllib",
            "three calls through urllib.request, each on a connection of its own",
            path="/fanout-urllib?n=3",
            needs_origin=True,
        ),
        Scenario("rows", "ten queries through sqlite3: many cheap spans in a trace", path="/rows?count=10"),
        Scenario(
            "asgi_concurrent", "five calls at once from one coroutine", ASGI, path="/concurrent?n=5", needs_origin=True
        ),
        Scenario("mixed", "a service's day: reading, waiting, working, calling, in fixed shares", needs_origin=True, is_uniform=False),
        Scenario(
            "errors",
            "every second request fails: 500, or 404",
            ok_statuses=frozenset({200, 404, 500}),
            is_uniform=False,
        ),
        Scenario("burst", "a few users, and every so often very many", has_shape=True),
        Scenario("soak", "mixed traffic at a steady pace, for hours", needs_origin=True, is_uniform=False),
        Scenario(
            "e2e_trace",
            "asks a backend whether the trace of each request has arrived whole",
            path="/items/7",
            needs_backend=True,
        ),
    )
}


def find(name: str) -> Scenario:
    """The scenario of this name. Raises Refusal, which names near ones."""
    if name not in CATALOGUE:
        raise Refusal(_unknown("scenario", name, CATALOGUE))
    return CATALOGUE[name]


def find_framework(name: str, scenario: Scenario | None = None) -> Framework:
    """The sample service of this name. Raises Refusal for an unknown one, and for one that cannot serve ``scenario``."""
    if name not in FRAMEWORKS:
        raise Refusal(_unknown("framework", name, FRAMEWORKS))
    if scenario is not None and name not in scenario.frameworks:
        raise Refusal(f"scenario {scenario.name} is for {', '.join(scenario.frameworks)}, not for {name}")
    return FRAMEWORKS[name]


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"there is no {kind} {name!r}{meant} (there are {', '.join(known)})"


def folder() -> Path:
    """Where the locustfiles lie: inside the installed package, or beside it in a checkout. Raises Refusal without either."""
    here = Path(__file__).resolve()
    for candidate in (here.parent / "_scenarios", here.parents[2] / "scenarios"):
        if (candidate / "apps" / "origin.py").exists():
            return candidate
    raise Refusal("the scenarios are not installed here: install autoinstr from a wheel, or run it from its checkout")


@dataclass(frozen=True)
class Origin:
    """The running service behind the sample services."""

    process: subprocess.Popen[str]
    url: str


@contextmanager
def start_origin(cpus: Collection[int] | None = None) -> Iterator[Origin]:
    """The service behind, listening on a free port, on these CPUs only where given; ended afterwards.

    Raises Refusal, with what the process said, when it does not come up.
    """
    words = [sys.executable, str(folder() / "apps" / "origin.py"), "--until-eof"]
    if cpus:
        words += ["--cpus", ",".join(map(str, sorted(cpus)))]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(  # noqa: S603
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        )
        try:
            line = _first_line(process)
            if not line:
                said.seek(0)
                why = said.read().strip().rpartition("\n")[2] or f"it said nothing within {START_TIMEOUT_S:g} s"
                raise Refusal(f"the service behind the sample services did not start: {why}")
            yield Origin(process, str(json.loads(line)["url"]))
        finally:
            _end(process)


def _first_line(process: subprocess.Popen[str]) -> str:
    """Empty when the process has ended, or takes too long."""
    assert process.stdout is not None  # noqa: S101
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(START_TIMEOUT_S) else ""


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
