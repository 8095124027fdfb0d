"""Files of traces that somebody opens in the browser: which format is it, and is it fit to be kept?

Owns: telling Jaeger's, OTLP's and Zipkin's JSON apart, the limits on a file.
Must not know: HTTP, stores.
Invariants: pure; raises nothing but ``DecodeError``, with a sentence for whoever chose the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from autoinstr.model import Batch
from autoinstr.wire import DecodeError, jaegerjson, otlp, zipkin
from autoinstr.wire.documents import json_value

MAX_BYTES = 64 * 1024 * 1024
MAX_SPANS = 100_000

EXPECTED = "expected JSON of Jaeger (an export of its UI or API), OTLP (resourceSpans) or Zipkin (a list of v2 spans)"


def decode(body: bytes) -> list[Batch]:
    """The batches of a file; ``DecodeError`` when it is none of the three formats, or breaks a limit."""
    if not body.strip():
        raise DecodeError(f"the file is empty: {EXPECTED}")
    document = json_value(body)
    batches = _decoder(document)(body, document)
    spans = [span for batch in batches for span in batch.spans]
    if len(spans) > MAX_SPANS:
        raise DecodeError(f"{len(spans)} spans are more than {MAX_SPANS}: split the file")
    if not spans:
        raise DecodeError("there are no spans in the file")
    if any(not span.trace_id or not span.span_id for span in spans):
        raise DecodeError("a span lacks its trace ID or its span ID")
    return batches


def _decoder(document: Any) -> Callable[[bytes, Any], list[Batch]]:
    """By the members that a format cannot do without."""
    rows = document.get("data", [document]) if isinstance(document, dict) else document
    row = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    if "resourceSpans" in row:
        return lambda body, _: otlp.decode_json(body)
    if isinstance(row.get("result"), dict) and "resourceSpans" in row["result"]:
        # What Jaeger's API of the third version answers.
        return lambda _, document: otlp.decode_json(json.dumps(document["result"]).encode())
    if "spans" in row:
        return lambda _, document: jaegerjson.decode_value(document)
    if "traceId" in row and "id" in row and isinstance(document, list):
        return lambda body, _: zipkin.decode_json(body)
    raise DecodeError(f"this is not a file of traces: {EXPECTED}")
