"""redis and valkey, against a real server: a span for each command, one for a pipeline, and nothing of what is stored."""

from __future__ import annotations

import asyncio
import inspect
import re
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
import valkey
import valkey.asyncio

from autoinstr.instrument.redis import name_and_count, where
from autoinstr.model import Kind, Status
from fakes import until

from . import redis_server
from .contract_client import below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoinstr.instrument import Watcher
    from autoinstr.report import InMemoryReporter

pytestmark = pytest.mark.skipif(redis_server.BINARY is None, reason=redis_server.WHY_NOT)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server.running(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture(scope="module")
def cluster_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A cluster of one node."""
    with redis_server.running(tmp_path_factory.mktemp("cluster"), "--cluster-enabled", "yes") as found:
        with closing(redis.Redis(port=found)) as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            until(lambda: client.cluster("info")["cluster_state"] == "ok", "the start of the cluster")
        yield found


class Plain:
    """A library, without ``await``."""

    def __init__(self, package: Any, kind: str) -> None:
        self.package, self.kind = package, kind
        self.system = package.__name__

    def run(self, work: Callable[..., Any], port: int, kind: str = "", **options: Any) -> Any:
        with closing(getattr(self.package, kind or self.kind)(host="127.0.0.1", port=port, **options)) as client:
            return work(client)

    def step(self, value: Any) -> Any:
        return value


class Asynchronous(Plain):
    """Its asynchronous half; ``work`` is run in another thread, so that the same lines do for both."""

    def run(self, work: Callable[..., Any], port: int, kind: str = "", **options: Any) -> Any:
        async def session() -> Any:
            self.loop = asyncio.get_running_loop()
            async with aclosing(getattr(self.package.asyncio, kind or self.kind)(host="127.0.0.1", port=port, **options)) as client:
                return await asyncio.to_thread(work, client)

        return asyncio.run(session())

    def step(self, value: Any) -> Any:
        """What it comes to, in the context of here."""
        if not inspect.isawaitable(value):
            return value

        async def awaited() -> Any:
            return await value

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result(20)


LIBRARIES = [Plain(redis, "Redis"), Asynchronous(redis, "Redis"), Plain(valkey, "Valkey"), Asynchronous(valkey, "Valkey")]


@pytest.fixture(params=LIBRARIES, ids=lambda one: f"{type(one).__name__} {one.system}")
def library(request: pytest.FixtureRequest, watch: Callable[..., Watcher]) -> Any:
    return request.param


def test_a_command_is_a_span(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    """Time in the cache would be a gap in the trace; keys and values would lie open there."""
    watcher = watch()

    def work(client: Any) -> None:
        with below(watcher) as parent:
            library.step(client.set("secret key", "secret value", ex=5))
            assert library.step(client.get("secret key")) == b"secret value"
        assert {(span.trace_id, span.parent_id) for span in reporter.spans} == {(parent.trace_id, parent.span_id)}

    library.run(work, port, db=3)
    assert [(span.name, span.kind, span.scope) for span in reporter.spans] == [
        ("SET", Kind.CLIENT, library.system), ("GET", Kind.CLIENT, library.system),
    ]
    found = {key: value for key, value in reporter.spans[0].attributes.items() if key.startswith(("db.", "server."))}
    assert found == {
        "db.system.name": library.system,
        "db.namespace": "3",
        "db.operation.name": "SET",
        "db.query.text": "SET ? ? ? ?",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert "secret" not in str([span.attributes for span in reporter.spans])


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_is_one_span(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int, transaction: bool) -> None:
    """A pipeline of a thousand commands would be a thousand spans, or none."""
    watch()

    def work(client: Any) -> None:
        pipeline = client.pipeline(transaction=transaction)
        assert pipeline.set("k", 1).incr("k").incr("k") is pipeline
        assert library.step(pipeline.execute()) == [True, 2, 3]
        assert library.step(pipeline.execute()) == []
        for _ in range(30):
            pipeline.incr("k")
        assert len(library.step(pipeline.execute())) == 30
        pipeline.get("k").get("k")
        library.step(pipeline.execute())

    library.run(work, port)
    first, many, same = reporter.spans
    name = "MULTI" if transaction else "PIPELINE"
    assert [span.name for span in reporter.spans] == [name, name, f"{name} GET"]
    assert first.attributes["db.query.text"] == "SET ? ?; INCRBY ? ?; INCRBY ? ?"
    assert same.attributes["db.query.text"] == "GET ?"
    assert str(many.attributes["db.query.text"]).count("INCRBY") == 20
    assert [span.attributes["db.operation.batch.size"] for span in reporter.spans] == [3, 30, 2]


def test_commands_before_a_transaction(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    """What is read between WATCH and MULTI is sent at once, by the pipeline."""
    watch()

    def work(client: Any) -> None:
        pipeline = client.pipeline()
        library.step(pipeline.watch("k"))
        library.step(pipeline.get("k"))
        pipeline.multi()
        pipeline.set("k", 2)
        library.step(client.set("k", 5))
        with pytest.raises(library.package.WatchError):
            library.step(pipeline.execute())

    library.run(work, port)
    assert [span.name for span in reporter.spans] == ["WATCH", "GET", "SET", "MULTI SET"]
    assert [span.status for span in reporter.spans] == [Status.UNSET, Status.UNSET, Status.UNSET, Status.ERROR]


def test_a_script_is_one_span_each(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    watch()

    def work(client: Any) -> None:
        script = client.register_script("return ARGV[1]")
        pipeline = client.pipeline()
        library.step(script(args=["secret"], client=pipeline))
        library.step(pipeline.execute())  # Loads the script, inside.

    library.run(work, port)
    assert [span.name for span in reporter.spans] == ["MULTI EVALSHA"]
    assert "secret" not in str(reporter.spans[0].attributes)


def failures(span: Any) -> str:
    return str([span.attributes, span.status_message, *[(event.name, event.attributes) for event in span.events or ()]])


def test_errors_are_told_without_what_is_stored(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    """The library puts keys and values into its messages, and the server those of unknown commands."""
    watch()
    error = library.package.ResponseError

    def work(client: Any) -> None:
        library.step(client.set("text", "t"))
        with pytest.raises(error, match="not an integer"):
            library.step(client.incr("text"))
        with pytest.raises(error, match="secret"):
            library.step(client.execute_command("NOPE", "secret", "secret2"))
        with pytest.raises(error, match=r"SET secret|LPUSH text secret"):
            library.step(client.pipeline().set("secret", "secret").lpush("text", "secret").execute())

    library.run(work, port)
    _, number, unknown, batch = reporter.spans
    kind = f"{library.system}.exceptions.ResponseError"
    assert [(span.status, span.attributes.get("error.type")) for span in (number, unknown, batch)] == [(Status.ERROR, kind)] * 3
    assert "not an integer" in failures(number)
    assert "unknown command 'NOPE'" in failures(unknown)
    assert re.search(r"Command # 2 of pipeline caused error: \W*WRONGTYPE", failures(batch))
    assert all("secret" not in failures(span) for span in reporter.spans)


def test_the_prefix_of_an_error(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    watch()

    def work(client: Any) -> None:
        library.step(client.set("text", "t"))
        with pytest.raises(library.package.ResponseError):
            library.step(client.lpush("text", "x"))

    library.run(work, port)
    assert reporter.spans[-1].attributes["db.response.status_code"] == "WRONGTYPE"


def test_nobody_is_there(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """The program would see another error than without us, or the trace none."""
    from ports import free_port

    watch()

    def work(client: Any) -> None:
        with pytest.raises(library.package.ConnectionError):
            library.step(client.get("k"))

    options = {"retry": None} if library.system == "redis" else {}
    library.run(work, free_port(), **options)
    (span,) = reporter.spans
    assert (span.name, span.attributes["error.type"]) == ("GET", f"{library.system}.exceptions.ConnectionError")


def test_a_cancelled_command_is_no_error(watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    watch()

    async def work() -> None:
        async with redis.asyncio.Redis(port=port) as client:
            await client.ping()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.blpop("nothing"), 0.05)

    asyncio.run(work())
    assert [(span.name, span.status) for span in reporter.spans] == [("PING", Status.UNSET), ("BLPOP", Status.UNSET)]


def test_messages(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    """A program that listens would have a span for each time that nothing came."""
    watcher = watch()

    def work(client: Any) -> None:
        listener = client.pubsub()
        library.step(listener.subscribe("weather"))
        library.step(listener.get_message(timeout=5))
        with below(watcher):
            library.step(listener.subscribe("news"))
        library.step(listener.get_message(timeout=5))
        library.step(client.publish("news", "secret"))
        assert library.step(listener.get_message(timeout=5))["data"] == b"secret"
        library.step((getattr(listener, "aclose", None) or listener.close)())

    library.run(work, port)
    assert [span.name for span in reporter.spans] == ["SUBSCRIBE", "PUBLISH"]
    assert "news" not in str([span.attributes for span in reporter.spans])


def test_a_cluster(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, cluster_port: int) -> None:
    """Commands of a cluster would be there twice, for the cluster and for its node, or without where they went."""
    watch()

    def work(client: Any) -> None:
        library.step(client.get("before"))  # An asynchronous client looks for its nodes now.
        reporter.spans.clear()
        library.step(client.set("k", "secret"))
        assert library.step(client.get("k")) == b"secret"
        pipeline = client.pipeline()
        pipeline.get("k").get("k")
        assert library.step(pipeline.execute()) == [b"secret", b"secret"]

    library.run(work, cluster_port, f"{library.kind}Cluster")
    assert [span.name for span in reporter.spans] == ["SET", "GET", "PIPELINE GET"]
    assert [span.attributes.get("server.port") for span in reporter.spans] == [cluster_port, cluster_port, None]
    assert reporter.spans[2].attributes["db.operation.batch.size"] == 2
    assert "secret" not in str([span.attributes for span in reporter.spans])


def test_a_socket(watch: Callable[..., Watcher], reporter: InMemoryReporter, tmp_path: Any) -> None:
    """A server on a socket would have neither a name nor a port, or would break the instrument."""
    watch()
    with redis_server.running(tmp_path), closing(redis.Redis(unix_socket_path=str(tmp_path / "s"))) as client:
        client.ping()
    (span,) = reporter.spans
    assert (span.attributes["server.address"], "server.port" in span.attributes) == (str(tmp_path / "s"), False)


def test_a_trace_that_is_not_kept_costs_no_span(library: Plain, watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    watcher = watch(keep=False)

    def work(client: Any) -> None:
        with below(watcher):
            library.step(client.ping())
            library.step(client.pipeline().set("k", 1).execute())

    library.run(work, port)
    assert watcher.tracing.tracer.children_unsampled == 0
    assert not reporter.spans


def test_a_command_that_cannot_be_described_goes_out(watch: Callable[..., Watcher], reporter: InMemoryReporter, port: int) -> None:
    """A pool of the program's own kind would break its commands."""
    watch()

    class Pool(redis.ConnectionPool):
        @property
        def master_address(self) -> Any:
            raise OSError("the program's")

    pool = Pool(port=port)
    with closing(redis.Redis(connection_pool=pool)) as client:
        assert client.ping() is True
    pool.disconnect()
    assert not reporter.spans


def test_defaults_of_the_library(watch: Callable[..., Watcher]) -> None:
    """A URL without host and port would give spans without a server."""
    with closing(redis.Redis.from_url("redis:///4")) as client:
        assert where(client) == ("localhost", 6379, 4)
    sentinel = redis.Sentinel([("127.0.0.1", 1)])
    with closing(sentinel.master_for("main")) as client:
        assert where(client) == ("", 0, 0)
        client.connection_pool.proxy.master_address = ("127.0.0.9", 9)
        assert where(client) == ("127.0.0.9", 9, 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("get", "k"), ("GET", 1)),
        ((b"get", "k"), ("GET", 1)),
        (("CONFIG GET", "maxmemory"), ("CONFIG GET", 1)),
        (("config", "get", "maxmemory"), ("CONFIG GET", 1)),
        (("SET key secret",), ("SET", 2)),
        (("OBJECT ENCODING", "key"), ("OBJECT ENCODING", 1)),
        (("FT.SEARCH", "index", "query"), ("FT.SEARCH", 2)),
        (("x" * 100,), ("X" * 40, 0)),
        (("söcret",), ("", 0)),
        (("se:cret", 1), ("", 1)),
        (("MSET", *range(1000)), ("MSET", 20)),
        (("", 1), ("", 1)),
        ((), ("", 0)),
    ],
)
def test_names(arguments: tuple[Any, ...], expected: tuple[str, int]) -> None:
    """A name would be what the program stores, or have as many values as there are keys."""
    name, count = name_and_count(arguments)
    assert (name, max(count, 0)) == expected
    assert name_and_count(arguments) == (name, count)


def test_nothing_is_left_of_it(watch: Callable[..., Watcher], port: int) -> None:
    bare = redis.Redis.execute_command, redis.asyncio.Redis.execute_command, redis.client.Pipeline.execute
    watcher = watch()
    assert bare[0] is not redis.Redis.execute_command
    assert inspect.iscoroutinefunction(redis.asyncio.Redis.execute_command)
    assert inspect.signature(redis.Redis.execute_command) == inspect.signature(bare[0])
    watcher.uninstall()
    assert bare == (redis.Redis.execute_command, redis.asyncio.Redis.execute_command, redis.client.Pipeline.execute)
