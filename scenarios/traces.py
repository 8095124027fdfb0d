"""Asks a backend for traces (Jaeger's query API), and says whether they are whole. Knows nothing of Locust."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass

TIMEOUT_S = 10


@dataclass(frozen=True)
class Sent:
    """A request that carried a trace: ids in hex, as they stood in its header, and the spans that it ought to make."""

    trace_id: str
    span_id: str
    spans: int


def spans_of(backend, trace_id):
    """The spans that the backend has of a trace; none when it does not know it. Raises OSError when it does not answer."""
    try:
        with urllib.request.urlopen(f"{backend.rstrip('/')}/api/traces/{trace_id}", timeout=TIMEOUT_S) as answer:
            found = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return []
        raise
    return [span for trace in found for span in trace["spans"]]


def trouble(sent, spans):
    """What is not as it should be with the trace of a request; "" when it is whole.

    Whole: one span below the caller's, every other one below a span that is there, and as many as were to be made.
    """
    if not spans:
        return "the backend has no span of it"
    known = {span["spanID"] for span in spans}
    parents = [reference["spanID"] for span in spans for reference in span["references"][:1]]
    if len(known) != len(spans):
        return "a span is there twice"
    if parents.count(sent.span_id) != 1 or len(parents) != len(spans):
        return f"{parents.count(sent.span_id)} of {len(spans)} spans are below the caller's, instead of one"
    if set(parents) - known != {sent.span_id}:
        return "the parent of a span is missing"
    if len(spans) != sent.spans:
        return f"{len(spans)} spans instead of {sent.spans}"
    return ""
