"""Which service called which: found from the spans of one trace, as they come in.

Owns: what counts as a call between services.
Must not know: stores, time windows, sums.
Invariants: each span is the callee of at most one call; the order in which spans come in does not matter, but for ids that
two spans share.

Source: Jaeger's dependency graph (a span whose parent belongs to another service); Zipkin's shared ids (the server's half of
a call has the id of the client's half).
"""

from __future__ import annotations

from autoinstr.model import Kind, SpanData, Status

MINUTE_NS = 60 * 10**9
_CLIENT, _SERVER, _ERROR = Kind.CLIENT, Kind.SERVER, Status.ERROR

#: ``(minute of the callee's start, calling service, called service, whether the callee failed)``.
Call = tuple[int, str, str, bool]


class Calls:
    """The spans of one trace as far as calls need them: who owns which id, and who waits for its parent."""

    __slots__ = ("_clients", "_owners", "_waiting")

    def __init__(self) -> None:
        self._owners: dict[int, str] = {}
        self._clients: dict[int, str] = {}
        self._waiting: dict[int, list[tuple[int, str, bool]]] = {}

    def add(self, service: str, span: SpanData) -> list[Call] | None:
        """Take a span of ``service``; the calls that are known by now and were not before, or None."""
        span_id, parent_id, kind = span.span_id, span.parent_id, span.kind
        clients, owners = self._clients, self._owners
        (clients if kind == _CLIENT else owners)[span_id] = service
        waiting = self._waiting.pop(span_id, None) if self._waiting else None
        caller = clients.get(span_id) if kind == _SERVER and clients else None
        if caller is None and parent_id:
            caller = owners.get(parent_id)
            if caller != service and clients:
                client = clients.get(parent_id)
                if client is not None and (caller is None or client == service):
                    caller = client
        if caller is None:
            self._wait(service, span)
        elif caller != service:
            own = (span.start_ns // MINUTE_NS, caller, service, span.status == _ERROR)
            return [own, *self._calls_of(service, waiting)] if waiting else [own]
        return self._calls_of(service, waiting) if waiting else None

    def _wait(self, service: str, span: SpanData) -> None:
        """A server's span without a parent may be the second half of a call whose first half is still to come."""
        awaited = span.parent_id or (span.span_id if span.kind == _SERVER else 0)
        if awaited:
            note = (span.start_ns // MINUTE_NS, service, span.status == _ERROR)
            self._waiting.setdefault(awaited, []).append(note)

    def _calls_of(self, caller: str, waiting: list[tuple[int, str, bool]]) -> list[Call]:
        return [(minute, caller, service, failed) for minute, service, failed in waiting if service != caller]
