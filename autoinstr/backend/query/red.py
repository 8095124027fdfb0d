"""Rates, errors and durations over time, in the form that Jaeger's "Monitor" page asks for.

Owns: the parameters of ``/api/metrics/*``, the form of their answers, a bound on the points of one answer.
Must not know: how the store counts, how a quantile is found.
Invariants: no answer has more than ``MOST_VALUES`` numbers; numbers that JSON has no word for are the text "NaN".

Source: the metrics API of Jaeger's query service and OpenMetrics' ``MetricFamily`` in its JSON form. What is counted by the
minute is told by the minute: a smaller step repeats itself.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from autoinstr.backend.query.analysis import Measure, call_rate, error_share, latency_ms, red_series
from autoinstr.backend.query.asking import LATEST_MS, Asking, ParameterError, boolean, choices, integer
from autoinstr.backend.store import Rate
from autoinstr.backend.store.calls import MINUTE_NS
from autoinstr.model import Kind

#: What is asked for: the last word of the family's name, and what its values are.
FAMILIES = {
    "latencies": ("latencies", "milliseconds within which the given share of the spans ended"),
    "calls": ("call_rate", "spans per second"),
    "errors": ("error_rate", "share of the spans that failed"),
}
KINDS = {name or "unspecified": kind for kind, name in enumerate(Kind.NAMES)}

SMALLEST_STEP_MS = 60_000
HOUR_MS = 3_600_000
LONGEST_LOOKBACK_MS = 366 * 24 * HOUR_MS
#: Points of one series, as Prometheus has it, and numbers of one answer.
MOST_POINTS, MOST_VALUES = 11_000, 200_000


async def answer(what: str, asking: Asking, request: Request) -> Response:
    """One of ``FAMILIES`` for the services, kinds and times that the parameters name."""
    services = [service for service in request.query_params.getlist("service") if service]
    if not services:
        raise ParameterError("parameter 'service' is required, once for each service")
    kinds = {KINDS[name] for name in choices(request, "spanKind", KINDS) or ["server"]}
    measure = _measure(what, request)
    times_ms = _times_ms(request)
    minutes = -(-integer(request, "ratePer", 600_000, 1, LONGEST_LOOKBACK_MS) // 60_000)
    by_operation = boolean(request, "groupByOperation")

    def family() -> Response:
        start_ns = max(0, times_ms[0] * 10**6 - minutes * MINUTE_NS)
        rates = asking.parts.store.rates(services, start_ns, times_ms[-1] * 10**6)
        wanted = [rate for rate in rates if rate.kind in kinds]
        _check_size(wanted, len(times_ms), by_operation=by_operation)
        times_ns = [time_ms * 10**6 for time_ms in times_ms]
        series = red_series(wanted, times_ns, minutes, time.time_ns(), measure, by_operation=by_operation)
        return _family(what, times_ms, series, by_operation=by_operation)

    return await asking.searches.run(family)


def _measure(what: str, request: Request) -> Measure:
    if what == "latencies":
        return latency_ms(_quantile(request))
    return call_rate if what == "calls" else error_share


def _quantile(request: Request) -> float:
    text = request.query_params.get("quantile", "")
    try:
        quantile = float(text)
    except ValueError:
        quantile = math.nan
    if not 0 <= quantile <= 1:
        raise ParameterError(f"cannot use quantile={text[:64]!r}: it is required, as a number from 0 to 1")
    return quantile


def _times_ms(request: Request) -> Sequence[int]:
    """The points in time, ascending; at least one."""
    end_ms = integer(request, "endTs", time.time_ns() // 10**6, 0, LATEST_MS)
    lookback_ms = integer(request, "lookback", HOUR_MS, 0, LONGEST_LOOKBACK_MS)
    step_ms = integer(request, "step", 5_000, 1, LONGEST_LOOKBACK_MS)
    points = min(lookback_ms, end_ms) // step_ms + 1
    if points > MOST_POINTS:
        raise ParameterError(f"{points} points are more than {MOST_POINTS}: use a larger step or a shorter lookback")
    return range(end_ms - (points - 1) * step_ms, end_ms + 1, step_ms)


def _check_size(rates: Iterable[Rate], points: int, *, by_operation: bool) -> None:
    series = len({(rate.service, rate.operation if by_operation else "") for rate in rates})
    if series * points > MOST_VALUES:
        raise ParameterError(
            f"{series} series of {points} points are more than {MOST_VALUES} values: use a larger step or fewer services"
        )


def _family(
    what: str, times_ms: Sequence[int], series: dict[tuple[str, str], list[float]], *, by_operation: bool
) -> Response:
    word, meaning = FAMILIES[what]
    stamps = [_timestamp(time_ms) for time_ms in times_ms]
    content = {
        "name": f"service_operation_{word}" if by_operation else f"service_{word}",
        "type": "GAUGE",
        "help": f"{meaning}, by service{' and operation' if by_operation else ''}",
        "metrics": [
            {"labels": _labels(service, operation, by_operation=by_operation), "metricPoints": _points(stamps, values)}
            for (service, operation), values in series.items()
        ],
    }
    return Response(json.dumps(content), media_type="application/json")


def _labels(service: str, operation: str, *, by_operation: bool) -> list[dict[str, str]]:
    label = [{"name": "operation", "value": operation}] if by_operation else []
    return [*label, {"name": "service_name", "value": service}]


def _points(stamps: Sequence[str], values: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"gaugeValue": {"doubleValue": value if math.isfinite(value) else "NaN"}, "timestamp": stamp}
        for stamp, value in zip(stamps, values, strict=True)
    ]


def _timestamp(time_ms: int) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{milliseconds:03d}Z" if milliseconds else f"{text}Z"
