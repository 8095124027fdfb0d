"""A trace as a tree of text, for terminals.

Owns: which span hangs below which, one line per span, the colours.
Must not know: where spans come from, the terminal (it is told the width and whether to colour).
Invariants: pure; every span has exactly one line, also in broken traces (missing parents, loops, ids used twice); no
character of a span reaches the terminal as a control character; time and memory grow linearly with the spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from autoinstr.model import Resource, SpanData, Status
from autoinstr.wire.jaegerjson import trace_id_text

#: Deeper than this, indentation stops growing: the names must stay visible.
DEEPEST_INDENT = 20
BAR_WIDTH = 24
RED, DIM, BOLD, RESET = "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
SERVICE_COLOURS = ("\x1b[36m", "\x1b[33m", "\x1b[35m", "\x1b[32m", "\x1b[34m", "\x1b[96m")

#: What is shown of a span's attributes: of each row the first name that the span has.
SHOWN = (
    ("http.response.status_code", "http.status_code"),
    ("url.full", "http.url", "url.path", "http.target"),
    ("error.type",),
)

Entry = tuple[Resource, SpanData]


def render(entries: Sequence[Entry], *, width: int = 100, colour: bool = False) -> str:
    """The spans of one trace, one a line, below a line that sums the trace up; empty for no spans.

    ``width`` is in columns and is kept as long as it is 80 or more.
    """
    if not entries:
        return ""
    width = max(80, width)
    rows = [(branch, entries[index]) for branch, index in _walk(entries)]
    widest = max(len(_label(branch, entry)) for branch, entry in rows)
    page = _Page(entries, label_width=min(widest, width * 45 // 100), width=width, colour=colour)
    return "\n".join([_summary(entries, page)] + [_line(branch, entry, page) for branch, entry in rows]) + "\n"


def duration_text(duration_ns: int) -> str:
    """Three significant digits with their unit: ``850 µs``, ``12.3 ms``, ``1.20 s``."""
    for limit, divisor, unit in ((10**6, 10**3, "µs"), (10**9, 10**6, "ms")):
        if duration_ns < limit:
            return f"{_three_digits(duration_ns / divisor)} {unit}"
    return f"{_three_digits(duration_ns / 10**9)} s"


def _three_digits(number: float) -> str:
    if number < 9.995:
        return f"{number:.2f}"
    return f"{number:.1f}" if number < 99.95 else f"{number:.0f}"


def _walk(entries: Sequence[Entry]) -> Iterator[tuple[str, int]]:
    """``(drawn branch, index)`` in the order of the lines: depth first, siblings by start."""
    # Not by recursion: a chain of calls may be longer than Python's stack.
    children = _children(entries)
    by_start = sorted(range(len(entries)), key=lambda index: entries[index][1].start_ns)
    seen: set[int] = set()
    # After the real roots every span is tried as one, so that those in a loop of parents are shown too.
    for root in children.get(None, []) + by_start:
        stack = [(root, "", "")]
        while stack:
            index, branch, indent = stack.pop()
            if index in seen:
                continue
            seen.add(index)
            yield branch, index
            stack.extend(_below(children.get(index, []), indent))


def _below(indices: list[int], indent: str) -> list[tuple[int, str, str]]:
    """Work for the stack: the children with their branches, last one first."""
    deeper = len(indent) < 3 * DEEPEST_INDENT
    work = []
    for position, index in enumerate(indices):
        last = position == len(indices) - 1
        growth = ("   " if last else "│  ") if deeper else ""
        work.append((index, indent + ("└─ " if last else "├─ "), indent + growth))
    return work[::-1]


def _children(entries: Sequence[Entry]) -> dict[int | None, list[int]]:
    """Indices of the children by the parent's index (``None``: roots), in order of their start."""
    by_id: dict[int, int] = {}
    for index, (_, span) in enumerate(entries):
        by_id.setdefault(span.span_id, index)
    children: dict[int | None, list[int]] = {}
    for index in sorted(range(len(entries)), key=lambda index: entries[index][1].start_ns):
        parent = by_id.get(entries[index][1].parent_id)
        children.setdefault(None if parent == index else parent, []).append(index)
    return children


class _Page:
    """What all lines of a trace share: its time, the columns, the colours."""

    def __init__(self, entries: Sequence[Entry], *, label_width: int, width: int, colour: bool) -> None:
        self.start_ns = min(span.start_ns for _, span in entries)
        self.end_ns = max(span.end_ns for _, span in entries)
        self.label_width = label_width
        self.width = width
        services = dict.fromkeys(resource.service_name for resource, _ in entries)
        self.colour_of = {name: SERVICE_COLOURS[i % len(SERVICE_COLOURS)] for i, name in enumerate(services)}
        self._colour = colour

    def paint(self, code: str, text: str) -> str:
        return f"{code}{text}{RESET}" if self._colour and text else text


def _summary(entries: Sequence[Entry], page: _Page) -> str:
    services = len({resource.service_name for resource, _ in entries})
    errors = sum(span.status == Status.ERROR for _, span in entries)
    parts = [
        page.paint(BOLD, f"trace {trace_id_text(entries[0][1].trace_id)}"),
        _counted(len(entries), "span"),
        _counted(services, "service"),
        duration_text(max(0, page.end_ns - page.start_ns)),
    ]
    if errors:
        parts.append(page.paint(RED, _counted(errors, "error")))
    return "  ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _line(branch: str, entry: Entry, page: _Page) -> str:
    resource, span = entry
    colour = page.colour_of[resource.service_name]
    plain = _shortened(_label(branch, entry), page.label_width)
    drawn, service, name = _split(plain, len(branch), len(_printable(resource.service_name)))
    label = page.paint(DIM, drawn) + page.paint(colour, service) + name + " " * (page.label_width - len(plain))
    duration = f"{duration_text(max(0, span.end_ns - span.start_ns)):>8}"
    bar = page.paint(colour, _bar(span, page.start_ns, page.end_ns))
    details = _shortened(_details(span), page.width - page.label_width - BAR_WIDTH - len(duration) - 6)
    details = page.paint(RED if span.status == Status.ERROR else DIM, details)
    return f"{label}  {duration}  {bar}  {details}".rstrip()


def _label(branch: str, entry: Entry) -> str:
    return f"{branch}{_printable(entry[0].service_name)}  {_printable(entry[1].name)}"


def _split(text: str, first: int, second: int) -> tuple[str, str, str]:
    return text[:first], text[first : first + second], text[first + second :]


def _bar(span: SpanData, start_ns: int, end_ns: int) -> str:
    """Where in the trace's time the span lies; never empty, since even the shortest span has its place."""
    total_ns = max(1, end_ns - start_ns)
    first = min(BAR_WIDTH - 1, (span.start_ns - start_ns) * BAR_WIDTH // total_ns)
    beyond = -(-(span.end_ns - start_ns) * BAR_WIDTH // total_ns)
    length = max(1, beyond - first)
    return "·" * first + "█" * length + "·" * (BAR_WIDTH - first - length)


def _details(span: SpanData) -> str:
    attributes = span.attributes
    parts = ["ERROR"] if span.status == Status.ERROR else []
    for names in SHOWN:
        parts += [str(attributes[name]) for name in names if name in attributes][:1]
    if span.status_message:
        parts.append(span.status_message)
    return _printable("  ".join(dict.fromkeys(parts)))


def _printable(text: str) -> str:
    """Names come from strangers: an escape sequence in one must not drive the reader's terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"[:width]
