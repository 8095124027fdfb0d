"""From one laptop to 10,000 services: what a span weighs and costs at each stage, and what steering does to a fleet (docs/scale.md).

    python benchmarks/scale.py            # all of it: measure, simulate, write the tables into docs/scale.md
    python benchmarks/scale.py measure    # Linux, two CPUs; PostgreSQL where it is installed
    python benchmarks/scale.py simulate   # no machine needed: simulated time, one seed, one outcome
    python benchmarks/scale.py docs       # write the tables again; `check` fails where they differ from the results

CPU time, never wall time; cases take turns, and a figure is the median of their rounds, with the least and the most beside it. What was
measured by `ingest.py`, `store.py` and `overhead.py` is taken from their newest results.

The mix: one request to a service of a shop, four spans. Its server span (Flask), the call of another service (requests), two statements
(PostgreSQL): the attributes that the instruments give them. Ten routes, each with statements of its own; 100,000 items, which have paths of
their own; 10,000 clients with 20 browsers. One request in five begins a trace, the others are called by another service.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import itertools
import json
import os
import pwd
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import fleet  # noqa: E402
from scale_page import SERVICES_PER_TRACE, SPANS_PER_REQUEST, chart, results_page, with_tables  # noqa: E402

from autoinstr import __version__, config  # noqa: E402
from autoinstr.backend.store import MemoryStore  # noqa: E402
from autoinstr.instrument import http as instrument_http  # noqa: E402
from autoinstr.instrument.sql import describe_statement, name_of  # noqa: E402
from autoinstr.model import SAMPLED, Batch, Kind, Resource, SpanContext, SpanData  # noqa: E402
from autoinstr.report import InMemoryReporter, Reporter  # noqa: E402
from autoinstr.sampling import ConstSampler  # noqa: E402
from autoinstr.trace import Tracer  # noqa: E402
from autoinstr.wire import jaeger, otlp, zipkin  # noqa: E402

RESULTS = HERE / "results"
RECORD = RESULTS / "scale.json"
PAGE = HERE.parent / "docs" / "scale.md"
CHART = HERE.parent / "docs" / "scale.svg"

BATCH = 512
START_NS = 1_763_867_358 * 10**9
#: As the agent compresses.
GZIP = (1, zlib.DEFLATED, 31)

# ---- The mix -------------------------------------------------------------------------------------------

#: One route of the service for each.
KINDS = ("item", "order", "basket", "user", "offer", "review", "image", "invoice", "parcel", "return")
#: Of each request two: what is read, and what is written.
READING = [f"SELECT id, name, price, stock FROM {each}s WHERE id = %s AND shop_id = %s" for each in KINDS]
WRITING = [f"INSERT INTO {each}_views (item_id, user_id, seen_at) VALUES (%s, %s, now())" for each in KINDS]
ITEMS, CLIENTS, BROWSERS = 100_000, 10_000, 20


class Shop:
    """Makes the spans of requests, as the instruments would, with ids from a seed; times are those of a real service."""

    def __init__(self, tracer: Tracer, seed: int = 7) -> None:
        self.tracer = tracer
        self.dice = random.Random(seed)
        tracer.getrandbits = self.dice.getrandbits
        self.conventions = instrument_http.Conventions(config.from_env({}))

    def serve(self) -> None:
        """One request."""
        kind, item = self.dice.randrange(len(KINDS)), self.dice.randrange(ITEMS)
        server = self._begin(KINDS[kind], item)
        client = self.tracer.start("GET", Kind.CLIENT, server, "requests")
        target = f"/stock/{item}"
        client.facts = (
            *client.facts,
            *instrument_http.client_facts(self.conventions, "GET", "http", "stock.example", 8080, target),
        )
        instrument_http.end_client(client, 200, "1.1", None, self.conventions.client_response)
        for statement in (READING[kind], WRITING[kind]):
            span = self.tracer.start(name_of(statement), Kind.CLIENT, server, "psycopg")
            span.facts = ((describe_statement, "postgresql", "shop", "db.example", 5432, statement, True),)
            span.end()
        instrument_http.end_server(server, 200, None, self.conventions.server_response)

    def _begin(self, kind: str, item: int) -> Any:
        caller = None
        if self.dice.random() >= 1 / SERVICES_PER_TRACE:
            trace_id, span_id = self.dice.getrandbits(128), self.dice.getrandbits(64)
            caller = SpanContext(trace_id, span_id, SAMPLED, is_remote=True)
        server = self.tracer.start_local_root("GET", Kind.SERVER, caller, "flask", False)
        if server.recording:
            server.facts = (
                *server.facts,
                (self.conventions.server_request, "GET", "http", "shop.example:8080", "HTTP/1.1"),
                (self.conventions.server_target, "", f"/{kind}s/{item}", ""),
                (self.conventions.server_client, *self._client()),
            )
            instrument_http.set_route(server, f"/{kind}s/<int:{kind}>")
        return server

    def _client(self) -> tuple[str, str, str]:
        """Somebody's browser, behind one of two proxies."""
        number = self.dice.randrange(CLIENTS)
        browser = f"Mozilla/5.0 (X11; Linux x86_64; rv:{100 + number % BROWSERS}.0) Gecko/20100101 Firefox/{100 + number % BROWSERS}.0"
        return browser, f"203.0.{number >> 8}.{number & 255}", f"10.0.0.{number & 1}"


def mix(spans: int, seed: int = 7) -> list[SpanData]:
    """As many spans, in the order in which they end; their times are made up, so that their bytes are the same each time."""
    reporter = InMemoryReporter(spans + SPANS_PER_REQUEST)
    shop = Shop(Tracer(ConstSampler(True), reporter), seed)
    for _ in range(-(-spans // SPANS_PER_REQUEST)):
        shop.serve()
    made = list(reporter.spans)[:spans]
    for number, span in enumerate(made):
        span.start_ns = START_NS + number * 250_000 + shop.dice.randrange(250_000)
        span.end_ns = span.start_ns + int(shop.dice.lognormvariate(14.5, 1.2))
    return made


def a_resource(number: int = 0) -> Resource:
    """A process, as the agent names it."""
    dice = random.Random(number)
    attributes = {
        "hostname": f"web-{number}",
        "host.name": f"web-{number}",
        "process.pid": 4711 + number,
        "process.runtime.version": "3.11.7",
        "service.instance.id": f"{dice.getrandbits(128):032x}",
        "telemetry.sdk.name": "autoinstr",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": "0.1.0",
        "jaeger.version": "Python-autoinstr-0.1.0",
    }
    return Resource(f"shop-{number}", attributes)


ENCODERS: dict[str, Callable[[Resource], Any]] = {
    "Jaeger compact, UDP": jaeger.CompactEncoder,
    "Jaeger binary, HTTP": jaeger.BinaryEncoder,
    "OTLP protobuf, HTTP": lambda resource: otlp.ProtobufEncoder(resource, version="0.1.0"),
    "OTLP JSON, HTTP": lambda resource: otlp.JsonEncoder(resource, version="0.1.0"),
    "Zipkin JSON, HTTP": zipkin.JsonEncoder,
}

def encoded(encoder: Any, spans: Sequence[SpanData]) -> list[tuple[bytes, int]]:
    """Payloads as the agent's worker makes them of batches."""
    payloads: list[tuple[bytes, int]] = []
    for first in range(0, len(spans), BATCH):
        payloads += encoder.encode(spans[first : first + BATCH])[0]
    return payloads


def squeezed(payload: bytes) -> bytes:
    squeeze = zlib.compressobj(*GZIP)
    return squeeze.compress(payload) + squeeze.flush()


def weights(spans: int = 20 * BATCH) -> dict[str, dict[str, float]]:
    """Bytes per span on each wire, as they are and compressed."""
    found = {}
    for name, make in ENCODERS.items():
        payloads = [payload for payload, _ in encoded(make(a_resource()), mix(spans))]
        found[name] = {
            "bytes": round(sum(map(len, payloads)) / spans, 1),
            "gzip_bytes": round(sum(len(squeezed(payload)) for payload in payloads) / spans, 1),
        }
    return found


# ---- Measuring -----------------------------------------------------------------------------------------

Case = Callable[[], dict[str, float]]
Samples = dict[str, dict[str, list[float]]]


def taking_turns(cases: Mapping[str, Case], rounds: int) -> Samples:
    """What each case returns, round by round; every other round in reverse, so that a drift of the machine spreads evenly."""
    samples: Samples = {name: {} for name in cases}
    for number in range(rounds):
        order = list(cases)[:: -1 if number % 2 else 1]
        for name in order:
            gc.collect()
            for key, value in cases[name]().items():
                samples[name].setdefault(key, []).append(value)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples


def making_cases(requests: int) -> dict[str, Case]:
    """CPU microseconds on the program's threads: per request whose spans are kept, and per one whose are not."""

    def case(sampled: bool) -> Case:
        # A queue that nobody empties meanwhile; what the worker does is measured as encoding.
        reporter = Reporter(list, max_queue=10**9, start_thread=lambda work, arguments: None)
        shop = Shop(Tracer(ConstSampler(sampled), reporter))
        shop.dice.random = lambda: 0.0  # type: ignore[method-assign]  # All begin here, so that the sampler decides.

        def run() -> dict[str, float]:
            reporter.queue.clear()
            began = time.process_time_ns()
            for _ in range(requests):
                shop.serve() if sampled else shop._begin("item", 1).end()
            return {"us": (time.process_time_ns() - began) / requests / 1000}

        return run

    return {"four spans, kept": case(True), "server span, not kept": case(False)}


def encoding_cases(spans: int) -> dict[str, Case]:
    """CPU microseconds per span, on the agent's worker."""

    def case(make: Callable[[Resource], Any]) -> Case:
        encoder, seeds = make(a_resource()), itertools.count(1)

        def run() -> dict[str, float]:
            fresh = mix(spans, next(seeds))
            began = time.process_time_ns()
            payloads = encoded(encoder, fresh)
            ended = time.process_time_ns()
            for payload, _ in payloads:
                squeezed(payload)
            squeezed_at = time.process_time_ns()
            return {"us": (ended - began) / spans / 1000, "gzip_us": (squeezed_at - ended) / spans / 1000}

        return run

    return {name: case(make) for name, make in ENCODERS.items()}


#: How a payload is sent: the backend's port, path and content type; and whether it is compressed.
WAYS = {
    "Jaeger compact, UDP": ("Jaeger compact, UDP", "agent", "", "", False),
    "Jaeger binary, HTTP": ("Jaeger binary, HTTP", "collector", "/api/traces", "application/x-thrift", False),
    "OTLP protobuf, HTTP": ("OTLP protobuf, HTTP", "otlp", "/v1/traces", "application/x-protobuf", False),
    "OTLP protobuf, HTTP, gzip": ("OTLP protobuf, HTTP", "otlp", "/v1/traces", "application/x-protobuf", True),
    "OTLP JSON, HTTP": ("OTLP JSON, HTTP", "otlp", "/v1/traces", "application/json", False),
    "Zipkin JSON, HTTP": ("Zipkin JSON, HTTP", "zipkin", "/api/v2/spans", "application/json", False),
}
SENDERS = 12
CONNECTIONS = 8


def ingest_cases(spans: int) -> dict[str, Case]:
    """A fresh `autoinstr serve` on the measured CPU, one for each sample: CPU microseconds per span, from the socket into SQLite."""
    import ingest

    def case(encoder: str, port: str, path: str, content_type: str, compress: bool) -> Case:
        made = mix(spans, 11)
        share = -(-spans // SENDERS)
        payloads = [
            (squeezed(payload) if compress else payload, count)
            for number in range(SENDERS)
            for payload, count in encoded(ENCODERS[encoder](a_resource(number)), made[number * share : (number + 1) * share])
        ]
        headers = {"Content-Type": content_type, **({"Content-Encoding": "gzip"} if compress else {})}

        def run() -> dict[str, float]:
            with ingest.backend("sqlite", []) as at:
                before = at.cpu_seconds()
                if path:
                    post_all(at.ports[port], path, headers, payloads)
                else:
                    ingest.send_udp(at, payloads)
                wait_for(lambda: at.written() >= spans, f"{spans} spans over {encoder}")
                return {"us": (at.cpu_seconds() - before) / spans * 1e6, "resident_mb": at.resident_bytes() / 2**20}

        return run

    return {name: case(*way) for name, way in WAYS.items()}


def post_all(port: int, path: str, headers: Mapping[str, str], payloads: Sequence[tuple[bytes, int]]) -> None:
    """Each connection sends its next request when the last one was answered. Raises what the first of them raised."""
    waiting = iter(payloads)
    lock, failures = threading.Lock(), []

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            while not failures:
                with lock:
                    payload, _ = next(waiting, (None, 0))
                if payload is None:
                    return
                connection.request("POST", path, payload, dict(headers))
                response = connection.getresponse()
                said = response.read()
                if not 200 <= response.status < 300:
                    raise RuntimeError(f"{path} answered {response.status}: {said[:200]!r}")
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within a minute")
        time.sleep(0.02)


def poll_cases(polls: int) -> dict[str, Case]:
    """CPU microseconds of `autoinstr serve` for a poll for strategies, each over a connection of its own, as agents ask."""
    import ingest

    def case(operations: int) -> Case:
        rows = [{"operation": f"GET /{n}", "type": "probabilistic", "param": 0.01} for n in range(operations)]
        strategy = {"type": "probabilistic", "param": 0.5, **({"operation_strategies": rows} if rows else {})}

        def run() -> dict[str, float]:
            from autoinstr.transport import fetch

            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "strategies.json")
                file.write_text(json.dumps({"default_strategy": strategy}))
                with ingest.backend("memory", ["--strategies-file", str(file)]) as at:
                    url = f"http://127.0.0.1:{at.ports['sampling']}/sampling?service=shop"
                    size = len(fetch(url))
                    before = at.cpu_seconds()
                    for _ in range(polls):
                        fetch(url)
                    return {"us": (at.cpu_seconds() - before) / polls * 1e6, "bytes": size}

        return run

    return {f"{operations} operations": case(operations) for operations in (0, 20, 300)}


WRITE = 5_000


def store_cases(spans: int, postgres: Postgres | None) -> dict[str, Case]:
    """CPU microseconds per span of a fresh store, writes of 5,000 spans: in our process, and in the database's."""
    from autoinstr.backend.app import GC_THRESHOLD
    from autoinstr.backend.store.sqlite import SqliteStore

    # As `autoinstr serve` does.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)

    def writes() -> Iterator[list[Batch]]:
        made = mix(spans, 13)
        for first in range(0, spans, WRITE):
            written = made[first : first + WRITE]
            share = -(-len(written) // SENDERS)
            yield [Batch(a_resource(n), as_received(written[n * share : (n + 1) * share])) for n in range(SENDERS)]

    def fill(store: Any, server: Callable[[], float] = lambda: 0.0) -> dict[str, float]:
        cpu = 0.0
        before = server()
        for batches in writes():
            began = time.process_time()
            store.write(batches)
            cpu += time.process_time() - began
        us, server_us = cpu / spans * 1e6, (server() - before) / spans * 1e6
        return {"us": us, "server_us": server_us, "bytes": store.figures()["store_bytes"] / spans}

    def closing(store: Any, *arguments: Any) -> dict[str, float]:
        try:
            return fill(store, *arguments)
        finally:
            store.close()

    def sqlite() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            return closing(SqliteStore(str(Path(folder, "spans")), max_bytes=2**32))

    cases: dict[str, Case] = {"memory": lambda: closing(MemoryStore(10 * spans)), "SQLite": sqlite}
    if postgres is not None:
        cases["PostgreSQL"] = lambda: closing(postgres.fresh_store(), postgres.cpu_seconds)
    return cases


def as_received(spans: Sequence[SpanData]) -> list[SpanData]:
    """Spans as a decoder makes them: with their attributes written out, and the tracer forgotten."""
    return [
        SpanData(
            span.name,
            span.trace_id,
            span.span_id,
            span.parent_id,
            kind=span.kind,
            start_ns=span.start_ns,
            end_ns=span.end_ns,
            attributes=span.attributes,
            status=span.status,
            scope=span.scope,
        )
        for span in spans
    ]


class Postgres:
    """A server of its own, with PostgreSQL's own settings."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        self._as_whom: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
            self._as_whom = {"user": "postgres", "group": "postgres", "extra_groups": ()}
            shutil.chown(folder, "postgres", "postgres")
        options = ("-D", "data", "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-locale")
        subprocess.run([binaries / "initdb", *options], cwd=folder, check=True, capture_output=True, **self._as_whom)
        with open(folder / "log", "ab") as log:
            settings = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}")
            command = [binaries / "postgres", "-D", "data", *settings]
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **self._as_whom)
        wait_for(self._answers, "PostgreSQL's start")

    @property
    def url(self) -> str:
        return f"postgresql://tests@/postgres?host={self.folder}"

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1")
        except Exception:
            return False
        return True

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def fresh_store(self) -> Any:
        from autoinstr.backend.store.postgres import PostgresStore

        self._execute("DROP SCHEMA IF EXISTS autoinstr CASCADE")
        self._execute("CHECKPOINT")
        return PostgresStore(self.url)

    def cpu_seconds(self) -> float:
        """Of the server with all its processes, those included that have ended."""
        ticks = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # It has ended.
                continue
            if folder.name == str(self._process.pid):
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == self._process.pid:
                ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def version(self) -> str:
        said = subprocess.run([self.binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
        return said.stdout.split()[2]

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)


@contextmanager
def postgres_if_there() -> Iterator[Postgres | None]:
    on_path = shutil.which("postgres")
    places = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    binaries = next((place for place in places if (place / "initdb").exists()), None)
    if binaries is None or (os.geteuid() == 0 and not any(user.pw_name == "postgres" for user in pwd.getpwall())):
        print("PostgreSQL is left out: no server (postgres, initdb) is installed", file=sys.stderr)
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = Postgres(binaries, Path(folder))
        try:
            yield server
        finally:
            server.stop()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that takes a machine."""
    import sqlite3

    import measure

    rounds, facts = options.rounds, measure.machine()
    os.sched_setaffinity(0, {measure.PEER_CPU})
    with postgres_if_there() as postgres:
        samples = {
            "making": taking_turns(making_cases(5_000), 3 * rounds),
            "encoding": taking_turns(encoding_cases(20 * BATCH), 3 * rounds),
            "ingest": taking_turns(ingest_cases(options.spans), rounds),
            "polls": taking_turns(poll_cases(1_000), rounds),
            "store": taking_turns(store_cases(4 * options.spans, postgres), rounds),
        }
        versions = {"autoinstr": __version__, "SQLite": sqlite3.sqlite_version}
        if postgres is not None:
            versions["PostgreSQL"] = postgres.version()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": measure.commit(),
        "machine": facts,
        "versions": versions,
        "rounds": rounds,
        "spans": options.spans,
        "weights": weights(),
        "samples": {
            part: {name: {key: [round(v, 3) for v in values] for key, values in found.items()} for name, found in cases.items()}
            for part, cases in samples.items()
        },
        "elsewhere": elsewhere(),
    }


def elsewhere() -> dict[str, Any]:
    """What other benchmarks have measured, by the names of their files."""
    newest = {name: max(RESULTS.glob(f"{name}-*.json")) for name in ("ingest", "store", "overhead")}
    ingest, store, overhead = (json.loads(newest[name].read_text()) for name in ("ingest", "store", "overhead"))
    answers = store["samples"]["sqlite"]["answers"]
    asked = ("trace by id", "service, tag, duration", "tag alone", "services", "dependencies", "rates of a service")

    def added_us(scenario: str, variant: str) -> float:
        return statistics.median(theirs["us"] - bare["us"] for bare, theirs in overhead["samples"][scenario][variant])

    return {
        "files": {name: path.stem for name, path in newest.items()},
        "ingest_per_cpu_s": {
            name: statistics.median(sample["per_cpu_s"] for sample in samples) for name, samples in ingest["samples"].items()
        },
        "store": {key: store["samples"]["sqlite"]["filled"][key] for key in ("spans_per_cpu_s", "bytes_per_span")},
        "query_ms": {name: answers[name]["median_ms"] for name in asked},
        "request_us": {
            f"{scenario} {variant.partition('@')[2]} %": added_us(scenario, variant)
            for scenario in ("flask", "fastapi", "requests")
            for variant in ("autoinstr@100", "autoinstr@0")
        },
    }


# ---- Simulating ----------------------------------------------------------------------------------------

SEED = 20
#: Processes, services, operations of each, requests a second that begin a trace.
FLEET = (1000, 40, 8, 6000.0)


def simulated() -> dict[str, Any]:
    """Everything that takes a seed."""
    instances, services, operations, per_s = FLEET
    starts = {"all at once": 0.0, "within 5 minutes": 300.0}
    return {
        "seed": SEED,
        "fleet": {"instances": instances, "services": services, "operations": operations, "per_s": per_s},
        "story": fleet.outcome(fleet.story(SEED, instances, services, operations, per_s)),
        "herd": {
            start: {spread: fleet.herd(SEED, instances, spread, over_s) for spread in fleet.SPREADS}
            for start, over_s in starts.items()
        },
        "replicas": {str(count): round(fleet.replicas(SEED, count), 3) for count in (1, 2, 4)},
        "many_services": {
            str(count): {name: round(number, 3) for name, number in fleet.many_services(SEED, count).items()}
            for count in (100, 1000, 1100)
        },
    }


# ---- The command line ----------------------------------------------------------------------------------


def load() -> dict[str, Any]:
    """What is known so far."""
    return dict(json.loads(RECORD.read_text())) if RECORD.exists() else {}


def save(record: Mapping[str, Any]) -> None:
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=("all", "measure", "simulate", "docs", "check"), default="all")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each case (default: %(default)s)")
    parser.add_argument("--spans", type=int, default=60_000, help="in a sample of a backend; of a store: four times as many (default: %(default)s)")
    options = parser.parse_args()
    record = load()
    if options.what in ("all", "measure"):
        record["measured"] = measured(options)
        save(record)
    if options.what in ("all", "simulate"):
        record["simulated"] = simulated()
        save(record)
    missing = {"measured", "simulated"} - set(record)
    if missing:
        sys.exit(f"no tables yet: nothing is {' and '.join(sorted(missing))}; run all of it once")
    wanted = with_tables(PAGE.read_text(), record)
    if options.what == "check":
        if (wanted, chart(record)) != (PAGE.read_text(), CHART.read_text()):
            sys.exit(f"{PAGE.name} does not say what the results say: python benchmarks/scale.py docs")
        return
    PAGE.write_text(wanted)
    CHART.write_text(chart(record))
    RECORD.with_suffix(".md").write_text(results_page(record))
    print(results_page(record))


if __name__ == "__main__":
    main()
