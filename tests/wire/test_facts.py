"""Facts are remembered one by one and as a whole; whatever is remembered, a span must read the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.model import Kind, SpanData
from autoinstr.wire import jaeger, otlp

from . import cases

#: One of each key may be in several facts, so that facts overlap, also by the names that Jaeger adds.
KEYS = ("http.request.method", "http.method", "url.path", "server.address", "peer.hostname", "span.kind", "x")


def said(*pairs: tuple[str, str]) -> dict[str, str]:
    return dict(pairs)


fact = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(("a", "b", "c"))), max_size=2).map(
    lambda pairs: (said, *pairs)
)
spans = st.builds(
    lambda facts, kind, own: cases.span(facts=tuple(facts), kind=kind, attributes=own),
    st.lists(fact, max_size=3),
    st.sampled_from((Kind.CLIENT, Kind.SERVER)),
    st.dictionaries(st.sampled_from(("url.path", "x")), st.sampled_from(("a", "b")), max_size=1),
)

ENCODERS = {
    "compact": (jaeger.CompactEncoder, jaeger.decode_message),
    "binary": (jaeger.BinaryEncoder, jaeger.decode_batch),
    "protobuf": (otlp.ProtobufEncoder, otlp.decode_protobuf),
}


def attributes_on_wire(encoder: Any, decode: Any, span: SpanData) -> dict[str, Any]:
    [(payload, _)], bad = encoder.encode([span])
    assert not bad
    decoded = decode(payload)
    [batch] = decoded if isinstance(decoded, list) else [decoded]
    [read] = batch.spans
    return {"kind": read.kind, **read.attributes}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_remembered_changes_nothing(name: str) -> None:
    """A span would show another one's attributes, or lose those that two facts of it share."""
    make, decode = ENCODERS[name]
    experienced = make(cases.RESOURCE)

    @given(st.lists(spans, min_size=1, max_size=8))
    def check(several: list[SpanData]) -> None:
        for span in several * 3:  # new, known by its facts, known as a whole
            plain = cases.span(kind=span.kind, facts=((said, *span.attributes.items()),))
            expected = attributes_on_wire(make(cases.RESOURCE), decode, plain)
            assert attributes_on_wire(experienced, decode, span) == expected

    check()


@pytest.mark.parametrize("name", ENCODERS)
def test_new_facts_do_not_push_out_known_shapes(name: str) -> None:
    """In a service whose paths never repeat, everything else would be encoded anew all the time."""
    make, _ = ENCODERS[name]
    encoder = make(cases.RESOURCE)
    for number in range(50):
        encoder.encode([cases.span(facts=((cases.route, "GET", "/a", 200), (said, ("url.path", f"/{number}"))))])
    assert not encoder._shapes
