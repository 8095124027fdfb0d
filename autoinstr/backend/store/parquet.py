"""``autoinstr export``: the spans of a time window as Parquet files, for DuckDB, pandas and everything else that reads them.

Owns: the columns, the walk through a store, the command line.
Must not know: how a store keeps spans.
Invariants: memory is bounded by ``TRACES_AT_ONCE`` traces and one row group; a file appears under its name only when it is
complete; every span that was stored before the export began, and started in the window, is there exactly once.

How nothing is missed or doubled, although a store only answers with the newest ``limit`` traces: the window is cut into
slices that do not overlap, from the newest to the oldest. A search finds each trace that has a span in a slice, whole, and of
these only the spans that started within the slice are taken, so that a trace over several slices is met several times, but
each of its spans once. When a search comes back with as many traces as it may, some are perhaps left out, and the slice is cut
in two at the middle of what was found. Rows are therefore ordered by start, the newest first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from autoinstr.backend import options
from autoinstr.backend.store import FOREVER_NS, MissingExtra, Store, StoreError, TraceQuery, duration_ns
from autoinstr.model import Kind, Resource, SpanData, Status
from autoinstr.wire.jaegerjson import tag_text
from autoinstr.wire.values import json_ready, plain, whole_text

TRACES_AT_ONCE = 200
#: A row group is written after so many rows, or so many characters of text, whatever comes first.
ROWS_AT_ONCE, TEXT_AT_ONCE = 20_000, 32 * 2**20
DEFAULT_SINCE_S = 3600.0
HOUR_NS = 3600 * 10**9
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
#: From the year 1 to 9999: what readers make dates of.
_FIRST_US, _LAST_US = -62_135_596_800 * 10**6, 253_402_300_799 * 10**6


class ExportError(Exception):
    """Why nothing can be exported, in a sentence for whoever asked for it."""


def export(store: Store, path: str, *, start_ns: int, end_ns: int) -> int:
    """Write the spans that started in the window (bounds included) to ``path``; how many they are.

    A folder (that exists, or a path that ends in a slash) gets a file for each hour, ``spans-20260131T23.parquet`` in UTC;
    else ``path`` is the file. What has that name is replaced. Raises ExportError.
    """
    writer = _Writer(path)
    try:
        for resource, span in spans_of(store, start_ns, end_ns):
            writer.add(resource, span)
        writer.finish()
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        writer.abandon()
    return writer.rows


def spans_of(
    store: Store, start_ns: int, end_ns: int, limit: int = TRACES_AT_ONCE
) -> Iterator[tuple[Resource, SpanData]]:
    """The spans of a store that started in the window, each once, the newest first."""
    slices = [(start_ns, end_ns)]
    while slices:
        first_ns, last_ns = slices.pop()
        found = _spans_in(store, first_ns, last_ns, limit)
        if isinstance(found, int):
            slices += [(first_ns, found), (found + 1, last_ns)]
        else:
            yield from sorted(found, key=lambda entry: entry[1].start_ns, reverse=True)


def _spans_in(store: Store, first_ns: int, last_ns: int, limit: int) -> list[tuple[Resource, SpanData]] | int:
    """The spans that started in a slice; or where to cut it, when it may hold more than ``limit`` traces."""
    while True:
        traces = store.find(TraceQuery(start_ns=first_ns, end_ns=last_ns, limit=limit))
        found = [entry for trace in traces for entry in trace if first_ns <= entry[1].start_ns <= last_ns]
        if len(traces) < limit:
            return found
        if first_ns < last_ns:
            starts = sorted(span.start_ns for _, span in found)
            return min(max(starts[len(starts) // 2], first_ns), last_ns - 1)
        limit *= 2  # They all started in one and the same nanosecond, and cannot be told apart by time.


# Files


class _Writer:
    """Rows to one file, or to one for each hour; rows of different hours must not be mixed."""

    def __init__(self, path: str) -> None:
        self._pyarrow, self._parquet = _load_pyarrow()
        self._schema = _schema(self._pyarrow)
        self._path = path
        self._is_folder = path.endswith(("/", os.sep)) or os.path.isdir(path)
        self._name = ""
        self._file: Any = None
        self._columns: list[list[Any]] = [[] for _ in self._schema.names]
        self._text = 0
        self.rows = 0

    def add(self, resource: Resource, span: SpanData) -> None:
        name = self._file_name(span)
        if name != self._name:
            self._complete()
            self._begin(name)
        row = _row(resource, span)
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        self._text += _text_size(row)
        self.rows += 1
        if len(self._columns[0]) >= ROWS_AT_ONCE or self._text >= TEXT_AT_ONCE:
            self._write_group()

    def finish(self) -> None:
        """Complete the last file. Without a single span it is an empty one, unless there is one for each hour."""
        if not self.rows and not self._is_folder:
            self._begin(self._path)
        self._complete()

    def _complete(self) -> None:
        if self._file is not None:
            self._write_group()
            self._file.close()
            self._file = None
            os.replace(_unfinished(self._name), self._name)

    def abandon(self) -> None:
        """Remove what was not finished."""
        if self._file is not None:
            self._file.close()
            self._file = None
            os.unlink(_unfinished(self._name))

    def _file_name(self, span: SpanData) -> str:
        if not self._is_folder:
            return self._path
        hour = datetime.fromtimestamp(_micros(span.start_ns) // 10**6, timezone.utc)
        return os.path.join(self._path, f"spans-{hour:%Y%m%dT%H}.parquet")

    def _begin(self, name: str) -> None:
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        self._name = name
        self._file = self._parquet.ParquetWriter(_unfinished(name), self._schema, compression="zstd")

    def _write_group(self) -> None:
        arrays = [
            self._pyarrow.array(column, kind.type) for column, kind in zip(self._columns, self._schema, strict=True)
        ]
        self._file.write_table(self._pyarrow.Table.from_arrays(arrays, schema=self._schema))
        for column in self._columns:
            column.clear()
        self._text = 0


def _unfinished(name: str) -> str:
    return f"{name}.{os.getpid()}.part"


def _load_pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra(f"Parquet needs pyarrow ({error}): pip install 'autoinstr[parquet]'") from error


# Rows


def _schema(pyarrow: Any) -> Any:
    text, number = pyarrow.string(), pyarrow.int64()
    name = pyarrow.dictionary(pyarrow.int32(), text)
    tags = pyarrow.map_(text, text)
    return pyarrow.schema(
        [
            ("trace_id", text),
            ("span_id", text),
            ("parent_span_id", text),
            ("service", name),
            ("operation", name),
            ("kind", name),
            ("status", name),
            ("status_message", text),
            ("start", pyarrow.timestamp("us", tz="UTC")),
            ("start_ns", number),
            ("duration_ns", number),
            ("scope", name),
            ("flags", number),
            ("trace_state", text),
            ("attributes", tags),
            ("resource", tags),
            ("events", text),
            ("links", text),
        ]
    )


def _row(resource: Resource, span: SpanData) -> list[Any]:
    """A span's values, in the order of the columns. Attributes are the texts that they are searched by."""
    return [
        f"{span.trace_id:032x}",
        f"{span.span_id:016x}",
        f"{span.parent_id:016x}" if span.parent_id else None,
        whole_text(resource.service_name),
        whole_text(span.name),
        Kind.NAMES[span.kind],
        Status.NAMES[span.status],
        whole_text(span.status_message),
        _micros(span.start_ns),
        min(max(span.start_ns, _INT_MIN), _INT_MAX),
        min(duration_ns(span), _INT_MAX),
        whole_text(span.scope),
        min(span.flags, _INT_MAX),
        whole_text(span.trace_state),
        _tags(span.attributes),
        _tags(resource.attributes),
        _events(span),
        _links(span),
    ]


def _micros(start_ns: int) -> int:
    """The nearest time that is a date for everybody; ``start_ns`` has what a wrong clock said."""
    return min(max(start_ns // 1000, _FIRST_US), _LAST_US)


def _tags(attributes: Any) -> list[tuple[str, str]]:
    return [(whole_text(key), whole_text(tag_text(value))) for key, value in attributes.items()]


def _events(span: SpanData) -> str:
    """``[{"time_ns", "name", "attributes"}]`` as JSON."""
    return _json(
        {"time_ns": event.time_ns, "name": event.name, "attributes": event.attributes} for event in span.events or ()
    )


def _links(span: SpanData) -> str:
    """``[{"trace_id", "span_id", "type", "attributes"}]`` as JSON; the type is Jaeger's."""
    return _json(
        {
            "trace_id": f"{link.context.trace_id:032x}",
            "span_id": f"{link.context.span_id:016x}",
            "type": "CHILD_OF" if link.child_of else "FOLLOWS_FROM",
            "attributes": link.attributes,
        }
        for link in span.links
    )


def _json(items: Iterable[dict[str, Any]]) -> str:
    # Strict JSON: bytes and numbers that are none become text, and so do halves of surrogate pairs.
    return whole_text(json.dumps([json_ready(plain(item)) for item in items], ensure_ascii=False))


def _text_size(row: list[Any]) -> int:
    tags = sum(len(key) + len(value) for column in row[14:16] for key, value in column)
    return tags + sum(len(value) for value in row if isinstance(value, str))


# The command


def main(argv: Sequence[str] | None = None) -> int:
    """``autoinstr export --parquet PATH``: 0, or 1 when it cannot be done, or 2 for a wrong command line or a missing extra."""
    chosen = _parser().parse_args(argv)
    end_ns = time.time_ns()
    start_ns = end_ns - int(chosen.since * 1e9) if chosen.since else -FOREVER_NS
    try:
        # Before anything else: what is missing here is missing whatever is to be exported.
        _load_pyarrow()
        store = _open_store(chosen)
        try:
            # Spans of clocks that are ahead started before now, too.
            rows = export(store, chosen.parquet, start_ns=start_ns, end_ns=FOREVER_NS)
        finally:
            store.close()
    except (ExportError, StoreError, ValueError, OSError) as error:
        print(f"autoinstr export: {error}", file=sys.stderr)
        return 2 if isinstance(error, MissingExtra) else 1
    print(f"{rows} spans in {chosen.parquet}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="autoinstr export", description="Write stored spans to Parquet files.")
    parser.add_argument(
        "--parquet", required=True, metavar="PATH", help="a file, or a folder (FOLDER/) for one each hour"
    )
    parser.add_argument(
        "--since",
        type=options.duration,
        default=DEFAULT_SINCE_S,
        metavar="TIME",
        help="how far back, for example 90m, 7d; 0: everything (1h)",
    )
    parser.add_argument(
        "--data", metavar="DIR", default=options.data_folder(), help="the backend's folder (%(default)s)"
    )
    parser.add_argument(
        "--postgres",
        metavar="URL",
        default=os.environ.get(options.POSTGRES_VARIABLE, ""),
        help=f"the backend's PostgreSQL database (or set {options.POSTGRES_VARIABLE})",
    )
    return parser


def _open_store(chosen: argparse.Namespace) -> Store:
    """The store that the options name, without limits: an export must not make room."""
    if chosen.postgres:
        from autoinstr.backend.store.postgres import PostgresStore

        return PostgresStore(options.secret(chosen.postgres, "--postgres"))
    from autoinstr.backend.store.sqlite import SqliteStore

    folder = os.path.join(chosen.data, "traces")
    if not os.path.isdir(folder):
        raise ExportError(f"there are no traces in {chosen.data} (--data)")
    return SqliteStore(folder, max_bytes=_INT_MAX, max_age_s=float("inf"))
