"""The backend's own numbers, and whether it is well: ``/metrics``, ``/health``, ``/ready``.

Owns: Prometheus' text format, what "ready" means.
Must not know: what the numbers count.
Invariants: names of services are escaped; nothing here takes long, since probes have no patience.

Source: Prometheus' "Exposition formats", text format 0.0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from autoinstr.backend.parts import Losses, Parts

PATHS = ("/metrics", "/health", "/ready")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "autoinstr_"

Counters = Callable[[], Mapping[tuple[str, str], int]]
Figures = Callable[[], Mapping[str, int]]


class State(Protocol):
    """What readiness goes by: the queue before the store."""

    @property
    def is_full(self) -> bool: ...

    @property
    def is_failing(self) -> bool: ...


def routes(parts: Parts, counters: Counters, state: State) -> list[Route]:
    """``counters`` are those of the receivers, ``(what, protocol)`` to a number."""
    figures = (parts.store.figures, parts.writer.figures, *parts.figures)
    return plain_routes(figures, counters, parts.losses, state)


def plain_routes(figures: Sequence[Figures], counters: Counters, losses: Losses, state: State) -> list[Route]:
    """The same where there is no store."""

    def metrics(request: Request) -> Response:
        lines = [*_received(counters()), *_figures(figures), *_losses(losses)]
        return PlainTextResponse("\n".join(lines) + "\n", media_type=CONTENT_TYPE)

    def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def ready(request: Request) -> Response:
        why = "the queue before the store is full" if state.is_full else ""
        why = "the store does not take spans" if state.is_failing else why
        return PlainTextResponse(f"{why or 'ready'}\n", status_code=503 if why else 200)

    return [Route("/metrics", metrics), Route("/health", health), Route("/ready", ready)]


def _received(counters: Mapping[tuple[str, str], int]) -> Iterator[str]:
    names = sorted({what for what, _ in counters})
    for name in names:
        metric = f"{PREFIX}received_{name}_total"
        yield f"# TYPE {metric} counter"
        for (what, protocol), number in sorted(counters.items()):
            if what == name:
                yield f'{metric}{{protocol="{_escaped(protocol)}"}} {number}'


def _figures(figures: Sequence[Figures]) -> Iterator[str]:
    merged = {name: number for each in figures for name, number in each().items()}
    for name, number in merged.items():
        yield f"# TYPE {PREFIX}{name} {'counter' if name.endswith('_total') else 'gauge'}"
        yield f"{PREFIX}{name} {number}"


def _losses(losses: Losses) -> Iterator[str]:
    """Per service, since a gap in a trace has to be explained by the service that it belongs to."""
    report = losses.report()
    rows = report["services"]
    yield f"# TYPE {PREFIX}service_received_spans_total counter"
    for row in rows:
        yield f'{PREFIX}service_received_spans_total{{service="{_escaped(row["name"])}"}} {row["received"]}'
    yield f"# TYPE {PREFIX}service_lost_total counter"
    for row in rows:
        for where, number in row.items():
            if where not in ("name", "received"):
                labels = f'service="{_escaped(row["name"])}",where="{where}"'
                yield f"{PREFIX}service_lost_total{{{labels}}} {number}"
    yield f"# TYPE {PREFIX}receiver gauge"
    for name, number in report["receiver"].items():
        yield f'{PREFIX}receiver{{what="{_escaped(name)}"}} {number}'


def _escaped(text: str) -> str:
    """A label's value. Halves of surrogate pairs, which UTF-8 cannot write, become question marks."""
    whole = text.encode("utf-8", "replace").decode()
    return whole.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
