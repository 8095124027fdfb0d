"""What the backend's handlers are given, as contracts: they must not know how the parts are built, or each other.

Owns: the bundle of parts. Must not know: any part's inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from autoinstr.backend.store import Store
from autoinstr.model import Batch


class Full(Exception):
    """The queue before the store is full: the sender has to come again later."""


class Writer(Protocol):
    """The bounded queue before the store, and its one thread."""

    def submit(self, batches: Sequence[Batch], size: int) -> Future[None]:
        """Queue what a payload of ``size`` bytes held; the future is done when the store has it. Raises ``Full``."""

    def listen(self, listener: Callable[[Sequence[Batch]], None]) -> Callable[[], None]:
        """Have ``listener`` called, on the writer's thread, with what was just written; the result ends that."""

    def figures(self) -> Mapping[str, int]:
        """Counters and gauges to publish, by name."""


class Losses(Protocol):
    """Spans that were lost on the way here, by service."""

    def report(self) -> dict[str, Any]:
        """``GET losses`` of docs/backend.md, without what the store evicted."""


class Strategies(Protocol):
    """Which sampling strategy each service gets."""

    def for_service(self, service: str) -> dict[str, Any]:
        """The strategy, as Jaeger's HTTP endpoint answers it."""

    def source(self, service: str) -> str:
        """Where that strategy is from: ``file``, ``edited``, ``adaptive`` or ``default``."""

    def services(self) -> list[str]:
        """The services that have a strategy of their own, or have asked for one, sorted."""

    def decisions(self, service: str) -> list[dict[str, Any]]:
        """``[{"operation", "type", "param", "traces"}]``: what the samplers of a service said of the traces that came."""

    def edit(self, service: str, strategy: object) -> None:
        """Give a service a strategy; ``StrategiesError`` tells what is wrong with it."""

    def reset(self, service: str) -> None:
        """Take that back."""

    @property
    def target_per_s(self) -> float | None:
        """Traces per second and operation that the adaptive mode steers to; ``None`` when it is off."""


@dataclass(frozen=True)
class Parts:
    """Everything that questions can be asked of. ``limits`` are the options in force, by name, for the status page."""

    store: Store
    writer: Writer
    losses: Losses
    strategies: Strategies
    limits: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Callable[[], Mapping[str, int]]] = ()
