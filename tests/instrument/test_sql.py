"""What is read in a statement: its name, and its text without what is secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from autoinstr.instrument import sql

NAMES = {
    "select * from users where id = 1": "SELECT users",
    "SELECT a.x, b.y FROM users a, public.orders AS b WHERE a.id=b.id": "SELECT users public.orders",
    "SELECT * FROM (SELECT id FROM inner_t) x JOIN other USING (id)": "SELECT inner_t other",
    "WITH c AS (SELECT 1 FROM base) SELECT * FROM c JOIN d ON c.i=d.i": "SELECT base d",
    "insert into t (a,b) values (1,'x; drop table y')": "INSERT t",
    "UPDATE t SET a=1 WHERE b IN (SELECT b FROM u)": "UPDATE t u",
    "DELETE FROM t USING s WHERE t.i=s.i": "DELETE t s",
    "SELECT extract(year FROM ts), x IS DISTINCT FROM y FROM t FOR UPDATE SKIP LOCKED": "SELECT t",
    'CREATE TABLE IF NOT EXISTS "my table" (id int)': "CREATE mytable",
    "BEGIN": "BEGIN",
    "": "",
    "-- hi\nSELECT 1": "SELECT",
    "CALL do_it(1)": "CALL do_it",
    "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a=2": "INSERT t",
    "INSERT INTO t SELECT * FROM s": "INSERT t s",
    "EXPLAIN SELECT * FROM t": "SELECT t",
    "TRUNCATE TABLE t": "TRUNCATE t",
    "DROP TABLE IF EXISTS t": "DROP t",
    "MERGE INTO t USING s ON 1=1 WHEN MATCHED THEN UPDATE SET a=1": "MERGE t s",
    "SELECT `a`.`b` FROM `db`.`t`": "SELECT db.t",
    "PRAGMA table_info(x)": "PRAGMA",
    "SELECT $tag$ FROM x $tag$ FROM y": "SELECT y",
    "SELECT * FROM unnest(%s) AS u (a), t JOIN generate_series(1, 2) g ON TRUE": "SELECT t",
    "INSERT INTO t (a) SELECT * FROM UNNEST(%s)": "INSERT t",
    "REPLACE INTO t (a) VALUES (1)": "REPLACE t",
    "INSERT OR IGNORE INTO t VALUES (1)": "INSERT t",
    "SAVEPOINT s": "SAVEPOINT",
    "BEGIN;": "BEGIN",
    "DECLARE c CURSOR FOR SELECT 1 FROM t": "DECLARE t",
    "SELECT 1 FROM t WHERE a IN (SELECT b FROM u) AND c = 'FROM v'": "SELECT t u",
    "SELECT a FROM t # don't\n": "SELECT t",
}


@pytest.mark.parametrize("statement", NAMES)
def test_a_statement_is_named_by_its_operation_and_tables(statement: str) -> None:
    """Spans would be named by whole statements, a name for each value in them, or all alike."""
    assert sql.name_of(statement) == NAMES[statement]
    assert sql.name_of(statement) == NAMES[statement]  # From memory.


def test_literals_are_replaced() -> None:
    """Passwords and card numbers would be stored with the traces."""
    statement = "SELECT 'a''b', 12.5e3, x1, t.2c, 0xff FROM \"t1\" WHERE a IN (1, 2,3) -- secret\n and b=$1"
    assert sql.without_literals(statement) == 'SELECT ?, ?, x1, t.2c, ? FROM "t1" WHERE a IN (?)  \n and b=$1'
    assert sql.without_literals('SELECT "secret" FROM `t`', quotes_are_text=True) == "SELECT ? FROM `t`"
    assert sql.without_literals("SELECT $a$ secret $b$ $a$, a$b$c FROM t") == "SELECT ?, a$b$c FROM t"
    assert sql.without_literals("SELECT 1 # don't\n FROM t WHERE a = 'secret'", quotes_are_text=True) == "SELECT ?  \n FROM t WHERE a = ?"


AMBIGUOUS = {
    "SELECT 'C:\\', a FROM t WHERE b = 'secret'": "SELECT ?",
    "SELECT 'it\\'s secret', 'secret'": "SELECT ?",
    "SELECT 'C:\\\\', 'secret' FROM t": "SELECT ?, ? FROM t",
    "SELECT /* a /* b */ don't */ 'secret'": "SELECT",
    'SELECT "it\\"s FROM secret" FROM t': "SELECT ?",
}


@pytest.mark.parametrize("statement", AMBIGUOUS)
def test_what_databases_read_differently_is_not_guessed_at(statement: str) -> None:
    """A quote behind a backslash ends a string here and not there: read the other way, the values would be what is shown."""
    assert sql.without_literals(statement, quotes_are_text=True) == AMBIGUOUS[statement]
    assert "secret" not in sql.summarize(statement)
    if '"' not in statement:
        assert sql.without_literals(statement) == AMBIGUOUS[statement]


def test_many_values_are_not_read_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each insertion of a program that writes its values into it would cost as much as its length, on the program's own thread."""
    read: list[str] = []
    tokens = sql._tokens
    monkeypatch.setattr(sql, "_tokens", lambda text: (read.append(token) or token for token in tokens(text)))
    assert sql.summarize("INSERT INTO t (a) VALUES " + "(x)," * 900) == "INSERT t"
    assert len(read) < 10


@given(some.text(alphabet="selctfrom '\"`$-/*;,()0123456789\\\nwhereunio", max_size=200))
def test_no_text_is_too_odd(statement: str) -> None:
    """A statement that only the database understands would break the program, or hang it."""
    sql.summarize(statement)
    assert "'" not in sql.without_literals(f"SELECT 'secret{statement.replace(chr(39), '')}'")


def test_names_are_remembered_within_bounds() -> None:
    """A program that writes values into its statements would fill the memory."""
    for number in range(2 * sql.MAX_REMEMBERED):
        sql.name_of(f"SELECT * FROM t WHERE id = {number}")
    assert len(sql._names) <= sql.MAX_REMEMBERED


def test_objects_that_are_no_statement() -> None:
    assert sql.name_of(None) == sql.name_of(object()) == ""
    assert sql.name_of(b"SELECT 1 FROM t") == "SELECT t"


def test_attributes() -> None:
    """What is searched for would have other names than in every other agent."""
    found = sql.describe_statement("postgresql", "shop", "db", 5433, "SELECT * FROM t WHERE a = 'secret'", False)
    assert found == {
        "db.system.name": "postgresql",
        "db.namespace": "shop",
        "db.query.summary": "SELECT t",
        "db.operation.name": "SELECT",
        "db.collection.name": "t",
        "db.query.text": "SELECT * FROM t WHERE a = ?",
        "server.address": "db",
        "server.port": 5433,
    }
    assert sql.describe_statement("sqlite", "", "", 0, "INSERT INTO t VALUES (?)", True) == {
        "db.system.name": "sqlite",
        "db.query.summary": "INSERT t",
        "db.operation.name": "INSERT",
        "db.collection.name": "t",
        "db.query.text": "INSERT INTO t VALUES (?)",
    }
    assert sql.describe_statement("mysql", "", "", 0, 'SELECT "secret" FROM a JOIN b', False) == {
        "db.system.name": "mysql",
        "db.query.summary": "SELECT a b",
        "db.operation.name": "SELECT",
        "db.query.text": "SELECT ? FROM a JOIN b",
    }
    assert (sql.describe_batch(3), sql.describe_batch(1)) == ({"db.operation.batch.size": 3}, {})
