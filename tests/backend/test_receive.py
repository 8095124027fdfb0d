"""Receivers, fed by other people's encoders over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.applications import Starlette

from autoinstr.backend import receive
from autoinstr.backend.receive import Intake, RequestError, decompress
from autoinstr.backend.receive.losses import LossBook
from autoinstr.backend.receive.writer import QueueWriter
from autoinstr.wire import protobuf

from . import clients
from .conftest import DEADLINE_S, HOST, Backend, poll
from .test_writer import Shelf, hold

THRIFT = {"Content-Type": "application/x-thrift"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}


def assert_is_the_span(trace: dict[str, object], service: str) -> None:
    (span,) = trace["spans"]
    assert (span["operationName"], span["spanID"], span["duration"]) == ("get-thing", f"{clients.SPAN_ID:016x}", 1500)
    assert {"key": "span.kind", "type": "string", "value": "server"} in span["tags"]
    assert trace["processes"][span["processID"]]["serviceName"] == service


@pytest.mark.parametrize("compact", [True, False], ids=["compact", "binary"])
def test_datagrams_of_jaegers_clients_become_traces(backend: Backend, compact: bool) -> None:
    """Otherwise a service with Jaeger's own client, in either protocol, would not show up."""
    service = f"udp-{compact}"
    backend.send_datagram(clients.jaeger_datagram(service, compact=compact))
    trace = backend.wait_for_service(service)
    assert_is_the_span(trace, service)
    assert trace["spans"][0]["references"][0]["spanID"] == f"{clients.PARENT_ID:016x}"


def test_thrift_over_http(backend: Backend) -> None:
    """Clients with JAEGER_ENDPOINT set expect 202 and an empty body."""
    body = clients.jaeger_http_body("thrift-http")
    assert backend.post("collector", "/api/traces?format=jaeger.thrift", body, THRIFT) == (202, b"")
    assert_is_the_span(backend.wait_for_service("thrift-http"), "thrift-http")


def test_otlp_protobuf(backend: Backend) -> None:
    """OpenTelemetry's exporters expect 200, the request's own type, and no partial success."""
    body = clients.otlp_body("otlp-protobuf")
    status, answer, headers = backend.request("otlp", "POST", "/v1/traces", body, PROTOBUF)
    assert (status, answer, headers["Content-Type"]) == (200, b"", "application/x-protobuf")
    assert_is_the_span(backend.wait_for_service("otlp-protobuf"), "otlp-protobuf")


def test_otlp_json(backend: Backend) -> None:
    """Browsers and curl send JSON."""
    status, answer = backend.post("otlp", "/v1/traces", clients.otlp_json_body("otlp-json"), JSON)
    assert (status, json.loads(answer)) == (200, {})
    assert_is_the_span(backend.wait_for_service("otlp-json"), "otlp-json")


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies(backend: Backend, encoding: str, compress) -> None:
    """OTEL_EXPORTER_OTLP_COMPRESSION=gzip is what most production set-ups use."""
    body = compress(clients.otlp_body(f"otlp-{encoding}"))
    assert backend.post("otlp", "/v1/traces", body, {**PROTOBUF, "Content-Encoding": encoding})[0] == 200
    assert_is_the_span(backend.wait_for_service(f"otlp-{encoding}"), f"otlp-{encoding}")


def test_zipkin(backend: Backend) -> None:
    """Zipkin's reporters expect 202."""
    assert backend.post("zipkin", "/api/v2/spans", clients.zipkin_body("zipkin"), JSON) == (202, b"")
    assert_is_the_span(backend.wait_for_service("zipkin"), "zipkin")


def test_garbage_over_udp_is_counted_and_the_next_datagram_taken(backend: Backend) -> None:
    """One broken client must not stop the tracing of all others."""
    name = 'autoinstr_received_undecodable_total{protocol="jaeger-udp"}'
    before = backend.metric(name)
    good = clients.jaeger_datagram("after-garbage", compact=True)
    for payload in (b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", good[:-20]):
        backend.send_datagram(payload)
    backend.send_datagram(good)
    backend.wait_for_service("after-garbage")
    assert poll(lambda: backend.metric(name) - before == 4, "four undecodable datagrams")


GZIPPED = {**PROTOBUF, "Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("port", "path", "body", "headers", "status"),
    [
        pytest.param("collector", "/api/traces", b"garbage", THRIFT, 400, id="thrift: garbage"),
        pytest.param("collector", "/api/traces", clients.jaeger_http_body("x"), JSON, 400, id="thrift: content type"),
        pytest.param("otlp", "/v1/traces", b"garbage", PROTOBUF, 400, id="protobuf: garbage"),
        pytest.param("otlp", "/v1/traces", b"{", JSON, 400, id="JSON: garbage"),
        pytest.param("otlp", "/v1/traces", b"", {"Content-Type": "text/plain"}, 415, id="otlp: content type"),
        pytest.param("otlp", "/v1/traces", b"not gzip", GZIPPED, 400, id="not gzip"),
        pytest.param("otlp", "/v1/traces", b"x", {**PROTOBUF, "Content-Encoding": "br"}, 415, id="brotli"),
        pytest.param("otlp", "/v1/traces", gzip.compress(bytes(65 << 20)), GZIPPED, 413, id="bomb"),
        pytest.param("zipkin", "/api/v2/spans", b'{"not": "a list"}', JSON, 400, id="zipkin: garbage"),
        pytest.param("zipkin", "/api/v2/spans", b"x", PROTOBUF, 415, id="zipkin: protobuf"),
    ],
)
def test_refusals(backend: Backend, port: str, path: str, body: bytes, headers: dict[str, str], status: int) -> None:
    """A client's author must see that the request was wrong (4xx), and must not be asked to retry it (5xx)."""
    assert backend.post(port, path, body, headers)[0] == status


def test_a_body_over_the_limit_is_refused_whatever_its_length_header_says(backend: Backend) -> None:
    """Chunked bodies have no length; without counting, one request could take all the memory."""

    def chunks():
        for _ in range(65):
            yield bytes(1 << 20)

    name = 'autoinstr_received_refused_total{protocol="otlp"}'
    before = backend.metric(name)
    # The refusal comes, and the connection is closed, while the body is still being sent.
    with suppress(ConnectionError):
        assert backend.request("otlp", "POST", "/v1/traces", chunks(), PROTOBUF)[0] == 413
    assert backend.metric(name) == before + 1


def test_otlp_errors_are_a_status_in_the_requests_format(backend: Backend) -> None:
    """Exporters log the message of ``google.rpc.Status``; in another form they would log nothing useful."""
    status, answer = backend.post("otlp", "/v1/traces", b"{", JSON)
    assert (status, json.loads(answer)["code"]) == (400, 3)
    assert "Unable to process request body" in json.loads(answer)["message"]
    _, answer = backend.post("otlp", "/v1/traces", b"garbage", PROTOBUF)
    assert answer[:3] == b"\x08\x03\x12"
    assert answer[3] == len(answer[4:])
    assert answer[4:].startswith(b"Unable to process request body")


def test_decompression_stops_at_the_limit() -> None:
    """The limit is inclusive, and holds for what comes out, not for what came in."""
    assert decompress(gzip.compress(bytes(1000)), "gzip", limit=1000) == bytes(1000)
    with pytest.raises(RequestError) as refused:
        decompress(gzip.compress(bytes(1001)), "gzip", limit=1000)
    assert refused.value.status == 413


def test_a_bomb_does_not_unfold() -> None:
    """A few kilobytes can stand for gigabytes; refusing them afterwards would be too late."""
    bomb = gzip.compress(bytes(100 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(RequestError):
            decompress(bomb, "gzip", limit=1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "damage",
    [lambda body: body[:-5], lambda body: body + b"more", lambda body: b""],
    ids=["cut off", "too long", "empty"],
)
def test_a_damaged_stream_is_refused(damage) -> None:
    """Half a payload may well decode, and its spans would be silently missing."""
    with pytest.raises(RequestError) as refused:
        decompress(damage(gzip.compress(b"payload")), "gzip")
    assert refused.value.status == 400


def test_spans_and_payloads_are_counted(backend: Backend) -> None:
    """Who measures losses compares what was sent with these."""
    names = ("payloads", "spans")
    before = [backend.metric(f'autoinstr_received_{name}_total{{protocol="otlp"}}') for name in names]
    backend.post("otlp", "/v1/traces", clients.otlp_body("counted", spans=7), PROTOBUF)
    after = [backend.metric(f'autoinstr_received_{name}_total{{protocol="otlp"}}') for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 7]


def test_an_otlp_message_of_empty_spans_is_too_large(backend: Backend) -> None:
    """Two bytes can claim a span of four hundred: a small body must not fill the memory."""
    empty_spans = b"\x12\x00" * 300_000
    body = protobuf.bytes_field(1, protobuf.bytes_field(2, empty_spans))
    status, answer = backend.post("otlp", "/v1/traces", body, PROTOBUF)
    assert status == 413
    assert answer[:2] == b"\x08\x08"


def test_spans_without_ids_are_a_partial_success(backend: Backend) -> None:
    """No trace can hold them, and their sender should learn it; the others are kept."""
    nameless = protobuf.bytes_field(1, protobuf.bytes_field(2, b"\x12\x00"))
    status, answer = backend.post("otlp", "/v1/traces", clients.otlp_body("partial") + nameless, PROTOBUF)
    told = ExportTraceServiceResponse.FromString(answer).partial_success
    assert (status, told.rejected_spans) == (200, 1)
    assert "1 spans have no trace id" in told.error_message
    body = json.loads(clients.otlp_json_body("partial"))
    body["resourceSpans"][0]["scopeSpans"][0]["spans"].append({"name": "nobody's"})
    status, answer = backend.post("otlp", "/v1/traces", json.dumps(body).encode(), JSON)
    assert (status, json.loads(answer)["partialSuccess"]["rejectedSpans"]) == (200, "1")
    assert backend.lost("partial", "refused") == 1
    assert len(backend.wait_for_service("partial")["spans"]) >= 1


def test_every_datagram_is_accounted_for(backend: Backend) -> None:
    """Over UDP nobody is told of a loss: what did not come has to be in one of the counts."""
    body, sent = clients.jaeger_datagram("flooding", compact=True), 20_000
    drops = "autoinstr_udp_kernel_dropped_datagrams_total"
    before = backend.metric(drops)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((HOST, backend.ports["agent"]))
        for _ in range(sent):
            sock.send(body)
    received = 'autoinstr_service_received_spans_total{service="flooding"}'
    poll(
        lambda: backend.metric(received) + backend.lost("flooding", "refused") + backend.metric(drops) - before == sent,
        "an account of every datagram",
    )


# In one process, with a store that can be stopped ----------------------------------------------------------------


def post(app: Starlette, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """One request, as a server hands it to the application."""

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HOST}") as client:
            return await client.post(path, content=body, headers=headers)

    return asyncio.run(ask())


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def losses() -> LossBook:
    return LossBook()


@pytest.fixture
def writer(shelf: Shelf) -> Iterator[QueueWriter]:
    made = QueueWriter(shelf, max_bytes=100)
    yield made
    shelf.is_open.set()
    made.close(DEADLINE_S)


@pytest.fixture
def intake(writer: QueueWriter, losses: LossBook) -> Intake:
    return Intake(writer, losses)


POSTS = [
    pytest.param(receive.jaeger_app, "/api/traces", clients.jaeger_http_body("full"), THRIFT, 202, id="jaeger"),
    pytest.param(receive.otlp_app, "/v1/traces", clients.otlp_body("full"), PROTOBUF, 200, id="otlp"),
    pytest.param(receive.otlp_app, "/v1/traces", clients.otlp_json_body("full"), JSON, 200, id="otlp-json"),
    pytest.param(receive.zipkin_app, "/api/v2/spans", clients.zipkin_body("full"), JSON, 202, id="zipkin"),
]


@pytest.mark.parametrize(("make_app", "path", "body", "headers", "success"), POSTS)
def test_a_full_queue_asks_to_come_again(
    shelf: Shelf,
    writer: QueueWriter,
    intake: Intake,
    make_app: Callable[[Intake], Starlette],
    path: str,
    body: bytes,
    headers: dict[str, str],
    success: int,
) -> None:
    """Exporters try again after a 503, and drop the spans after anything else; a 200 would be a lie."""
    hold(shelf, writer)
    writer.submit([], 99)
    refused = post(make_app(intake), path, body, headers)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    shelf.is_open.set()
    poll(lambda: writer.figures()["writer_queue_bytes"] == 0, "an empty queue")
    assert post(make_app(intake), path, body, headers).status_code == success


@pytest.mark.parametrize(("make_app", "path", "body", "headers", "success"), POSTS)
def test_a_failing_store_asks_to_come_again(
    shelf: Shelf,
    intake: Intake,
    make_app: Callable[[Intake], Starlette],
    path: str,
    body: bytes,
    headers: dict[str, str],
    success: int,
) -> None:
    """A full disk may have room again before the exporter gives up."""
    shelf.broken = True
    refused = post(make_app(intake), path, body, headers)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")


def test_success_is_answered_after_the_store_has_it(shelf: Shelf, intake: Intake) -> None:
    """What was answered 2xx is never sent again: it must have been written."""
    answer = post(receive.otlp_app(intake), "/v1/traces", clients.otlp_body("x", spans=5), PROTOBUF)
    assert answer.status_code == 200
    assert shelf.writes == [5]


def test_spans_that_find_the_queue_full_are_counted_for_their_service(
    shelf: Shelf, writer: QueueWriter, intake: Intake, losses: LossBook
) -> None:
    """Jaeger's clients do not try again, so that these are gaps in traces which somebody will look for."""
    hold(shelf, writer)
    writer.submit([], 99)
    for compact in (True, False):
        intake.take_datagrams([clients.jaeger_datagram("lost", compact=compact)] * 3 + [b"garbage"])
    post(receive.jaeger_app(intake), "/api/traces", clients.jaeger_http_body("lost"), THRIFT)
    report = losses.report()
    assert next(row for row in report["services"] if row["name"] == "lost")["refused"] == 7
    assert report["receiver"] == {"refused_payloads": 2}


def test_datagrams_that_the_store_does_not_take_are_counted(
    shelf: Shelf, intake: Intake, losses: LossBook, writer: QueueWriter
) -> None:
    """Nobody sends them again."""
    shelf.broken = True
    intake.take_datagrams([clients.jaeger_datagram("broken", compact=True)] * 2)
    poll(lambda: any(row["refused"] == 2 for row in losses.report()["services"]), "two refused spans")


def test_bodies_under_way_are_bounded(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand slow uploads of 64 MB each would fill any memory."""
    monkeypatch.setattr(receive, "MAX_READING_BYTES", 1000)
    app = receive.otlp_app(intake)
    assert post(app, "/v1/traces", bytes(1001), PROTOBUF).status_code == 503
    assert post(app, "/v1/traces", b"", PROTOBUF).status_code == 200
    assert intake.reading_bytes == 0
