"""Spans for tests of stores, and what is asked of stores again and again."""

from __future__ import annotations

from autoinstr.backend.store import Store, Trace, TraceQuery
from autoinstr.model import Batch, Resource, SpanData

SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS
#: A moment at the start of a minute, so that tests can say which minute a span is in.
NOW_NS = 1_763_867_340 * SECOND_NS
MINUTE = NOW_NS // MINUTE_NS

SHOP = Resource("shop", {"hostname": "web-1", "shards": 3})
STOCK = Resource("stock", {"hostname": "db-1"})


def a_span(
    name: str = "GET",
    trace_id: int = 1,
    span_id: int = 1,
    parent_id: int = 0,
    start_ns: int = NOW_NS,
    lasts_ns: int = 100,
    **more,
) -> SpanData:
    return SpanData(name, trace_id, span_id, parent_id, start_ns=start_ns, end_ns=start_ns + lasts_ns, **more)


def write(store: Store, *spans: SpanData, resource: Resource = SHOP) -> None:
    store.write([Batch(resource, list(spans))])


def write_each(store: Store, *spans: SpanData, resource: Resource = SHOP) -> None:
    """Each span in a write of its own, as they come from a slow service."""
    for each in spans:
        write(store, each, resource=resource)


def found(store: Store, **conditions) -> list[int]:
    """Trace ids, in the order of the answer."""
    return [trace[0][1].trace_id for trace in store.find(TraceQuery(**conditions))]


def span_ids(trace: Trace) -> list[int]:
    return [span.span_id for _, span in trace]
