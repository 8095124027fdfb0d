"""What the pages about services, sampling and losses show: one row for each service, put together from all parts.

Owns: the rows and their columns, as docs/backend.md has them; how long a row that is dear to make is kept.
Must not know: HTTP, pages.
Invariants: everything returned is ready for JSON; a service appears once, by its name.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from autoinstr import __version__
from autoinstr.backend.parts import Parts, Strategies
from autoinstr.backend.query.analysis import quantile_ns, tracing_cost_us
from autoinstr.backend.store import Rate, Store, TraceQuery
from autoinstr.backend.store.calls import MINUTE_NS
from autoinstr.model import Kind

HOUR_NS = 60 * MINUTE_NS
#: Spans of these kinds are what somebody asked of a service; the others are how it answered.
ENTRY_KINDS = (Kind.SERVER, Kind.CONSUMER)
LOSSES = ("received", "client_queue", "client_too_large", "client_failed", "packets", "refused", "evicted")

#: Traces that a service's cost is reckoned from, how long it is believed, and services whose cost is looked for.
COST_TRACES, COST_SECONDS, COST_SERVICES = 10, 30.0, 50

Row = dict[str, Any]


class Costs:
    """What tracing costs each service, remembered for a while: it takes a search to find out."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, float | None]] = {}

    def of(self, service: str, now_ns: int) -> float | None:
        """Microseconds per request by the client's own account; ``None`` when it says nothing."""
        now_s = now_ns / 10**9
        with self._lock:
            known = self._known.get(service)
        if known is not None and abs(now_s - known[0]) < COST_SECONDS:
            return known[1]
        query = TraceQuery(service=service, start_ns=max(0, now_ns - HOUR_NS), limit=COST_TRACES)
        cost = tracing_cost_us(self._store.find(query), service)
        with self._lock:
            if len(self._known) > COST_SERVICES:
                self._known.clear()
            self._known[service] = (now_s, cost)
        return cost


def service_rows(parts: Parts, costs: Costs, now_ns: int) -> list[Row]:
    """``GET services``: the last hour of each service, those with the most spans first.

    ``rate_per_s`` counts spans, since the first minute in which there was one. The quantiles are those of what was asked
    of the service (server and consumer spans, counted in ``requests``), or of all spans when nothing was.
    """
    rates: dict[str, list[Rate]] = {name: [] for name in parts.store.services()}
    for rate in parts.store.rates([], max(0, now_ns - HOUR_NS), now_ns):
        rates.setdefault(rate.service, []).append(rate)
    losses = {row.pop("name"): row for row in loss_rows(parts)["services"]}
    rows = [_service_row(name, found, now_ns) for name, found in rates.items()]
    rows.sort(key=lambda row: (-row["spans"], row["name"]))
    for position, row in enumerate(rows):
        name = row["name"]
        is_costed = position < COST_SERVICES and row["spans"]
        row["cost_us"] = costs.of(name, now_ns) if is_costed else None
        row["losses"] = losses.get(name) or dict.fromkeys(LOSSES, 0)
        row["strategy"] = parts.strategies.for_service(name)
        row["source"] = parts.strategies.source(name)
    return rows


def _service_row(name: str, rates: Sequence[Rate], now_ns: int) -> Row:
    spans = sum(rate.calls for rate in rates)
    entries = [rate for rate in rates if rate.kind in ENTRY_KINDS]
    buckets: Counter[int] = Counter()
    for rate in entries or rates:
        buckets.update(rate.buckets)
    first_ns = min((rate.minute * MINUTE_NS for rate in rates), default=now_ns)
    return {
        "name": name,
        "spans": spans,
        "errors": sum(rate.errors for rate in rates),
        "requests": sum(rate.calls for rate in entries),
        "rate_per_s": spans / max(1.0, (now_ns - first_ns) / 10**9),
        "p50_us": _quantile_us(buckets, 0.5),
        "p95_us": _quantile_us(buckets, 0.95),
    }


def _quantile_us(buckets: Counter[int], quantile: float) -> int | None:
    return round(quantile_ns(buckets, quantile) / 1000) if buckets else None


def loss_rows(parts: Parts) -> dict[str, Any]:
    """``GET losses``: what the receivers know, and what the store let go."""
    report = parts.losses.report()
    rows = {row["name"]: {"name": row["name"], **dict.fromkeys(LOSSES, 0), **row} for row in report["services"]}
    for name, spans in parts.store.evicted().items():
        rows.setdefault(name, {"name": name, **dict.fromkeys(LOSSES, 0)})["evicted"] = spans
    return {"services": [rows[name] for name in sorted(rows)], "receiver": report["receiver"]}


def sampling_rows(parts: Parts) -> dict[str, Any]:
    """``GET sampling``: services with spans here, and those that have a strategy or asked for one."""
    names = sorted({*parts.store.services(), *parts.strategies.services()})
    return {
        "services": [sampling_row(parts.strategies, name) for name in names],
        "target_per_s": parts.strategies.target_per_s,
    }


def sampling_row(strategies: Strategies, name: str) -> Row:
    """What one service is told, and what its samplers said."""
    return {
        "name": name,
        "source": strategies.source(name),
        "strategy": strategies.for_service(name),
        "decisions": strategies.decisions(name),
    }


def status(parts: Parts, started_s: float) -> dict[str, Any]:
    """``GET status``; ``started_s`` by the monotonic clock."""
    store = parts.store.figures()
    return {
        "version": __version__,
        "uptime_s": round(time.monotonic() - started_s, 3),
        "store": {name.removeprefix("store_"): number for name, number in store.items()},
        "limits": dict(parts.limits),
        "evicted": parts.store.evicted(),
        "writer": dict(parts.writer.figures()),
        "figures": _merged(each() for each in parts.figures),
    }


def _merged(figures: Iterable[Any]) -> dict[str, Any]:
    return {name: number for each in figures for name, number in each.items()}
