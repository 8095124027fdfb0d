"""Searching the partitions of a SQLite store, the newest first.

Owns: which segments may hold a match, and in which order to look at them.
Must not know: files, limits, writing.
Invariants: an index may offer too much, never too little; what is found was compared with ``store.matches``, span by span.

How a search goes: in each partition the groups of spans (one service, one operation, about one second) are walked by their
last start, the newest first, side by side; the tags' words narrow what is walked to some segments, if they are rare enough.
Each candidate is decoded. A trace is as new as its first span, which may be in another segment; but no span that is found
later can belong to a trace that is newer than the place where the walk is, so that the walk ends there.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing

from autoinstr.backend.store import TraceQuery, bucket_of, matches
from autoinstr.backend.store.segments import SLOT_BITS, SLOTS_PER_GROUP, Words
from autoinstr.backend.store.spancodec import CodecError
from autoinstr.backend.store.sqlite_partition import Partition, Reader, chunks, clamped, signed

#: With more segments than this a tag is common, and walking finds it sooner than the word index tells where it is.
COMMON = 20_000
#: So few segments are decoded at once, without a walk.
FEW = 64
#: More operations, or services, are not walked side by side, or asked for one by one.
MANY_NAMES = 200
#: How many segments are looked at for the sake of the right order, after there are enough traces.
MAX_EXTRA_CANDIDATES = 2_000

#: The slot of its last start, and the number of a segment.
Candidate = tuple[int, int]


def newest_traces(partitions: Sequence[Partition], query: TraceQuery) -> list[int]:
    """The ids of the newest traces that match, the newest first, at most ``query.limit``."""
    if query.limit <= 0:
        return []
    with ExitStack() as stack:
        readers: dict[Partition, Reader] = {}

        def reader_of(partition: Partition) -> Reader:
            if partition not in readers:
                readers[partition] = stack.enter_context(partition.reader())
            return readers[partition]

        search = _Search(query, lambda trace_id: _first_start(map(reader_of, partitions), trace_id))
        # Closed before the connections are given back, which must not be in the middle of an answer then.
        with closing(_walk(partitions, reader_of, query)) as walk:
            for slot, reader, segment in walk:
                if search.is_done(slot):
                    break
                search.look_at(reader, segment)
        return search.newest()


class _Search:
    """What was found so far."""

    def __init__(self, query: TraceQuery, start_of: Callable[[int], int]) -> None:
        self._query = query
        self._start_of = start_of
        self._known: set[int] = set()
        #: A heap of ``(first start, trace id)``, the oldest on top.
        self._best: list[tuple[int, int]] = []
        self._extra = 0

    def is_done(self, slot: int) -> bool:
        """Whether nothing newer than what there is can come from ``slot`` on."""
        if len(self._best) < self._query.limit:
            return False
        self._extra += 1
        return self._best[0][0] >= (slot + 1) << SLOT_BITS or self._extra > MAX_EXTRA_CANDIDATES

    def look_at(self, reader: Reader, segment: int) -> None:
        """Compare the spans of a segment with the query."""
        try:
            spans = reader.segment(segment, unless=self._known)
        except CodecError:
            reader.partition.unreadable_segments += 1
            return
        if any(matches(self._query, *entry) for entry in spans):
            trace_id = spans[0][1].trace_id
            self._known.add(trace_id)
            heapq.heappush(self._best, (self._start_of(trace_id), trace_id))
            if len(self._best) > self._query.limit:
                heapq.heappop(self._best)

    def newest(self) -> list[int]:
        """The traces, the newest first."""
        return [trace_id for _, trace_id in sorted(self._best, reverse=True)]


def _first_start(readers: Iterable[Reader], trace_id: int) -> int:
    sql = "SELECT min(first) FROM segment WHERE low = ? AND high = ?"
    parameters = signed(trace_id), signed(trace_id >> 64)
    starts = (reader.first(sql, parameters)[0] for reader in readers)
    first: int = min(start for start in starts if start is not None)
    return first


def _walk(
    partitions: Sequence[Partition], reader_of: Callable[[Partition], Reader], query: TraceQuery
) -> Generator[tuple[int, Reader, int], None, None]:
    """Segments that may match, each once, with the slot of their last start, the newest first.

    A partition is only asked when the walk comes to where it begins, which for most is never.
    """
    waiting = sorted(partitions, key=lambda partition: partition.last_slot)
    # The number in the middle decides between equal slots, before what cannot be compared.
    running: list[tuple[int, int, int, Reader, Iterator[Candidate]]] = []
    while waiting or running:
        while waiting and (not running or waiting[-1].last_slot >= -running[0][0]):
            reader = reader_of(waiting.pop())
            candidates = _each_once(_candidates(reader, query))
            _push(running, len(waiting), reader, candidates)
        if running:
            slot, number, segment, reader, candidates = heapq.heappop(running)
            yield -slot, reader, segment
            _push(running, number, reader, candidates)


def _push(
    running: list[tuple[int, int, int, Reader, Iterator[Candidate]]],
    number: int,
    reader: Reader,
    candidates: Iterator[Candidate],
) -> None:
    found = next(candidates, None)
    if found is not None:
        heapq.heappush(running, (-found[0], number, found[1], reader, candidates))


def _each_once(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """A segment has many groups; the first that is met is the newest of those that may match."""
    known: set[int] = set()
    for slot, segment in candidates:
        if segment not in known:
            known.add(segment)
            yield slot, segment


def _candidates(reader: Reader, query: TraceQuery) -> Iterator[Candidate]:
    """The segments of one partition that may match, the newest first."""
    service = reader.number(query.service) if query.service else None
    operation = reader.number(query.operation) if query.operation else None
    if (query.service and service is None) or (query.operation and operation is None):
        return iter(())
    segments = _with_words(reader, query)
    if segments is not None and len(segments) <= FEW:
        return _few(reader, segments, clamped(query.start_ns >> SLOT_BITS))
    walk = _all_groups(reader, query, service, operation)
    return walk if segments is None else (each for each in walk if each[1] in segments)


def _few(reader: Reader, segments: Collection[int], first_slot: int) -> Iterator[Candidate]:
    for marks, numbers in chunks(list(segments)):
        sql = f"SELECT last, id FROM segment WHERE id IN ({marks}) AND last >= ? ORDER BY last DESC"  # noqa: S608
        yield from reader.rows(sql, (*numbers, first_slot))


def _all_groups(reader: Reader, query: TraceQuery, service: int | None, operation: int | None) -> Iterator[Candidate]:
    first, last, shortest, longest = _bounds(query)
    bounds = "last BETWEEN ? AND ? AND longest >= ? AND shortest <= ?"
    if service is not None:
        operations = [operation] if operation is not None else _operations(reader, service)
        if len(operations) <= MANY_NAMES:
            sql = (
                "SELECT last, segment FROM span_group"  # noqa: S608
                f" WHERE service = ? AND operation = ? AND {bounds} ORDER BY last DESC"
            )
            walks = [reader.rows(sql, (service, each, first, last, shortest, longest)) for each in operations]
            return heapq.merge(*walks, reverse=True, key=lambda row: row[0]) if len(walks) > 1 else iter(*walks)
    elif operation is None and not query.min_duration_ns and query.max_duration_ns >= 2**63:
        sql = "SELECT last, id FROM segment WHERE last >= ? ORDER BY last DESC"
        return reader.rows(sql, (first,))
    conditions = {"service": service, "operation": operation}
    wanted = {column: value for column, value in conditions.items() if value is not None}
    names = "".join(f"{column} = ? AND " for column in wanted)
    sql = f"SELECT last, segment FROM span_group WHERE {names}{bounds} ORDER BY last DESC"  # noqa: S608
    return reader.rows(sql, (*wanted.values(), first, last, shortest, longest))


def _bounds(query: TraceQuery) -> tuple[int, int, int, int]:
    """Slots and buckets between which a group with a match has its last start, its longest and its shortest span."""
    return (
        clamped(query.start_ns >> SLOT_BITS),
        clamped((query.end_ns >> SLOT_BITS) + SLOTS_PER_GROUP),
        bucket_of(query.min_duration_ns),
        bucket_of(query.max_duration_ns),
    )


def _operations(reader: Reader, service: int) -> list[int]:
    return [row[0] for row in reader.rows("SELECT DISTINCT name FROM operation WHERE service = ?", (service,))]


# ---- Tags -----------------------------------------------------------------------------------------------


def _with_words(reader: Reader, query: TraceQuery) -> set[int] | None:
    """The segments that have words of all tags; None when that would not narrow the search."""
    # Whatever is no error has no word that says so.
    tags = [(key, text) for key, text in query.tags.items() if (key, text) != ("error", "false")]
    if not tags or not reader.partition.has_usable_words:
        return None
    services = [query.service] if query.service else _services(reader)
    if len(services) > MANY_NAMES:
        return None
    every = [Words(service) for service in services]
    expression = " AND ".join(
        "(" + " OR ".join(f'"{words.word(key, text)}"' for words in every) + ")" for key, text in tags
    )
    sql = "SELECT rowid FROM word WHERE word MATCH ? LIMIT ?"
    found = {row[0] for row in reader.rows(sql, (expression, COMMON + 1))} if services else set()
    return found if len(found) <= COMMON else None


def _services(reader: Reader) -> list[str]:
    return [reader.name(row[0]) for row in reader.rows("SELECT DISTINCT service FROM operation")]
