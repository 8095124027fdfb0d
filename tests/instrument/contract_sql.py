"""What holds for every SQL driver, whichever it is: subclass ``SqlContract`` and say how it connects and executes.

The databases are real servers that the tests start, or (SQLite) the library itself. Async drivers run each call in one loop.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr import trouble
from autoinstr.instrument import Patcher, dbapi
from autoinstr.model import Kind, Status
from autoinstr.trace import current

from .contract_client import below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from autoinstr.instrument import Tracing
    from autoinstr.report import InMemoryReporter

DEADLINE_S = 60


def binaries(name: str, *places: str) -> Path | None:
    """Where a server's programs are: on PATH, or where Debian puts them."""
    on_path = shutil.which(name)
    found = [Path(on_path).resolve().parent] if on_path else []
    for place in places:
        found += sorted(Path("/").glob(place), reverse=True)
    return next((folder for folder in found if (folder / name).exists()), None)


POSTGRES = binaries("initdb", "usr/lib/postgresql/*/bin")
MARIADB = binaries("mariadbd", "usr/sbin", "usr/libexec")
needs_postgres = pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL server (postgres, initdb) is installed")
needs_mariadb = pytest.mark.skipif(MARIADB is None, reason="no MariaDB server (mariadbd) is installed")


@contextmanager
def started(command: list[Any], folder: Path, answers: Callable[[], bool], **options: Any) -> Iterator[None]:
    """A server that runs as long as the block, and that answers when it begins."""
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **options)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not answers():
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.05)
        yield
    finally:
        process.kill()  # Nothing in it outlives the tests.
        process.wait(timeout=DEADLINE_S)


def as_user(name: str, folder: Path) -> dict[str, Any]:
    """How to start a server that refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, name, name)
    return {"user": name, "group": name, "extra_groups": ()}


@contextmanager
def postgres_server(port: int) -> Iterator[Path]:
    """PostgreSQL with the user and database ``tests`` on a port of the loopback, and a socket in the folder."""
    assert POSTGRES is not None
    # Not pytest's folder, which only its owner may enter; and short, because a socket's path has to be.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        options = as_user("postgres", folder)
        initdb = [POSTGRES / "initdb", "-D", "data", "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(initdb, cwd=folder, check=True, capture_output=True, timeout=DEADLINE_S, **options)
        settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}", "fsync=off", "full_page_writes=off"]
        command = [POSTGRES / "postgres", "-D", "data", *(word for one in settings for word in ("-c", one))]

        def answers() -> bool:
            create = [POSTGRES / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "tests", "tests"]
            return subprocess.run(create, capture_output=True, timeout=DEADLINE_S).returncode == 0

        with started(command, folder, answers, **options):
            yield folder


@contextmanager
def mariadb_server(port: int) -> Iterator[Path]:
    """MariaDB with the database ``tests`` and the user ``tests`` (password ``secret``) on a port of the loopback, and a socket."""
    assert MARIADB is not None
    with tempfile.TemporaryDirectory(prefix="my", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        options = as_user("mysql", folder)
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/data", "--skip-test-db", "--auth-root-authentication-method=normal"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "init.sql").write_text(
            "CREATE DATABASE tests;\nCREATE USER tests@'%' IDENTIFIED BY 'secret';\nGRANT ALL ON tests.* TO tests@'%';\n"
        )
        command = [
            MARIADB / "mariadbd", "--no-defaults", f"--datadir={folder}/data", "--bind-address=127.0.0.1", f"--port={port}",
            f"--socket={folder}/socket", f"--init-file={folder}/init.sql", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=8M", f"--pid-file={folder}/pid", "--performance-schema=OFF",
        ]

        def answers() -> bool:
            ask = ["mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", str(port), "-utests", "-psecret", "tests", "-e", "SELECT 1"]
            return subprocess.run(ask, capture_output=True, timeout=DEADLINE_S).returncode == 0

        with started(command, folder, answers, **options):
            yield folder


DJANGO = """
import importlib, json, sys
import django
from django.conf import settings
from django.db import connection, models, transaction
from autoinstr.instrument import Patcher
from autoinstr.report import InMemoryReporter
from instrument.conftest import build_tracing

database, module, target = json.loads(sys.argv[1])
reporter = InMemoryReporter()
file, _, function = target.partition(":")
patch = getattr(importlib.import_module("autoinstr.instrument." + file), function)
patch(Patcher(importlib.import_module(module)), build_tracing(reporter))
settings.configure(DATABASES={"default": database}, DEFAULT_AUTO_FIELD="django.db.models.AutoField")
django.setup()

class Thing(models.Model):
    name = models.CharField(max_length=100)
    class Meta:
        app_label = "shop"

with connection.schema_editor() as editor:
    editor.create_model(Thing)
reporter.spans.clear()
with transaction.atomic():
    Thing.objects.create(name="private")
    with transaction.atomic():
        Thing.objects.bulk_create([Thing(name="private"), Thing(name="private")])
assert Thing.objects.filter(name="private").count() == 3
assert [thing.name for thing in Thing.objects.order_by("id").iterator(chunk_size=2)] == ["private"] * 3
with connection.cursor() as cursor:
    cursor.executemany("UPDATE shop_thing SET name = %s WHERE id = %s", [("a", 1), ("b", 2)])
Thing.objects.all().delete()
connection.close()
print(json.dumps([[span.name, span.attributes["db.query.text"]] for span in reporter.spans]))
"""


def executed_by_django(database: dict[str, object], module: str, target: str, ahead: str = ".") -> list[tuple[str, str]]:
    """Name and text of each span of what a program with Django's models does, in a process of its own (Django has one configuration)."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DJANGO, json.dumps([database, module, target])],
        cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONPATH": f"{ahead}:."}, capture_output=True, text=True, timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return [(name, text) for name, text in json.loads(done.stdout)]


#: What it is to give with every database; some ask for the new row's key besides.
BY_DJANGO = ["INSERT shop_thing", "INSERT shop_thing", "SELECT shop_thing", "SELECT shop_thing", "UPDATE shop_thing", "DELETE shop_thing"]


class SqlContract:
    """The suite; a subclass gives what stands first."""

    #: What its spans and the attributes say.
    scope: str
    system: str
    namespace = "tests"
    #: How the driver wants values marked.
    mark = "%s"
    #: The database's own code for a table that is not there, and for a key that is there twice.
    no_table: str
    duplicate: str
    reporter: InMemoryReporter
    tracing: Tracing
    #: Of the server's.
    port = 0

    # What a subclass fills in.

    def patch(self, patch: Callable[..., None], module: ModuleType) -> None:
        """``patch`` the library's instruments, each with a patcher of its own."""
        patcher = Patcher(module)
        self.patchers.append(patcher)
        patch(patcher, self.tracing)

    def instrument(self) -> None:
        """Put the instrument in, by ``self.patch``."""
        raise NotImplementedError

    def connect(self) -> Any:
        """Open a connection; it is closed by ``close``."""
        raise NotImplementedError

    def close(self, connection: Any) -> None:
        connection.close()

    def execute(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Execute and fetch what there is."""
        raise NotImplementedError

    def execute_many(self, connection: Any, statement: str, values: list[tuple[Any, ...]]) -> None:
        raise NotImplementedError

    def commit(self, connection: Any) -> None:
        raise NotImplementedError

    def rollback(self, connection: Any) -> None:
        raise NotImplementedError

    def refused(self) -> Any:
        """Connect to where nobody listens."""
        raise NotImplementedError

    def misled(self) -> Any:
        """Connect to what is no address."""
        raise NotImplementedError

    # The stage.

    @pytest.fixture(autouse=True)
    def stage(self, reporter: InMemoryReporter, tracing: Tracing, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.reporter, self.tracing = reporter, tracing
        faults: dict[str, float] = {}
        monkeypatch.setattr(trouble, "_last_said", faults)
        self.patchers: list[Patcher] = []
        try:
            with ExitStack() as self.closing:
                yield
        finally:
            for patcher in reversed(self.patchers):
                patcher.undo()
        assert current.get() is None, "a span was left behind as the current one"
        assert not faults, "an instrument has failed, which programs do not notice"

    @pytest.fixture
    def connection(self, stage: None) -> Any:
        """A traced connection to a database with the empty table ``t (a integer primary key, b text)``."""
        self.instrument()
        return self.opened()

    def opened(self) -> Any:
        opened = self.connect()
        self.closing.callback(self.close, opened)
        self.execute(opened, "DROP TABLE IF EXISTS t")
        self.execute(opened, "CREATE TABLE t (a INTEGER PRIMARY KEY, b VARCHAR(100))")
        self.commit(opened)
        self.reporter.spans.clear()
        return opened

    def names(self) -> list[str]:
        return [span.name for span in self.reporter.spans]

    def the_span(self) -> Any:
        (span,) = self.reporter.spans
        return span

    def place(self) -> dict[str, Any]:
        """The attributes of where the connection goes."""
        return {"server.address": "127.0.0.1", "server.port": self.port}

    def insertion(self) -> str:
        return f"INSERT INTO t (a, b) VALUES ({self.mark.replace('1', '1')}, {self.mark.replace('1', '2')})"

    @contextmanager
    def within(self) -> Iterator[Any]:
        """As inside a request that the program is serving."""
        with below(self) as parent:  # type: ignore[arg-type]
            yield parent

    # What a span says.

    def test_a_statement_is_a_span(self, connection: Any) -> None:
        """Time in the database would be a gap in the trace, or nothing would say which database, which table, which statement."""
        with self.within() as parent:
            assert self.execute(connection, f"SELECT a, b FROM t WHERE b = {self.mark}", ("private",)) == []
        span = self.the_span()
        assert (span.name, span.kind, span.scope, span.status) == ("SELECT t", Kind.CLIENT, self.scope, Status.UNSET)
        assert (span.trace_id, span.parent_id) == (parent.trace_id, parent.span_id)
        assert 0 < span.end_ns - span.start_ns < 10**10
        assert span.attributes == {
            "db.system.name": self.system,
            "db.namespace": self.namespace,
            "db.query.summary": "SELECT t",
            "db.query.text": f"SELECT a, b FROM t WHERE b = {self.mark}",
            "db.operation.name": "SELECT",
            "db.collection.name": "t",
            **self.place(),
        }

    def test_values_are_not_recorded(self, connection: Any) -> None:
        """What a program writes into its statements (passwords, names) would be stored with the traces."""
        self.execute(connection, "SELECT a FROM t WHERE b = 'private' AND a = 4711")
        text = self.the_span().attributes["db.query.text"]
        assert text == "SELECT a FROM t WHERE b = ? AND a = ?"

    def test_a_batch_is_one_span(self, connection: Any) -> None:
        """A thousand rows would be a thousand spans, or one that does not say so."""
        self.execute_many(connection, self.insertion(), [(1, "x"), (2, "y"), (3, "z")])
        span = self.the_span()
        assert (span.name, span.attributes["db.operation.batch.size"]) == ("INSERT t", 3)
        assert self.execute(connection, "SELECT count(*) FROM t") == [(3,)]

    def test_without_a_trace(self, connection: Any) -> None:
        """The statements of a script are not traced."""
        self.execute(connection, "SELECT 1")
        assert self.the_span().parent_id == 0

    def test_a_trace_that_is_not_kept_costs_no_span(self, connection: Any) -> None:
        with self.within() as parent:
            parent.set_attribute("sampling.priority", 0)
            assert self.execute(connection, "SELECT 1") == [(1,)]
        assert not self.reporter.spans
        assert self.tracing.tracer.children_unsampled == 0

    # What fails.

    def fails(self, call: Callable[[], object], code: str) -> BaseException:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever the driver raises
            call()
        span = self.reporter.spans[-1]
        assert span.status == Status.ERROR
        kind = type(raised.value)
        assert span.attributes["error.type"] == f"{kind.__module__}.{kind.__qualname__}"
        assert span.attributes.get("db.response.status_code") == code
        return raised.value

    def test_failure(self, connection: Any) -> None:
        """The trace would not show which statement failed, and why; or the program would get another error than without us."""
        self.fails(lambda: self.execute(connection, "SELECT * FROM nope"), self.no_table)
        assert self.names() == ["SELECT nope"]
        self.rollback(connection)
        with pytest.raises(TypeError):
            connection.cursor().execute()

    def test_a_batch_that_fails(self, connection: Any) -> None:
        self.fails(lambda: self.execute_many(connection, self.insertion(), [(1, "x"), (1, "y")]), self.duplicate)
        assert self.names() == ["INSERT t"]
        self.rollback(connection)

    def test_nobody_listens(self, connection: Any) -> None:
        """That the database cannot be reached would not show in the trace."""
        with self.within():
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the driver raises
                self.refused()
            assert [(span.name, span.status) for span in self.reporter.spans] == [("CONNECT", Status.ERROR)]
        assert self.reporter.spans[0].attributes["db.namespace"] == "nowhere"
        assert self.reporter.spans[0].attributes["server.address"] == "127.0.0.1"
        self.reporter.spans.clear()
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the driver raises
            self.refused()
        assert not self.reporter.spans

    def test_closed(self, connection: Any) -> None:
        """A connection that does not say any more where it went would break the instrument."""
        opened = self.connect()
        self.close(opened)
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the driver raises
            self.execute(opened, "SELECT 1")

    def test_an_address_that_is_none(self, connection: Any) -> None:
        """The program's mistake would be called one of ours."""
        with self.within(), pytest.raises(Exception):  # noqa: B017, PT011 - whatever the driver raises
            self.misled()

    # What is not worth a span.

    def work(self, connection: Any) -> list[str]:
        self.reporter.spans.clear()
        self.execute(connection, self.insertion(), (7, "x"))
        self.rollback(connection)
        self.execute(connection, self.insertion(), (8, "x"))
        self.commit(connection)
        self.execute(connection, "DELETE FROM t")
        self.commit(connection)
        return self.names()

    def test_commits_show_when_they_are_slow(self, connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each request would have spans of no length, or a database that is slow to commit would be a gap in the trace."""
        with self.within():
            assert self.work(connection) == ["INSERT t", "INSERT t", "DELETE t"]
            monkeypatch.setattr(dbapi, "SLOW_NS", 0)
            assert [name for name in self.work(connection) if name != "BEGIN"] == [
                "INSERT t", "ROLLBACK", "INSERT t", "COMMIT", "DELETE t", "COMMIT",
            ]
            span = next(span for span in self.reporter.spans if span.name == "COMMIT")
            assert span.attributes["db.operation.name"] == "COMMIT"
            assert self.place().items() <= span.attributes.items()
        assert self.work(connection) == ["INSERT t", "INSERT t", "DELETE t"]

    # What must not change.

    def test_taken_out_again(self, connection: Any) -> None:
        """A library whose instrument has failed would be left half patched."""
        self.patchers.pop().undo()
        bare = self.opened()
        self.execute(bare, "SELECT 1")
        assert not self.reporter.spans
