"""What the agent sends through each of its reporters is what a backend shows, asked by the backend's own API.

A front (Flask) asks a stock (WSGI) twice, under the agent, told by variables alone. What they sent is known from a file that
each of them writes beside; what a format cannot carry is said in ``contract.REPORTERS`` and in the backends' ``carries``, and
in docs/backends.md.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from autoinstr import __version__
from fakes import Collector, Server, response, until
from ports import free_port

from . import shop
from .conftest import CASES, SPANS, Case, Told, new_name, traced, wait_for
from .contract import HOST, Backend, Carries, ask, moved, post
from .ours import Ours

EXCEPTION = {"exception.type": "ValueError", "exception.message": shop.FAILURE}


def is_same(sent: Any, shown: Any, carries: Carries) -> bool:
    """Whether a value is what was sent, type included, as far as the way carries types: else it is the text of its JSON."""
    if (not carries.types and not isinstance(sent, str)) or (isinstance(sent, list) and not carries.lists):
        shown = json.loads(shown)
    return type(sent) is type(shown) and sent == shown


def differences(sent: dict[str, Any], shown: dict[str, Any], carries: Carries) -> dict[str, tuple[Any, Any]]:
    """What was sent and is not shown, or not as it was. A backend may show more."""
    return {
        name: (value, shown.get(name))
        for name, value in sent.items()
        if (value != "" or carries.empty_text) and (name not in shown or not is_same(value, shown[name], carries))
    }


def is_read_by_v3(case: Any) -> bool:
    return isinstance(case, Case) and case.backend in ("ours", "rotel", "rotel-grpc")


def is_zipkin(case: Any) -> bool:
    return isinstance(case, Case) and case.reporter.name == "zipkin"


def cased(text: str, carries: Carries) -> str:
    return text if carries.case else text.lower()


# A request ------------------------------------------------------------------------------------------------------------


def test_every_span_is_shown_once(told: Told) -> None:
    """A span that is missing is an hour of somebody's search; one that is there twice is a call that never was."""
    assert len(told.sent) == SPANS
    assert sorted(record.span_id for record in told.sent) == sorted(record.span_id for record in told.shown)
    assert told.complaints == []


def test_the_trace_is_the_one_of_the_headers(told: Told) -> None:
    """Whoever has a trace id from a header or a log line looks it up; all 128 bits of it count."""
    ids = {traceparent.split("-")[1] for traceparent in told.traceparents}
    assert ids == {f"{told.trace_id:032x}"}
    assert told.trace_id >> 64
    assert {record.trace_id for record in told.shown} == {told.trace_id}


def test_parents_and_children(told: Told) -> None:
    """Without its edges a trace is a heap; the headers named the calls that the stock's spans belong below."""
    assert {record.span_id: record.parent_id for record in told.sent} == {
        record.span_id: record.parent_id for record in told.shown
    }
    assert sum(not record.parent_id for record in told.shown) == 1
    callers = {int(traceparent.split("-")[2], 16) for traceparent in told.traceparents}
    shown = {sent.span_id: shown for sent, shown in told.pairs()}
    stock = {sent.span_id for sent in told.sent if sent.service == told.stock}
    crossing = {record.parent_id for record in told.shown if record.span_id in stock} - stock
    assert crossing == callers
    assert callers <= set(shown)


def test_names_services_and_kinds(told: Told) -> None:
    """Searches go by these."""
    carries = told.carries
    for sent, shown in told.pairs():
        assert cased(sent.name, carries) == shown.name
        if carries.services:
            assert cased(sent.service, carries) == shown.service
        if carries.kinds:
            assert (sent.kind if carries.internal or sent.kind != "internal" else "") == shown.kind
    assert Counter(record.name for record in told.sent)["GET /buy/<item>"] == 1
    assert Counter(record.service for record in told.sent) == {told.front: 4, told.stock: 3}
    assert Counter(record.kind for record in told.sent) == {"server": 3, "client": 2, "internal": 2}


def test_times(told: Told) -> None:
    """A start or a duration that is rounded beyond the format's unit makes a child begin before its parent."""
    for sent, shown in told.pairs():
        assert abs(sent.start_ns - shown.start_ns) < told.carries.resolution_ns
        assert abs(sent.duration_ns - shown.duration_ns) < told.carries.duration_resolution_ns
        assert 0 < sent.duration_ns < 60 * 10**9


def test_tags_and_their_types(told: Told) -> None:
    """A number that became text is not found by its value, and a letter that was lost is not found at all."""
    _, price = told.pair("price")
    assert differences(shop.TAGS, dict(price.tags), told.carries) == {}
    for sent, shown in told.pairs():
        assert differences(dict(sent.tags), dict(shown.tags), told.carries) == {}
    _, front = told.pair("GET /buy/<item>")
    assert is_same(200, front.tags["http.response.status_code"], told.carries)


def test_events(told: Told) -> None:
    """What happened within a span, and when."""
    _, price = told.pair("price")
    (event,) = price.events
    assert event.name == shop.EVENT
    # An event's attributes keep their types where tags are text: they travel as JSON.
    assert {name: event.attributes.get(name) for name in shop.EVENT_ATTRIBUTES} == shop.EVENT_ATTRIBUTES
    for sent, shown in told.pairs():
        assert len(sent.events) == len(shown.events)
        for one, other in zip(sent.events, shown.events):
            assert one.name == other.name
            assert abs(one.time_ns - other.time_ns) < told.carries.resolution_ns


def test_errors(told: Told) -> None:
    """Failed requests are found by their status, and explained by the exception."""
    _, failed = told.pair("reserve")
    assert failed.is_error
    (event,) = failed.events
    assert {name: event.attributes[name] for name in EXCEPTION} == EXCEPTION
    assert "raise ValueError(FAILURE)" in event.attributes["exception.stacktrace"]
    for sent, shown in told.pairs():
        assert (sent.is_error, sent.status_message) == (shown.is_error, shown.status_message)
    # The reservation, the stock's request, the front's call; the front itself has an answer for it.
    assert sum(record.is_error for record in told.shown) == 3


def test_links(told: Told) -> None:
    """Work that was started by another trace leads back to it."""
    _, price = told.pair("price")
    assert price.links == ((shop.LINKED,) if told.carries.links else ())


def test_what_is_known_of_the_process(told: Told) -> None:
    """Which host, which version: the first questions when one of many instances is slow."""
    expected = {
        "hostname": os.uname().nodename,
        "telemetry.sdk.version": __version__,
        "jaeger.version": f"Python-autoinstr-{__version__}",
        "deployment.environment.name": "acceptance",
        "shop.branch": "Köln",
    }
    for _, shown in told.pairs():
        place = shown.resource if told.carries.resource_apart else shown.tags
        assert differences(expected if told.carries.resource else {}, dict(place), told.carries) == {}


def test_found_by_service_and_operation(told: Told) -> None:
    """What is stored and cannot be found may as well be lost."""
    if not told.carries.services:
        pytest.skip("this backend knows no services")
    backend, carries = told.backend, told.carries
    for service in (told.front, told.stock):
        until(lambda service=service: service in backend.services(), f"{service} in the list")
        (trace,) = backend.traces(service)
        assert {record.span_id for record in trace} == {record.span_id for record in told.sent}
    assert cased("GET /buy/<item>", carries) in backend.operations(told.front)


def test_dependencies(told: Told) -> None:
    """The front calls the stock, twice; nobody else does."""
    if told.backend.dependencies() is None:
        pytest.skip("this backend draws no dependencies")
    ours = {told.front, told.stock}

    def edges() -> dict[tuple[str, str], int]:
        found = told.backend.dependencies() or {}
        return {edge: calls for edge, calls in found.items() if ours & set(edge)}

    until(edges, "the edge")
    assert edges() == {(told.front, told.stock): 2}


@pytest.mark.parametrize("case", [case for case in CASES if is_read_by_v3(case)], ids=str, indirect=True)
def test_the_newer_api_loses_nothing(told: Told) -> None:
    """Jaeger's UI of today asks by it: nanoseconds and lists are there, where the reporter carried them."""
    assert isinstance(told.backend, Ours)
    carries = told.reporter.carries
    shown = {record.span_id: record for record in told.backend.trace_v3(told.trace_id)}
    for sent in told.sent:
        record = shown.pop(sent.span_id)
        assert differences(dict(sent.tags), dict(record.tags), carries) == {}
        assert abs(sent.start_ns - record.start_ns) < carries.resolution_ns
        assert abs(sent.duration_ns - record.duration_ns) < carries.duration_resolution_ns
        assert (sent.parent_id, sent.name, sent.is_error) == (record.parent_id, record.name, record.is_error)
    assert shown == {}


# Many, and late ---------------------------------------------------------------------------------------------------------


def test_a_burst_arrives_whole(case: Case, open_backend: Callable[[str], Backend], tmp_path: Path) -> None:
    """2,000 spans in one trace within some ten milliseconds, from a program that ends right then."""
    backend, number, service = open_backend(case.backend), 2000, new_name("burst")
    target = backend.target(case.reporter.name)
    with traced(tmp_path, service, target, case.reporter, "burst", str(number)) as program:
        trace_id = program.read_trace_id()
        program.end()
    shown = wait_for(backend, trace_id, number)
    assert len(shown) == len({record.span_id for record in shown}) == number
    items = sorted(int(record.tags["item"]) for record in shown if record.name == "item")
    assert items == list(range(number - 1))
    assert program.complaints == []


def test_a_backend_that_comes_later(case: Case, open_backend: Callable[[str], Backend], tmp_path: Path) -> None:
    """A backend that is being restarted costs no spans; over UDP, where nothing is tried again, the loss is said."""
    backend, number, service = open_backend(case.backend), 50, new_name("patient")
    target, port = backend.target(case.reporter.name), free_port()
    with traced(tmp_path, service, moved(target, port), case.reporter, "patient", str(number)) as program:
        early = program.read_trace_id()
        until(lambda: program.complaints, "a word of the agent")
        with relay(target, port):
            if case.reporter.retries:
                assert len(wait_for(backend, early, number)) == number
            program.write_line()
            late = program.read_trace_id()
            assert len(wait_for(backend, late, number)) == number
            program.end()
    if not case.reporter.retries:
        assert backend.trace(early) == []
    assert "refused" in program.complaints[0] or "nothing answers" in program.complaints[0]


@contextmanager
def relay(target: str, port: int) -> Iterator[None]:
    """From now on the target listens at ``port``, too."""
    parts = urlsplit(target)
    address = (parts.hostname or HOST, parts.port or 80)
    if parts.scheme == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind((HOST, port))
            stop = threading.Event()
            thread = threading.Thread(target=pass_datagrams, args=(taken, address, stop))
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
        return
    server = Server(lambda connection, _: pass_bytes(connection, address), port=port)
    try:
        yield
    finally:
        server.close()


def pass_datagrams(taken: socket.socket, address: tuple[str, int], stop: threading.Event) -> None:
    taken.settimeout(0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as onward:
        while not stop.is_set():
            with suppress(TimeoutError):
                onward.sendto(taken.recv(65_535), address)


def pass_bytes(connection: socket.socket, address: tuple[str, int]) -> None:
    """Both ways, until either side has enough."""
    with socket.create_connection(address) as onward, selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ, onward)
        selector.register(onward, selectors.EVENT_READ, connection)
        while True:
            for key, _ in selector.select():
                data = key.fileobj.recv(65_536)
                if not data:
                    return
                key.data.sendall(data)


# Zipkin's shared spans ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if is_zipkin(case)], ids=str, indirect=True)
def test_among_services_that_share_spans(case: Case, open_backend: Callable[[str], Backend], tmp_path: Path) -> None:
    """Zipkin's own clients give both sides of a call one id, which ours do not: a service of ours between two of theirs is
    in the same trace, and the picture of who calls whom is right on both of its sides."""
    backend = open_backend(case.backend)
    target = backend.target("zipkin")
    front, caller, callee = new_name("front"), new_name("caller"), new_name("callee")
    trace_id, span_id = secrets.randbits(127) | 1 << 127, secrets.randbits(63) | 1
    asked = {"X-B3-TraceId": f"{trace_id:032x}", "X-B3-SpanId": f"{span_id:016x}", "X-B3-Sampled": "1"}
    stock = Collector(response(body=b"{}"))
    try:
        with traced(
            tmp_path, front, target, case.reporter, "front", f"http://{HOST}:{stock.port}", OTEL_PROPAGATORS="b3multi"
        ) as program:
            began_us = time.time_ns() // 1000
            ask(f"http://{HOST}:{int(program.read_line())}/buy/yacht", asked)
            program.end()
    finally:
        stock.close()
    common = {"traceId": f"{trace_id:032x}", "timestamp": began_us, "duration": 10}
    theirs = [{**common, "id": f"{span_id:016x}", "kind": "CLIENT", "name": "get", "localEndpoint": {"serviceName": caller}}]
    for request in stock.requests:
        assert request.headers["x-b3-traceid"] == f"{trace_id:032x}"
        joined = {"id": request.headers["x-b3-spanid"], "kind": "SERVER", "shared": True, "name": "get"}
        if parent := request.headers.get("x-b3-parentspanid"):
            joined["parentId"] = parent
        theirs.append({**common, **joined, "localEndpoint": {"serviceName": callee}})
    assert len(theirs) == 3
    post(f"{target}/api/v2/spans", theirs)
    # Ours: the request, its price, two calls.
    shown = wait_for(backend, trace_id, 4 + len(theirs))
    assert Counter(record.service for record in shown) == {front: 4, caller: 1, callee: 2}
    (request_span,) = [record for record in shown if record.service == front and record.kind == "server"]
    assert request_span.parent_id == span_id

    def edges() -> dict[tuple[str, str], int]:
        found = backend.dependencies() or {}
        return {edge: calls for edge, calls in found.items() if front in edge}

    until(lambda: len(edges()) == 2, "both edges")
    assert edges() == {(caller, front): 1, (front, callee): 2}
