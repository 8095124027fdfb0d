"""Spans as lines for people: one each, with its ids, time and attributes. Only written, never read."""

from __future__ import annotations

from autoinstr.model import Kind, Status
from autoinstr.wire.values import described, plain, printable

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
        lines, bad = [], 0
        for span in spans:
            try:
                lines.append(self._line(span))
            except Exception:  # noqa: BLE001 - a span that cannot be encoded is counted, not raised
                bad += 1
        return ([("".join(lines).encode("utf-8", "replace"), len(lines))] if lines else []), bad

    def rejected(self, response: bytes) -> int:
        """Nobody refuses a line."""
        return 0

    def _line(self, span: SpanData) -> str:
        parts = [
            f"span {span.trace_id:032x}:{span.span_id:016x}:{span.parent_id:016x} {self._service}",
            f"{printable(span.name)!r} {Kind.NAMES[span.kind]} {(span.end_ns - span.start_ns) / 1e6:.3f} ms",
        ]
        if span.status == Status.ERROR:
            parts.append(f"ERROR {span.status_message}".rstrip())
        attributes = {**described(span.facts), **(span.own or {})}
        parts += [f"{printable(key)}={plain(value)!r}" for key, value in attributes.items()]
        return " ".join(parts) + "\n"
