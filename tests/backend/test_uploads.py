"""Files of traces that somebody opens in the browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from autoinstr.backend.query import uploads
from autoinstr.backend.store import MemoryStore
from autoinstr.model import Status
from autoinstr.wire import jaegerjson, otlp, zipkin

from .asked import STOCK, Asked, asking, now_span

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def asked() -> Iterator[Asked]:
    with asking() as found:
        yield found


def jaeger_file() -> bytes:
    return json.dumps({"data": [jaegerjson.encode(0xA, [(STOCK, now_span("GET", 0xA))])]}).encode()


def otlp_file() -> bytes:
    return otlp.JsonEncoder(STOCK).encode([now_span("GET", 0xA)])[0][0][0]


def v3_file() -> bytes:
    return b'{"result":' + otlp_file() + b"}"


def zipkin_file() -> bytes:
    return zipkin.JsonEncoder(STOCK).encode([now_span("GET", 0xA)])[0][0][0]


@pytest.mark.parametrize("file", [jaeger_file, otlp_file, v3_file, zipkin_file])
def test_files_of_three_formats_open(asked: Asked, file: Any) -> None:
    """Whatever a colleague sends: it is recognised, stored when the answer comes, and found."""
    response = asked.client.request("POST", "/ui/data/upload", content=file(), headers=JSON)
    assert (response.status_code, response.json()) == (200, {"traceIDs": ["000000000000000a"]})
    [trace] = asked.data("/api/traces/a")
    assert trace["spans"][0]["operationName"] == "GET"
    assert trace["processes"]["p1"]["serviceName"] == "stock"


def test_an_export_of_ours_opens_again_as_it_was(asked: Asked) -> None:
    """Download, delete, upload: the trace is the same."""
    asked.write(now_span("GET", 1, 1, attributes={"n": 1}), now_span("child", 1, 2, 1, status=Status.ERROR))
    export = asked.client.get("/api/traces/1")
    asked.client.request("DELETE", "/ui/data/traces")
    assert asked.client.request("POST", "/ui/data/upload", content=export.content).status_code == 200
    assert asked.get("/api/traces/1") == export.json()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "expected JSON of Jaeger"),
        (b"[]", "expected JSON of Jaeger"),
        (b"[5]", "expected JSON of Jaeger"),
        (b'{"data": []}', "expected JSON of Jaeger"),
        (b'{"resourceSpans": []}', "no spans"),
        (b'{"resourceSpans": 5}', "resourceSpans"),
        (b'[{"traceId": "a", "id": "x"}]', "hexadecimal"),
        (b'{"traceID": "a", "spans": [{"spanID": ""}]}', "lacks its trace ID or its span ID"),
        (b'{"traceID": "", "spans": [{"spanID": "1"}]}', "lacks its trace ID or its span ID"),
    ],
)
def test_what_is_no_file_of_traces_is_refused(asked: Asked, body: bytes, says: str) -> None:
    """The sentence is shown to whoever dropped the file; nothing of it is kept."""
    status, message = asked.error("/ui/data/upload", "POST", content=body)
    assert (status, says in message) == (400, True), message
    assert asked.get("/ui/data/search") == {"traces": []}


def test_uploads_have_limits(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large must not take all memory."""
    monkeypatch.setattr(uploads, "MAX_SPANS", 1)
    body = otlp.JsonEncoder(STOCK).encode([now_span("a", 1), now_span("b", 2)])[0][0][0]
    assert asked.error("/ui/data/upload", "POST", content=body) == (400, "2 spans are more than 1: split the file")
    monkeypatch.setattr(uploads, "MAX_BYTES", 100)
    assert asked.error("/ui/data/upload", "POST", content=body)[0] == 413


def test_an_upload_that_cannot_be_stored_says_so() -> None:
    """Answering "done" would lose it."""

    class Failing(MemoryStore):
        def write(self, batches: Any) -> None:
            raise OSError("disk full")

    with asking(Failing(10)) as asked:
        status, message = asked.error("/ui/data/upload", "POST", content=jaeger_file())
        assert (status, "could not be stored" in message) == (503, True)
    with asking() as asked:
        asked.parts.writer.close(10)
        response = asked.client.request("POST", "/ui/data/upload", content=jaeger_file())
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
