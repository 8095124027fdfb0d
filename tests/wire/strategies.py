"""Random spans, as ``hypothesis`` strategies."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from autoinstr.model import Event, Kind, Link, SpanContext, SpanData, Status

text = st.text(max_size=40)
ids = st.one_of(st.integers(1, (1 << 64) - 1), st.integers(1, 300))
trace_ids = st.one_of(st.integers(1, (1 << 128) - 1), ids)
#: Whole microseconds, so that Jaeger and Zipkin carry them.
microseconds = st.integers(0, 1 << 50)
scalars = st.one_of(
    text,
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=20),
)


def attributes(values: st.SearchStrategy[Any], prefix: str = "k.") -> st.SearchStrategy[dict[str, Any]]:
    """Under names that mean nothing to any codec."""
    return st.dictionaries(text.map(lambda name: prefix + name), values, max_size=20)


def events(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    """Named ones."""
    names = st.text(min_size=1, max_size=20)
    return st.builds(Event, names, microseconds.map(lambda time: time * 1000), attributes(values))


#: Links point to other traces: Jaeger takes a link within the trace for the parent of a span that has none.
links = st.builds(
    lambda trace_id, span_id, child_of: Link(SpanContext(trace_id ^ 1 << 127, span_id), child_of=child_of),
    st.integers(1, 1 << 126),
    ids,
    st.booleans(),
)


@st.composite
def spans(draw: st.DrawFn, values: st.SearchStrategy[Any] = scalars) -> SpanData:
    """Any span that Jaeger's format carries without loss."""
    start = draw(microseconds)
    span = SpanData(
        draw(text),
        draw(st.one_of(st.integers(1, (1 << 127) - 1), ids)),
        draw(ids),
        draw(st.one_of(st.just(0), ids)),
        kind=draw(st.sampled_from(range(len(Kind.NAMES)))),
        flags=draw(st.integers(0, 255)),
        start_ns=start * 1000,
        end_ns=(start + draw(st.integers(0, 1 << 40))) * 1000,
        attributes=draw(attributes(values)),
        events=draw(st.lists(events(values), max_size=3)) or None,
        links=draw(st.lists(links, max_size=3)),
        status=draw(st.sampled_from(range(len(Status.NAMES)))),
        scope=draw(text),
        trace_state=draw(text),
    )
    if span.status == Status.ERROR:
        span.status_message = draw(text)
    return span
