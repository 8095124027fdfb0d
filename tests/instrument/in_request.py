"""A request that the program is serving, around what a test does."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from autoinstr.model import Kind, SpanContext
from autoinstr.trace import Span, current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoinstr.instrument import Tracing


@contextlib.contextmanager
def in_request(
    tracing: Tracing, parent: SpanContext | None = None, baggage: dict[str, str] | None = None
) -> Iterator[Span]:
    """Its span, which the test has to end; it is the current one meanwhile."""
    span = tracing.tracer.start("GET /", Kind.SERVER, parent)
    if baggage is not None:
        span.baggage = baggage
    token = current.set(span)
    try:
        yield span
    finally:
        current.reset(token)
