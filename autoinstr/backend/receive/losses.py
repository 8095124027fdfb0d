"""Spans that were lost on the way here, by service: in the client, on the network, at the receivers.

Owns: what a client's own counts and batch numbers tell of losses, who counts as one client, the bounds on both.
Must not know: sockets, stores, pages.
Invariants: a loss is counted once, however often a client repeats its counts; nothing is called lost that may only have come
late or before our time; services and clients are bounded, and no number that a peer sends is believed beyond reason.

Sources: Jaeger's ``Batch.stats`` (what the client lost since its start: queue full, too large, failed to send) and
``Batch.seqNo`` (one more for each batch of a client).
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoinstr.model import Batch, Resource

MAX_SERVICES = 1_000
MAX_CLIENTS = 10_000
#: Where the losses of services beyond the bound are counted.
OTHER_SERVICES = "(other services)"

#: Losses of a client in one step, and gaps in its numbers, beyond which the number is a mistake.
LARGEST_STEP = 100_000_000
LARGEST_GAP = 100_000
#: Missing batches of a client that may still come, because datagrams overtake each other.
MAX_AWAITED = 64

_LOST = ("client_queue", "client_too_large", "client_failed")
COLUMNS = ("received", *_LOST, "packets", "refused")

#: What identifies a process. Jaeger's clients send the first, OpenTelemetry's SDKs and our agent the second.
_INSTANCE = ("client-uuid", "service.instance.id")
_HOST = ("host.name", "hostname", "ip", "container.id")
_PROCESS = ("process.pid", "pid")


class _Client:
    """What one client process said last, on one way in."""

    __slots__ = ("awaited", "lost", "sequence")

    def __init__(self) -> None:
        self.sequence: int | None = None
        #: Numbers that were skipped, and have been counted as lost, in ascending order.
        self.awaited: OrderedDict[int, None] = OrderedDict()
        self.lost = (0, 0, 0)


class LossBook:
    """Counts by service; implements ``parts.Losses``. Used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._services: dict[str, Counter[str]] = {}
        self._clients: OrderedDict[tuple[str, ...], _Client] = OrderedDict()
        self._receiver: Counter[str] = Counter()
        self._gauges: list[Callable[[], Mapping[str, int]]] = []

    def received(self, way: str, batches: Sequence[Batch]) -> None:
        """Note what came in by one way (a protocol, for a client numbers its batches for each way anew)."""
        with self._lock:
            for batch in batches:
                counts = self._counts(batch.resource.service_name)
                counts["received"] += len(batch.spans)
                if batch.sequence is not None or batch.lost is not None:
                    self._follow(way, batch, counts)

    def refused(self, service: str, spans: int) -> None:
        """Spans of a service that came as far as here, and were not kept."""
        if spans > 0:
            with self._lock:
                self._counts(service)["refused"] += spans

    def lost_payloads(self, why: str, number: int = 1) -> None:
        """Payloads whose service cannot be known: ``undecodable``, ``refused``."""
        with self._lock:
            self._receiver[f"{why}_payloads"] += number

    def watch(self, figures: Callable[[], Mapping[str, int]]) -> None:
        """Have further numbers of the receivers in the report."""
        self._gauges.append(figures)

    def report(self) -> dict[str, Any]:
        """As ``parts.Losses.report``."""
        with self._lock:
            services = [
                {"name": name, **{column: counts[column] for column in COLUMNS}}
                for name, counts in sorted(self._services.items())
            ]
            receiver: dict[str, int] = dict(self._receiver)
        for figures in self._gauges:
            receiver.update(figures())
        return {"services": services, "receiver": receiver}

    def _counts(self, service: str) -> Counter[str]:
        counts = self._services.get(service)
        if counts is None:
            if len(self._services) >= MAX_SERVICES:
                service = OTHER_SERVICES
            counts = self._services.setdefault(service, Counter())
        return counts

    def _follow(self, way: str, batch: Batch, counts: Counter[str]) -> None:
        """Take from a batch what it says about others, and about what was never sent."""
        identity = _identity(batch.resource)
        if identity is None:
            return
        key = (way, batch.resource.service_name, *identity)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = _Client()
            if len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)
        else:
            self._clients.move_to_end(key)
        is_newest = batch.sequence is None or _follow_sequence(client, batch.sequence, counts)
        # The counts in a batch that was overtaken are older than those that are known.
        if batch.lost is not None and is_newest:
            _follow_lost(client, batch.lost, counts)


def _follow_sequence(client: _Client, sequence: int, counts: Counter[str]) -> bool:
    """Count batches that are missing before this one; False when this one is late itself."""
    last = client.sequence
    if last is not None and sequence <= last:
        if sequence in client.awaited:
            del client.awaited[sequence]
            counts["packets"] -= 1
            return False
        if last - sequence < MAX_AWAITED and sequence > 1:
            return False
        # Far back: the client began anew under the same name.
        client.awaited.clear()
        client.lost = (0, 0, 0)
        last = None
    gap = 0 if last is None else sequence - last - 1
    client.sequence = sequence
    if 0 < gap <= LARGEST_GAP:
        counts["packets"] += gap
        for number in range(max(sequence - MAX_AWAITED, sequence - gap), sequence):
            client.awaited[number] = None
        while len(client.awaited) > MAX_AWAITED:
            client.awaited.popitem(last=False)
    return True


def _follow_lost(client: _Client, lost: tuple[int, int, int], counts: Counter[str]) -> None:
    """Add what was lost since the client's last batch; a smaller number means that it began anew."""
    for column, before, now in zip(_LOST, client.lost, lost, strict=True):
        step = now - before if now >= before else now
        if 0 < step <= LARGEST_STEP:
            counts[column] += step
    client.lost = lost


def _identity(resource: Resource) -> tuple[str, ...] | None:
    """What tells one process from another; ``None`` if nothing does."""
    attributes = resource.attributes
    found = tuple(
        next((str(attributes[name])[:100] for name in names if name in attributes), "")
        for names in (_INSTANCE, _HOST, _PROCESS)
    )
    return found if found[0] or found[2] else None
