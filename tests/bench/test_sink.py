"""The counting sink: real agents and real senders whose spans must add up to the last one, and traffic that nobody should send."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoinstr.bench import parts, sink_formats, sink_server
from autoinstr.bench.parts import Refusal
from autoinstr.bench.sink import Counts, Sink, main
from autoinstr.bench.sink_formats import DATADOG_4, DATADOG_5, ELASTIC, JAEGER_HTTP, JAEGER_UDP, OTLP, ZIPKIN, Tally
from fakes import DEADLINE_S, until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="CPUs are chosen, and drops read, on Linux")

ROOTS, CHILDREN = 50, 4
PROGRAM = f"""
from autoinstr import span
for _ in range({ROOTS}):
    with span("root"):
        for _ in range({CHILDREN}):
            with span("child"):
                pass
"""
ALL_KEPT = {"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1", "OTEL_SERVICE_NAME": "shop"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Sink]:
    with Sink.start(frozenset({min(os.sched_getaffinity(0))})) as one:
        yield one


@pytest.fixture
def sink(shared: Sink) -> Sink:
    shared.take()
    return shared


def run_traced(program: Path, variables: dict[str, str], text: str = PROGRAM) -> None:
    program.write_text(text)
    command = [sys.executable, "-m", "autoinstr", str(program)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=3 * DEADLINE_S)
    assert (done.returncode, done.stderr) == (0, "")


def post(sink: Sink, path: str, body: Any, method: str = "POST", **headers: str) -> tuple[int, bytes]:
    """``body`` may be an iterator, which is sent in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", sink.http_port, timeout=DEADLINE_S)
    try:
        chunked = not isinstance(body, bytes)
        connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}, encode_chunked=chunked)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def send_datagrams(sink: Sink, payloads: Sequence[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for payload in payloads:
            sender.sendto(payload, ("127.0.0.1", sink.udp_port))


def adds_up(counts: Counts, spans: int, traces: int, roots: int) -> None:
    assert (counts.spans, counts.traces, counts.roots) == (spans, traces, roots)
    assert (counts.undecodable, counts.trouble, counts.counted_at_once, counts.datagrams_lost) == (0, "", 0, 0)
    assert counts.traces_are_exact


# Payloads, made by others than our encoders ---------------------------------------------------------------------------


def datadog_4(traces: int = 3) -> bytes:
    msgpack = pytest.importorskip("msgpack", reason="msgpack comes with Locust")
    span = {"service": "shop", "name": "x" * 40, "resource": "y" * 300, "error": -1, "start": 1 << 60, "duration": -70_000,
            "meta": {"k": "v" * 70_000}, "metrics": {"_sampling_priority_v1": 1, "rate": 0.5}, "type": None, "blob": b"\0" * 300,
            "meta_struct": {str(i): [True, False, None] for i in range(20)}}  # fmt: skip
    ids = [(1 << 64) - 1 - number for number in range(traces)]
    sent = [[{**span, "trace_id": one, "span_id": 1, "parent_id": 0}, {**span, "trace_id": one, "span_id": 2, "parent_id": 1}] for one in ids]
    return msgpack.packb(sent)


def datadog_5(traces: int = 20) -> bytes:
    msgpack = pytest.importorskip("msgpack", reason="msgpack comes with Locust")
    spans = [[[1, 2, 3, 900 + number, 7, parent, 1 << 60, 5, 0, {4: 5}, {6: 0.25}, 8] for parent in (0, 7, 7)] for number in range(traces)]
    return msgpack.packb([["", "shop", "a" * 33], spans])


def elastic() -> bytes:
    ids = [f"{number:032x}" for number in (1, 2)]
    lines = [{"metadata": {"service": {"name": "shop"}}}, {"metricset": {"samples": {}}}]
    lines += [{"transaction": {"id": "a", "trace_id": one, "sampled": True}} for one in ids]
    lines += [{"span": {"id": "b", "trace_id": one, "parent_id": "a", "transaction_id": "a"}} for one in ids * 2]
    lines += [{"error": {"id": "c", "trace_id": "f" * 32}}]
    return "\n".join(map(json.dumps, lines)).encode() + b"\n"


def zipkin() -> bytes:
    spans = [{"traceId": "00000000000000ab", "id": "1" * 16, "parentId": None}, {"traceId": "ab", "id": "2" * 16, "parentId": "1" * 16}]
    return json.dumps(spans).encode()


def otlp_json() -> bytes:
    root = {"traceId": "0A" * 16, "spanId": "01" * 8, "parentSpanId": ""}
    child = {"traceId": "0a" * 16, "spanId": "02" * 8, "parentSpanId": "01" * 8}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [root, child]}, {"spans": [child]}]}, {}]}).encode()


def otlp() -> bytes:
    pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    request = pb2.ExportTraceServiceRequest()
    for trace in (1, 2):
        spans = request.resource_spans.add().scope_spans.add().spans
        for parent in (b"", b"\0" * 8, b"12345678"):
            spans.add(trace_id=trace.to_bytes(16, "big"), span_id=b"12345678", parent_span_id=parent, name="a", trace_state="x" * 200)
    return request.SerializeToString()


def jaeger(transport: str) -> bytes:
    """Two spans of one trace of 128 bits, by Thrift's own code: one body over HTTP, or a datagram."""
    ttypes = pytest.importorskip("jaeger_client.thrift_gen.jaeger.ttypes")
    from jaeger_client.thrift_gen.agent import Agent
    from thrift.protocol.TBinaryProtocol import TBinaryProtocol
    from thrift.protocol.TCompactProtocol import TCompactProtocol
    from thrift.Thrift import TMessageType
    from thrift.transport.TTransport import TMemoryBuffer

    spans = [ttypes.Span(5, 9, number, number - 1, "x", None, 1, 10**15, 9) for number in (1, 2)]
    batch = ttypes.Batch(ttypes.Process("shop"), spans)
    buffer = TMemoryBuffer()
    if transport == "http":
        batch.write(TBinaryProtocol(buffer))
    else:
        protocol = TCompactProtocol(buffer)
        protocol.writeMessageBegin("emitBatch", TMessageType.ONEWAY, 1)
        Agent.emitBatch_args(batch).write(protocol)
        protocol.writeMessageEnd()
    return buffer.getvalue()


#: Name: kind, path, how to make it, (spans, traces, roots) in it.
PAYLOADS: dict[str, tuple[str, str, Any, tuple[int, int, int]]] = {
    "jaeger": (JAEGER_HTTP, "/api/traces", lambda: jaeger("http"), (2, 1, 1)),
    "otlp": (OTLP, "/v1/traces", otlp, (6, 2, 4)),
    "otlp-json": (OTLP, "/v1/traces", otlp_json, (3, 1, 1)),
    "zipkin": (ZIPKIN, "/api/v2/spans", zipkin, (2, 1, 1)),
    "datadog-0.4": (DATADOG_4, "/v0.4/traces", datadog_4, (6, 3, 3)),
    "datadog-0.4-two": (DATADOG_4, "/v0.4/traces", lambda: datadog_4(2), (4, 2, 2)),
    "datadog-0.5": (DATADOG_5, "/v0.5/traces", datadog_5, (60, 20, 20)),
    "elastic": (ELASTIC, "/intake/v2/events", elastic, (6, 2, 2)),
}


# Agents and senders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "variables"),
    [
        (JAEGER_UDP, {"AUTOINSTR_EXPORTER": "jaeger-udp", "JAEGER_AGENT_HOST": "127.0.0.1", "JAEGER_AGENT_PORT": "{udp}"}),
        (JAEGER_HTTP, {"AUTOINSTR_EXPORTER": "jaeger-http", "JAEGER_ENDPOINT": "{http}/api/traces"}),
        (OTLP, {"AUTOINSTR_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "{http}", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
        (OTLP, {"AUTOINSTR_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "{http}", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}),
        (ZIPKIN, {"AUTOINSTR_EXPORTER": "zipkin", "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "{http}/api/v2/spans"}),
    ],
    ids=["jaeger-udp", "jaeger-http", "otlp-gzip", "otlp-json", "zipkin"],
)  # fmt: skip
def test_every_span_of_our_agent_is_counted(sink: Sink, tmp_path: Path, kind: str, variables: dict[str, str]) -> None:
    """Otherwise the accounting of spans throws out runs in which nothing was lost."""
    where = {name: text.format(http=sink.url, udp=sink.udp_port) for name, text in variables.items()}
    run_traced(tmp_path / "app.py", {**ALL_KEPT, **where})
    counts = sink.take()
    adds_up(counts, ROOTS * (1 + CHILDREN), ROOTS, ROOTS)
    assert counts.requests == {kind: counts.batches}
    assert counts.bytes > 0
    assert counts.cpu_us > 0


def test_opentelemetrys_exporter_is_answered_and_counted(sink: Sink) -> None:
    """The rival sends until it is answered as by a collector; what is refused would be sent, and paid for, again."""
    exporter_module = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult

    results = []

    class Exporter(exporter_module.OTLPSpanExporter):
        def export(self, spans: Any) -> Any:
            results.append(super().export(spans))
            return results[-1]

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Exporter(f"{sink.url}/v1/traces", compression=Compression.Gzip)))
    for _ in range(3):
        with provider.get_tracer("t").start_as_current_span("root"), provider.get_tracer("t").start_as_current_span("child"):
            pass
    provider.shutdown()
    assert set(results) == {SpanExportResult.SUCCESS}
    adds_up(sink.take(), 6, 3, 3)


@pytest.mark.parametrize("encoding", ["plain", "gzip", "zlib", "chunked"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_every_format_is_counted_in_every_encoding(sink: Sink, name: str, encoding: str) -> None:
    """A rival whose spans are not counted would look as if it sampled less than it does."""
    kind, path, make, (spans, traces, roots) = PAYLOADS[name]
    body = make()
    sent: Any = {"gzip": gzip.compress, "zlib": zlib.compress}.get(encoding, bytes)(body)
    chunks = [sent[:7], sent[7:9], sent[9:]]
    status, _ = post(sink, path, iter(chunks) if encoding == "chunked" else sent, "PUT" if "datadog" in name else "POST")
    assert status in (200, 202)
    counts = sink.take()
    adds_up(counts, spans, traces, roots)
    assert (counts.requests, counts.batches, counts.bytes) == ({kind: 1}, 1, len(sent))


def test_a_trace_is_one_however_its_spans_arrive(sink: Sink) -> None:
    """Spans of one trace come in many payloads; traces counted per payload would be too many by far."""
    send_datagrams(sink, [jaeger("udp")] * 10)
    post(sink, "/api/traces", jaeger("http"))
    until(lambda: sink.arrived() == 11, "the arrival of all")
    adds_up(sink.take(), 22, 1, 11)
    assert sink.take().traces == 0  # and a take forgets


def test_agents_are_told_what_they_ask_for(sink: Sink) -> None:
    """Elastic's agent looks at the version, Datadog's at the endpoints; without an answer they send something else, or nothing."""
    assert int(json.loads(post(sink, "/", b"", "GET")[1])["version"].partition(".")[0]) >= 8
    assert "/v0.5/traces" in json.loads(post(sink, "/info", b"", "GET")[1])["endpoints"]
    assert post(sink, "/telemetry/proxy/api/v2/apmtelemetry", b"{}")[0] == 404
    assert post(sink, "/v1/traces", b'{"resourceSpans":[]}') == (200, b"{}")
    assert "rate_by_service" in json.loads(post(sink, "/v0.4/traces", b"\x90")[1])
    assert post(sink, "/v0.4/traces", b"\xc0")[0] == 200  # what Datadog's agent sends where there is nothing
    counts = sink.take()
    assert counts.requests == {"info": 2, "other": 1, OTLP: 1, DATADOG_4: 2}
    adds_up(counts, 0, 0, 0)


def test_our_remote_sampler_follows_the_strategy(sink: Sink, tmp_path: Path) -> None:
    """Without it the variant ``remote`` would measure the initial sampler."""
    ours = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 1.0}}
    others = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 0.0}}
    assert post(sink, "/sampling?service=nobody", b"", "GET")[0] == 404
    sink.serve_strategy("shop & co", ours)
    sink.serve_strategy("", others)
    variables = {
        "JAEGER_SAMPLER_TYPE": "remote", "JAEGER_SAMPLER_PARAM": "0.5", "JAEGER_SAMPLING_ENDPOINT": f"{sink.url}/sampling",
        "AUTOINSTR_SAMPLER_WAIT": f"{DEADLINE_S}s", "JAEGER_ENDPOINT": f"{sink.url}/api/traces",
    }  # fmt: skip
    sink.take()
    run_traced(tmp_path / "kept.py", {**variables, "OTEL_SERVICE_NAME": "shop & co"})
    counts = sink.take()
    adds_up(counts, ROOTS * (1 + CHILDREN), ROOTS, ROOTS)
    assert counts.requests["sampling"] >= 1
    run_traced(tmp_path / "dropped.py", {**variables, "OTEL_SERVICE_NAME": "another"})
    adds_up(sink.take(), 0, 0, 0)


# What gets lost, and limits --------------------------------------------------------------------------------------------


def test_datagrams_that_the_kernel_drops_are_counted() -> None:
    """Spans that are lost here are no fault of the agent: a run must say so, or its agent is blamed."""
    with Sink.start(receive_buffer_bytes=4096) as sink:
        os.kill(sink.pid, signal.SIGSTOP)
        try:
            send_datagrams(sink, [jaeger("udp")] * 200)
        finally:
            os.kill(sink.pid, signal.SIGCONT)
        counts = sink.take()
        assert counts.datagrams_lost
        assert counts.requests[JAEGER_UDP] + counts.datagrams_lost == 200
        assert counts.spans == 2 * counts.requests[JAEGER_UDP] > 0
        assert "datagrams were lost here" in str(counts)
        send_datagrams(sink, [jaeger("udp")])
        adds_up(sink.take(), 2, 1, 1)  # the difference, not the sum since the start


def test_whatever_was_sent_before_a_take_is_in_it() -> None:
    """A datagram that still waits in the socket belongs to the run that ends, not to the next one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", 0))
        receiver = sink_server.Receiver(udp, tcp)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(100):
                sender.sendto(jaeger("udp"), udp.getsockname())
        assert receiver.arrived() == 100
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(jaeger("udp"), udp.getsockname())
        counts = asyncio.run(receiver.take()).counts()
    assert (counts.requests, counts.spans) == ({JAEGER_UDP: 101}, 202)


def test_what_does_not_fit_is_counted_at_once() -> None:
    """A long run must not fill the memory, nor lose a span, nor hide that the sink did more work than it should."""
    body = jaeger("http")
    with Sink.start(kept_bytes=3 * (len(body) + sink_server.PAYLOAD_COST_BYTES)) as sink:
        for expected in (7, 0):  # the limit is of one take
            for _ in range(10 if expected else 3):
                post(sink, "/api/traces", body)
            counts = sink.take()
            assert counts.counted_at_once == expected
            assert counts.spans == (20 if expected else 6)


def test_nothing_is_decoded_before_the_take() -> None:
    """Decoding costs more than receiving; done beside the measured program it would be part of the result."""
    inbox = sink_server.Inbox(kept_bytes=1000)
    inbox.add(JAEGER_HTTP, b"junk")
    assert (inbox.tally.bytes, inbox.tally.undecodable) == (0, 0)
    asyncio.run(inbox.count())
    assert (inbox.tally.bytes, inbox.tally.undecodable) == (4, 1)


def test_more_traces_than_can_be_remembered_are_said_to_be_more() -> None:
    """A number that stopped counting must not look like a count."""
    tally = Tally(most_traces=4)
    spans = [{"traceId": f"{number:x}", "id": "1"} for number in range(1, 8)]
    tally.add(ZIPKIN, json.dumps(spans[:4]).encode())
    tally.add(ZIPKIN, json.dumps(spans[2:4]).encode())
    assert (tally.spans, len(tally.traces), tally.traces_are_exact) == (6, 4, True)
    tally.add(ZIPKIN, json.dumps(spans[4:]).encode())
    assert (tally.spans, len(tally.traces), tally.traces_are_exact) == (9, 4, False)


# What nobody should send -----------------------------------------------------------------------------------------------


def test_garbage_is_counted_and_ends_nothing(sink: Sink) -> None:
    """One stray client must not cost a campaign of an hour."""
    rng = random.Random(4)
    bodies = [make() for _, _, make, _ in PAYLOADS.values()]
    for _, path, _, _ in PAYLOADS.values():
        assert post(sink, path, rng.choice(bodies)[: rng.randrange(20, 30)])[0] in (200, 202)
    send_datagrams(sink, [rng.randbytes(rng.randrange(1, 2000)) for _ in range(20)] + [b""])
    assert sink.arrived() == len(PAYLOADS) + 21
    for words in (b"\0" * 100, b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"\x16\x03\x01\r\n\r\n",
                  b"POST /v1/traces HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", b"PRI * HTTP/2.0\r\n\r\n",
                  b"POST /v1/traces HTTP/1.1\r\nContent-Length: 50\r\n\r\nends",
                  b"POST /v1/traces HTTP/1.1\r\nContent-Length: 50\r\n\r\n"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", sink.http_port), DEADLINE_S) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(1000):
                pass
    assert post(sink, "/v1/traces", otlp())[0] == 200
    counts = sink.take()
    assert counts.undecodable == len(PAYLOADS) + 20
    assert counts.trouble
    assert (counts.spans, counts.traces) == (6, 2)
    assert (counts.requests["refused"], counts.requests["incomplete"]) == (5, 3)
    assert "could not be read" in str(counts)


@pytest.mark.parametrize("name", PAYLOADS)
def test_damaged_payloads_are_undecodable_or_fewer_spans(name: str) -> None:
    """A decoder that loops, or takes what is claimed for what is there, would hang the take or fill the memory."""
    kind, _, make, _ = PAYLOADS[name]
    body = make()
    if len(body) > 100_000:
        body = body[:2000]
    rng = random.Random(name)
    for _ in range(300):
        damaged = bytearray(body[: rng.randrange(len(body) + 1)])
        for _ in range(rng.randrange(4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        tally = Tally()
        tally.add(kind, bytes(damaged))
        assert tally.undecodable in (0, 1)
        assert tally.spans <= len(damaged)
        assert bool(tally.undecodable) == bool(tally.trouble)


ABSURD = {
    "deep": (DATADOG_4, b"\x91" * 100_000, "nested more than 32 deep"),
    "claims-items": (DATADOG_4, b"\xdd\xff\xff\xff\xff", "4294967295 bytes or items wanted"),
    "claims-pairs": (DATADOG_4, b"\x91\x91\xdf\xff\xff\xff\xff", "4294967295 bytes or items wanted"),
    "claims-text": (DATADOG_4, b"\x91\x91\x81\xdb\xff\xff\xff\xff", "4294967295 bytes or items wanted"),
    "no-trace-id": (DATADOG_4, b"\x91\x91\x80", "trace_id"),
    "list-as-id": (DATADOG_4, b"\x91\x91\x81\xa8trace_id\x93\x01\x01\x01", "not an integer"),
    "two-values": (DATADOG_4, b"\x90\x90", "1 bytes are left"),
    "list-as-key": (DATADOG_4, b"\x81\x91\x01\x01", "unhashable"),
    "no-table": (DATADOG_5, b"\x91\x90", "unpack"),
    "deep-json": (ZIPKIN, b"[" * 100_000, "recursion"),
    "long-id": (ZIPKIN, b'[{"traceId": "' + b"f" * 5000 + b'"}]', "32 hexadecimal digits"),
    "number-as-id": (ZIPKIN, b'[{"traceId": 5}]', "32 hexadecimal digits"),
    "not-hexadecimal": (ELASTIC, b'{"span": {"trace_id": "zz"}}', "invalid literal"),
    "not-an-object": (ELASTIC, b"[]", "list"),
    "not-a-list": (OTLP, b'{"resourceSpans": 5}', "not iterable"),
    "empty-span": (OTLP, b"\x0a\x04\x12\x02\x12\x00", "a trace id of 0 bytes"),
    "cut-gzip": (ELASTIC, gzip.compress(b"{}", mtime=0)[:-3], "not one whole"),
    "gzip-and-more": (ELASTIC, gzip.compress(b"{}", mtime=0) + b"more", "not one whole"),
    "bomb": (ELASTIC, gzip.compress(b" " * 5_000_000, mtime=0), "unpacks to more than 4000000 bytes"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_payloads_are_undecodable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Deep nests, sizes that are not there, compressed bombs: counted as what they are, and nothing of them as spans."""
    kind, body, reason = ABSURD[name]
    monkeypatch.setattr(sink_formats, "MAX_PLAIN_BYTES", 4_000_000)
    tally = Tally()
    tally.add(kind, body)
    assert (tally.undecodable, tally.spans, tally.batches, len(tally.traces)) == (1, 0, 0, 0)
    assert tally.trouble.startswith(f"{kind}: ")
    assert reason in tally.trouble


def test_too_large_a_body_is_refused_with_413(sink: Sink) -> None:
    """Else one wrong client fills the memory that the measured program needs."""
    size = sink_server.MAX_BODY_BYTES
    assert post(sink, "/v1/traces", bytes(size + 1))[0] == 413
    assert post(sink, "/v1/traces", (bytes(1 << 20) for _ in range(size + 1 >> 20 | 1)))[0] == 413
    assert post(sink, "/v1/traces", b"", X_Long="x" * sink_server.MAX_HEAD_BYTES)[0] == 431
    assert post(sink, "/v1/traces", otlp())[0] == 200
    counts = sink.take()
    assert counts.requests == {"refused": 3, OTLP: 1}
    adds_up(counts, 6, 2, 4)


# Starting, ending ------------------------------------------------------------------------------------------------------


def test_it_runs_on_the_cpus_that_it_was_given(sink: Sink) -> None:
    """On the server's CPU it would be measured along with the program."""
    assert os.sched_getaffinity(sink.pid) == {min(os.sched_getaffinity(0))}


def test_it_is_never_traced_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A harness that is started under the agent would otherwise have a sink that sends spans, to whom it may."""
    boot = str(Path(sink_formats.__file__).parents[1] / "_boot")
    monkeypatch.setenv("PYTHONPATH", boot)
    monkeypatch.setenv("AUTOINSTR_EXPORTER", "file")
    with Sink.start() as sink:
        environ = Path(f"/proc/{sink.pid}/environ").read_bytes().split(b"\0")
    assert b"OTEL_SDK_DISABLED=true" in environ
    assert not [one for one in environ if one.startswith(b"AUTOINSTR_")]


def test_a_sink_that_cannot_start_says_why() -> None:
    """A traceback of the harness would not tell what is wrong with the command line."""
    with pytest.raises(Refusal, match="cannot be tied to the CPUs 4095") as refused:
        Sink.start(frozenset({4095}))
    assert refused.value.status == parts.USAGE


def test_a_sink_that_died_is_named() -> None:
    """The campaign has to stop with a reason: everything measured from then on would lack its spans."""
    with Sink.start() as sink:
        os.kill(sink.pid, signal.SIGKILL)
        with pytest.raises(Refusal, match=f"process {sink.pid}.*ended with status -9") as refused:
            sink.take()
        assert refused.value.status == parts.INVALID
    sink.stop()
    with pytest.raises(Refusal, match="it was stopped"):
        sink.take()


def test_it_ends_with_who_started_it() -> None:
    """A harness that is killed must not leave sinks behind, which would disturb the next measurement."""
    text = "import time; from autoinstr.bench.sink import Sink; one = Sink.start(); print(one.pid, one.http_port, flush=True)"
    with subprocess.Popen([sys.executable, "-c", f"{text}; time.sleep(600)"], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, port = map(int, starter.stdout.readline().split())
        watched = os.pidfd_open(pid)  # a number that stays this process's, whatever becomes of it
        starter.kill()

    def is_gone() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    try:
        until(is_gone, "the end of the sink")
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watched, signal.SIGKILL)
        os.close(watched)


# The command line ------------------------------------------------------------------------------------------------------


def started_alone(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "autoinstr.bench.sink", "--http=0", "--udp=0", "--every=0.05", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_alone_it_says_what_to_set_and_what_arrives(tmp_path: Path) -> None:
    """Who wants to see whether their agent sends anything sets what is printed, and reads on."""
    with started_alone() as process:
        assert process.stdout is not None
        head = [process.stdout.readline() for _ in range(8)]
        variables = dict(word.split("=", 1) for line in head[1:] for word in line.split() if "=" in word)
        assert {"OTEL_EXPORTER_OTLP_ENDPOINT", "DD_TRACE_AGENT_URL", "JAEGER_SAMPLING_ENDPOINT"} <= set(variables)
        agent = {name: variables[name] for name in ("JAEGER_AGENT_HOST", "JAEGER_AGENT_PORT")}
        for _ in range(2):
            run_traced(tmp_path / "app.py", {**ALL_KEPT, **agent})
            line = process.stdout.readline()
            assert "250 spans of 50 traces in 1 batches" in line
            assert "jaeger-udp 1" in line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert out.startswith("total     500 spans of 100 traces in 2 batches")
    assert (process.returncode, err) == (0, "")


def test_alone_it_prints_json_and_serves_a_strategy(tmp_path: Path) -> None:
    """Scripts read the counts; and a remote sampler can be tried without any backend."""
    strategy = {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 2}}
    (tmp_path / "strategy.json").write_text(json.dumps(strategy))
    with started_alone("--json", "--strategy", str(tmp_path / "strategy.json")) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["http_port"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        connection.request("GET", "/sampling?service=any")
        assert json.loads(connection.getresponse().read()) == strategy
        connection.close()
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE_S)
    last = json.loads(out)
    assert (first["requests"], first["total"]) == ({"sampling": 1}, False)
    assert (last["requests"], last["total"]) == ({"sampling": 1}, True)
    assert parts.from_json(Counts, last).datagrams_lost == 0
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize(("kind", "option"), [(socket.SOCK_STREAM, "--http"), (socket.SOCK_DGRAM, "--udp")])
def test_a_taken_port_is_said_to_be_taken(capsys: pytest.CaptureFixture[str], kind: int, option: str) -> None:
    """Most often it is the user's own Jaeger; a traceback does not say so."""
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        assert main(["--http=0", "--udp=0", f"{option}={port}"]) == parts.USAGE
    said = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 (Address already in use)" in said
    assert option in said


@pytest.mark.parametrize("text", ["", "[]", '{"default_strategy": {}}', None])
def test_a_file_that_is_no_strategy_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None) -> None:
    """The agent would ignore it, and the user wonder why."""
    if text is not None:
        (tmp_path / "file.json").write_text(text)
    assert main(["--strategy", str(tmp_path / "file.json")]) == parts.USAGE
    assert "file.json" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--udp", "70000"], ["--http", "x"], ["--every", "0"], ["--every", "nan"], ["extra"]])
def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Two is the exit code of wrong usage everywhere."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == parts.USAGE
    assert words[-1] in capsys.readouterr().err
