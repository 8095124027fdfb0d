"""How a sampling strategy is written: Jaeger's file, what its endpoint answers, and what is wrong with either.

Owns: both forms, their checks, how services inherit from the file's default.
Must not know: where strategies are kept, who asks for them.
Invariants: pure; every answer can be written as UTF-8 JSON, has its type as text and no ``null``; errors name what is wrong.

Source: Jaeger's ``sampling.strategies-file`` (v2: ``remote_sampling.file.path``, of the same form) and the JSON form of its
``SamplingStrategyResponse``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: What is told where nothing is said: everything is kept, as with Jaeger's all-in-one.
DEFAULT_RATE = 1.0
#: Clients have a 16 bit integer there.
MAX_TRACES_PER_S = 32_767
#: In one strategy, as many as Jaeger's clients keep.
MAX_OPERATIONS = 2000
LONGEST_NAME = 1000

PROBABILISTIC, RATE_LIMITING = "PROBABILISTIC", "RATE_LIMITING"
#: The numbers are those of Jaeger's Thrift and protobuf messages.
_TYPES: Mapping[Any, str] = {
    PROBABILISTIC: PROBABILISTIC,
    RATE_LIMITING: RATE_LIMITING,
    0: PROBABILISTIC,
    1: RATE_LIMITING,
}

Answer = dict[str, Any]


class StrategiesError(ValueError):
    """A strategy or a file of strategies that cannot be used; the text is for whoever wrote it."""


def _probabilistic(rate: float) -> Answer:
    return {"strategyType": PROBABILISTIC, "probabilisticSampling": {"samplingRate": rate}}


def _rate_limiting(traces_per_s: int) -> Answer:
    return {"strategyType": RATE_LIMITING, "rateLimitingSampling": {"maxTracesPerSecond": traces_per_s}}


DEFAULT_ANSWER = _probabilistic(DEFAULT_RATE)


class StrategiesDocument:
    """The answers of one strategies file. ``warnings`` tell what in it has no effect."""

    def __init__(self, document: object = None) -> None:
        """``document`` is the parsed file; the JSON ``null`` means an empty one. ``StrategiesError``."""
        content = _mapping(document, "the document")
        self.warnings: list[str] = []
        self._default: Answer | None = None
        if content.get("default_strategy") is not None:
            self._default = self._answer(member(content, "default_strategy"), None)
        self._by_service = {
            _text(row.get("service"), "service"): self._answer(row, self._default)
            for row in _rows(content, "service_strategies")
        }

    def answer(self, service: str) -> Answer | None:
        """The response body for a service; ``None`` where the file says nothing about it."""
        return self._by_service.get(service, self._default)

    def services(self) -> list[str]:
        """The services that it lists."""
        return list(self._by_service)

    def _answer(self, row: Mapping[str, Any], default: Answer | None) -> Answer:
        """A row as an answer, with the operations that it inherits from the default's answer."""
        answer = self._overall(row)
        inherited = default.get("operationSampling") if default is not None else None
        has_own = bool(_rows(row, "operation_strategies"))
        if not has_own and inherited is None:
            return answer
        rate = DEFAULT_RATE if has_own or inherited is None else inherited["defaultSamplingProbability"]
        if answer["strategyType"] == PROBABILISTIC:
            rate = answer["probabilisticSampling"]["samplingRate"]
        rates = self._operation_rates(row)
        for name, its_rate in _rates_in(inherited).items():
            rates.setdefault(name, its_rate)
        return {**answer, "operationSampling": _operation_sampling(rate, rates)}

    def _overall(self, row: Mapping[str, Any]) -> Answer:
        kind = row.get("type")
        if kind == "ratelimiting":
            return _rate_limiting(_traces_per_s(row.get("param", 0), "param"))
        if kind == "probabilistic":
            return _probabilistic(_rate(row.get("param", 0), "param"))
        if kind is not None or "param" in row:
            where = f"service {row['service']!r:.60}" if "service" in row else "default_strategy"
            self.warnings.append(f"{where}: the type {kind!r:.60} is not known; the rate is {DEFAULT_RATE:g}")
        return _probabilistic(DEFAULT_RATE)

    def _operation_rates(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Rates by operation; entries that are not probabilistic are skipped, as Jaeger does."""
        rates = {}
        for entry in _rows(row, "operation_strategies"):
            name = _text(entry.get("operation"), "operation")
            if entry.get("type") == "probabilistic":
                rates[name] = _rate(entry.get("param", 0), "param")
            else:
                self.warnings.append(f"operation {name!r:.60}: only probabilistic strategies can be for one operation")
        return rates


def edited_answer(service: object, strategy: object) -> Answer:
    """The answer for ``service`` that a strategy written by hand stands for. ``StrategiesError``.

    Either an entry of Jaeger's file (``{"type", "param", "operation_strategies": [{"operation", "type", "param"}]}``), or what
    its endpoint answers (``{"strategyType", "probabilisticSampling", "rateLimitingSampling", "operationSampling"}``).
    Stricter than a file: what would have no effect is an error, for somebody waits for the answer.
    """
    if not 0 < len(_text(service, "the name of a service")):
        raise StrategiesError("the name of a service must not be empty")
    if not isinstance(strategy, dict):
        raise StrategiesError("a strategy must be a JSON object")
    if "type" in strategy:
        return _from_row(strategy)
    if "strategyType" in strategy or any(part in strategy for part in _PARTS):
        return _from_answer(strategy)
    raise StrategiesError(
        'a strategy needs "type" (probabilistic or ratelimiting) and "param", or one of ' + ", ".join(_PARTS)
    )


_PARTS = ("probabilisticSampling", "rateLimitingSampling", "operationSampling")


def _from_row(row: Mapping[str, Any]) -> Answer:
    if row["type"] != "probabilistic" and row["type"] != "ratelimiting":
        raise StrategiesError(f'"type" must be probabilistic or ratelimiting, not {row["type"]!r:.60}')
    for strategy in (row, *_rows(row, "operation_strategies")):
        if strategy.get("param") is None:
            raise StrategiesError('"param" is missing')
    document = StrategiesDocument({"default_strategy": row})
    if document.warnings:
        raise StrategiesError(document.warnings[0])
    return document.answer("") or DEFAULT_ANSWER


def _from_answer(strategy: Mapping[str, Any]) -> Answer:
    given = strategy.get("strategyType")
    if given is not None and (isinstance(given, (bool, list, dict)) or given not in _TYPES):
        raise StrategiesError(f"strategyType must be {PROBABILISTIC} or {RATE_LIMITING}, not {given!r:.60}")
    is_limiting = strategy.get("rateLimitingSampling") is not None
    is_probabilistic = strategy.get("probabilisticSampling") is not None
    operations = strategy.get("operationSampling")
    kind = _TYPES[given] if given is not None else RATE_LIMITING if is_limiting else PROBABILISTIC
    if kind == RATE_LIMITING and is_limiting:
        limit = member(strategy, "rateLimitingSampling").get("maxTracesPerSecond")
        answer = _rate_limiting(_whole_traces_per_s(limit, "maxTracesPerSecond"))
    elif kind == PROBABILISTIC and is_probabilistic:
        rate = member(strategy, "probabilisticSampling").get("samplingRate")
        answer = _probabilistic(_rate(rate, "samplingRate"))
    elif operations is not None and not (is_limiting or is_probabilistic):
        answer = {"strategyType": kind}
    else:
        wanted = _PARTS[kind == RATE_LIMITING]
        raise StrategiesError(f"{wanted} is missing from a strategy of type {kind}")
    if operations is None:
        return answer
    return {**answer, "operationSampling": _checked_operations(member(strategy, "operationSampling"))}


def _checked_operations(operations: Mapping[str, Any]) -> dict[str, Any]:
    rates = {}
    for entry in _rows(operations, "perOperationStrategies"):
        name = _text(entry.get("operation"), "operation")
        rates[name] = _rate(member(entry, "probabilisticSampling").get("samplingRate"), "samplingRate")
    default_rate = _rate(operations.get("defaultSamplingProbability"), "defaultSamplingProbability")
    bounds = [
        _number(operations.get(f"default{side}BoundTracesPerSecond") or 0, f"default{side}BoundTracesPerSecond")
        for side in ("Lower", "Upper")
    ]
    return _operation_sampling(default_rate, rates, *bounds)


def _operation_sampling(
    default_rate: float, rates: Mapping[str, float], lower: float = 0, upper: float = 0
) -> dict[str, Any]:
    return {
        "defaultSamplingProbability": default_rate,
        "defaultLowerBoundTracesPerSecond": lower,
        "perOperationStrategies": [
            {"operation": operation, "probabilisticSampling": {"samplingRate": rate}}
            for operation, rate in rates.items()
        ],
        "defaultUpperBoundTracesPerSecond": upper,
    }


def _rates_in(operations: Mapping[str, Any] | None) -> dict[str, float]:
    rows = operations["perOperationStrategies"] if operations is not None else ()
    return {row["operation"]: row["probabilisticSampling"]["samplingRate"] for row in rows}


def _rows(parent: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = parent.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise StrategiesError(f"{key} must be a list")
    if len(rows) > MAX_OPERATIONS and key != "service_strategies":
        raise StrategiesError(f"{key} has {len(rows)} entries; clients keep no more than {MAX_OPERATIONS}")
    return [_mapping(row, f"each entry of {key}") for row in rows]


def member(parent: object, key: str) -> Mapping[str, Any]:
    """The object under ``key``. ``StrategiesError`` when there is none."""
    value = _mapping(parent, "what holds " + key).get(key)
    if not isinstance(value, dict):
        raise StrategiesError(f"{key} must be an object")
    return value


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    """What is ``null`` is empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise StrategiesError(f"{what} must be an object")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise StrategiesError(f"{what} must be a string, not {value!r:.60}")
    if len(value) > LONGEST_NAME:
        raise StrategiesError(f"{what} is longer than {LONGEST_NAME} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # Half of a surrogate pair, which JSON can say and UTF-8 cannot.
        raise StrategiesError(f"{what} is not valid Unicode: {value!r:.60}") from error
    return value


def _rate(value: object, what: str) -> float:
    rate = _number(value, what)
    if rate > 1:
        raise StrategiesError(f"{what}: a sampling rate must lie between 0 and 1, not {value!r:.60}")
    return rate


def _traces_per_s(value: object, what: str) -> int:
    """Jaeger's message has an integer here: 0.9 traces per second are none."""
    number = _number(value, what)
    if number > MAX_TRACES_PER_S:
        raise StrategiesError(f"{what}: {value!r:.60} is more than {MAX_TRACES_PER_S} traces per second")
    return int(number)


def _whole_traces_per_s(value: object, what: str) -> int:
    number = _traces_per_s(value, what)
    if number != value:
        raise StrategiesError(f"{what} must be a whole number, not {value!r:.60}")
    return number


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise StrategiesError(f"{what} must be a number, not {value!r:.60}")
    if not 0 <= value < math.inf:
        raise StrategiesError(f"{what} must be a number from 0 upwards, not {value!r:.60}")
    return value
