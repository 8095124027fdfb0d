"""The store on disk: what it survives, what it refuses, how much it keeps."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoinstr.backend import log
from autoinstr.backend.store import FOREVER_NS, Dependency, StoreError, TraceQuery, segments, sqlite_partition
from autoinstr.backend.store.sqlite import SqliteStore
from autoinstr.model import Batch

from .contract_store import StoreContract
from .spans import NOW_NS, SHOP, STOCK, a_span, found, span_ids, write, write_each

FOLDER_SIZE = 800_000


class TestSqliteStore(StoreContract):
    """Everything that a store has to do."""

    FLOOD = 2000

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        with closing(SqliteStore(str(tmp_path / "spans"))) as store:
            yield store

    @pytest.fixture
    def small_store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        with closing(SqliteStore(str(tmp_path / "small"), max_bytes=FOLDER_SIZE, partition_bytes=200_000)) as store:
            yield store


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "spans")


def opened(folder: str, **options) -> closing[SqliteStore]:
    return closing(SqliteStore(folder, **options))


def partitions(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("spans-") and name.endswith(".db"))


def folder_bytes(folder: str) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder) if "-shm" not in entry.name)


# ---- Surviving ------------------------------------------------------------------------------------------

#: Writes batches of 50 spans for ever, and says of each when it is stored.
WRITING = """
import sys
sys.path.insert(0, sys.argv[3])
from backend.spans import SHOP, a_span, write
from autoinstr.backend.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1], partition_bytes=1_000_000)
batch = int(sys.argv[2])
while True:
    write(store, *(a_span(f"op{n % 9}", batch * 10 + n // 10 + 1, n + 1, n, attributes={"batch": batch}) for n in range(50)))
    sys.stdout.write(f"{batch}\\n")
    sys.stdout.flush()
    batch += 1
"""


def test_killed_in_the_middle_of_a_write(folder: str) -> None:
    """Nothing that was acknowledged is lost, whatever the moment, and the files are sound."""
    dice = random.Random(5)
    acknowledged: list[int] = []
    for _ in range(5):
        # What was not acknowledged any more may be there all the same.
        start = acknowledged[-1] + 2 if acknowledged else 0
        acknowledged += _write_until_killed(folder, start, dice.uniform(0.05, 0.4))
    assert len(acknowledged) > 10
    with opened(folder) as store:
        spans = [span for trace in store.find(TraceQuery(service="shop", limit=10**6)) for _, span in trace]
        counts = Counter(span.attributes["batch"] for span in spans)
        assert set(acknowledged) <= set(counts)
        assert set(counts.values()) == {50}
        assert (
            store.figures()["store_spans"] == len(spans) == sum(rate.calls for rate in store.rates([], 0, FOREVER_NS))
        )
    for name in partitions(folder):
        with closing(sqlite3.connect(os.path.join(folder, name))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _write_until_killed(folder: str, start: int, after_s: float) -> list[int]:
    """The batches that were acknowledged before the end."""
    command = [sys.executable, "-c", WRITING, folder, str(start), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).split("\n")
    assert first, "the writer did not start"
    # The last is cut, or empty.
    return [int(line) for line in lines[:-1]]


def test_everything_is_there_after_a_restart(folder: str) -> None:
    """Data survive a restart: spans, names, calls, rates, the archive; and what comes then joins them."""
    with opened(folder) as store:
        write(
            store, a_span("call", parent_id=9, span_id=1), a_span(trace_id=2, attributes={"key": "x"}), resource=STOCK
        )
        store.archive(2)
        before = store.figures()
    with opened(folder) as store:
        # But for the log, which is gone.
        assert {**store.figures(), "store_bytes": 0} == {**before, "store_bytes": 0}
        # The parent of what was stored before, and the same span again, from a sender that was not answered.
        write(store, a_span("root", span_id=9))
        write(store, a_span("call", parent_id=9, span_id=1), resource=STOCK)
        assert span_ids(store.trace(1)) == [1, 9]
        assert found(store, tags={"key": "x"}) == [2]
        assert store.services() == ["shop", "stock"]
        assert store.dependencies(0, FOREVER_NS) == [Dependency("shop", "stock", 1, 0)]
        assert sum(rate.calls for rate in store.rates(["stock"], 0, FOREVER_NS)) == 2
        assert (store.figures()["store_spans"], store.figures()["store_traces"]) == (3, 2)


def test_what_was_forgotten_is_read_again(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest traces are remembered; parents and duplicates of older ones are found all the same."""
    monkeypatch.setattr(segments, "MAX_TRACES", 1)
    with opened(folder) as store:
        for trace_id in (1, 2, 3):
            write(store, a_span("call", trace_id, span_id=2, parent_id=1), resource=STOCK)
        for trace_id in (1, 2, 3):
            write(store, a_span("call", trace_id, span_id=2, parent_id=1), resource=STOCK)
            write(store, a_span("root", trace_id, span_id=1))
        assert store.dependencies(0, FOREVER_NS) == [Dependency("shop", "stock", 3, 0)]
        assert store.figures()["store_spans"] == 6


def test_a_write_that_fails_leaves_nothing_behind(folder: str) -> None:
    """All or nothing, and what was refused is taken when it is sent again."""
    with opened(folder) as store:
        write(store, a_span(trace_id=1))
        broken = a_span("b", trace_id=2, span_id=2, attributes={"x": "y"})
        broken.flags = object()  # type: ignore[assignment]
        with pytest.raises(TypeError):
            store.write([Batch(SHOP, [a_span("a", trace_id=2), broken])])
        assert (store.trace(2), store.operations("shop")) == ([], [("GET", 1)])
        broken.flags = 1
        store.write([Batch(SHOP, [a_span("a", trace_id=2), broken])])
        assert [span.name for _, span in store.trace(2)] == ["a", "b"]
        assert store.figures()["store_spans"] == 3


def test_a_full_disk_is_an_error_and_not_the_end(folder: str) -> None:
    """The sender is told, and may come again when there is room."""
    with opened(folder) as store:
        write(store, a_span(trace_id=1))
        writer = store._writer
        assert writer is not None
        pages = writer._connection.execute("PRAGMA page_count").fetchone()[0]
        writer._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="full"):
            write(
                store,
                *(a_span(trace_id=2, span_id=n + 1, attributes={"text": os.urandom(500).hex()}) for n in range(200)),
            )
        assert store.trace(2) == []
        write(store, a_span(trace_id=2))
        assert found(store) == [1, 2] or found(store) == [2, 1]


def test_only_one_process_has_the_folder(folder: str) -> None:
    """Two backends on one folder would each delete what the other one wrote."""
    code = "import sys; from autoinstr.backend.store.sqlite import SqliteStore; SqliteStore(sys.argv[1])"
    with opened(folder) as store:
        write(store, a_span())
        run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
        assert "StoreError" in run.stderr
        assert "in use by another process" in run.stderr
        assert span_ids(store.trace(1)) == [1]
        with pytest.raises(StoreError, match="in use"):
            SqliteStore(folder)
    with opened(folder) as store:
        assert span_ids(store.trace(1)) == [1]


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """The error names the folder, at the start."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file"):
        SqliteStore(str(tmp_path / "file" / "spans"))


def test_a_newer_format_is_refused(folder: str) -> None:
    """After a downgrade: an error that says what to do, and the file is left alone."""
    with opened(folder) as store:
        write(store, a_span())
    path = os.path.join(folder, partitions(folder)[0])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"newer version.*another folder"):
        SqliteStore(folder)
    assert os.path.exists(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    with opened(folder) as store:
        assert span_ids(store.trace(1)) == [1]


# ---- Damage ---------------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events that were logged as errors."""
    events: list[str] = []
    monkeypatch.setattr(log, "error", lambda event, **fields: events.append(event))
    return events


def _several_files(folder: str) -> SqliteStore:
    """Traces 1 to 3, each in a file of its own."""
    store = SqliteStore(folder, partition_bytes=1)
    write_each(store, *(a_span(f"op{n}", n, start_ns=NOW_NS + n) for n in (1, 2, 3)))
    return store


def _overwrite_pages(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (os.path.getsize(path) - 4096))


@pytest.mark.parametrize("damage", [_overwrite_pages, lambda path: Path(path).write_bytes(b"not a database" * 100)])
def test_a_damaged_file_is_set_aside_at_the_start(folder: str, told: list[str], damage: Callable[[str], None]) -> None:
    """A bad sector costs an hour of traces, not all of them, and not the service."""
    _several_files(folder).close()
    name = partitions(folder)[1]
    damage(os.path.join(folder, name))
    with opened(folder) as store:
        store.find(TraceQuery())
        write(store, a_span("new", 4, start_ns=NOW_NS + 4))
        assert found(store) == [4, 3, 1]
        assert store.figures()["store_damaged_files"] == 1
        assert told == ["file_damaged"]
    assert os.path.exists(os.path.join(folder, f"{name}.damaged"))
    with opened(folder) as store:
        assert found(store) == [4, 3, 1]


@pytest.mark.parametrize("position", [0, 2])
def test_a_file_that_is_damaged_while_it_is_used(folder: str, told: list[str], position: int) -> None:
    """Questions are answered from the other files, and what comes is stored, in a new file if need be."""
    store = _several_files(folder)
    with closing(store):
        partition = store._partitions[position]
        store._stop_writing()
        with partition.reader() as reader:
            reader.connection.execute("PRAGMA mmap_size = 0")
        partition.retire()
        partition.is_retired = False
        _overwrite_pages(partition.path)
        others = [n for n in (3, 2, 1) if n != position + 1]
        assert found(store) == others
        write(store, a_span("new", 4, start_ns=NOW_NS + 4))
        assert found(store) == [4, *others]
        assert told == ["file_damaged"]


def test_a_segment_that_cannot_be_read_costs_only_itself(folder: str) -> None:
    """One broken blob must not hide the rest of an hour."""
    with opened(folder) as store:
        write_each(store, a_span(trace_id=1), a_span(trace_id=2))
        store._stop_writing()
        with closing(sqlite3.connect(store._partitions[0].path)) as connection, connection:
            connection.execute("UPDATE segment SET data = x'07' WHERE id = 1")
        assert (found(store), store.trace(1)) == ([2], [])
        assert store.figures()["store_unreadable_segments_total"] > 0


def test_damaged_files_do_not_fill_the_disk(folder: str, told: list[str]) -> None:
    """They are the first to go when room is needed."""
    _several_files(folder).close()
    for name in partitions(folder)[:2]:
        Path(folder, name).write_bytes(b"x" * 500_000)
    with opened(folder, max_bytes=FOLDER_SIZE) as store:
        assert store.figures()["store_damaged_files"] == 1
        assert found(store) == [3]
        assert store.figures()["store_bytes"] <= FOLDER_SIZE


# ---- Limits ---------------------------------------------------------------------------------------------


def test_the_folder_never_grows_beyond_its_limit(folder: str) -> None:
    """A forgotten laptop must not fill its disk. Measured by the files themselves, after each write."""
    with opened(folder, max_bytes=FOLDER_SIZE) as store:
        for n in range(60):
            text = [os.urandom(400).hex() for _ in range(50)]
            write(store, *(a_span(trace_id=n * 50 + i + 1, attributes={"text": text[i]}) for i in range(50)))
            assert folder_bytes(folder) <= FOLDER_SIZE
            assert abs(store.figures()["store_bytes"] - folder_bytes(folder)) < 10_000
        assert store.figures()["store_evicted_spans_total"] > 0
        assert store.figures()["store_spans"] >= 100
    with opened(folder, max_bytes=FOLDER_SIZE // 2) as store:
        assert folder_bytes(folder) <= FOLDER_SIZE // 2
        assert store.trace(3000)


def test_what_is_too_old_goes(folder: str) -> None:
    """By the time of arrival: a file goes with its last span, also over restarts."""
    now_s = 1e9
    options = {"max_age_s": 4000, "partition_s": 1000, "clock": lambda: now_s}
    with opened(folder, **options) as store:
        for trace_id in range(1, 8):
            write(store, a_span(trace_id=trace_id))
            now_s += 1000
        write(store, a_span(trace_id=9))
        assert sorted(found(store)) == [4, 5, 6, 7, 9]
        assert store.evicted() == {"shop": 3}
    now_s += 3000
    with opened(folder, **options) as store:
        assert sorted(found(store)) == [7, 9]
        now_s += 10**6
        write(store, a_span(trace_id=10))
        assert found(store) == [10]


def test_a_clock_that_is_set_back_does_not_stop_anything(folder: str) -> None:
    """Laptops wake up with wrong clocks."""
    now_s = 2e9
    with opened(folder, clock=lambda: now_s) as store:
        write(store, a_span(trace_id=1))
        now_s = 1e9
        write(store, a_span(trace_id=2))
        now_s += 100
        write(store, a_span(trace_id=3))
        assert sorted(found(store)) == [1, 2, 3]
        assert len(partitions(folder)) == 2


def test_a_trace_over_several_files(folder: str) -> None:
    """A trace that goes on for hours is whole, in order, and as new as its first span."""
    with opened(folder, partition_bytes=1) as store:
        for n in range(1, 6):
            write(store, a_span(f"op{n}", 1, n, n - 1, start_ns=NOW_NS + n * 10**9), resource=STOCK if n == 3 else SHOP)
            write(store, a_span("between", 10 + n, start_ns=NOW_NS + n * 10**9 + 1))
        assert len(partitions(folder)) == 10
        assert span_ids(store.trace(1)) == [1, 2, 3, 4, 5]
        assert found(store) == [15, 14, 13, 12, 11, 1]
        assert found(store, operation="op4") == [1]
        assert found(store, limit=2) == [15, 14]
        assert store.dependencies(0, FOREVER_NS) == [
            Dependency("shop", "stock", 1, 0),
            Dependency("stock", "shop", 1, 0),
        ]


def test_a_question_whose_file_goes_meanwhile(folder: str) -> None:
    """The oldest file may make room between finding it and opening it: then the answer is that of what is left."""
    store = _several_files(folder)
    with closing(store):
        oldest = store._partitions[0]

        def question() -> list[int]:
            partition = store._partitions[0]
            if partition is oldest:
                store._evict_oldest()
            with partition.reader() as reader:
                return [span.trace_id for trace in reader.spans_of([1, 2, 3]) for _, span in trace]

        assert store._ask(question) == [2]


def test_clear_gives_the_disk_back(folder: str) -> None:
    """Also the logs, which would be taken for those of the next files of the same names."""
    store = _several_files(folder)
    with closing(store):
        store.archive(1)
        with store._partitions[-1].reader() as reader:
            # Somebody is in the middle of an answer, so that SQLite does not tidy up by itself.
            rows = reader.rows("SELECT * FROM name")
            next(rows)
            store.clear()
            names = sorted(os.listdir(folder))
            rows.close()
        assert [name for name in names if not name.startswith("lock")] == ["spans-00000004.db"]


def test_a_late_span_does_not_make_its_trace_new(folder: str) -> None:
    """The newest by their first span: the walk over spans must not stop at a trace that only ends late."""
    with opened(folder) as store:
        write(store, *(a_span("GET", n, start_ns=NOW_NS + n * 10**7) for n in range(1, 101)))
        write(store, *(a_span("late", n, 2, start_ns=NOW_NS + 10**10 + n) for n in range(1, 51)))
        assert found(store, limit=3) == [100, 99, 98]
        assert found(store, service="shop", limit=3) == [100, 99, 98]
        assert found(store, operation="late", limit=3) == [50, 49, 48]


def test_the_archive_is_bounded(folder: str) -> None:
    """Archiving is open to whoever sees the interface; it must not be a way to fill the disk."""
    with opened(folder, max_bytes=FOLDER_SIZE) as store:
        with pytest.raises(StoreError, match="archive is full"):
            for n in range(1, 100):
                write(store, a_span(trace_id=n, attributes={"text": os.urandom(10_000).hex()}))
                assert store.archive(n)
        assert n > 10
        assert store.trace(1)


def test_archiving_again_adds_only_what_is_new(folder: str) -> None:
    """A page that archives whenever it is opened must not fill the archive with copies."""
    with opened(folder) as store:
        write(store, a_span(span_id=1))
        assert store.archive(1)
        write(store, a_span(span_id=2))
        assert store.archive(1)
        assert store.archive(1)
        assert store.figures()["store_archived_spans"] == 2


def test_readers_do_not_pile_up_connections(folder: str) -> None:
    """Hundreds of questions at once, over many files, must not take all file descriptors."""
    store = _several_files(folder)
    with closing(store):
        threads = [threading.Thread(target=found, args=(store,)) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert all(len(partition._idle) <= sqlite_partition.IDLE_READERS for partition in store._partitions)
        assert found(store) == [3, 2, 1]


def test_files_that_somebody_deleted(folder: str, told: list[str]) -> None:
    """To write on into a file without a name would lose everything at the end."""
    store = _several_files(folder)
    with closing(store):
        for name in partitions(folder)[1:]:
            os.remove(os.path.join(folder, name))
        write(store, a_span("new", 4, start_ns=NOW_NS + 4))
        assert found(store) == [4, 1]
        assert told == ["file_missing", "file_missing"]
    with opened(folder) as store:
        assert found(store) == [4, 1]


def test_what_a_killed_process_left_half_done(folder: str) -> None:
    """A log without its file would be taken for that of the next file of the same name."""
    _several_files(folder).close()
    for name in (
        "spans-00000009.db-wal",
        "spans-00000009.db-shm",
        "spans-00000004.db.new",
        "spans-00000004.db.new-wal",
    ):
        Path(folder, name).write_bytes(b"x" * 5000)
    with opened(folder) as store:
        write(store, a_span("new", 4, start_ns=NOW_NS + 4))
        assert found(store) == [4, 3, 2, 1]
        assert not [name for name in os.listdir(folder) if ".new" in name or "0009" in name]


def test_a_damaged_archive(folder: str, told: list[str]) -> None:
    """It is set aside like any other file; the rest goes on."""
    store = _several_files(folder)
    with closing(store):
        store.archive(1)
    Path(folder, "archive.db").write_bytes(b"not a database" * 1000)
    with opened(folder) as store:
        assert (span_ids(store.trace(1)), told) == ([1], ["file_damaged"])
        assert store.archive(1)
        assert span_ids(store.trace(1)) == [1]
