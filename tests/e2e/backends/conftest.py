"""Which backends there are, each started when the first test needs it; traced programs; and what a shop's trace became.

Owns: the cases (a backend, one of its reporters), the lives of backends and programs.
Must not know: what is asserted.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakes import DEADLINE_S

from . import jaeger, ours, phoenix, rotel, zipkin
from .contract import ASKED, HOST, OTLP, PREFIXES, REPORTERS, Backend, Carries, Record, Reporter, ask, records_of_otlp

SHOP = Path(__file__).with_name("shop.py")
#: Spans of one request to the shop: the front's request, its price, two calls; the stock's two requests, its reservation.
SPANS = 7
#: How often a backend is asked whether a trace is whole: each answer may have thousands of spans.
LOOK_S = 0.03
RESOURCE = "deployment.environment.name=acceptance,shop.branch=K%C3%B6ln"


@dataclass(frozen=True)
class Kind:
    """A backend before it runs: how to start it, what sends to it, why it cannot be had here."""

    opened: Callable[[Path], AbstractContextManager[Backend]]
    reporters: tuple[str, ...]
    missing: Callable[[], str] = lambda: ""


KINDS = {
    "ours": Kind(ours.opened, tuple(REPORTERS)),
    "zipkin": Kind(zipkin.opened, ("zipkin",), zipkin.missing),
    "rotel": Kind(rotel.opened, OTLP, rotel.missing),
    "rotel-grpc": Kind(rotel.opened_grpc, ("otlp-protobuf",), rotel.missing),
    "jaeger": Kind(jaeger.opened, tuple(jaeger.reporters())),
    "phoenix": Kind(phoenix.opened, ("otlp-protobuf", "otlp-gzip")),
}
#: These are there only for who has one, which continuous integration has not.
ON_DEMAND = {"jaeger": jaeger.VARIABLE, "phoenix": phoenix.VARIABLE}
SHARED = ("zipkin", "jaeger", "phoenix")


@dataclass(frozen=True)
class Case:
    """A backend and a way to send to it."""

    backend: str
    reporter: Reporter

    def __str__(self) -> str:
        return f"{self.backend}-{self.reporter.name}"


def _cases() -> Iterator[Any]:
    for name, kind in KINDS.items():
        if ON_DEMAND.get(name, "") in (*ASKED, ""):
            yield from (Case(name, REPORTERS[reporter]) for reporter in kind.reporters)
        elif os.environ.get("CI") != "true":
            reason = f"{ON_DEMAND[name]} names no {name.capitalize()} (docs/backends.md)"
            yield pytest.param(Case(name, REPORTERS["otlp-protobuf"]), marks=pytest.mark.skip(reason=reason))


CASES = list(_cases())


@pytest.fixture(scope="session")
def open_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Backend]]:
    """Starts a backend at its first use in this process. Those that start slowly serve all processes of the run."""
    running: dict[str, Backend] = {}
    own = tmp_path_factory.mktemp("backends")
    # With pytest-xdist the processes' folders lie in one.
    everybodys = own.parent.parent if "PYTEST_XDIST_WORKER" in os.environ else own.parent

    with ExitStack() as stack:

        def start(name: str) -> Backend:
            kind = KINDS[name]
            if name not in running:
                if missing := kind.missing():
                    pytest.skip(missing)
                folder = everybodys if name in SHARED else own / name
                folder.mkdir(exist_ok=True)
                running[name] = stack.enter_context(kind.opened(folder))
            return running[name]

        yield start


# Traced programs ------------------------------------------------------------------------------------------------------


class Program:
    """A role of ``shop.py`` under the agent."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors

    def read_line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program has ended: {self.said}"
        return line

    def write_line(self) -> None:
        """Make it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def read_trace_id(self) -> int:
        return int(json.loads(self.read_line())["traceparent"].split("-")[1], 16)

    @property
    def said(self) -> str:
        """What it has written to stderr."""
        return self._errors.read_text(encoding="utf-8")

    @property
    def complaints(self) -> list[str]:
        """What the agent has written to stderr."""
        return [line for line in self.said.splitlines() if line.startswith("autoinstr:")]

    def end(self) -> None:
        """Let it end as programs do, and send what is left."""
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        assert self.process.wait(2 * DEADLINE_S) == 0, self.said


@contextmanager
def traced(folder: Path, service: str, target: str, reporter: Reporter, *role: str, **more: str) -> Iterator[Program]:
    """Start a role; what it tells the backend it also writes to ``folder``/``service``.jsonl."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    environ |= reporter.variables(target)
    environ["AUTOINSTR_EXPORTER"] += ",file"
    environ |= {
        "AUTOINSTR_FILE": str(folder / f"{service}.jsonl"),
        "OTEL_SERVICE_NAME": service,
        "OTEL_RESOURCE_ATTRIBUTES": RESOURCE,
        "JAEGER_SAMPLER_TYPE": "const",
        "JAEGER_SAMPLER_PARAM": "1",
        "JAEGER_REPORTER_FLUSH_INTERVAL": "50ms",
        "NO_PROXY": "*",
        **more,
    }
    errors = folder / f"{service}.stderr"
    with open(errors, "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "autoinstr", str(SHOP), *role],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield Program(process, errors)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def written(folder: Path, *services: str) -> list[Record]:
    """What the programs sent, by the files that they wrote beside."""
    lines = [line for service in services for line in (folder / f"{service}.jsonl").read_text("utf-8").splitlines()]
    return [record for line in lines for record in records_of_otlp(json.loads(line))]


def new_name(role: str) -> str:
    """A service that nobody has seen: a developer's own backend may hold the spans of earlier runs."""
    return f"{role}-{secrets.token_hex(4)}"


# What a request to the shop became ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """One request to the shop: what was sent, and what the backend shows."""

    backend: Backend
    reporter: Reporter
    front: str
    stock: str
    #: As the headers between the two services had it, once for each call.
    traceparents: list[str]
    sent: list[Record]
    shown: list[Record]
    #: What the agents had to say on stderr.
    complaints: list[str]

    @property
    def carries(self) -> Carries:
        """What gets from one end to the other."""
        return self.reporter.carries & self.backend.carries

    @property
    def trace_id(self) -> int:
        return int(self.traceparents[0].split("-")[1], 16)

    def pairs(self) -> list[tuple[Record, Record]]:
        """Each span as it was sent and as it is shown."""
        by_id = {record.span_id: record for record in self.shown}
        return [(record, by_id[record.span_id]) for record in self.sent]

    def pair(self, name: str) -> tuple[Record, Record]:
        return next(pair for pair in self.pairs() if pair[0].name == name)


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Each backend with each of its reporters. Of the module, so that the tests of one case follow each other."""
    return request.param


@pytest.fixture(scope="session")
def tell(
    open_backend: Callable[[str], Backend], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Case], Told]:
    """One request to a shop of its own for each case, at first use."""
    known: dict[str, Told] = {}

    def told(case: Case) -> Told:
        name = str(case)
        if name not in known:
            known[name] = ask_shop(open_backend(case.backend), case.reporter, tmp_path_factory.mktemp(name))
        return known[name]

    return told


@pytest.fixture
def told(case: Case, tell: Callable[[Case], Told]) -> Told:
    return tell(case)


def ask_shop(backend: Backend, reporter: Reporter, folder: Path) -> Told:
    """Start the two services, ask once, and let them end."""
    target = backend.target(reporter.name)
    front, stock = new_name("front"), new_name("stock")
    with traced(folder, stock, target, reporter, "stock") as stock_program:
        stock_url = f"http://{HOST}:{int(stock_program.read_line())}"
        with traced(folder, front, target, reporter, "front", stock_url) as front_program:
            answer = ask(f"http://{HOST}:{int(front_program.read_line())}/buy/yacht")
            front_program.end()
        stock_program.end()
    traceparents, sent = answer["answers"], written(folder, front, stock)
    shown = wait_for(backend, int(traceparents[0].split("-")[1], 16), len(sent))
    complaints = [*front_program.complaints, *stock_program.complaints]
    return Told(backend, reporter, front, stock, traceparents, sent, shown, complaints)


def wait_for(backend: Backend, trace_id: int, number: int) -> list[Record]:
    """The trace, once it has so many spans."""
    deadline = time.monotonic() + backend.patience_s
    while len(shown := backend.trace(trace_id)) < number:
        names = Counter(record.name for record in shown)
        assert time.monotonic() < deadline, f"{len(shown)} of {number} spans within {backend.patience_s} s: {names}"
        time.sleep(LOOK_S)
    return shown
