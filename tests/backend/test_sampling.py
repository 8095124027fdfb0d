"""Which strategy a service gets: file, edits, adaptive mode, default; and the port where it asks."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from jaeger_client.sampler import RemoteControlledSampler

from autoinstr.backend import log
from autoinstr.backend.sampling import StrategiesError, StrategyBook, sampling_app
from autoinstr.backend.sampling.adaptive import Adaptive
from autoinstr.model import Batch, Resource, SpanData

from .conftest import Backend, poll, running

ALL = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 1.0}}


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def write(path: Path, rate: float) -> None:
    """Replace the file, as editors and ConfigMaps do."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"default_strategy": {"type": "probabilistic", "param": rate}}))
    os.replace(new, path)


def rate_of(strategy: dict[str, Any]) -> float:
    return strategy["probabilisticSampling"]["samplingRate"]


# ---- Whose word counts -------------------------------------------------------------------------------


def test_without_anything_every_trace_is_kept() -> None:
    """A first trial must show all traces."""
    book = StrategyBook()
    assert book.for_service("any") == ALL
    assert book.source("any") == "default"
    assert book.target_per_s is None


def test_edited_before_file_before_adaptive_before_default(tmp_path: Path) -> None:
    """Who turns a knob in the interface would see no effect, or lose what the file says for everybody else."""
    path = tmp_path / "strategies.json"
    path.write_text('{"service_strategies": [{"service": "filed", "type": "probabilistic", "param": 0.25}]}')
    book = StrategyBook(str(path), adaptive=Adaptive(2))
    assert (book.source("filed"), rate_of(book.for_service("filed"))) == ("file", 0.25)
    assert book.source("new") == "adaptive"
    assert book.for_service("new")["operationSampling"]["defaultSamplingProbability"] == 0.001
    assert book.target_per_s == 2
    for service in ("filed", "new"):
        book.edit(service, {"type": "probabilistic", "param": 0.75})
        assert (book.source(service), rate_of(book.for_service(service))) == ("edited", 0.75)
        book.reset(service)
    assert (book.source("filed"), book.source("new")) == ("file", "adaptive")
    book.reset("never edited")


def test_services_that_ask_are_listed_and_bounded() -> None:
    """A new service would not be on the sampling page; a scan of the port would fill the memory."""
    book = StrategyBook()
    book.edit("edited", {"type": "ratelimiting", "param": 1})
    book.for_service("asks")
    book.for_service("")
    book.for_service("x" * 10_000)
    book.observe([decided("decided", "const", True)])
    assert book.services() == ["asks", "decided", "edited"]
    for number in range(3000):
        book.for_service(f"scan {number}")
    assert len(book.services()) < 1100
    assert "edited" in book.services()


def decided(service: str, kind: str, param: float | bool) -> Batch:
    span = SpanData("GET /", 1, 2, attributes={"sampler.type": kind, "sampler.param": param})
    return Batch(Resource(service), [span])


def test_decisions_are_counted_from_what_was_written() -> None:
    """Nobody could see that a process does not follow its strategy."""
    book = StrategyBook(adaptive=Adaptive(1))
    book.observe([decided("shop", "probabilistic", 0.5), decided("shop", "probabilistic", 0.5)])
    assert book.decisions("shop") == [{"operation": "GET /", "type": "probabilistic", "param": 0.5, "traces": 2}]
    assert book.decisions("other") == []
    assert book.figures()["adaptive_operations"] == 1


# ---- The file ----------------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What is logged, before it is limited in how often it is written."""
    events: list[tuple[str, dict[str, Any]]] = []
    for level in ("warning", "error"):
        monkeypatch.setattr(log, level, lambda event, **fields: events.append((event, fields)))
    return events


def test_the_file_is_followed_and_mistakes_do_not_replace_it(
    tmp_path: Path, said: list[tuple[str, dict[str, Any]]]
) -> None:
    """Rates are tuned while everything runs; a typing error must not turn sampling off or on, but be said, once."""
    path, clock = tmp_path / "strategies.json", Clock()
    write(path, 0.25)
    book = StrategyBook(str(path), clock=clock)

    def rate_later() -> float:
        clock.now += 1
        return rate_of(book.for_service("a"))

    write(path, 0.75)
    assert rate_later() == 0.75
    path.write_text("{ typing error")
    assert [rate_later(), rate_later(), rate_later()] == [0.75] * 3
    assert [event for event, _ in said] == ["strategies_file_refused"]
    assert str(path) in said[0][1]["error"]
    assert book.figures()["sampling_file_is_broken"] == 1
    assert book.figures()["sampling_file_errors_total"] == 1
    path.unlink()
    assert rate_later() == 0.75
    write(path, 0.5)
    assert rate_later() == 0.5
    assert book.figures()["sampling_file_is_broken"] == 0
    assert book.figures()["sampling_file_read_total"] == 3


def test_the_file_is_looked_at_once_a_second(tmp_path: Path) -> None:
    """With the file on a slow network disk each question would wait for it."""
    path, clock = tmp_path / "strategies.json", Clock()
    write(path, 0.25)
    book = StrategyBook(str(path), clock=clock)
    clock.now += 1
    book.for_service("a")
    write(path, 0.75)
    clock.now += 0.9
    assert rate_of(book.for_service("a")) == 0.25
    clock.now += 0.2
    assert rate_of(book.for_service("a")) == 0.75


@pytest.mark.parametrize("content", [None, "", "[1]", "[" * 100_000, b"\xff\xfe"])
def test_a_bad_file_at_the_start_is_an_error_that_names_it(tmp_path: Path, content: str | bytes | None) -> None:
    """A backend that starts with other rates than it was given is found out days later."""
    path = tmp_path / "strategies.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StrategiesError, match=r"strategies file .*strategies\.json: "):
        StrategyBook(str(path))


def test_what_has_no_effect_in_a_file_is_said(tmp_path: Path, said: list[tuple[str, dict[str, Any]]]) -> None:
    """A misspelt type would keep everything, without a word."""
    path = tmp_path / "strategies.json"
    path.write_text('{"default_strategy": {"type": "probabalistic", "param": 0.1}}')
    assert rate_of(StrategyBook(str(path)).for_service("a")) == 1.0
    assert [event for event, _ in said] == ["strategies_file_partly_ignored"]
    assert "probabalistic" in said[0][1]["reason"]


# ---- Edits -------------------------------------------------------------------------------------------


def test_edits_survive_a_restart(tmp_path: Path) -> None:
    """What was turned down in an incident would be up again after the next deployment."""
    path = tmp_path / "edits.json"
    book = StrategyBook(edits_path=str(path))
    book.edit("shop/é", {"type": "probabilistic", "param": 0.125})
    book.edit("gone", {"type": "ratelimiting", "param": 5})
    book.reset("gone")
    again = StrategyBook(edits_path=str(path))
    assert again.for_service("shop/é") == book.for_service("shop/é")
    assert (again.source("shop/é"), again.source("gone")) == ("edited", "default")
    assert [file.name for file in tmp_path.iterdir()] == ["edits.json"]


def test_an_edit_that_cannot_be_kept_is_not_in_force(tmp_path: Path) -> None:
    """The interface would say "saved", and a restart would take it back."""
    path = tmp_path / "missing" / "edits.json"
    book = StrategyBook(edits_path=str(path))
    with pytest.raises(StrategiesError, match="cannot be kept"):
        book.edit("shop", {"type": "probabilistic", "param": 0})
    assert book.source("shop") == "default"
    with pytest.raises(StrategiesError):
        book.edit("shop", {"type": "nonsense"})
    assert book.source("shop") == "default"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"strategies": []}', '{"strategies": {"a": {"type": "probabilistic", "param": 2}}}']
)
def test_broken_edits_are_an_error_that_says_what_to_do(tmp_path: Path, content: str) -> None:
    """Starting without the edits would change every rate, without a word."""
    path = tmp_path / "edits.json"
    path.write_text(content)
    with pytest.raises(StrategiesError, match=r"edits\.json.*mend or remove"):
        StrategyBook(edits_path=str(path))


def test_edits_are_bounded() -> None:
    """A script that edits under ever new names would fill memory and disk."""
    book = StrategyBook()
    for number in range(1000):
        book.edit(f"service {number}", {"type": "probabilistic", "param": 1})
    with pytest.raises(StrategiesError, match="1000"):
        book.edit("one more", {"type": "probabilistic", "param": 1})
    book.edit("service 0", {"type": "probabilistic", "param": 0})


def test_edits_while_others_ask() -> None:
    """Two threads, the port's and the interface's: an answer would be half of two strategies, or the list break."""
    book, stop, failures = StrategyBook(), threading.Event(), []

    def ask() -> None:
        try:
            while not stop.is_set():
                assert rate_of(book.for_service("a")) in {0.25, 0.75, 1.0}
                book.services()
                book.observe([decided("a", "probabilistic", 0.5)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(500):
        book.edit("a", {"type": "probabilistic", "param": (0.25, 0.75)[number % 2]})
        book.edit(f"b{number}", {"type": "probabilistic", "param": 0})
        book.reset("a")
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failures == []


# ---- The port ----------------------------------------------------------------------------------------


class Port:
    """The sampling port of one book, on a real socket."""

    def __init__(self, book: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.number: int = self.listener.getsockname()[1]
        config = uvicorn.Config(sampling_app(book), lifespan="off", log_level="error", access_log=False, ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()

    def get(self, target: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.number, timeout=20)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.listener.close()


@pytest.fixture
def listen() -> Iterator[Callable[[Any], Port]]:
    ports: list[Port] = []

    def begin(book: Any) -> Port:
        ports.append(Port(book))
        return ports[-1]

    yield begin
    for port in ports:
        port.close()


@pytest.mark.parametrize("path", ["/sampling", "/api/sampling", "/"])
def test_every_path_of_jaegers_answers(listen: Callable[[Any], Port], path: str) -> None:
    """Old Java clients, OpenTelemetry's and ours ask at different addresses, and read the type as text."""
    book = StrategyBook()
    book.edit("shop", {"type": "ratelimiting", "param": 2})
    status, body, headers = listen(book).get(f"{path}?service=shop")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {
        "strategyType": "RATE_LIMITING",
        "rateLimitingSampling": {"maxTracesPerSecond": 2},
    }


@pytest.mark.parametrize("query", ["", "?other=a", "?service=a&service=b"])
def test_the_port_asks_for_exactly_one_service(listen: Callable[[Any], Port], query: str) -> None:
    """Clients tell by this status that they are configured wrongly."""
    status, body, headers = listen(StrategyBook()).get(f"/sampling{query}")
    assert (status, body) == (400, b"'service' parameter must be provided once\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["%ff%fe", "%00", "a" * 20_000, "%F0%9F%92%A5", "", "../../etc", "%ud800"])
def test_odd_names_get_the_default(listen: Callable[[Any], Port], name: str) -> None:
    """A scanner's questions would show up as errors of ours."""
    status, body, _ = listen(StrategyBook()).get(f"/sampling?service={name}")
    assert (status, json.loads(body)) == (200, ALL)


def test_a_failure_is_answered_as_jaeger_does(
    listen: Callable[[Any], Port], said: list[tuple[str, dict[str, Any]]]
) -> None:
    """A client keeps its rate when it reads a 500; our traceback is nobody's business."""

    class Broken:
        def for_service(self, service: str) -> dict[str, Any]:
            raise OSError("secret path")

    status, body, _ = listen(Broken()).get("/sampling?service=a")
    assert (status, body) == (500, b"collector error: OSError\n")
    assert [event for event, _ in said] == ["sampling_failed"]


class Judge:
    """Jaeger's own Python client, as it takes an answer over; ``errors`` are its complaints."""

    def __init__(self) -> None:
        self.errors: list[tuple[Any, ...]] = []
        reporter = SimpleNamespace(error=lambda *args: self.errors.append(args))
        self.sampler = RemoteControlledSampler(
            SimpleNamespace(io_loop=None),
            "a",
            error_reporter=reporter,
            logger=SimpleNamespace(error=print, debug=print),
        )

    def read(self, body: bytes) -> Any:
        answer = SimpleNamespace(exception=lambda: None, result=lambda: SimpleNamespace(body=body))
        self.sampler._sampling_request_callback(answer)
        return self.sampler.sampler


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (None, "ProbabilisticSampler(1.0)"),
        ({"type": "probabilistic", "param": 0.25}, "ProbabilisticSampler(0.25)"),
        ({"type": "ratelimiting", "param": 3}, "RateLimitingSampler(3)"),
        (
            {
                "type": "probabilistic",
                "param": 0.5,
                "operation_strategies": [{"operation": "o", "type": "probabilistic", "param": 0.125}],
            },
            "AdaptiveSampler",
        ),
    ],
)
def test_jaegers_client_takes_every_answer(
    listen: Callable[[Any], Port], strategy: dict[str, Any] | None, expected: str
) -> None:
    """Services with Jaeger's clients would stay at one trace in a thousand."""
    book, judge = StrategyBook(), Judge()
    if strategy is not None:
        book.edit("a", strategy)
    sampler = judge.read(listen(book).get("/sampling?service=a")[1])
    assert judge.errors == []
    assert str(sampler).startswith(expected)
    if expected == "AdaptiveSampler":
        assert sampler.default_sampler.rate == 0.5
        assert sampler.samplers["o"].rate == 0.125


def test_jaegers_client_takes_adaptive_answers(listen: Callable[[Any], Port]) -> None:
    """Adaptive sampling would be for our own agents only."""
    book, judge = StrategyBook(adaptive=Adaptive(1, initial=0.25, lower_bound_per_s=0.5)), Judge()
    port = listen(book)
    sampler = judge.read(port.get("/sampling?service=a")[1])
    assert (judge.errors, sampler.default_sampler.rate, sampler.lower_bound) == ([], 0.25, 0.5)
    book.observe([decided("a", "probabilistic", 0.25)])
    sampler = judge.read(port.get("/sampling?service=a")[1])
    assert (judge.errors, sampler.samplers["GET /"].rate) == ([], 0.25)


# ---- A traced process --------------------------------------------------------------------------------

TRACED = """
import sys, time, autoinstr
print("started", flush=True)
while True:
    kept = 0
    for _ in range(20):
        with autoinstr.span("work") as span:
            kept += span.context.sampled
    print(kept, flush=True)
    time.sleep(0.02)
"""


def test_a_traced_process_follows_an_edit_within_its_interval(listen: Callable[[Any], Port], tmp_path: Path) -> None:
    """Whoever turns a service's sampling off in the interface would wait for a restart."""
    book = StrategyBook(edits_path=str(tmp_path / "edits.json"))
    book.edit("shop ü", {"type": "probabilistic", "param": 0})
    script = tmp_path / "traced.py"
    script.write_text(TRACED)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JAEGER_", "OTEL_"))},
        "JAEGER_SERVICE_NAME": "shop ü",
        "JAEGER_SAMPLER_TYPE": "remote",
        "JAEGER_SAMPLING_ENDPOINT": f"http://127.0.0.1:{listen(book).number}/sampling",
        "JAEGER_SAMPLER_REFRESH_INTERVAL": "200",
        "AUTOINSTR_EXPORTER": "none",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "autoinstr", str(script)], env=environ, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        counts = iter(process.stdout.readline, "")
        assert next(counts) == "started\n"
        assert until(counts, "0") < 20
        book.edit("shop ü", {"type": "probabilistic", "param": 1})
        assert until(counts, "20") < 5
        book.reset("shop ü")
        book.edit("shop ü", {"type": "probabilistic", "param": 0})
        assert until(counts, "0") < 5
    finally:
        process.kill()
        process.communicate()
    assert book.services() == ["shop ü"]


def until(counts: Iterator[str], wanted: str) -> float:
    """Seconds until the process says ``wanted``."""
    begun = time.monotonic()
    while next(counts).strip() != wanted:
        assert time.monotonic() - begun < 30, f"the process never says {wanted}"
    return time.monotonic() - begun


# ---- The whole backend -------------------------------------------------------------------------------


def test_the_sampling_port_of_the_backend(backend: Backend) -> None:
    """The book is there, and nobody on the port."""
    status, body, headers = backend.request("sampling", "GET", f"/sampling?service={urllib.parse.quote('shop ü')}")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["strategyType"] == "PROBABILISTIC"


def test_the_running_backend_follows_its_file(tmp_path: Path) -> None:
    """The option reaches the port, and changes need no restart."""
    path = tmp_path / "strategies.json"
    write(path, 0.25)

    def rate() -> float:
        return rate_of(json.loads(backend.get("sampling", "/sampling?service=a")[1]))

    with running(tmp_path, "--strategies-file", str(path)) as backend:
        assert rate() == 0.25
        write(path, 0.75)
        assert poll(lambda: rate() == 0.75, "the new rate")
