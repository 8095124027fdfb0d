"""The store in PostgreSQL, on a real server that the tests start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from autoinstr.backend.store import FOREVER_NS, Dependency, StoreError, TraceQuery, pgschema
from autoinstr.backend.store.postgres import PostgresStore
from autoinstr.model import Batch

from .contract_store import StoreContract
from .spans import NOW_NS, SHOP, STOCK, a_span, found, span_ids, write

DAY_S = 86_400


def binaries() -> Path | None:
    """Where the server is: on PATH, or where Debian puts it."""
    on_path = shutil.which("postgres")
    places = [Path(on_path).parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


pytestmark = pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server (postgres, initdb) is installed")


class Server:
    """A server of its own, on a socket in a folder of its own; fast, since nothing of it outlives the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._as_whom: dict[str, object] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
            self._as_whom = {"user": "postgres", "group": "postgres", "extra_groups": ()}
            shutil.chown(folder, "postgres", "postgres")
        self._run("initdb", "-D", "data", "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self.start()

    def start(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "60",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [binaries() / "postgres", "-D", "data", *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **self._as_whom,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)

    @property
    def url(self) -> str:
        return f"postgresql://tests@/postgres?host={self.folder}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, name: str, *arguments: str) -> None:
        command = [binaries() / name, *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=120, **self._as_whom)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Not pytest's folder, which only its owner may enter; and short, because a socket's path has to be.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        started = Server(Path(folder))
        try:
            yield started
        finally:
            started.stop()


@pytest.fixture
def url(server: Server) -> str:
    """An empty database."""
    server.execute("DROP SCHEMA IF EXISTS autoinstr CASCADE")
    return server.url


@contextmanager
def opened(url: str, max_age_s: float = DAY_S, max_bytes: int | None = None) -> Iterator[PostgresStore]:
    store = PostgresStore(url, max_age_s=max_age_s, max_bytes=max_bytes)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def postgres(url: str) -> Iterator[PostgresStore]:
    with opened(url) as store:
        yield store


class TestPostgresStore(StoreContract):
    """Everything that a store has to do."""

    FLOOD = 6000

    @pytest.fixture
    def store(self, postgres: PostgresStore) -> PostgresStore:
        return postgres

    @pytest.fixture
    def small_store(self, url: str) -> Iterator[PostgresStore]:
        with opened(url, max_bytes=pgschema.SMALLEST_BYTES) as store:
            yield store


# Several backends


def test_backends_share_everything(url: str) -> None:
    """A team's spans come in through several backends; whoever asks any of them sees all of it, at once."""
    with opened(url) as one, opened(url) as other:
        write(one, a_span("root", span_id=1))
        write(other, a_span("child", span_id=2, parent_id=1), resource=STOCK)
        for store in (one, other):
            assert span_ids(store.trace(1)) == [1, 2]
            assert found(store, service="stock") == [1]
            assert store.dependencies(0, FOREVER_NS) == [Dependency("shop", "stock", 1, 0)]
            assert store.figures()["store_spans"] == 2
            assert store.figures()["store_traces"] == 1


def test_a_span_that_two_backends_got_is_one(url: str) -> None:
    """A sender that had no answer from one tries the other."""
    with opened(url) as one, opened(url) as other:
        for store in (one, other, one, other):
            write(store, a_span(), a_span(span_id=2))
        assert span_ids(one.trace(1)) == [1, 2]
        assert one.figures()["store_spans"] == 2
        assert sum(rate.calls for rate in other.rates([], 0, FOREVER_NS)) == 2


def test_backends_that_write_at_the_same_time(url: str) -> None:
    """Halves of the same traces, by two backends at once: nothing is lost or counted twice, and no write fails."""
    failures: list[BaseException] = []

    def run(store: PostgresStore, is_child: bool) -> None:
        try:
            for start in range(1, 201, 10):
                ids = range(start, start + 10)
                if is_child:
                    write(store, *(a_span("b", n, 2, parent_id=1) for n in ids), resource=STOCK)
                else:
                    write(store, *(a_span("a", n, 1) for n in ids), *(a_span("c", n, 3) for n in ids))
        except BaseException as error:
            failures.append(error)

    with opened(url) as one, opened(url) as other, opened(url) as third:
        stores = [(one, False), (other, True), (third, True)]
        threads = [threading.Thread(target=run, args=each) for each in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert failures == []
        assert one.figures()["store_spans"] == 600
        assert one.figures()["store_traces"] == 200
        assert one.dependencies(0, FOREVER_NS) == [Dependency("shop", "stock", 200, 0)]
        assert all(len(trace) == 3 for trace in other.find(TraceQuery(limit=300)))


def test_what_another_backend_forgot_is_taken_again(url: str) -> None:
    """One backend's memory of the database must not outlive what it remembers."""
    with opened(url) as one, opened(url) as other:
        write(one, a_span())
        other.clear()
        assert one.trace(1) == []
        write(one, a_span())
        assert span_ids(other.trace(1)) == [1]
        assert other.services() == ["shop"]


# Retention


def age(url: str, seconds: int) -> None:
    """Let time pass."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"UPDATE autoinstr.slice SET began_at = began_at - interval '{seconds} seconds'")


def test_what_is_too_old_goes(url: str) -> None:
    """Retention is by arrival, to an eighth of the time; archived traces stay."""
    with opened(url, max_age_s=800) as store:
        write(store, a_span("kept", trace_id=7))
        store.archive(7)
        for n in range(1, 21):
            write(store, a_span(trace_id=100 + n))
            age(url, 101)
        write(store, a_span(trace_id=200))
        kept = sorted(found(store))
        assert kept[0] in range(100 + 20 - 8, 100 + 20 - 6)
        assert kept[-1] == 200
        assert span_ids(store.trace(7)) == [1]
        assert store.evicted() == {"shop": 22 - len(kept)}
        assert store.figures()["store_spans"] == len(kept)


def test_the_disk_is_bounded(url: str) -> None:
    """The size that is told is the size of the tables on disk, indexes included."""
    limit = pgschema.SMALLEST_BYTES
    with opened(url, max_bytes=limit) as store:
        for n in range(150):
            text = "".join(f"{hash((n, k)):x}" for k in range(100))
            write(store, *(a_span(trace_id=n * 20 + k + 1, attributes={"text": text, "k": k}) for k in range(20)))
            assert store.figures()["store_bytes"] < limit * 1.2
        assert store.evicted()["shop"] > 500
        assert found(store, limit=3) != []


@pytest.mark.parametrize("max_bytes", [0, 100_000])
def test_a_size_that_cannot_work(url: str, max_bytes: int) -> None:
    """Empty tables are larger than that; the message says what is the least."""
    with pytest.raises(StoreError, match=f"needs at least {pgschema.SMALLEST_BYTES} bytes, not {max_bytes}"):
        PostgresStore(url, max_age_s=DAY_S, max_bytes=max_bytes)


def test_an_archive_that_is_full(url: str) -> None:
    """What is kept beyond all limits has a limit, too."""
    with opened(url, max_bytes=pgschema.SMALLEST_BYTES) as store:
        data = os.urandom(3 * 2**20)
        write(store, a_span(trace_id=1, attributes={"data": data}))
        assert store.archive(1)
        write(store, a_span(trace_id=2, attributes={"data": data}))
        with pytest.raises(StoreError, match="the archive is full"):
            store.archive(2)
        assert store.trace(1)[0][1].attributes == {"data": data}


# Trouble


def test_everything_is_there_after_a_restart(url: str) -> None:
    """Backends come and go."""
    with opened(url) as store:
        write(store, a_span(attributes={"key": "x"}))
        store.archive(1)
    with opened(url) as store:
        write(store, a_span(), a_span("b", span_id=2, parent_id=1), resource=SHOP)
        assert span_ids(store.trace(1)) == [1, 2]
        assert found(store, tags={"key": "x"}) == [1]


def test_a_server_that_is_restarted(url: str, server: Server) -> None:
    """The backend need not be restarted with it; what was answered is there."""
    with opened(url) as store:
        write(store, a_span())
        server.stop()
        with pytest.raises(StoreError, match="PostgreSQL"):
            write(store, a_span(span_id=2))
        with pytest.raises(StoreError, match="PostgreSQL"):
            store.trace(1)
        server.start()
        assert span_ids(store.trace(1)) == [1]
        write(store, a_span(span_id=2))
        assert span_ids(store.trace(1)) == [1, 2]


def test_a_write_that_fails_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender is told to try again, and its spans must not be taken for duplicates then."""
    from autoinstr.backend.store import postgres as module

    def fail(*_: object) -> None:
        raise psycopg.errors.DiskFull("no space left on device")

    with opened(url) as store:
        write(store, a_span(span_id=1))
        with monkeypatch.context() as patch:
            patch.setattr(module, "add_edges", fail)
            with pytest.raises(StoreError, match="no space left"):
                store.write([Batch(SHOP, [a_span(span_id=2)]), Batch(STOCK, [a_span("new", span_id=3, parent_id=1)])])
        assert span_ids(store.trace(1)) == [1]
        assert store.services() == ["shop"]
        assert store.dependencies(0, FOREVER_NS) == []
        store.write([Batch(SHOP, [a_span(span_id=2)]), Batch(STOCK, [a_span("new", span_id=3, parent_id=1)])])
        assert span_ids(store.trace(1)) == [1, 2, 3]
        assert store.dependencies(0, FOREVER_NS) == [Dependency("shop", "stock", 1, 0)]
        assert store.services() == ["shop", "stock"]


BACKEND = """
import sys
from autoinstr.backend.store.postgres import PostgresStore
from autoinstr.model import Batch, Resource, SpanData
store = PostgresStore(sys.argv[1], max_age_s=1000, max_bytes=None)
number = 0
while True:
    spans = [SpanData("GET", number + 1, n + 1, n, start_ns=10**18, end_ns=10**18) for n in range(50)]
    store.write([Batch(Resource("shop"), spans)])
    print(number, flush=True)
    number += 1
"""


def test_a_backend_that_is_killed_in_mid_write(url: str) -> None:
    """kill -9: every write is there or not, never half of it, and what was answered is; others go on writing."""
    for _ in range(3):
        with opened(url) as store:
            store.clear()
            process = subprocess.Popen([sys.executable, "-c", BACKEND, url], stdout=subprocess.PIPE, text=True)
            for _ in range(20):
                line = process.stdout.readline()
            process.kill()
            rest = process.stdout.read()
            process.wait(timeout=30)
            process.stdout.close()
            answered = int([line, *rest[: rest.rfind("\n") + 1].split()][-1])
            write(store, a_span(trace_id=10**6))
            traces = store.find(TraceQuery(limit=10_000))
            assert {len(trace) for trace in traces} == {1, 50}
            assert set(range(1, answered + 2)) <= {trace[0][1].trace_id for trace in traces}
            assert store.figures()["store_spans"] == sum(len(trace) for trace in traces)


def test_tables_of_a_newer_version(url: str) -> None:
    """Two versions in one database would damage each other's tables; the message says what to do."""
    with opened(url):
        pass
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE autoinstr.meta SET version = 99")
    with pytest.raises(StoreError, match="version 99, and this program knows version 1: upgrade autoinstr"):
        PostgresStore(url, max_age_s=DAY_S, max_bytes=None)


def test_a_user_who_may_not_make_tables(url: str, server: Server) -> None:
    """The server's own words, and where it happened."""
    server.execute("DROP ROLE IF EXISTS guest")
    server.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(StoreError, match="cannot prepare the tables in the schema autoinstr: permission denied"):
        PostgresStore(url.replace("tests@", "guest@"), max_age_s=DAY_S, max_bytes=None)


@pytest.mark.parametrize(
    ("bad_url", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", "cannot connect to PostgreSQL"),
        ("postgresql://me:secret@[::1", "not a PostgreSQL URL"),
        ("nonsense secret", "not a PostgreSQL URL"),
    ],
)
def test_an_address_that_is_wrong(bad_url: str, message: str) -> None:
    """The error comes at the start, and does not tell the password to whoever reads the log."""
    with pytest.raises(StoreError, match=message) as raised:
        PostgresStore(bad_url, max_age_s=DAY_S, max_bytes=None)
    assert "secret" not in str(raised.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'autoinstr\[postgres\]'"):
        PostgresStore("postgresql:///x", max_age_s=DAY_S, max_bytes=None)


def test_the_newest_trace_is_not_hidden_by_late_spans_of_older_ones(postgres: PostgresStore) -> None:
    """Traces of batch jobs go on for long: what they did last does not make them newer than what began since."""
    for n in range(1, 201):
        write(postgres, a_span(trace_id=n, start_ns=NOW_NS + n))
        write(postgres, a_span("late", trace_id=n, span_id=2, start_ns=NOW_NS + 10**11 + n))
    write(postgres, a_span(trace_id=1000, start_ns=NOW_NS + 10**10))
    assert found(postgres, limit=1) == [1000]
    assert found(postgres, service="shop", limit=3) == [1000, 200, 199]


def test_a_search_reads_little(postgres: PostgresStore) -> None:
    """The first page of a search must not become slower with all that is stored: looked at are the newest segments only."""
    for start in range(0, 20_000, 2000):
        write(postgres, *(a_span(trace_id=n + 1, start_ns=NOW_NS + n * 10**6) for n in range(start, start + 2000)))
    looked_at = []
    usual = postgres._has_match
    postgres._has_match = lambda *arguments: looked_at.append(1) or usual(*arguments)  # type: ignore[method-assign]
    assert found(postgres, service="shop", limit=20) == list(range(20_000, 19_980, -1))
    assert len(looked_at) <= 200
