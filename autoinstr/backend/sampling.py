"""Which sampling strategy a service is told to use.

Owns: Jaeger's strategies file (its form, its defaults, how services inherit from the default), the reload on change,
the answer on the sampling port.
Must not know: stores, receivers.
Invariants: a file that cannot be read or understood never replaces one that could; at the start it is an error.

Source: Jaeger's ``sampling.strategies-file`` and the JSON form of its ``SamplingStrategyResponse``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

#: What is told where nothing is said: everything is kept, as with Jaeger's all-in-one.
DEFAULT_RATE = 1.0

Answer = dict[str, Any]


class StrategiesError(ValueError):
    """The strategies file cannot be read, or does not say what Jaeger's form needs."""


class Strategies:
    """The answers of one strategies document."""

    def __init__(self, document: Mapping[str, Any] | None = None) -> None:
        """``document`` is the parsed file; ``None`` (also the JSON ``null``) means the defaults. StrategiesError."""
        document = _mapping(document, "the document")
        default = _mapping(document.get("default_strategy"), "default_strategy")
        default_rates = _operation_rates(default)
        self._default = _answer(default, default_rates)
        self._by_service = {
            _text(row.get("service"), "service"): _answer(row, {**default_rates, **_operation_rates(row)})
            for row in _rows(document, "service_strategies")
        }

    def answer(self, service: str) -> Answer:
        """The response body for a service."""
        return self._by_service.get(service, self._default)


class StrategiesFile:
    """Strategies that follow a file; without a path, the defaults for ever."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._strategies = Strategies()
        if path is not None:
            self._stamp = _stamp(path)
            self._strategies = _load(path)

    def answer(self, service: str) -> Answer:
        """The response body for a service, after a look whether the file has changed."""
        if self._path is not None:
            self._reload_if_changed(self._path)
        return self._strategies.answer(service)

    def _reload_if_changed(self, path: str) -> None:
        stamp = _stamp(path)
        if stamp is None or stamp == self._stamp:
            return
        # Remembered also when the content is bad, so that one mistake is reported once and not on every request.
        self._stamp = stamp
        try:
            self._strategies = _load(path)
        except StrategiesError as error:
            print(f"autoinstr serve: {error}; the strategies read before stay in force", file=sys.stderr, flush=True)


def sampling_app(strategies: StrategiesFile) -> Starlette:
    """What listens on Jaeger's port 5778; old Java clients ask at the root."""
    endpoint = partial(_sampling, strategies)
    return Starlette(routes=[Route("/sampling", endpoint), Route("/", endpoint)])


async def _sampling(strategies: StrategiesFile, request: Request) -> Response:
    services = request.query_params.getlist("service")
    if len(services) != 1:
        return PlainTextResponse("'service' parameter must be provided once\n", status_code=400)
    return JSONResponse(strategies.answer(services[0]))


def _load(path: str) -> Strategies:
    try:
        with open(path, encoding="utf-8") as file:
            return Strategies(json.load(file))
    except (OSError, ValueError) as error:
        raise StrategiesError(f"strategies file {path}: {error}") from error


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Changes when the file does; the inode too, since editors and ConfigMaps replace files within one clock tick."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _answer(row: Mapping[str, Any], operation_rates: Mapping[str, float]) -> Answer:
    if row.get("type") == "ratelimiting":
        # Jaeger's message has an integer here: 0.9 traces per second are none.
        answer: Answer = {
            "strategyType": "RATE_LIMITING",
            "rateLimitingSampling": {"maxTracesPerSecond": int(_number(row.get("param", 0), "param"))},
        }
        default_rate = DEFAULT_RATE
    else:
        default_rate = _rate(row) if row.get("type") == "probabilistic" else DEFAULT_RATE
        answer = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": default_rate}}
    if operation_rates:
        answer["operationSampling"] = _operation_sampling(default_rate, operation_rates)
    return answer


def _operation_sampling(default_rate: float, rates: Mapping[str, float]) -> dict[str, Any]:
    return {
        "defaultSamplingProbability": default_rate,
        "defaultLowerBoundTracesPerSecond": 0,
        "perOperationStrategies": [
            {"operation": operation, "probabilisticSampling": {"samplingRate": rate}}
            for operation, rate in rates.items()
        ],
        "defaultUpperBoundTracesPerSecond": 0,
    }


def _operation_rates(row: Mapping[str, Any]) -> dict[str, float]:
    """Rates by operation; entries that are not probabilistic are skipped, as Jaeger does."""
    return {
        _text(entry.get("operation"), "operation"): _rate(entry)
        for entry in _rows(row, "operation_strategies")
        if entry.get("type") == "probabilistic"
    }


def _rows(parent: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = parent.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise StrategiesError(f"{key} must be a list")
    return [_mapping(row, f"each entry of {key}") for row in rows]


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    """What is absent or ``null`` is empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise StrategiesError(f"{what} must be an object")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise StrategiesError(f"{what} must be a string, not {value!r}")
    return value


def _rate(row: Mapping[str, Any]) -> float:
    rate = _number(row.get("param", 0), "param")
    if not 0 <= rate <= 1:
        raise StrategiesError(f"a sampling rate must lie between 0 and 1, not {rate!r}")
    return rate


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise StrategiesError(f"{what} must be a number, not {value!r}")
    return value
