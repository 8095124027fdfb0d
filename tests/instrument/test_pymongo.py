"""pymongo, plain and asynchronous, against a server that speaks its protocol: a span for each command, and nothing of its documents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pymongo
import pymongo.errors
import pytest
from pymongo import monitoring

from autoinstr import trouble
from autoinstr.model import Kind, Status
from autoinstr.trace import current
from ports import free_port

from .contract_client import below
from .mongo_server import MongoServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoinstr.instrument import Watcher
    from autoinstr.report import InMemoryReporter



@pytest.fixture
def server() -> Iterator[MongoServer]:
    one = MongoServer()
    yield one
    one.close()


@pytest.fixture
def shop(watch: Callable[..., Watcher], server: MongoServer) -> Iterator[Any]:
    """A database."""
    watch()
    with pymongo.MongoClient("127.0.0.1", server.port, serverSelectionTimeoutMS=20_000) as client:
        yield client.shop


def test_a_command_is_a_span(shop: Any, server: MongoServer, reporter: InMemoryReporter) -> None:
    """Time in the database would be a gap in the trace; documents would lie open there."""
    assert shop.users.insert_one({"name": "secret"}).acknowledged
    (span,) = reporter.spans
    assert (span.name, span.kind, span.scope, span.status) == ("insert users", Kind.CLIENT, "pymongo", Status.UNSET)
    found = {key: value for key, value in span.attributes.items() if not key.startswith("sampler.")}
    assert found == {
        "db.system.name": "mongodb",
        "db.namespace": "shop",
        "db.collection.name": "users",
        "db.operation.name": "insert",
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    assert "secret" in str(server.commands)


def test_below_the_request_that_it_is_for(shop: Any, reporter: InMemoryReporter, watch: Callable[..., Watcher]) -> None:
    """All batches of a cursor, too; and what comes after it would be below a command."""
    parent = watch().tracing.tracer.start("GET /", Kind.SERVER)
    token = current.set(parent)
    assert [one["n"] for one in shop.users.find({"name": "secret"})] == [1, 2]
    assert current.get() is parent
    current.reset(token)
    assert [(span.name, span.parent_id) for span in reporter.spans] == [("find users", parent.span_id), ("getMore users", parent.span_id)]
    assert "secret" not in str([span.attributes for span in reporter.spans])


def test_a_batch(shop: Any, reporter: InMemoryReporter) -> None:
    shop.users.insert_many([{"n": n} for n in range(3)])
    (span,) = reporter.spans
    assert span.attributes["db.operation.batch.size"] == 3


def everything(span: Any) -> str:
    return str([span.attributes, span.status_message, span.events])


def test_an_error_is_told_without_documents(shop: Any, reporter: InMemoryReporter) -> None:
    """Servers quote the documents in their messages."""
    with pytest.raises(pymongo.errors.OperationFailure, match="secret"):
        shop.broken.insert_one({"name": "secret"})
    (span,) = reporter.spans
    assert (span.status, span.attributes["error.type"], span.attributes["db.response.status_code"]) == (Status.ERROR, "DuplicateKey", "11000")
    assert "secret" not in everything(span)


def test_a_server_that_hangs_up(shop: Any, reporter: InMemoryReporter) -> None:
    """A command without an answer would be a span without an end; a retried one is two commands."""
    with pytest.raises(pymongo.errors.AutoReconnect):
        list(shop.gone.find())
    assert {(span.name, span.status, span.attributes["error.type"]) for span in reporter.spans} == {("find gone", Status.ERROR, "AutoReconnect")}


def test_nobody_is_there(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    watch()
    with pymongo.MongoClient("127.0.0.1", free_port(), serverSelectionTimeoutMS=50) as client, pytest.raises(pymongo.errors.ServerSelectionTimeoutError):
        client.shop.users.find_one()
    assert not reporter.spans


def test_what_the_driver_does_for_itself(watch: Callable[..., Watcher], server: MongoServer, reporter: InMemoryReporter) -> None:
    """Each closed client would be a trace."""
    watcher = watch()
    with pymongo.MongoClient("127.0.0.1", server.port) as client:
        client.shop.users.find_one()
        client.admin.command("ping")
        with below(watcher):
            client.admin.command("ping")
    assert "endSessions" in [next(iter(command)) for command in server.commands]
    assert [span.name for span in reporter.spans] == ["find users", "ping"]


def test_asynchronous(watch: Callable[..., Watcher], server: MongoServer, reporter: InMemoryReporter) -> None:
    """Commands of tasks that run side by side would be below each other's requests."""
    watcher = watch()

    async def request(client: Any, number: int) -> tuple[str, int]:
        with below(watcher) as parent:
            await asyncio.sleep(0)
            await client.shop[f"c{number}"].insert_one({"n": number})
            return f"insert c{number}", parent.span_id

    async def work() -> Any:
        async with pymongo.AsyncMongoClient("127.0.0.1", server.port) as client:
            return await asyncio.gather(*[request(client, number) for number in range(5)])

    assert sorted(asyncio.run(work())) == sorted((span.name, span.parent_id) for span in reporter.spans)


def test_a_trace_that_is_not_kept_costs_no_span(watch: Callable[..., Watcher], server: MongoServer, reporter: InMemoryReporter) -> None:
    watcher = watch(keep=False)
    with below(watcher), pymongo.MongoClient("127.0.0.1", server.port) as client:
        client.shop.users.find_one()
    assert watcher.tracing.tracer.children_unsampled == 0
    assert not reporter.spans


def test_listeners_of_the_program(watch: Callable[..., Watcher], server: MongoServer) -> None:
    """They would not be told any more; those of libraries that count commands among them."""
    told = []

    class Own(monitoring.CommandListener):
        def started(self, event: Any) -> None:
            told.append(event.command_name)

        def succeeded(self, event: Any) -> None:
            """Nothing."""

        failed = succeeded

    watch()
    monitoring.register(Own())
    with pymongo.MongoClient("127.0.0.1", server.port, event_listeners=[Own()]) as client:
        client.shop.users.find_one()
    assert told[:2] == ["find", "find"]


def test_commands_without_an_end_are_forgotten(watch: Callable[..., Watcher], server: MongoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory would grow with each command that was cancelled."""
    from autoinstr.instrument import pymongo as instrument

    monkeypatch.setattr(instrument, "MOST_OPEN", 3)
    made = []
    original = instrument.Commands.__init__
    monkeypatch.setattr(instrument.Commands, "__init__", lambda self, tracing: (made.append(self), original(self, tracing))[1])
    monkeypatch.setattr(instrument.Commands, "succeeded", lambda *_: None)
    watch()
    with pymongo.MongoClient("127.0.0.1", server.port) as client:
        for _ in range(9):
            client.shop.users.find_one()
    assert len(made[-1]._open) == 3


def test_trouble_of_ours_stays_ours(watch: Callable[..., Watcher], server: MongoServer, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(trouble, "_last_said", {})
    watcher = watch()
    watcher.tracing.tracer = None  # type: ignore[assignment]
    with pymongo.MongoClient("127.0.0.1", server.port) as client:
        assert client.shop.users.find_one() == {"n": 1}
    assert "internal error in an event of pymongo" in capfd.readouterr().err


def test_nothing_is_left_of_it(watch: Callable[..., Watcher], server: MongoServer, reporter: InMemoryReporter) -> None:
    bare = monitoring._LISTENERS
    watcher = watch()
    assert len(monitoring._LISTENERS.command_listeners) == len(bare.command_listeners) + 1
    watcher.uninstall()
    assert monitoring._LISTENERS is bare
