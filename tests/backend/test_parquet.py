"""Spans as Parquet, read back by the libraries that people read it with."""

from __future__ import annotations

import json
import random
import sys
from datetime import datetime, timezone
from pathlib import Path

import pyarrow.parquet
import pytest

from autoinstr.backend.store import FOREVER_NS, MemoryStore, TraceQuery, parquet
from autoinstr.backend.store.parquet import ExportError, export, main, spans_of
from autoinstr.backend.store.sqlite import SqliteStore
from autoinstr.model import Batch, Event, Kind, Link, Resource, SpanContext, Status

from .spans import MINUTE_NS, NOW_NS, SECOND_NS, SHOP, STOCK, a_span, write

HOUR_NS = 60 * MINUTE_NS
HOSTILE = ["", "a\x00b", "\udcff half", "🦄", "'; DROP TABLE", '"', "x" * 100_000]


def rows_of(path: Path) -> list[dict]:
    return pyarrow.parquet.read_table(path).to_pylist()


def everything(store, path: Path, start_ns: int = -FOREVER_NS, end_ns: int = FOREVER_NS) -> list[dict]:
    written = export(store, str(path), start_ns=start_ns, end_ns=end_ns)
    rows = rows_of(path)
    assert len(rows) == written
    return rows


def test_a_span_is_a_row(tmp_path: Path) -> None:
    """The names and types that queries rely on."""
    store = MemoryStore(100)
    span = a_span(
        "GET",
        trace_id=2**127 + 1,
        span_id=2**64 - 1,
        parent_id=7,
        lasts_ns=1234,
        start_ns=NOW_NS + 5678,
        kind=Kind.SERVER,
        status=Status.ERROR,
        status_message="bad",
        scope="flask",
        trace_state="a=b",
        attributes={"http.status_code": 500, "cache": True, "ratio": 0.5, "raw": b"\x00\xff", "list": ["a", 1]},
        events=[Event("retry", NOW_NS, {"attempt": 2, "raw": b"\x01"})],
        links=[Link(SpanContext(3, 4), {"why": "x"})],
    )
    write(store, span)
    (row,) = everything(store, tmp_path / "spans.parquet")
    events, links = json.loads(row.pop("events")), json.loads(row.pop("links"))
    assert row == {
        "trace_id": "80000000000000000000000000000001",
        "span_id": "f" * 16,
        "parent_span_id": "0000000000000007",
        "service": "shop",
        "operation": "GET",
        "kind": "server",
        "status": "ERROR",
        "status_message": "bad",
        "start": datetime.fromtimestamp(NOW_NS // SECOND_NS, timezone.utc).replace(microsecond=5),
        "start_ns": NOW_NS + 5678,
        "duration_ns": 1234,
        "scope": "flask",
        "flags": 1,
        "trace_state": "a=b",
        "attributes": [
            ("http.status_code", "500"),
            ("cache", "true"),
            ("ratio", "0.5"),
            ("raw", "00ff"),
            ("list", '["a",1]'),
        ],
        "resource": [("hostname", "web-1"), ("shards", "3")],
    }
    assert events == [{"time_ns": NOW_NS, "name": "retry", "attributes": {"attempt": 2, "raw": "AQ=="}}]
    assert links == [
        {"trace_id": f"{3:032x}", "span_id": f"{4:016x}", "type": "FOLLOWS_FROM", "attributes": {"why": "x"}}
    ]


def test_hostile_texts_and_wrong_clocks(tmp_path: Path) -> None:
    """Whatever services send, the file can be read; what Unicode has no form for becomes a question mark."""
    store = MemoryStore(1000)
    for number, text in enumerate(HOSTILE):
        span = a_span(text, span_id=number + 1, attributes={text: text}, events=[Event(text, 0, {text: text})])
        write(store, span, resource=Resource(text or "empty", {text: text}))
    for number, start_ns in enumerate([0, 1, -(10**18), 2**63 - 1, 2**63, 10**22, -(10**25)]):
        write(store, a_span(trace_id=2, span_id=number + 1, start_ns=start_ns, lasts_ns=(-1) ** number * 2**64))
    rows = everything(store, tmp_path / "spans.parquet", start_ns=-(10**30), end_ns=10**30)
    assert len(rows) == len(HOSTILE) + 7
    assert {row["operation"] for row in rows} == {"GET", *(text.replace("\udcff", "?") for text in HOSTILE)}
    assert all(json.loads(row["events"]) is not None for row in rows)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [1, 2, 5, 1000])
def test_each_span_once_however_the_slices_fall(limit: int, seed: int) -> None:
    """Long traces, short ones, many at the same moment, with searches that may only answer so much."""
    chance = random.Random(seed)
    store = MemoryStore(10_000)
    moments = [NOW_NS + chance.choice([0, 1, 2, chance.randrange(10**12)]) for _ in range(40)]
    for number in range(300):
        write(store, a_span(trace_id=chance.randrange(60), span_id=number + 1, start_ns=chance.choice(moments)))
    start_ns, end_ns = NOW_NS + chance.randrange(3), NOW_NS + chance.randrange(10**12)
    stored = [span for trace in store.find(TraceQuery(limit=10**6)) for _, span in trace]
    found = [span for _, span in spans_of(store, start_ns, end_ns, limit)]
    starts = [span.start_ns for span in found]
    assert starts == sorted(starts, reverse=True)
    expected = [span.span_id for span in stored if start_ns <= span.start_ns <= end_ns]
    assert sorted(span.span_id for span in found) == sorted(expected)


def test_searches_are_few_and_small(tmp_path: Path) -> None:
    """An export of a million spans must neither hold them all nor search a million times."""
    store = MemoryStore(10_000)
    for n in range(2000):
        write(store, *(a_span(trace_id=n + 1, span_id=k + 1, start_ns=NOW_NS + n * 10**6 + k) for k in range(4)))
    asked: list[int] = []

    class Watched:
        def find(self, query: TraceQuery) -> list:
            traces = store.find(query)
            asked.append(len(traces))
            return traces

    assert sum(1 for _ in spans_of(Watched(), 0, FOREVER_NS)) == 8_000  # type: ignore[arg-type]
    assert max(asked) <= parquet.TRACES_AT_ONCE
    assert len(asked) < 4 * 2000 / parquet.TRACES_AT_ONCE


def test_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows, and by text where spans are large."""
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(parquet, "TEXT_AT_ONCE", 50_000)
    store = MemoryStore(10_000)
    write(store, *(a_span(trace_id=n, start_ns=NOW_NS + n) for n in range(1, 251)))
    write(store, *(a_span(trace_id=n, start_ns=NOW_NS + n, attributes={"x": "x" * 10_000}) for n in range(300, 310)))
    export(store, str(tmp_path / "spans.parquet"), start_ns=0, end_ns=FOREVER_NS)
    with pyarrow.parquet.ParquetFile(tmp_path / "spans.parquet") as file:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sum(groups) == 260
    assert groups[:2] == [5, 5]
    assert max(groups) == 100


def test_a_folder_gets_a_file_for_each_hour(tmp_path: Path) -> None:
    """Tools skip the files that a query's hours do not need; a second export replaces the first."""
    store = MemoryStore(1000)
    hour_ns = NOW_NS // HOUR_NS * HOUR_NS
    for n in range(4):
        write(store, a_span(trace_id=n + 1, start_ns=hour_ns + n * HOUR_NS), resource=STOCK)
        write(store, a_span(trace_id=9, span_id=n + 1, start_ns=hour_ns + (n + 1) * HOUR_NS - 1))
    for _ in range(2):
        assert export(store, f"{tmp_path}/new/", start_ns=0, end_ns=FOREVER_NS) == 8
    files = sorted((tmp_path / "new").iterdir())
    hours = [datetime.fromtimestamp(hour_ns // SECOND_NS + n * 3600, timezone.utc) for n in range(4)]
    assert [file.name for file in files] == [f"spans-{hour:%Y%m%dT%H}.parquet" for hour in hours]
    for file, hour in zip(files, hours):
        assert {row["start"].replace(minute=0, second=0, microsecond=0) for row in rows_of(file)} == {hour}
        assert len(rows_of(file)) == 2


def test_nothing_to_export_is_an_empty_file(tmp_path: Path) -> None:
    """A script that reads the file finds one, with its columns."""
    assert everything(MemoryStore(10), tmp_path / "spans.parquet") == []
    assert "trace_id" in pyarrow.parquet.read_schema(tmp_path / "spans.parquet").names


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """Half a file under the right name would be taken for the whole."""

    class Failing(MemoryStore):
        def find(self, query: TraceQuery) -> list:
            if query.end_ns < FOREVER_NS:
                raise RuntimeError("the store is gone")
            return super().find(query)

    store = Failing(10_000)
    write(store, *(a_span(trace_id=n, start_ns=NOW_NS + n) for n in range(1, 500)))
    (tmp_path / "spans.parquet").write_text("before")
    with pytest.raises(RuntimeError, match="the store is gone"):
        export(store, str(tmp_path / "spans.parquet"), start_ns=0, end_ns=FOREVER_NS)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("spans.parquet", "before")]


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    """The message names it, and why."""
    store = MemoryStore(10)
    write(store, a_span())
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=f"cannot write {tmp_path}/file/x.parquet: "):
        export(store, f"{tmp_path}/file/x.parquet", start_ns=0, end_ns=FOREVER_NS)


def test_duckdb_reads_it(tmp_path: Path) -> None:
    """The query that the documentation shows."""
    duckdb = pytest.importorskip("duckdb")
    store = MemoryStore(1000)
    for n in range(100):
        status = Status.ERROR if n % 10 == 0 else Status.UNSET
        attributes = {"http.status_code": 500 if status else 200}
        write(store, a_span(trace_id=n + 1, status=status, lasts_ns=n * 10**6, attributes=attributes))
    export(store, f"{tmp_path}/", start_ns=0, end_ns=FOREVER_NS)
    question = f"""
        SELECT service, operation, count(*), count(*) FILTER (status = 'ERROR'), max(duration_ns) / 1e6,
               count(*) FILTER (attributes['http.status_code'] = '500'), epoch(min(start))
        FROM '{tmp_path}/*.parquet' GROUP BY ALL
    """
    with duckdb.connect() as connection:
        ((*row, start),) = connection.execute(question).fetchall()
    assert row == ["shop", "GET", 100, 10, 99.0, 10]
    assert start == NOW_NS // SECOND_NS


# The command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a backend that ran."""
    folder = tmp_path / "data"
    store = SqliteStore(str(folder / "traces"))
    try:
        now_ns = parquet.time.time_ns()
        store.write([Batch(SHOP, [a_span("new", 1, start_ns=now_ns), a_span("old", 2, start_ns=now_ns - 2 * HOUR_NS)])])
    finally:
        store.close()
    return folder


@pytest.mark.parametrize(
    ("since", "names"), [([], {"new"}), (["--since", "3h"], {"new", "old"}), (["--since", "0"], {"new", "old"})]
)
def test_the_command(data: Path, tmp_path: Path, since: list[str], names: set, capsys: pytest.CaptureFixture) -> None:
    """One line, and what it did is said."""
    path = tmp_path / "out.parquet"
    assert main(["--parquet", str(path), "--data", str(data), *since]) == 0
    assert {row["operation"] for row in rows_of(path)} == names
    assert capsys.readouterr().out == f"{len(names)} spans in {path}\n"


def test_the_command_changes_nothing_in_the_store(data: Path, tmp_path: Path) -> None:
    """An export forgets nothing, however long the backend has been off."""
    for _ in range(2):
        assert main(["--parquet", str(tmp_path / "out.parquet"), "--data", str(data), "--since", "0"]) == 0
        assert len(rows_of(tmp_path / "out.parquet")) == 2


def test_a_folder_without_traces(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A mistyped folder is an error, not an empty file, and is not made."""
    assert main(["--parquet", str(tmp_path / "out.parquet"), "--data", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"autoinstr export: there are no traces in {tmp_path}/nowhere (--data)\n"
    assert list(tmp_path.iterdir()) == []


def test_without_the_library(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["--parquet", str(tmp_path / "out.parquet"), "--data", str(data)]) == 2
    assert "pip install 'autoinstr[parquet]'" in capsys.readouterr().err
