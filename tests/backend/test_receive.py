"""Receivers, fed by other people's encoders over real sockets."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from contextlib import suppress

import pytest

from autoinstr.backend.receive import RequestError, decompress

from . import clients
from .conftest import Backend, poll

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
