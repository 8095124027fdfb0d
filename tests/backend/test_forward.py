"""The agent in front of a collector that is slow, away, busy, broken, or wants something else."""

from __future__ import annotations

import email.utils
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from autoinstr.backend import forward
from autoinstr.backend.forward import Forwarder, ForwardError, outgoing, retry_after_s, target_of
from autoinstr.backend.forward.spool import SpoolError
from autoinstr.model import Batch, Kind, Resource, SpanData, Status
from autoinstr.wire import jaeger
from test_transport import Authority

from .conftest import poll
from .recorder import Recorder, jaeger_batch_of, otlp_names

SHOP = Resource("shop", {"host.name": "web-1"})


@pytest.fixture
def collector() -> Iterator[Recorder]:
    recorder = Recorder()
    recorder.start()
    yield recorder
    recorder.stop()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody should have to wait for back-off in tests."""
    monkeypatch.setattr(forward, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(forward, "LONGEST_DELAY_S", 0.1)


@contextmanager
def forwarding(url: str, folder: Path, **options) -> Iterator[Forwarder]:
    forwarder = Forwarder(url, folder=str(folder), **options)
    try:
        yield forwarder
    finally:
        forwarder.close(timeout_s=0.5)


def otlp_url(collector: Recorder) -> str:
    return f"http://127.0.0.1:{collector.port}"


def jaeger_url(collector: Recorder) -> str:
    return f"jaeger+http://127.0.0.1:{collector.port}"


def batch(*names: str, resource: Resource = SHOP, **stats) -> Batch:
    start_ns = 1_700_000_000_000_000_000
    spans = [
        SpanData(name, 7, number + 1, start_ns=start_ns, end_ns=start_ns + 5000) for number, name in enumerate(names)
    ]
    return Batch(resource, spans, **stats)


def wait_for(collector: Recorder, count: int) -> list[str]:
    poll(lambda: len(otlp_names(collector.taken)) >= count, f"{count} spans at the collector")
    return otlp_names(collector.taken)


def figure(forwarder: Forwarder, name: str) -> int:
    return forwarder.figures()[f"forward_{name}"]


# Where to, and what


@pytest.mark.parametrize(
    ("url", "meant", "is_jaeger"),
    [
        ("http://there:4318", "http://there:4318/v1/traces", False),
        ("https://there/", "https://there/v1/traces", False),
        ("https://there:4318/v1/traces", "https://there:4318/v1/traces", False),
        ("https://there/otlp?tenant=1", "https://there/otlp/v1/traces?tenant=1", False),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces", False),
        ("jaeger+http://there", "http://there:14268/api/traces", True),
        ("jaeger+https://there:443/jaeger", "https://there:443/jaeger/api/traces", True),
        ("http://there:14268/api/traces", "http://there:14268/api/traces", True),
    ],
)
def test_what_an_address_means(url: str, meant: str, is_jaeger: bool) -> None:
    """Users write what the documentation of OpenTelemetry and Jaeger lets them write."""
    target = target_of(url)
    assert (target.url, target.is_jaeger, dict(target.headers)) == (meant, is_jaeger, {})


@pytest.mark.parametrize(
    "url", ["there:4318", "", "udp://there:6831", "http://", "http://there:99999", "jaeger+grpc://x"]
)
def test_an_address_that_is_none(url: str, tmp_path: Path) -> None:
    """The error comes at the start, and shows what an address looks like."""
    with pytest.raises(ForwardError, match=r"is not (the address of a collector: http://HOST:4318|a URL)"):
        Forwarder(url, folder=str(tmp_path))


def test_credentials_of_the_address_travel_as_a_header(collector: Recorder, tmp_path: Path) -> None:
    """A collector behind a password; the header may also be given."""
    with forwarding(f"http://me:p%40ss@127.0.0.1:{collector.port}", tmp_path, headers={"X-Tenant": "7"}) as forwarder:
        forwarder.write([batch("a")])
        wait_for(collector, 1)
    path, headers, _ = collector.requests[0]
    assert (path, headers["Authorization"], headers["X-Tenant"]) == ("/v1/traces", "Basic bWU6cEBzcw==", "7")
    assert headers["Content-Type"] == "application/x-protobuf"


def test_spans_go_on_at_once_and_whole_as_otlp(collector: Recorder, tmp_path: Path) -> None:
    """Who waits in front of a browser for a trace waits a second at most; nothing of a span is changed on the way."""
    span = SpanData(
        "GET", 2**100, 9, 8, kind=Kind.SERVER, start_ns=5, end_ns=7, attributes={"http.method": "GET", "n": 1}
    )
    span.scope, span.status, span.status_message = "some.library", Status.ERROR, "bad"
    with forwarding(otlp_url(collector), tmp_path) as forwarder:
        started = time.monotonic()
        forwarder.write([Batch(SHOP, [span])])
        wait_for(collector, 1)
        assert time.monotonic() - started < 1
    (resource_spans,) = ExportTraceServiceRequest.FromString(collector.taken[0]).resource_spans
    attributes = {pair.key: pair.value.string_value for pair in resource_spans.resource.attributes}
    assert attributes == {"service.name": "shop", "host.name": "web-1"}
    (scope_spans,) = resource_spans.scope_spans
    (sent,) = scope_spans.spans
    assert scope_spans.scope.name == "some.library"
    assert (sent.trace_id, sent.span_id, sent.parent_span_id) == (
        (2**100).to_bytes(16, "big"),
        (9).to_bytes(8, "big"),
        (8).to_bytes(8, "big"),
    )
    assert (sent.name, sent.kind, sent.start_time_unix_nano, sent.end_time_unix_nano) == ("GET", 2, 5, 7)
    assert (sent.status.code, sent.status.message) == (2, "bad")
    assert {pair.key for pair in sent.attributes} == {"http.method", "n"}


def test_jaeger_batches_keep_their_numbers_and_losses(collector: Recorder, tmp_path: Path) -> None:
    """The collector can count what was lost before the agent: the client's own counts, and gaps between its batches."""
    with forwarding(jaeger_url(collector), tmp_path, batch_spans=2) as forwarder:
        forwarder.write([batch("a", sequence=7, lost=(1, 2, 3)), batch("b", "c", "d", sequence=9, lost=(4, 5, 6))])
        forwarder.write([batch("e"), batch("f")])
        poll(lambda: len(collector.taken) == 4, "four batches")
    sent = [jaeger_batch_of(body) for body in collector.taken]
    assert [path for path, _, _ in collector.requests] == ["/api/traces"] * 4
    assert collector.requests[0][1]["Content-Type"] == "application/x-thrift"
    assert [[span.operationName for span in each.spans] for each in sent] == [["a"], ["b", "c"], ["d"], ["e", "f"]]
    numbers = [jaeger.decode_batch(body) for body in collector.taken]
    assert [(each.sequence, each.lost) for each in numbers] == [
        (7, (1, 2, 3)),
        (9, (4, 5, 6)),
        (None, None),
        (None, None),
    ]
    assert sent[0].process.serviceName == "shop"
    assert [(tag.key, tag.vStr) for tag in sent[0].process.tags] == [("host.name", "web-1")]


def test_jaeger_spans_get_no_tag_twice(collector: Recorder, tmp_path: Path) -> None:
    """Our own clients send both names of an attribute; a second pair would show in Jaeger's page."""
    span = SpanData("GET", 7, 1, start_ns=10**18, end_ns=10**18, kind=Kind.SERVER)
    span.own = {"http.request.method": "GET", "http.method": "GET", "http.response.status_code": 200, "n": True}
    with forwarding(jaeger_url(collector), tmp_path) as forwarder:
        forwarder.write([Batch(SHOP, [span])])
        poll(lambda: collector.taken, "a batch")
    keys = [tag.key for tag in jaeger_batch_of(collector.taken[0]).spans[0].tags]
    assert sorted(keys) == ["http.method", "http.request.method", "http.response.status_code", "n", "span.kind"]


def test_small_batches_are_joined_and_large_ones_cut(
    collector: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand small datagrams are not a thousand requests; no request is larger than what collectors take."""
    monkeypatch.setattr(outgoing, "MAX_PAYLOAD_BYTES", 20_000)
    monkeypatch.setattr(forward, "MAX_PAYLOAD_BYTES", 20_000)
    with forwarding(otlp_url(collector), tmp_path, batch_spans=100) as forwarder:
        forwarder.write([batch(f"{number}", resource=Resource(f"s{number % 3}")) for number in range(300)])
        wait_for(collector, 300)
        assert len(collector.taken) < 10
        collector.taken.clear()
        large = SpanData("large", 7, 1, start_ns=1, end_ns=2, attributes={"text": "x" * 30_000})
        forwarder.write([Batch(SHOP, [*batch(*["y" * 1000] * 90).spans, large])])
        wait_for(collector, 91)
        assert all(len(body) < 20_000 or len(otlp_names([body])) == 1 for body in collector.taken)


def test_what_waits_is_translated_when_the_format_changes(collector: Recorder, tmp_path: Path) -> None:
    """An operator who changes the address while spans wait loses none of them."""
    collector.stop()
    with forwarding(otlp_url(collector), tmp_path) as forwarder:
        forwarder.write([batch("a", "b"), batch("c", resource=Resource("stock"))])
    with forwarding(jaeger_url(collector), tmp_path) as forwarder:
        forwarder.write([batch("d", sequence=3, lost=(0, 0, 1))])
    collector.start()
    with forwarding(jaeger_url(collector), tmp_path):
        poll(lambda: len(collector.taken) == 3, "three batches")
    names = [[span.operationName for span in jaeger_batch_of(body).spans] for body in collector.taken]
    assert names == [["a", "b"], ["c"], ["d"]]


# When the collector is away, slow, busy or broken


def test_a_collector_that_comes_back_gets_everything_in_order(collector: Recorder, tmp_path: Path) -> None:
    """A collector is restarted in the middle of the stream: no span is lost, none overtakes another."""
    with forwarding(otlp_url(collector), tmp_path) as forwarder:
        for number in range(30):
            if number == 10:
                wait_for(collector, 5)
                collector.stop()
            if number == 20:
                poll(lambda: figure(forwarder, "failed_requests_total") > 2, "failures")
                assert figure(forwarder, "collector_up") == 0
                collector.start()
            forwarder.write([batch(f"{number}")])
        names = wait_for(collector, 30)
        poll(lambda: figure(forwarder, "waiting_spans") == 0, "an empty spool")
        # At most what was under way in the moment of the stop comes twice.
        assert sorted(set(names), key=int) == list(dict.fromkeys(names)) == [str(number) for number in range(30)]
        assert figure(forwarder, "sent_spans_total") == figure(forwarder, "received_spans_total") == 30
        assert figure(forwarder, "collector_up") == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_collector_is_asked_again(collector: Recorder, tmp_path: Path, status: int) -> None:
    """Statuses that speak of a moment, not of the request."""
    collector.answers.extend([(status, {}, b"busy")] * 3)
    with forwarding(otlp_url(collector), tmp_path) as forwarder:
        forwarder.write([batch("a")])
        assert wait_for(collector, 1) == ["a"]
        poll(lambda: figure(forwarder, "sent_spans_total") == 1, "the answer")
        assert figure(forwarder, "failed_requests_total") == 3
        assert figure(forwarder, "refused_spans_total") == 0


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(collector: Recorder, tmp_path: Path, as_date: bool) -> None:
    """A collector that says when it has room again is not hammered until then."""
    header = email.utils.formatdate(time.time() + 2.5, usegmt=True) if as_date else "1.5"
    collector.answers.append((503, {"Retry-After": header}, b""))
    with forwarding(otlp_url(collector), tmp_path) as forwarder:
        forwarder.write([batch("a")])
        poll(lambda: collector.requests, "a request")
        started = time.monotonic()
        wait_for(collector, 1)
        assert time.monotonic() - started > 1
        assert len(collector.requests) == 2


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [(None, 0, 0), ("3", 3, 3), ("soon", 0, 0), ("", 0, 0), ("-5", 0, 0), ("inf", 0, 0)]
    + [("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0), ("Fri, 31 Dec 9999 23:59:59 GMT", 10**9, 10**12)],
)
def test_retry_after_headers(header: str | None, least: float, most: float) -> None:
    """Whatever a collector writes there, the sender gets a number."""
    assert least <= retry_after_s(header) <= most


def test_what_the_collector_refuses_is_dropped_and_counted(collector: Recorder, tmp_path: Path) -> None:
    """One request that a collector will never take must not hold up those behind it for ever."""
    collector.stop()
    with forwarding(otlp_url(collector), tmp_path) as forwarder:
        for name in "abcdef":
            forwarder.write([batch(name, name)])
        poll(lambda: figure(forwarder, "failed_requests_total"), "a failure")

        def judge(handler: BaseHTTPRequestHandler) -> None:
            body = collector.requests[-1][2]
            is_bad = "c" in otlp_names([body])
            if not is_bad:
                collector.taken.append(body)
            handler.send_response(400 if is_bad else 200)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        collector.answers.extend([judge] * 50)
        collector.start()
        poll(lambda: figure(forwarder, "waiting_spans") == 0, "an empty spool")
        assert otlp_names(collector.taken) == list("aabbddeeff")
        assert figure(forwarder, "refused_spans_total") == 2
        assert figure(forwarder, "sent_spans_total") == 10


def test_a_request_that_breaks_the_collector_is_given_up(
    collector: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 500 for ever would hold up all that follows."""
    monkeypatch.setattr(forward, "MAX_TRIES_OF_500", 3)
    collector.answers.extend([(500, {}, b"oops")] * 4)
    with forwarding(jaeger_url(collector), tmp_path) as forwarder:
        forwarder.write([batch("a")])
        forwarder.write([batch("b")])
        poll(lambda: collector.taken, "what follows")
        assert jaeger_batch_of(collector.taken[0]).spans[0].operationName == "b"
        assert figure(forwarder, "refused_spans_total") == 1


def test_partial_success_is_counted_and_not_repeated(collector: Recorder, tmp_path: Path) -> None:
    """OTLP: what a collector refuses of a request that it took is lost, and must not be sent again."""
    partial_success = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    answer = ExportTraceServiceResponse(partial_success=partial_success).SerializeToString()
    collector.answers.append((200, {}, answer))
    with forwarding(otlp_url(collector), tmp_path) as forwarder:
        forwarder.write([batch("a", "b", "c")])
        poll(lambda: figure(forwarder, "rejected_spans_total") == 2, "the count")
        assert figure(forwarder, "waiting_spans") == 0
        assert len(collector.requests) == 1


def _garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xff" * 100 + b"\r\n\r\n")
    handler.close_connection = True


def _nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def _half_an_answer(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 20")
    handler.close_connection = True


def _broken_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal")
    handler.close_connection = True


def _silence(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.7)
    handler.close_connection = True


@pytest.mark.parametrize("trouble", [_garbage, _nothing, _half_an_answer, _broken_chunks, _silence])
def test_broken_answers_are_tried_again(
    collector: Recorder, tmp_path: Path, trouble: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    """A proxy or a collector that dies in the middle: nobody knows whether it took the spans, so they are sent again."""
    collector.answers.extend([trouble] * 2)
    with forwarding(otlp_url(collector), tmp_path, timeout_s=0.3) as forwarder:
        forwarder.write([batch("a")])
        assert wait_for(collector, 1) == ["a"]
        assert figure(forwarder, "refused_spans_total") == 0


def test_garbage_in_an_accepted_answer_is_no_trouble(collector: Recorder, tmp_path: Path) -> None:
    """The status says that the spans arrived."""
    collector.answers.append((200, {}, b"\xff\xff<html>"))
    with forwarding(otlp_url(collector), tmp_path) as forwarder:
        forwarder.write([batch("a")])
        poll(lambda: figure(forwarder, "sent_spans_total") == 1, "the count")


def test_the_end_is_bounded_and_keeps_what_waits(collector: Recorder, tmp_path: Path) -> None:
    """A host is shut down while the collector hangs: the agent ends in time, and sends the rest at the next start."""
    release = threading.Event()
    collector.answers.append(lambda handler: (release.wait(20), None)[1])
    forwarder = Forwarder(otlp_url(collector), folder=str(tmp_path), timeout_s=15)
    forwarder.write([batch("a")])
    poll(lambda: collector.requests, "a request")
    forwarder.write([batch("b")])
    started = time.monotonic()
    forwarder.close(timeout_s=0.3)
    assert time.monotonic() - started < 3
    assert "autoinstr-forward" not in [thread.name for thread in threading.enumerate()]
    release.set()
    with forwarding(otlp_url(collector), tmp_path):
        assert sorted(wait_for(collector, 2)) == ["a", "b"]


def test_the_end_sends_what_waits(collector: Recorder, tmp_path: Path) -> None:
    """A stop in quiet times leaves nothing behind."""
    forwarder = Forwarder(otlp_url(collector), folder=str(tmp_path))
    forwarder.write([batch(f"{number}") for number in range(100)])
    forwarder.close()
    assert len(otlp_names(collector.taken)) == 100
    assert list(tmp_path.glob("*.spool")) == [] or figure(forwarder, "waiting_spans") == 0


def test_spans_that_made_room_are_counted_by_service(collector: Recorder, tmp_path: Path) -> None:
    """A long outage: the newest stay, and the gap explains itself."""
    collector.stop()
    with forwarding(otlp_url(collector), tmp_path, max_bytes=100_000) as forwarder:
        for number in range(200):
            forwarder.write([batch("x" * 1000, resource=Resource("old" if number < 100 else "new"))])
        evicted = forwarder.evicted()
        assert evicted["old"] == 100
        collector.start()
        assert len(wait_for(collector, 200 - sum(evicted.values()))) == 200 - sum(forwarder.evicted().values())
    assert figure(forwarder, "evicted_spans_total") == sum(evicted.values())


def test_a_disk_that_takes_nothing_is_told_and_counted(
    collector: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The senders get an error, so that those who can try again do; afterwards it all goes on."""
    with forwarding(otlp_url(collector), tmp_path) as forwarder:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(forwarder._spool, "_write", full)
            with pytest.raises(SpoolError, match=f"cannot keep spans in {tmp_path}: No space left on device"):
                forwarder.write([batch("a", "b")])
        assert figure(forwarder, "write_failed_spans_total") == 2
        forwarder.write([batch("c")])
        assert wait_for(collector, 1) == ["c"]


def test_compressed_requests(collector: Recorder, tmp_path: Path) -> None:
    """Over a metered line."""
    with forwarding(otlp_url(collector), tmp_path, gzip=True) as forwarder:
        forwarder.write([batch("a")])
        poll(lambda: collector.taken, "a request")
    assert collector.requests[0][1]["Content-Encoding"] == "gzip"
    assert otlp_names([gzip.decompress(collector.taken[0])]) == ["a"]


def test_tls_with_an_authority_of_ones_own(collector: Recorder, tmp_path: Path) -> None:
    """Collectors inside a company have certificates that no system knows; without it nothing is sent, and nothing lost."""
    authority = Authority(tmp_path)
    collector.stop()
    collector.tls = authority.server()
    collector.start()
    url = f"https://localhost:{collector.port}"
    with forwarding(url, tmp_path / "spool") as forwarder:
        forwarder.write([batch("a")])
        poll(lambda: figure(forwarder, "failed_requests_total"), "a failure")
        assert collector.taken == []
    with forwarding(url, tmp_path / "spool", certificate=authority.path("ca.pem")):
        assert wait_for(collector, 1) == ["a"]


def test_a_name_is_looked_up_again(collector: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that moved to another host is found, although the old one would still take spans."""
    moved = Recorder()
    moved.start()
    monkeypatch.setattr(forward, "RECONNECT_S", 0.3)
    usual = socket.create_connection
    places = {"now": collector.port}
    monkeypatch.setattr(socket, "create_connection", lambda address, *rest: usual(("127.0.0.1", places["now"]), *rest))
    try:
        with forwarding("http://collector.example:4318", tmp_path) as forwarder:
            forwarder.write([batch("a")])
            wait_for(collector, 1)
            places["now"] = moved.port

            def arrives() -> bool:
                forwarder.write([batch("b")])
                return bool(moved.taken)

            poll(arrives, "a span at the new place")
    finally:
        moved.stop()
