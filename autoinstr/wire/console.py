"""Spans as lines for people: one each, with its ids, time and attributes. Only written, never read."""

from __future__ import annotations

from autoinstr.model import Kind, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoinstr.model import Resource, SpanData


class ConsoleEncoder:
    """One text line per span, all of a batch in one payload."""

    content_type = "text/plain"

    def __init__(self, resource: Resource) -> None:
        self._service = resource.service_name

    def encode(
        self, spans: Sequence[SpanData], lost: tuple[int, int, int] = (0, 0, 0)
    ) -> tuple[list[tuple[bytes, int]], int]:
        """As ``model.Encoder.encode``."""
        text = "".join(self._line(span) for span in spans)
        return [(text.encode("utf-8", "replace"), len(spans))], 0

    def rejected(self, response: bytes) -> int:
        """Nobody refuses a line."""
        return 0

    def _line(self, span: SpanData) -> str:
        parts = [
            f"span {span.trace_id:032x}:{span.span_id:016x}:{span.parent_id:016x} {self._service}",
            f"{span.name!r} {Kind.NAMES[span.kind]} {(span.end_ns - span.start_ns) / 1e6:.3f} ms",
        ]
        if span.status == Status.ERROR:
            parts.append(f"ERROR {span.status_message}".rstrip())
        parts += [f"{key}={value!r}" for key, value in span.attributes.items()]
        return " ".join(parts) + "\n"
