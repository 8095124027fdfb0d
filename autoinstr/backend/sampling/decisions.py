"""What the samplers of traced processes said about the traces that came.

Owns: reading a root span's ``sampler.type`` and ``sampler.param``, the bounded table of how often each was said.
Must not know: strategies, stores, how a sampler decides.
Invariants: nothing that a span says raises; memory is bounded, and what was touched longest ago makes room.

Source: Jaeger's clients put both tags on the span that begins a trace, and only there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from autoinstr.model import Batch, Resource, SpanData

if TYPE_CHECKING:
    from autoinstr.model import Attributes

TYPE_TAG, PARAM_TAG = "sampler.type", "sampler.param"
#: Longer names are cut before they become keys here.
LONGEST_NAME = 256
MAX_SERVICES = 200
#: For each service: pairs of operation and decision.
MAX_ROWS = 200

Param = float | bool | str
Key = TypeVar("Key")
Value = TypeVar("Value")


class Decision(NamedTuple):
    """Why one trace was kept: the sampler's type (``probabilistic``, ``lowerbound``, ``const`` …) and its parameter."""

    service: str
    operation: str
    kind: str
    param: Param


def decisions(batch: Batch) -> Iterator[Decision]:
    """The decisions on the root spans of a batch. Spans without ``sampler.type`` were not sampled by a Jaeger sampler."""
    service = batch.resource.service_name[:LONGEST_NAME]
    for span in batch.spans:
        if span.parent_id == 0:
            decision = _decision(service, span)
            if decision is not None:
                yield decision


def _decision(service: str, span: SpanData) -> Decision | None:
    attributes: Attributes = span.attributes if span.facts else span.own or {}
    kind = attributes.get(TYPE_TAG)
    if not isinstance(kind, str) or not kind:
        return None
    return Decision(service, span.name[:LONGEST_NAME], kind[:LONGEST_NAME], _param(attributes.get(PARAM_TAG)))


def _param(value: object) -> Param:
    """A number where it is one: some formats (Zipkin) and some clients send it as text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in {"true", "false"}:
        return value == "true"
    if isinstance(value, (int, float, str)):
        try:
            number = float(value)
        except ValueError:
            return str(value)[:LONGEST_NAME]
        except OverflowError:  # An integer of more than 300 digits.
            return ""
        return number if math.isfinite(number) else str(number)
    return ""


def instance_of(resource: Resource) -> int:
    """Tells the processes of one service apart: a hash of whatever identifies one in the format that it came in."""
    known = resource.attributes
    named = known.get("service.instance.id") or known.get("client-uuid")
    host = known.get("host.name") or known.get("hostname") or known.get("ip")
    return hash(str(named) if named else f"{host} {known.get('process.pid', '')}")


def touched(table: OrderedDict[Key, Value], key: Key, most: int, make: Callable[[], Value]) -> Value:
    """The value of ``key``, made where there is none; of more than ``most`` the one touched longest ago is forgotten."""
    if key in table:
        table.move_to_end(key)
        return table[key]
    value = table[key] = make()
    if len(table) > most:
        table.popitem(last=False)
    return value


class DecisionTable:
    """How many traces were kept for which reason, by service and operation. Not for several threads at once."""

    def __init__(self, max_services: int = MAX_SERVICES, max_rows: int = MAX_ROWS) -> None:
        self._max_services = max_services
        self._max_rows = max_rows
        self._rows: OrderedDict[str, OrderedDict[tuple[str, str, Param], list[int]]] = OrderedDict()

    def observe(self, batches: Sequence[Batch]) -> None:
        """Count the decisions on the root spans in what was received."""
        for batch in batches:
            for decision in decisions(batch):
                rows = touched(self._rows, decision.service, self._max_services, OrderedDict)
                touched(rows, decision[1:], self._max_rows, lambda: [0])[0] += 1

    def services(self) -> list[str]:
        """Services of which a decision is known, sorted."""
        return sorted(self._rows)

    def of(self, service: str) -> list[dict[str, Any]]:
        """``[{"operation", "type", "param", "traces"}]`` of a service, sorted by operation, the commonest first."""
        rows = [
            {"operation": operation, "type": kind, "param": param, "traces": count[0]}
            for (operation, kind, param), count in self._rows.get(service, {}).items()
        ]
        return sorted(rows, key=lambda row: (row["operation"], -row["traces"]))
