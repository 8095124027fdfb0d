"""What storing and finding spans costs: CPU per span on the way in, milliseconds per question, bytes per span.

Usage: ``python benchmarks/store.py [--spans 100000] [--store sqlite memory]``. Traces of 20 spans over one hour, from 12
services with 12 operations each, six tags a span (one with 100,000 values), shuffled within writes of 5,000 spans; one span of
a hundred has ``http.status_code=500``. Time for making the spans is not counted; a question is asked several times, and the
median is given, with the longest beside it.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import HERE, Report, table

from autoinstr.backend.app import GC_THRESHOLD
from autoinstr.backend.store import FOREVER_NS, MemoryStore, Store, TraceQuery
from autoinstr.backend.store.sqlite import SqliteStore
from autoinstr.model import Batch, Kind, Resource, SpanData, Status

SERVICES, OPERATIONS = 12, 12
SPANS_PER_TRACE = 20
WRITE = 5_000
HOUR_NS = 3600 * 10**9
START_NS = 1_763_867_358 * 10**9
ASKED = 15
MIB = 2**20

RESOURCES = [
    Resource(
        f"service-{n}", {"host.name": f"host-{n % 4}", "process.pid": 4711 + n, "telemetry.sdk.language": "python"}
    )
    for n in range(SERVICES)
]


def trace(dice: random.Random, start_ns: int) -> list[tuple[int, SpanData]]:
    """The spans of one trace, each with the number of its service; a span's parent is one of those before it."""
    trace_id = dice.getrandbits(128)
    made: list[tuple[int, SpanData]] = []
    for number in range(SPANS_PER_TRACE):
        failed = dice.random() < 0.01
        begun = start_ns + number * 1_000_000
        span = SpanData(
            f"GET /operation-{dice.randrange(OPERATIONS)}",
            trace_id,
            dice.getrandbits(64),
            made[dice.randrange(number)][1].span_id if number else 0,
            kind=(Kind.SERVER, Kind.CLIENT, Kind.INTERNAL)[number % 3],
            start_ns=begun,
            end_ns=begun + int(dice.expovariate(1 / 3e6)),
            status=Status.ERROR if failed else Status.UNSET,
            scope="flask",
            attributes={
                "http.method": ("GET", "POST")[number & 1],
                "http.status_code": 500 if failed else 200,
                "http.url": f"http://shop.example/item/{dice.randrange(1000)}",
                "user.id": f"user-{dice.randrange(100_000)}",
                "db.statement": "SELECT name, price, stock FROM item WHERE id = %s",
                "cache.hit": dice.random() < 0.5,
            },
        )
        made.append((dice.randrange(SERVICES), span))
    return made


def writes(spans: int) -> Iterator[list[Batch]]:
    """What the writer of a busy backend hands over: all that came in a moment, by sender."""
    dice = random.Random(7)
    traces_per_write = WRITE // SPANS_PER_TRACE
    count = spans // WRITE
    for number in range(count):
        found = [
            each
            for n in range(traces_per_write)
            for each in trace(dice, START_NS + HOUR_NS * (number * traces_per_write + n) // (count * traces_per_write))
        ]
        dice.shuffle(found)
        yield [
            Batch(resource, [span for service, span in found if service == n]) for n, resource in enumerate(RESOURCES)
        ]


def fill(store: Store, spans: int) -> dict[str, Any]:
    """Write the spans; what it cost, and the id of a trace of the middle."""
    cpu = wall = 0.0
    longest = 0.0
    kept = 0
    for number, batches in enumerate(writes(spans)):
        began, began_cpu = time.perf_counter(), time.process_time()
        store.write(batches)
        cpu += time.process_time() - began_cpu
        took = time.perf_counter() - began
        wall += took
        longest = max(longest, took)
        if number == spans // WRITE // 2:
            kept = batches[0].spans[0].trace_id
    size = store.figures()["store_bytes"]
    return {
        "spans_per_cpu_s": spans / cpu,
        "spans_per_s": spans / wall,
        "longest_write_ms": longest * 1000,
        "bytes_per_span": size / spans,
        "kept": kept,
    }


def questions(kept: int) -> dict[str, Callable[[Store], Any]]:
    """What people ask, by what it is called in the table."""
    service, operation = "service-3", "GET /operation-4"

    def finds(**conditions: Any) -> Callable[[Store], Any]:
        return lambda store: store.find(TraceQuery(**{"limit": 20, **conditions}))

    failed = {"http.status_code": "500"}
    return {
        "trace by id": lambda store: store.trace(kept),
        "newest of all": finds(),
        "newest of a service": finds(service=service),
        "service, tag, duration": finds(service=service, tags=failed, min_duration_ns=5_000_000),
        "service, operation, tag, duration": finds(
            service=service, operation=operation, tags=failed, min_duration_ns=5_000_000
        ),
        "tag alone": finds(tags=failed),
        "a tag that all have": finds(service=service, tags={"http.method": "GET"}),
        "one user of 100,000": finds(service=service, tags={"user.id": "user-777"}),
        "one user, any service": finds(tags={"user.id": "user-777"}),
        "slow ones (1 s: none)": finds(service=service, min_duration_ns=10**9),
        "a minute, half an hour ago": finds(
            service=service, tags=failed, start_ns=START_NS + HOUR_NS // 2, end_ns=START_NS + HOUR_NS // 2 + 60 * 10**9
        ),
        "1,500 traces of a service": finds(service=service, limit=1500),
        "services": lambda store: store.services(),
        "operations": lambda store: store.operations(service),
        "dependencies": lambda store: store.dependencies(0, FOREVER_NS),
        "rates of a service": lambda store: store.rates([service], 0, FOREVER_NS),
    }


def ask(store: Store, question: Callable[[Store], Any]) -> dict[str, float]:
    """CPU milliseconds for an answer: the median and the longest, and how many things it held."""
    took = []
    for _ in range(ASKED):
        began = time.process_time()
        answer = question(store)
        took.append((time.process_time() - began) * 1000)
        if sum(took) > 5_000:
            break
    return {"median_ms": statistics.median(took), "longest_ms": max(took), "found": len(answer)}


def measured(name: str, spans: int, folder: str) -> dict[str, Any]:
    """Fill a store and ask it everything."""
    # As ``autoinstr serve`` does.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    stores: dict[str, Callable[[], Store]] = {
        "sqlite": lambda: SqliteStore(folder, max_bytes=1024 * MIB),
        "memory": lambda: MemoryStore(spans),
    }
    store = stores[name]()
    try:
        filled = fill(store, spans)
        answers = {title: ask(store, question) for title, question in questions(filled.pop("kept")).items()}
    finally:
        store.close()
    return {"filled": filled, "answers": answers}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spans", type=int, default=1_000_000, help="how many to store (default: %(default)s)")
    parser.add_argument("--store", nargs="+", default=["sqlite"], choices=["sqlite", "memory"])
    parser.add_argument("--results", default=str(HERE / "results"), help="folder for the results")
    options = parser.parse_args()
    if options.spans % WRITE:
        sys.exit(f"--spans has to be a multiple of {WRITE}")
    report = Report("store", options)
    for name in options.store:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(name, options.spans, str(Path(folder) / "spans"))
        report.record["samples"][name] = found
        rows = [[key, f"{value:,.0f}"] for key, value in found["filled"].items()]
        report.add(f"{name}: {options.spans:,} spans stored", table(["", ""], rows))
        rows = [
            [title, f"{each['median_ms']:.2f}", f"{each['longest_ms']:.2f}", f"{each['found']}"]
            for title, each in found["answers"].items()
        ]
        report.add(f"{name}: questions, CPU ms", table(["", "median", "longest", "found"], rows))
    report.save()


if __name__ == "__main__":
    main()
