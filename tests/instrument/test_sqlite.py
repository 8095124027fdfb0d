"""sqlite3: a span for each statement, and connections that are what they would be without us."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr.instrument import dbapi, sql
from autoinstr.model import Kind, Status

from .contract_client import below
from .contract_sql import BY_DJANGO, executed_by_django

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autoinstr.instrument import Watcher
    from autoinstr.report import InMemoryReporter

bare_connection, bare_cursor = sqlite3.Connection, sqlite3.Cursor


@pytest.fixture
def connection(watch: Callable[..., Watcher]) -> Iterator[sqlite3.Connection]:
    watch()
    with closing(sqlite3.connect(":memory:")) as opened:
        opened.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        yield opened


def test_a_statement_is_a_span(connection: sqlite3.Connection, reporter: InMemoryReporter) -> None:
    """Time in the database would be a gap in the trace."""
    reporter.spans.clear()
    assert connection.execute("SELECT a FROM t WHERE b = ?", ("secret",)).fetchall() == []
    (span,) = reporter.spans
    assert (span.name, span.kind, span.scope) == ("SELECT t", Kind.CLIENT, "sqlite3")
    assert span.attributes["db.query.text"] == "SELECT a FROM t WHERE b = ?"
    assert span.attributes["db.namespace"] == ":memory:"
    assert "secret" not in str(span.attributes)


@pytest.mark.parametrize("is_by_cursor", [False, True])
def test_every_way_to_execute_is_one_span(connection: sqlite3.Connection, reporter: InMemoryReporter, is_by_cursor: bool) -> None:
    """Statements would be missing, or there twice: a connection's own methods make cursors inside."""
    reporter.spans.clear()
    owner: Any = connection.cursor() if is_by_cursor else connection
    owner.execute("INSERT INTO t VALUES (1, 'x')")
    owner.executemany("INSERT INTO t VALUES (?, ?)", [(2, "y"), (3, "z")])
    owner.executemany("INSERT INTO t VALUES (?, ?)", ((number, "g") for number in range(3)))
    owner.executescript("DELETE FROM t WHERE a = 1; SELECT 1;")
    assert [span.name for span in reporter.spans] == ["INSERT t", "INSERT t", "INSERT t", "DELETE t"]
    assert [span.attributes.get("db.operation.batch.size") for span in reporter.spans] == [None, 2, None, None]
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (4,)


def test_failure(connection: sqlite3.Connection, reporter: InMemoryReporter) -> None:
    """The program would see another error than without us, or the trace none."""
    reporter.spans.clear()
    with pytest.raises(sqlite3.OperationalError, match="no such table: nope"):
        connection.execute("SELECT * FROM nope")
    (span,) = reporter.spans
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "sqlite3.OperationalError")
    assert span.attributes.get("db.response.status_code") == ("SQLITE_ERROR" if sys.version_info >= (3, 11) else None)
    with pytest.raises(TypeError):
        connection.execute()  # type: ignore[call-arg]


def test_below_the_request_that_it_is_for(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """Statements would be traces of their own."""
    watcher = watch()
    with below(watcher) as parent, closing(sqlite3.connect(":memory:")) as opened:
        opened.execute("SELECT 1")
    (span,) = reporter.spans
    assert (span.trace_id, span.parent_id) == (parent.trace_id, parent.span_id)


def test_a_trace_that_is_not_kept_costs_no_span(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    watcher = watch(keep=False)
    with below(watcher), closing(sqlite3.connect(":memory:")) as opened:
        opened.execute("SELECT 1")
    assert watcher.tracing.tracer.children_unsampled == 0
    assert not reporter.spans


def test_objects_are_what_they_would_be(connection: sqlite3.Connection) -> None:
    """``isinstance``, adapters, subclasses and messages would not be as the program knows them."""
    assert isinstance(connection, bare_connection)
    assert (type(connection).__name__, type(connection).__module__) == ("Connection", "sqlite3")
    cursor = connection.execute("SELECT 1 AS one")
    assert isinstance(cursor, bare_cursor)
    assert isinstance(connection.cursor(), bare_cursor)
    assert cursor.connection is connection
    connection.row_factory = sqlite3.Row
    assert connection.execute("SELECT 1 AS one").fetchone()["one"] == 1
    with closing(sqlite3.connect(":memory:")) as target:
        connection.backup(target)
        assert list(target.iterdump())[1] == "CREATE TABLE t (a INTEGER, b TEXT);"
    with pytest.raises(sqlite3.IntegrityError), connection:
        connection.execute("CREATE TABLE u (a INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO u VALUES (1)")
        connection.execute("INSERT INTO u VALUES (1)")
    assert connection.execute("SELECT count(*) FROM u").fetchone()[0] == 0


def test_a_cursor_that_a_connection_made_inside(connection: sqlite3.Connection, reporter: InMemoryReporter) -> None:
    """What a program executes with a cursor that it was given would be missing."""
    cursor = connection.execute("SELECT 1")
    reporter.spans.clear()
    cursor.execute("SELECT a FROM t")
    assert [span.name for span in reporter.spans] == ["SELECT t"]


def test_commits_are_seen_when_they_are_slow(watch: Callable[..., Watcher], reporter: InMemoryReporter, monkeypatch: Any) -> None:
    """Each transaction would fill the trace with spans of no length; or a disk that hangs would be a gap."""
    watcher = watch()
    with closing(sqlite3.connect(":memory:")) as opened:
        opened.execute("CREATE TABLE t (a INTEGER)")
        opened.isolation_level = None

        def work() -> list[str]:
            reporter.spans.clear()
            opened.execute("BEGIN")
            opened.execute("INSERT INTO t VALUES (1)")
            opened.execute("COMMIT")
            opened.execute("BEGIN")
            opened.rollback()
            with opened:
                opened.execute("SAVEPOINT s")
            return [span.name for span in reporter.spans]

        assert work() == ["INSERT t"]
        tracer = watcher.tracing.tracer
        with below(watcher):
            before = tracer.children
            assert work() == ["INSERT t"]
            assert tracer.children == before + 1
            monkeypatch.setattr(dbapi, "SLOW_NS", 0)
            assert work() == ["BEGIN", "INSERT t", "COMMIT", "BEGIN", "ROLLBACK", "SAVEPOINT", "COMMIT"]
        assert work() == ["INSERT t"]
        monkeypatch.undo()
        with below(watcher):
            reporter.spans.clear()
            with pytest.raises(sqlite3.OperationalError):
                opened.execute("COMMIT")
            assert [(span.name, span.status) for span in reporter.spans] == [("COMMIT", Status.ERROR)]


class OwnCursor(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> OwnCursor:
        return super().execute(*arguments)  # type: ignore[return-value]


class OwnConnection(sqlite3.Connection):
    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.note = "own"

    def cursor(self, factory: Any = OwnCursor) -> Any:
        return super().cursor(factory)


class NamingCursor(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> Any:
        return sqlite3.Cursor.execute(self, *arguments)


@pytest.mark.parametrize("kind", [OwnCursor, NamingCursor])
def test_kinds_of_cursors(connection: sqlite3.Connection, reporter: InMemoryReporter, kind: Any) -> None:
    """Statements of a program that calls the class below by its name (Django did) would be missing, or doubled."""
    reporter.spans.clear()
    connection.cursor(kind).execute("SELECT 1 FROM t")
    connection.cursor(factory=kind).executemany("DELETE FROM t WHERE a = ?", [(1,)])
    assert [span.name for span in reporter.spans] == ["SELECT t", "DELETE t"]


def test_memory_is_bounded(connection: sqlite3.Connection, reporter: InMemoryReporter) -> None:
    """A program that makes classes, or huge statements, as it goes would fill the memory."""
    reporter.spans.clear()
    connection.execute("SELECT 1 -- " + "x" * 100_000)
    assert max(len(part) for fact in reporter.spans[0].facts for part in fact if isinstance(part, str)) <= sql.MAX_READ
    kinds = dbapi.Kinds(bare_cursor, {}, lambda name, method: method)
    made = [type(f"Own{number}", (bare_cursor,), {}) for number in range(2 * dbapi.MAX_KINDS)]
    for kind in made:
        assert kinds.traced(kind) is kinds.traced(kind)
    assert len(kinds._known) <= dbapi.MAX_KINDS


@pytest.mark.filterwarnings("ignore:Passing more than 1 positional argument:DeprecationWarning")
@pytest.mark.parametrize("how", ["keyword", "positional", "function"])
def test_factories_of_the_program(watch: Callable[..., Watcher], reporter: InMemoryReporter, how: str) -> None:
    """Programs and frameworks bring classes of their own (Django does)."""
    watch()
    if how == "keyword":
        opened: Any = sqlite3.connect(":memory:", factory=OwnConnection)
    elif how == "positional":
        opened = sqlite3.connect(":memory:", 5.0, 0, "DEFERRED", True, OwnConnection)
    else:
        opened = sqlite3.connect(":memory:", factory=lambda *arguments, **keywords: OwnConnection(*arguments, **keywords))  # type: ignore[arg-type]
    with closing(opened):
        assert (type(opened).__name__, opened.note) == ("OwnConnection", "own")
        cursor = opened.cursor()
        assert isinstance(cursor, OwnCursor)
        cursor.execute("SELECT 1")
    assert [span.name for span in reporter.spans] == ([] if how == "function" else ["SELECT"])


def test_files_are_named_without_their_folders(watch: Callable[..., Watcher], reporter: InMemoryReporter, tmp_path: Path) -> None:
    watch()
    with closing(sqlite3.connect(tmp_path / "shop.db")) as opened:
        opened.execute("SELECT 1")
    with closing(sqlite3.connect(f"file:{tmp_path}/shop.db?mode=ro", uri=True)) as opened:
        opened.execute("SELECT 1")
    assert [span.attributes["db.namespace"] for span in reporter.spans] == ["shop.db", "shop.db"]


def test_nothing_is_left_of_it(watch: Callable[..., Watcher]) -> None:
    bare = sqlite3.connect
    watcher = watch()
    assert sqlite3.connect is not bare
    watcher.uninstall()
    assert sqlite3.connect is bare
    with closing(sqlite3.connect(":memory:")) as opened:
        assert type(opened) is bare_connection


@pytest.mark.parametrize("line", ["import sqlite3", "from sqlite3 import dbapi2 as sqlite3"])
def test_a_program_that_imports_it(line: str) -> None:
    """The names that the package copies from its module would be those from before."""
    text = f"{line}\nprint(type(sqlite3.connect(':memory:')) is not sqlite3.Connection)"
    done = subprocess.run(
        [sys.executable, "-m", "autoinstr", "-c", text],
        env={"PATH": "", "AUTOINSTR_EXPORTER": "none"}, capture_output=True, text=True, timeout=60, check=True,
    )
    assert done.stdout == "True\n"


def test_django(tmp_path: Path) -> None:
    """Django has cursors of its own: its statements would be missing, or there twice, or the program would not run."""
    executed = executed_by_django({"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db")}, "sqlite3.dbapi2", "sqlite:patch")
    assert [name for name, _ in executed] == BY_DJANGO
    assert "private" not in str(executed)
    assert executed[4][1] == "UPDATE shop_thing SET name = ? WHERE id = ?"
