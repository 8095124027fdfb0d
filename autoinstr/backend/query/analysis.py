"""What can be said of traces and rates: a summary, what clocks got wrong, quantiles, series, what tracing cost.

Owns: the choice of a trace's root, Jaeger's adjustments (spans twice, ids used twice, clock skew), what a rate is.
Must not know: stores' insides, HTTP, JSON texts, the time of day.
Invariants: pure, traces that were handed in stay as they are; time and memory grow linearly with the spans, and nothing
recurses: a trace may have 100,000 spans in one chain, parents in a loop, and parents that never came.

Source: the adjusters of Jaeger's query service (clock skew, unique span ids, spans twice, addresses as numbers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from autoinstr.backend.store import Identity, Rate, Trace, bucket_bound_ns, duration_ns, identity
from autoinstr.backend.store.calls import MINUTE_NS
from autoinstr.model import MASK_64, Event, Kind, Resource, SpanData, Status
from autoinstr.wire.jaegerjson import tag_text, trace_id_text
from autoinstr.wire.values import json_ready, whole_text

#: As docs/backend.md has it.
Summary: TypeAlias = dict[str, Any]

#: What names a host, the surest first. Clients differ in what they send.
HOST_ATTRIBUTES = ("host.id", "host.name", "hostname", "host.ip", "ip")
#: Addresses that old clients send as a number of 32 bits.
SPAN_ADDRESS, PROCESS_ADDRESS = "peer.ipv4", "ip"
#: Microseconds that a client spends on one span, measured by itself.
SPAN_COST = "autoinstr.span_cost_us"

NAN = float("nan")

DUPLICATE_ID = "duplicate span IDs; skipping clock skew adjustment"

# Summaries --------------------------------------------------------------------------------------------------------


def summarise(trace: Trace) -> Summary:
    """The summary of a trace that has at least one span, ready for JSON.

    The root is the earliest span that has no parent; failing that, the earliest whose parent is missing; failing that
    (a loop), the earliest. Its sampler is what its tags ``sampler.type`` and ``sampler.param`` say, and ``sampler.reason`` where
    it was kept beyond a rate.
    """
    ids = {span.span_id for _, span in trace}
    services: dict[str, list[int]] = {}
    orphans = 0
    first_ns, last_ns = trace[0][1].start_ns, 0
    best, best_rank, best_ns = trace[0], 3, 0
    # One flat loop: a search summarises 1,500 traces while somebody waits.
    for entry in trace:
        resource, span = entry
        count = services.get(resource.service_name)
        if count is None:
            count = services[resource.service_name] = [0, 0]
        count[0] += 1
        if span.status == Status.ERROR:
            count[1] += 1
        start_ns, parent_id = span.start_ns, span.parent_id
        if parent_id == 0 or parent_id == span.span_id:
            rank = 0
        elif parent_id in ids:
            rank = 2
        else:
            rank = 1
            orphans += 1
        if rank < best_rank or (rank == best_rank and start_ns < best_ns):
            best, best_rank, best_ns = entry, rank, start_ns
        first_ns = min(first_ns, start_ns)
        end_ns = max(start_ns, span.end_ns)
        last_ns = max(last_ns, end_ns)
    return {
        "traceID": trace_id_text(best[1].trace_id),
        "service": whole_text(best[0].service_name),
        "operation": whole_text(best[1].name),
        "start_us": first_ns // 1000,
        "duration_us": (last_ns - first_ns) // 1000,
        "spans": len(trace),
        "errors": sum(errors for _, errors in services.values()),
        "orphans": orphans,
        "services": [
            {"name": whole_text(name), "spans": spans, "errors": errors} for name, (spans, errors) in services.items()
        ],
        "sampler": _sampler(best[1]),
    }


def _sampler(root: SpanData) -> dict[str, Any] | None:
    attributes = root.attributes
    kind, param = attributes.get("sampler.type"), attributes.get("sampler.param")
    if kind is None and param is None:
        return None
    scalar = param if isinstance(param, str | bool | int | float) or param is None else tag_text(param)
    found = {"type": "" if kind is None else whole_text(tag_text(kind)), "param": json_ready(scalar)}
    reason = attributes.get("sampler.reason")
    return found if reason is None else {**found, "reason": whole_text(tag_text(reason))}


# Adjustments ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adjusted:
    """A trace as it is shown; ``warnings`` say by the span's position what was done to it, or could not be."""

    trace: Trace
    warnings: dict[int, list[str]] = field(default_factory=dict)


def adjust(trace: Trace) -> Adjusted:
    """All of Jaeger's adjustments. Clock skew is on here, and marked on every span that it moved."""
    adjusted = with_unique_ids(without_duplicates(trace))
    return without_skew([_with_readable_addresses(entry) for entry in adjusted])


def without_duplicates(trace: Trace) -> Trace:
    """Without spans that are there twice: some clients send again what they are not sure of."""
    if len({span.span_id for _, span in trace}) == len(trace):
        return trace
    kept: dict[Identity, tuple[Resource, SpanData]] = {}
    for entry in trace:
        kept.setdefault(identity(entry[0].service_name, entry[1]), entry)
    return list(kept.values())


def with_unique_ids(trace: Trace) -> Trace:
    """Zipkin's clients share an id between the two sides of a call: the server's side gets an id of its own here.

    It becomes the child of the client's side, and the parent of what had the shared id for a parent.
    """
    clients = {span.span_id for _, span in trace if span.kind == Kind.CLIENT}
    if not any(span.kind == Kind.SERVER and span.span_id in clients for _, span in trace):
        return trace
    used = {span.span_id for _, span in trace}
    new_id = max(used)
    renamed: dict[int, int] = {}
    result = []
    for resource, span in trace:
        changed = span
        if span.kind == Kind.SERVER and span.span_id in clients:
            new_id = _unused_id(new_id, used)
            changed = _copy(span)
            changed.span_id, changed.parent_id = new_id, span.span_id
            renamed.setdefault(span.span_id, new_id)
        result.append((resource, changed))
    return [(resource, _below_server(span, renamed)) for resource, span in result]


def _below_server(span: SpanData, renamed: dict[int, int]) -> SpanData:
    parent_id = renamed.get(span.parent_id)
    # The server's own side stays below the client's, and a span that is its own parent stays so.
    if parent_id is None or span.kind == Kind.SERVER or span.span_id == span.parent_id:
        return span
    changed = _copy(span)
    changed.parent_id = parent_id
    return changed


def _unused_id(last: int, used: set[int]) -> int:
    """The next id that nobody has; the first after the largest is 1."""
    new_id = last
    while not new_id or new_id in used:
        new_id = (new_id + 1) & MASK_64
    used.add(new_id)
    return new_id


def _with_readable_addresses(entry: tuple[Resource, SpanData]) -> tuple[Resource, SpanData]:
    resource, span = entry
    if type(resource.attributes.get(PROCESS_ADDRESS)) is int:
        attributes = {**resource.attributes, PROCESS_ADDRESS: _dotted(resource.attributes[PROCESS_ADDRESS])}
        resource = Resource(resource.service_name, attributes)
    if span.own and type(span.own.get(SPAN_ADDRESS)) is int:
        own = {**span.own, SPAN_ADDRESS: _dotted(span.own[SPAN_ADDRESS])}
        span = _copy(span)
        span.own = own
    return resource, span


def _dotted(address: Any) -> str:
    return ".".join(str(address >> shift & 0xFF) for shift in (24, 16, 8, 0))


def _copy(span: SpanData) -> SpanData:
    copy: SpanData = object.__new__(SpanData)
    for name in SpanData.__slots__:
        setattr(copy, name, getattr(span, name))
    return copy


# Clock skew -------------------------------------------------------------------------------------------------------


def without_skew(trace: Trace) -> Adjusted:
    """Moves what another host's clock put outside its parent, and everything below it on that host.

    As in Jaeger: a child that does not fit into its parent is centred in it; one that lasted longer is only moved to
    its parent's start, when it began before. Unlike Jaeger, which is switched off for it: what the same service did on
    an unnamed host counts as the same host, and what is asynchronous (a message, a FOLLOWS_FROM) may well come after
    its parent's end, so it is only moved when it began before.
    """
    tree = _Tree(trace)
    warnings = {position: [DUPLICATE_ID] for position in tree.duplicates}
    for position in tree.orphans:
        parent_id = trace[position][1].parent_id
        warnings[position] = [f"parent span ID={parent_id:016x} is not in the trace; skipping clock skew adjustment"]
    deltas = _skews(trace, tree)
    if not deltas:
        return Adjusted(trace, warnings)
    result = list(trace)
    for position, delta_ns in deltas.items():
        resource, span = trace[position]
        result[position] = resource, _moved(span, delta_ns)
        text = f"This span's timestamps were adjusted by {duration_text(delta_ns)}"
        warnings.setdefault(position, []).append(text)
    return Adjusted(result, warnings)


class _Tree:
    """Positions of a trace's spans by their place: roots (orphans are roots too), children, ids used twice."""

    def __init__(self, trace: Trace) -> None:
        by_id: dict[int, int] = {}
        self.duplicates: list[int] = []
        for position, (_, span) in enumerate(trace):
            if by_id.setdefault(span.span_id, position) != position:
                self.duplicates.append(position)
        self.roots: list[int] = []
        self.orphans: list[int] = []
        self.children: dict[int, list[int]] = {}
        for position in by_id.values():
            span = trace[position][1]
            if not span.parent_id or span.parent_id == span.span_id:
                self.roots.append(position)
            elif span.parent_id in by_id:
                self.children.setdefault(by_id[span.parent_id], []).append(position)
            else:
                self.roots.append(position)
                self.orphans.append(position)


def _skews(trace: Trace, tree: _Tree) -> dict[int, int]:
    """By position, how many nanoseconds to move a span; spans in a loop of parents are not reached, and stay."""
    host_of = _hosts()
    deltas: dict[int, int] = {}
    work = [(root, 0) for root in tree.roots]
    while work:
        position, delta_ns = work.pop()
        if delta_ns:
            deltas[position] = delta_ns
        resource, span = trace[position]
        host = host_of(resource)
        for child in tree.children.get(position, ()):
            child_resource, child_span = trace[child]
            same_host = host_of(child_resource) == host
            work.append((child, delta_ns if same_host else _skew(child_span, span, delta_ns)))
    return deltas


def _hosts() -> Callable[[Resource], str]:
    """Names the host of a resource; looking at its content once is enough, since many spans share it."""
    names: dict[int, str] = {}

    def host_of(resource: Resource) -> str:
        name = names.get(id(resource))
        if name is None:
            found = [resource.attributes[key] for key in HOST_ATTRIBUTES if resource.attributes.get(key)]
            name = names[id(resource)] = f"host {tag_text(found[0])}" if found else f"service {resource.service_name}"
        return name

    return host_of


def _skew(child: SpanData, parent: SpanData, parent_delta_ns: int) -> int:
    """How far to move a child of another host; the parent has been moved by ``parent_delta_ns`` already."""
    parent_start_ns = parent.start_ns + parent_delta_ns
    parent_ns, child_ns = duration_ns(parent), duration_ns(child)
    begins_before = child.start_ns < parent_start_ns
    if child_ns > parent_ns or _is_asynchronous(child, parent):
        return parent_start_ns - child.start_ns if begins_before else 0
    if not begins_before and child.start_ns + child_ns <= parent_start_ns + parent_ns:
        return 0
    # The way there is taken to be as long as the way back.
    return parent_start_ns + (parent_ns - child_ns) // 2 - child.start_ns


def _is_asynchronous(child: SpanData, parent: SpanData) -> bool:
    if child.kind == Kind.CONSUMER or parent.kind == Kind.PRODUCER:
        return True
    return any(not link.child_of and link.context.span_id == parent.span_id for link in child.links)


def _moved(span: SpanData, delta_ns: int) -> SpanData:
    moved = _copy(span)
    moved.start_ns, moved.end_ns = max(0, span.start_ns + delta_ns), max(0, span.end_ns + delta_ns)
    if span.events:
        moved.events = [Event(event.name, max(0, event.time_ns + delta_ns), event.attributes) for event in span.events]
    return moved


def duration_text(nanoseconds: int) -> str:
    """A duration, also a negative one, in Go's form, which Jaeger's warnings have: ``1h2m0.5s``, ``-12.5ms``."""
    sign, rest = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    for limit, unit_ns, unit in ((1000, 1, "ns"), (10**6, 10**3, "µs"), (10**9, 10**6, "ms")):
        if rest < limit:
            return f"{sign}{_decimal(rest, unit_ns)}{unit}" if rest else "0s"
    minutes, rest = divmod(rest, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    longer = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{longer}{_decimal(rest, 10**9)}s"


def _decimal(number: int, unit: int) -> str:
    whole, fraction = divmod(number, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


# Rates, errors, durations -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in ``seconds``; ``buckets`` as in ``store.Rate``."""

    calls: int
    errors: int
    seconds: float
    buckets: Mapping[int, int]


#: One number for a window; NaN where there is none.
Measure: TypeAlias = Callable[[Window], float]


def quantile_ns(buckets: Mapping[int, int], quantile: float) -> float:
    """The duration that a share ``quantile`` (0 to 1) of the spans does not exceed; NaN when there are none.

    Within a bucket the durations are taken to be spread evenly, so the answer lies in the right bucket: within 19 %.
    """
    rank = quantile * sum(buckets.values())
    below = 0
    for bucket, count in sorted(buckets.items()):
        if count and below + count >= rank:
            shortest = bucket_bound_ns(bucket - 1) if bucket else 0.0
            return shortest + (bucket_bound_ns(bucket) - shortest) * (rank - below) / count
        below += count
    return NAN


def call_rate(window: Window) -> float:
    """Calls per second."""
    return window.calls / window.seconds


def error_share(window: Window) -> float:
    """Errors per call."""
    return window.errors / window.calls if window.calls else NAN


def latency_ms(quantile: float) -> Measure:
    """A quantile of the durations, in milliseconds."""
    return lambda window: quantile_ns(window.buckets, quantile) / 10**6


def red_series(
    rates: Iterable[Rate], times_ns: Sequence[int], minutes: int, now_ns: int, measure: Measure, *, by_operation: bool
) -> dict[tuple[str, str], list[float]]:
    """``measure`` at each of the ascending times, over the ``minutes`` that end with the minute of that time.

    By service and operation, or by service and "". The running minute counts as long as it has lasted.
    """
    groups: dict[tuple[str, str], list[Rate]] = {}
    for rate in sorted(rates, key=lambda rate: rate.minute):
        groups.setdefault((rate.service, rate.operation if by_operation else ""), []).append(rate)
    return {key: list(_measured(rows, times_ns, minutes, now_ns, measure)) for key, rows in sorted(groups.items())}


def _measured(
    rows: Sequence[Rate], times_ns: Sequence[int], minutes: int, now_ns: int, measure: Measure
) -> Iterator[float]:
    """A window that slides over rows in ascending order: each enters once and leaves once."""
    entered = left = calls = errors = 0
    buckets: Counter[int] = Counter()
    for time_ns in times_ns:
        last = (time_ns - 1) // MINUTE_NS
        while entered < len(rows) and rows[entered].minute <= last:
            calls, errors = calls + rows[entered].calls, errors + rows[entered].errors
            buckets.update(rows[entered].buckets)
            entered += 1
        while left < entered and rows[left].minute <= last - minutes:
            calls, errors = calls - rows[left].calls, errors - rows[left].errors
            buckets.subtract(rows[left].buckets)
            left += 1
        seconds = (min((last + 1) * MINUTE_NS, now_ns) - (last - minutes + 1) * MINUTE_NS) / 10**9
        yield measure(Window(calls, errors, max(1.0, seconds), buckets))


# What tracing costs -----------------------------------------------------------------------------------------------


def tracing_cost_us(traces: Sequence[Trace], service: str) -> float | None:
    """Microseconds of CPU that tracing adds to one request of a service, by its own account; ``None`` when unknown.

    That is what a span costs (an attribute of the process) times the spans that a request makes: all of the service's
    spans over those among them that have no parent within the service.
    """
    costs: list[float] = []
    spans = requests = 0
    for trace in traces:
        own = {span.span_id for resource, span in trace if resource.service_name == service}
        for resource, span in trace:
            if resource.service_name != service:
                continue
            spans += 1
            requests += span.parent_id not in own or span.parent_is_remote
            cost = resource.attributes.get(SPAN_COST)
            if isinstance(cost, int | float) and 0 <= cost < float("inf"):
                costs.append(float(cost))
    if not costs or not requests:
        return None
    return sum(costs) / len(costs) * spans / requests
