"""gRPC: a span at either end of each call, of all four kinds, plain and asyncio, over real connections."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc._channel  # noqa: PLC2701 - what is patched
import grpc._server  # noqa: PLC2701
import grpc.aio
import pytest

from autoinstr.instrument import Patcher, Tracing, load
from autoinstr.instrument.grpc import Behaviours, split_target
from autoinstr.model import Kind, SpanContext, Status
from autoinstr.trace import SUPPRESSED, current
from fakes import DEADLINE_S, until

from .conftest import build_tracing
from .contract_client import USER_PARENT
from .in_request import in_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from autoinstr.report import InMemoryReporter
    from autoinstr.trace import Span

INSTRUMENTS = {
    "grpc._channel": "patch_channel",
    "grpc.aio._channel": "patch_aio_channel",
    "grpc._server": "patch_server",
    "grpc.aio._server": "patch_aio_server",
}
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
#: Servers that could share a port with those of other tests would.
OPTIONS = (("grpc.so_reuseport", 0),)


@pytest.fixture
def trace(reporter: InMemoryReporter) -> Iterator[Callable[..., Tracing]]:
    """``trace(**environ)`` instruments grpc, and threads; everything is taken out after the test."""
    patchers: list[Patcher] = []

    def start(*, keep: bool = True, **environ: str) -> Tracing:
        while patchers:  # What is wrapped already is not wrapped again.
            patchers.pop().undo()
        tracing = build_tracing(reporter, keep=keep, **environ)
        for name, function in INSTRUMENTS.items():
            patchers.append(Patcher(importlib.import_module(name)))
            load(f"autoinstr.instrument.grpc:{function}")(patchers[-1], tracing)
        patchers.append(Patcher(threading))
        load("autoinstr.instrument.threads:patch_threading")(patchers[-1], tracing)
        return tracing

    yield start
    for patcher in reversed(patchers):
        patcher.undo()
    assert current.get() is None, "a span was left behind as the current one"


# A service. Messages are bytes: the first word says what is to be done.


class Seen:
    """What behaviours saw."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.spans: list[Span | None] = []
        self.gone = threading.Event()
        self.go_on = threading.Event()


def act(message: bytes, context: Any) -> None:
    if message == b"abort":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    if message == b"unavailable":
        context.set_code(grpc.StatusCode.UNAVAILABLE)
        context.set_details("not now")
    if message == b"fail":
        raise ValueError("broken")


def make_service(seen: Seen) -> grpc.GenericRpcHandler:
    def note(context: Any) -> None:
        seen.metadata.append(dict(context.invocation_metadata()))
        seen.spans.append(current.get())

    def unary_unary(request: bytes, context: Any) -> bytes:
        """Answers."""
        note(context)
        act(request, context)
        if request == b"wait":
            seen.go_on.wait(DEADLINE_S)
        return request

    def unary_stream(request: bytes, context: Any) -> Iterator[bytes]:
        note(context)
        try:
            yield b"first"
            act(request, context)
            seen.spans.append(current.get())
            while request == b"endless":
                yield b"more"
            yield b"last"
        finally:
            seen.gone.set()

    def stream_unary(requests: Iterator[bytes], context: Any) -> bytes:
        note(context)
        received = list(requests)
        act(received[-1], context)
        return b" ".join(received)

    def stream_stream(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        note(context)
        for request in requests:
            act(request, context)
            yield request

    behaviours = (unary_unary, unary_stream, stream_unary, stream_stream)
    handlers = {each.__name__: getattr(grpc, f"{each.__name__}_rpc_method_handler")(each) for each in behaviours}
    return grpc.method_handlers_generic_handler("shop.Stock", handlers)


def make_aio_service(seen: Seen) -> grpc.GenericRpcHandler:
    def note(context: Any) -> None:
        seen.metadata.append(dict(context.invocation_metadata()))
        seen.spans.append(current.get())

    async def act(message: bytes, context: Any) -> None:
        if message == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if message == b"unavailable":
            context.set_code(grpc.StatusCode.UNAVAILABLE)
            context.set_details("not now")
        if message == b"fail":
            raise ValueError("broken")

    async def unary_unary(request: bytes, context: Any) -> bytes:
        note(context)
        await act(request, context)
        return request

    async def unary_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        note(context)
        try:
            yield b"first"
            await act(request, context)
            seen.spans.append(current.get())
            while request == b"endless":
                yield b"more"
            yield b"last"
        finally:
            seen.gone.set()

    async def stream_unary(requests: AsyncIterator[bytes], context: Any) -> bytes:
        note(context)
        received = [request async for request in requests]
        await act(received[-1], context)
        return b" ".join(received)

    async def stream_stream(requests: Any, context: Any) -> None:
        """The other way to write one: a coroutine function."""
        note(context)
        async for request in requests:
            await act(request, context)
            await context.write(request)

    def plain(request: bytes, context: Any) -> bytes:
        note(context)
        return request

    behaviours = (unary_unary, unary_stream, stream_unary, stream_stream)
    handlers = {each.__name__: getattr(grpc, f"{each.__name__}_rpc_method_handler")(each) for each in behaviours}
    handlers["plain"] = grpc.unary_unary_rpc_method_handler(plain)
    return grpc.method_handlers_generic_handler("shop.Stock", handlers)


@contextmanager
def serving(seen: Seen, *handlers: grpc.GenericRpcHandler, **keywords: Any) -> Iterator[int]:
    """The port of a server."""
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=(make_service(seen), *handlers), options=OPTIONS, **keywords)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            seen.go_on.set()
            server.stop(0).wait(DEADLINE_S)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def port(trace: Callable[..., Tracing], seen: Seen) -> Iterator[int]:
    """Of a server that is not traced: what is patched later concerns servers made later."""
    with serving(seen) as found:
        yield found


@contextmanager
def channel_to(port: int, **keywords: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}", **keywords) as channel:
        yield channel


def call(channel: grpc.Channel, kind: str, *messages: bytes, **keywords: Any) -> Any:
    """What a call of a kind answers, all of it."""
    method = getattr(channel, kind)(f"/shop.Stock/{kind}")
    request: Any = iter(messages) if kind.startswith("stream") else messages[0]
    answer = method(request, timeout=DEADLINE_S, **keywords)
    return list(answer) if kind.endswith("stream") else answer


ANSWERS = {"unary_unary": b"a", "unary_stream": [b"first", b"last"], "stream_unary": b"a b", "stream_stream": [b"a", b"b"]}


def wait_for(reporter: InMemoryReporter, count: int) -> list[Span]:
    """The spans, once there are so many; a call's end is told to another thread than to the one that waits for it."""
    until(lambda: len(reporter.spans) >= count, f"span {count}")
    assert len(reporter.spans) == count
    return list(reporter.spans)  # type: ignore[arg-type]


# Clients.


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_is_a_span(kind: str, port: int, seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Calls to other services are gaps in the trace, and what those do is a trace of its own."""
    tracing = trace()
    with channel_to(port) as channel, in_request(tracing) as parent:
        assert call(channel, kind, b"a", b"b") == ANSWERS[kind]
    (span,) = wait_for(reporter, 1)
    assert (span.name, span.kind, span.scope) == (f"shop.Stock/{kind}", Kind.CLIENT, "grpc")
    assert (span.trace_id, span.parent_id, span.status) == (parent.trace_id, parent.span_id, Status.UNSET)
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"shop.Stock/{kind}",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert seen.metadata[0]["traceparent"] == f"00-{span.trace_id:032x}-{span.span_id:016x}-03"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("message", "code"), [(b"abort", "NOT_FOUND"), (b"unavailable", "UNAVAILABLE")])
def test_a_call_that_fails(
    kind: str, message: bytes, code: str, port: int, trace: Callable[..., Tracing], reporter: InMemoryReporter
) -> None:
    """A callee's failure does not show, or the program gets another error than without us."""
    with channel_to(port) as channel:
        with pytest.raises(grpc.RpcError) as bare:
            call(channel, kind, message)
        trace()
        with pytest.raises(grpc.RpcError) as traced:
            call(channel, kind, message)
    assert type(traced.value) is type(bare.value)
    assert traced.value.code().name == code
    (span,) = wait_for(reporter, 1)
    assert (span.status, span.status_message) == (Status.ERROR, traced.value.details())
    assert (span.attributes["rpc.response.status_code"], span.attributes["error.type"]) == (code, code)


def test_nobody_there(trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """A callee that is down does not show."""
    trace()
    with channel_to(1) as channel, pytest.raises(grpc.RpcError):
        call(channel, "unary_unary", b"a")
    (span,) = wait_for(reporter, 1)
    assert (span.status, span.attributes["error.type"]) == (Status.ERROR, "UNAVAILABLE")


def test_other_ways_to_call(port: int, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Calls made with ``with_call`` and ``future`` have no spans, or what they return has changed."""
    with channel_to(port) as channel:
        bare = type(channel.unary_unary("/shop.Stock/unary_unary").future(b"a"))
        trace()
        unary = channel.unary_unary("/shop.Stock/unary_unary")
        stream = channel.stream_unary("/shop.Stock/stream_unary")
        response, ended = unary.with_call(request=b"a", timeout=DEADLINE_S)
        assert (response, ended.code()) == (b"a", grpc.StatusCode.OK)
        assert stream.with_call(iter([b"a"]), DEADLINE_S)[0] == b"a"
        for future in (unary.future(b"a"), stream.future(iter([b"a"]))):
            assert type(future) is bare
            assert future.result(DEADLINE_S) == b"a"
        spans = wait_for(reporter, 4)
    assert {span.attributes["rpc.response.status_code"] for span in spans} == {"OK"}
    assert len({span.trace_id for span in spans}) == 4


@pytest.mark.parametrize("is_single", [False, True])
def test_a_stream_that_is_given_up(
    port: int, seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter, *, is_single: bool
) -> None:
    """A call that nobody refers to is cancelled by grpcio; ours would keep it alive, and the server at work."""
    trace()
    option = ((grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),) if is_single else ()
    with channel_to(port, options=option) as channel:
        gc.disable()
        try:
            responses = channel.unary_stream("/shop.Stock/unary_stream")(b"endless")
            assert next(responses) == b"first"
            del responses
            assert seen.gone.wait(DEADLINE_S)
        finally:
            gc.enable()
        (span,) = wait_for(reporter, 1)
    assert (span.status, span.attributes["rpc.response.status_code"]) == (Status.UNSET, "CANCELLED")


def test_a_stream_lasts_until_its_end(port: int, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """The span of a stream ends with its first message."""
    trace()
    with channel_to(port) as channel:
        responses = channel.unary_stream("/shop.Stock/unary_stream")(b"endless")
        assert [next(responses) for _ in range(3)] == [b"first", b"more", b"more"]
        assert not reporter.spans
        responses.cancel()
        (span,) = wait_for(reporter, 1)
    assert span.attributes["rpc.response.status_code"] == "CANCELLED"


def test_requests_are_made_below_the_callers_span(port: int, trace: Callable[..., Tracing]) -> None:
    """What a program reads from a database to send it would be a trace of its own: another thread asks for it."""
    spans = []

    def requests() -> Iterator[bytes]:
        spans.append(current.get())
        yield b"a"

    tracing = trace()
    with channel_to(port) as channel, in_request(tracing) as parent:
        assert channel.stream_unary("/shop.Stock/stream_unary")(requests()) == b"a"
    assert spans == [parent]


def test_a_channels_thread_belongs_to_no_call(port: int, trace: Callable[..., Tracing]) -> None:
    """What is called back for later calls would be put below the request that happened to make the first."""
    tracing = trace()
    spans: list[Span | None] = []
    states = []
    with channel_to(port) as channel:
        with in_request(tracing):
            channel.subscribe(lambda state: states.append((state, current.get())), try_to_connect=True)
            future = channel.unary_unary("/shop.Stock/unary_unary").future(b"wait")
            future.add_done_callback(lambda _: spans.append(current.get()))
            future.cancel()
        until(lambda: spans and states, "the callbacks")
    assert spans == [None]
    assert {span for _, span in states} == {None}


class Marking(grpc.UnaryUnaryClientInterceptor):
    """A program's own."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: bytes) -> Any:
        metadata = [*(details.metadata or ()), ("own", "1")]
        return continuation(details._replace(metadata=metadata), request)


def test_interceptors_of_the_program(port: int, seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Metadata that the program's interceptors add is lost, or ours."""
    trace()
    with channel_to(port) as channel:
        assert call(grpc.intercept_channel(channel, Marking()), "unary_unary", b"a") == b"a"
    assert len(wait_for(reporter, 1)) == 1
    assert {"own", "traceparent"} <= set(seen.metadata[0])


@pytest.mark.parametrize("make", [tuple, list, iter])
@pytest.mark.parametrize("is_positional", [False, True])
def test_metadata_of_the_program(
    port: int, seen: Seen, trace: Callable[..., Tracing], make: Callable[[Any], Any], *, is_positional: bool
) -> None:
    """The program's own metadata is changed, doubled or lost."""
    trace()
    own = make([("own", "1"), ("own-bin", b"\xff")])
    with channel_to(port) as channel:
        method = channel.unary_unary("/shop.Stock/unary_unary")
        if is_positional:
            method(b"a", DEADLINE_S, own)
        else:
            method(b"a", metadata=own)
    assert seen.metadata[0]["own"] == "1"
    assert seen.metadata[0]["own-bin"] == b"\xff"
    assert "traceparent" in seen.metadata[0]
    if make is list:
        assert own == [("own", "1"), ("own-bin", b"\xff")]


def test_baggage_that_metadata_cannot_carry(port: int, seen: Seen, trace: Callable[..., Tracing]) -> None:
    """A call would fail for a key of baggage that is no name in gRPC."""
    tracing = trace()
    with channel_to(port) as channel, in_request(tracing, baggage={"good": "1", "bad!": "2", "worse-bin": "3"}):
        assert call(channel, "unary_unary", b"a") == b"a"
    assert {name: value for name, value in seen.metadata[0].items() if name.startswith("uberctx")} == {"uberctx-good": "1"}


def test_a_context_of_the_programs_own(port: int, seen: Seen, trace: Callable[..., Tracing]) -> None:
    """A program that names a context itself has another one sent as well, and the callee none that is valid."""
    tracing = trace()
    with channel_to(port) as channel, in_request(tracing):
        call(channel, "unary_unary", b"a", metadata=(("traceparent", USER_PARENT),))
    assert seen.metadata[0]["traceparent"] == USER_PARENT
    assert "uber-trace-id" not in seen.metadata[0]


def test_inside_another_client_or_unsampled(
    port: int, seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter
) -> None:
    """A trace that is not kept ends here instead of being told so, or a client on top of gRPC is two spans."""
    tracing = trace(keep=False)
    with channel_to(port) as channel:
        with in_request(tracing) as unsampled:
            call(channel, "unary_unary", b"a")
        call(channel, "unary_unary", b"a")
        tracing = trace()
        with in_request(tracing) as leaf:
            leaf.leaf = True
            call(channel, "unary_unary", b"a")
        token = current.set(SUPPRESSED)
        call(channel, "unary_unary", b"a")
        current.reset(token)
    parents = [metadata.get("traceparent") for metadata in seen.metadata]
    assert parents[0] == f"00-{unsampled.trace_id:032x}-{unsampled.span_id:016x}-02"
    assert str(parents[1]).endswith("-02")
    assert parents[2] == f"00-{leaf.trace_id:032x}-{leaf.span_id:016x}-03"
    assert parents[3] is None
    assert not reporter.spans


@pytest.mark.parametrize(
    ("environ", "spans", "is_sent"),
    [
        ({"AUTOINSTR_NO_PROPAGATE_TO": "127.*"}, 1, False),
        ({"AUTOINSTR_PROPAGATE_TO": "127.*"}, 1, True),
        ({"AUTOINSTR_EXCLUDED_URLS": "Stock/unary"}, 0, False),
        ({"OTEL_PYTHON_GRPC_EXCLUDED_URLS": "^/shop.Stock/"}, 0, False),
        ({"AUTOINSTR_REQUIRE_PARENT": "true"}, 0, False),
    ],
)
def test_what_is_left_out(
    port: int,
    seen: Seen,
    trace: Callable[..., Tracing],
    reporter: InMemoryReporter,
    environ: dict[str, str],
    spans: int,
    *,
    is_sent: bool,
) -> None:
    """Settings that hold for all clients do not hold here."""
    trace(**environ)
    with channel_to(port) as channel:
        call(channel, "unary_unary", b"a")
    assert (len(reporter.spans), "traceparent" in seen.metadata[0]) == (spans, is_sent)


# Servers.


@pytest.mark.parametrize("kind", KINDS)
def test_a_behaviour_has_a_span(kind: str, seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """What a server does is no part of the caller's trace."""
    trace(OTEL_PYTHON_GRPC_EXCLUDED_URLS="nothing")
    with serving(seen) as port, channel_to(port) as channel:
        assert call(channel, kind, b"a", b"b") == ANSWERS[kind]
        spans = {span.kind: span for span in wait_for(reporter, 2)}
    server, client = spans[Kind.SERVER], spans[Kind.CLIENT]
    assert (server.name, server.scope, server.status) == (f"shop.Stock/{kind}", "grpc", Status.UNSET)
    assert (server.trace_id, server.parent_id) == (client.trace_id, client.span_id)
    assert set(seen.spans) == {server}
    assert server.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"shop.Stock/{kind}",
        "rpc.response.status_code": "OK",
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
    }


def servers(reporter: InMemoryReporter, count: int = 1) -> list[Span]:
    until(lambda: sum(span.kind == Kind.SERVER for span in reporter.spans) >= count, "the server's span")
    return [span for span in reporter.spans if span.kind == Kind.SERVER]  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("message", "code", "is_error", "exceptions"),
    [(b"abort", "NOT_FOUND", False, 0), (b"unavailable", "UNAVAILABLE", True, 0), (b"fail", "UNKNOWN", True, 1)],
)
def test_a_behaviour_that_fails(
    kind: str,
    message: bytes,
    code: str,
    seen: Seen,
    trace: Callable[..., Tracing],
    reporter: InMemoryReporter,
    *,
    is_error: bool,
    exceptions: int,
) -> None:
    """A refusal looks like a fault of the server's, or a fault like none; the client must get what it gets without us."""
    trace()
    with serving(seen) as port, channel_to(port) as channel, pytest.raises(grpc.RpcError) as raised:
        call(channel, kind, message)
    assert raised.value.code().name == code
    (span,) = servers(reporter)
    assert (span.status == Status.ERROR, len(span.events or ())) == (is_error, exceptions)
    assert span.attributes["rpc.response.status_code"] == code
    assert span.attributes.get("error.type") == (None if not is_error else "ValueError" if exceptions else code)
    keys = [key for describe, *arguments in span.facts for key in describe(*arguments)] + list(span.own or ())
    assert len(keys) == len(set(keys)), "an attribute is sent twice"


def test_a_client_that_goes_away_before_all_is_said(
    seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter
) -> None:
    """A client that has enough looks like a fault of the server's: grpcio raises in the midst of the behaviour."""

    def requests() -> Iterator[bytes]:
        yield b"a"
        seen.go_on.wait(DEADLINE_S)

    trace()
    with serving(seen) as port, channel_to(port) as channel:
        future = channel.stream_unary("/shop.Stock/stream_unary").future(requests())
        until(lambda: seen.spans, "the behaviour")
        future.cancel()
        (span,) = servers(reporter)
        seen.go_on.set()
    assert (span.status, span.events) == (Status.UNSET, None)
    # If grpcio learns of it late, the requests have just come to an end.
    assert span.attributes["rpc.response.status_code"] in {"CANCELLED", "OK"}


class Pooled:
    """A servicer, one of whose behaviours has threads of its own."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def behave(self, request: bytes, context: Any) -> bytes:
        self.threads.append(threading.current_thread().name)
        return request

    behave.experimental_thread_pool = ThreadPoolExecutor(1, thread_name_prefix="own")  # type: ignore[attr-defined]


def test_behaviours_with_threads_of_their_own(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """A behaviour that has been given a pool for itself is run in that of all others."""
    pooled = Pooled()
    handlers = {"behave": grpc.unary_unary_rpc_method_handler(pooled.behave)}
    trace()
    with serving(seen, grpc.method_handlers_generic_handler("shop.Own", handlers)) as port, channel_to(port) as channel:
        assert channel.unary_unary("/shop.Own/behave")(b"a") == b"a"
    Pooled.behave.experimental_thread_pool.shutdown()  # type: ignore[attr-defined]
    assert [thread.startswith("own") for thread in pooled.threads] == [True]
    assert len(servers(reporter)) == 1


def test_a_client_that_goes_away(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """The span of a stream that nobody reads to its end is lost."""
    trace()
    with serving(seen) as port, channel_to(port) as channel:
        responses = channel.unary_stream("/shop.Stock/unary_stream")(b"endless")
        assert next(responses) == b"first"
        responses.cancel()
        (span,) = servers(reporter)
        assert seen.gone.wait(DEADLINE_S)
    assert (span.status, span.attributes["rpc.response.status_code"]) == (Status.UNSET, "CANCELLED")


def test_telemetry_is_left_alone(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Spans of taking spans would be sent to where spans are taken, without end."""
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    spans = []

    def export(request: bytes, context: Any) -> bytes:
        spans.append((current.get(), dict(context.invocation_metadata()).get("traceparent")))
        return b""

    handler = grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})
    tracing = trace()
    with serving(seen, handler) as port, channel_to(port) as channel, in_request(tracing):
        assert channel.unary_unary(f"/{service}/Export")(b"") == b""
    assert (spans, list(reporter.spans)) == ([(None, None)], [])


def test_an_unknown_method(seen: Seen, trace: Callable[..., Tracing]) -> None:
    """The client would get another answer than without us."""
    trace()
    with serving(seen) as port, channel_to(port) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/shop.Stock/none")(b"a")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


class Guard(grpc.ServerInterceptor):
    """A program's own, which lets nobody in, and sees what handlers are."""

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.handlers.append(continuation(details))

        def refuse(request: bytes, context: Any) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")

        return grpc.unary_unary_rpc_method_handler(refuse)


def test_interceptors_of_the_server(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """What the program's interceptors refuse is in no trace."""
    trace()
    guard = Guard()
    with serving(seen, interceptors=[guard]) as port, channel_to(port) as channel, pytest.raises(grpc.RpcError) as raised:
        call(channel, "unary_unary", b"a")
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    (span,) = servers(reporter)
    assert (span.status, span.attributes["rpc.response.status_code"]) == (Status.UNSET, "UNAUTHENTICATED")
    assert guard.handlers[0].unary_unary.__name__ == "unary_unary"


# asyncio.


@asynccontextmanager
async def serving_aio(seen: Seen, **keywords: Any) -> AsyncIterator[int]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.aio.server(pool, handlers=(make_aio_service(seen),), options=OPTIONS, **keywords)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield port
        finally:
            await server.stop(None)


async def call_aio(channel: grpc.aio.Channel, kind: str, *messages: bytes, **keywords: Any) -> Any:
    method = getattr(channel, kind)(f"/shop.Stock/{kind}")
    request: Any = iter(messages) if kind.startswith("stream") else messages[0]
    answer = method(request, timeout=DEADLINE_S, **keywords)
    return [each async for each in answer] if kind.endswith("stream") else await answer


class AioMarking(grpc.aio.UnaryUnaryClientInterceptor):
    """A program's own."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: bytes) -> Any:
        if request == b"own":
            return b"its own"
        if request == b"raise":
            raise ValueError("own")
        return await continuation(details, request)


class AioStreamMarking(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: bytes) -> Any:
        async def doubled(responses: Any) -> AsyncIterator[bytes]:
            async for response in responses:
                yield response * 2

        return doubled(await continuation(details, request))


@pytest.mark.parametrize("kind", KINDS)
def test_aio(kind: str, seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Calls of asyncio programs are in no trace, at either end."""

    async def main() -> int:
        async with serving_aio(seen) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with in_request(tracing) as parent:
                assert await call_aio(channel, kind, b"a", b"b") == ANSWERS[kind]
            await asyncio.to_thread(until, lambda: len(reporter.spans) >= 2, "both spans")
            assert {span.trace_id for span in reporter.spans} == {parent.trace_id}
            return port

    tracing = trace()
    port = asyncio.run(main())
    spans = {span.kind: span for span in wait_for(reporter, 2)}
    server, client = spans[Kind.SERVER], spans[Kind.CLIENT]
    assert server.parent_id == client.span_id
    assert set(seen.spans) == {server}
    assert client.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"shop.Stock/{kind}",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert server.attributes["rpc.response.status_code"] == "OK"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("message", "code", "is_error"),
    [(b"abort", "NOT_FOUND", False), (b"unavailable", "UNAVAILABLE", True), (b"fail", "UNKNOWN", True)],
)
def test_aio_that_fails(
    kind: str,
    message: bytes,
    code: str,
    seen: Seen,
    trace: Callable[..., Tracing],
    reporter: InMemoryReporter,
    *,
    is_error: bool,
) -> None:
    """A refusal looks like a fault of the server's, or a fault like none."""

    async def main() -> None:
        async with serving_aio(seen) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call_aio(channel, kind, message)
            assert raised.value.code().name == code
            await asyncio.to_thread(until, lambda: len(reporter.spans) >= 2, "both spans")

    trace()
    asyncio.run(main())
    spans = {span.kind: span for span in wait_for(reporter, 2)}
    server, client = spans[Kind.SERVER], spans[Kind.CLIENT]
    assert (client.status, client.attributes["error.type"]) == (Status.ERROR, code)
    assert (server.status == Status.ERROR, server.attributes["rpc.response.status_code"]) == (is_error, code)
    assert [event.name for event in server.events or ()] == (["exception"] if code == "UNKNOWN" else [])


def test_aio_functions_that_are_not_async(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Behaviours that grpcio runs in its pool lose their spans, or are taken for coroutine functions."""

    async def main() -> None:
        async with serving_aio(seen) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary("/shop.Stock/plain")(b"a") == b"a"
            await asyncio.to_thread(until, lambda: len(reporter.spans) >= 2, "both spans")

    trace()
    asyncio.run(main())
    assert seen.spans == [span for span in reporter.spans if span.kind == Kind.SERVER]


def test_aio_stream_that_is_cancelled(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """The spans of a stream that nobody reads to its end are lost, or the behaviour is not told."""

    async def main() -> None:
        async with serving_aio(seen) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            responses = channel.unary_stream("/shop.Stock/unary_stream")(b"endless")
            assert await responses.read() == b"first"
            assert not reporter.spans
            responses.cancel()
            assert await asyncio.to_thread(seen.gone.wait, DEADLINE_S)
            await asyncio.to_thread(until, lambda: len(reporter.spans) >= 2, "both spans")

    trace()
    asyncio.run(main())
    assert {(span.status, span.attributes["rpc.response.status_code"]) for span in reporter.spans} == {
        (Status.UNSET, "CANCELLED")
    }


class AnyCall:
    """As much of a call's context as is asked for."""

    method = "/shop.Stock/stream"

    def invocation_metadata(self) -> None:
        """Nothing was sent."""

    def peer(self) -> str:
        return "unix:"

    def code(self) -> int:
        return 0


def test_aio_stream_that_is_closed(tracing: Tracing, reporter: InMemoryReporter) -> None:
    """A behaviour's cleanup runs some time later than grpcio wants it, and in no trace."""
    closed = []

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(current.get())

    async def main() -> None:
        handler = Behaviours(tracing, grpc).around(grpc.unary_stream_rpc_method_handler(stream), AnyCall)
        responses = handler.unary_stream(b"", AnyCall())
        assert await responses.__anext__() == b"a"
        await responses.aclose()
        assert closed == list(reporter.spans)

    asyncio.run(main())
    assert len(reporter.spans) == 1


def test_aio_call_without_references(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Where grpcio lets go of calls that nobody refers to, ours would keep them alive."""

    async def main() -> int:
        async with serving_aio(seen) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            gc.collect()
            gc.disable()
            try:
                responses = channel.unary_stream("/shop.Stock/unary_stream")(b"endless")
                await responses.read()
                return len(gc.get_referrers(responses))
            finally:
                gc.enable()
                responses.cancel()

    bare = asyncio.run(main())
    trace()
    assert asyncio.run(main()) == bare
    assert len(wait_for(reporter, 2)) == 2


def test_aio_interceptors_of_the_program(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Calls through the program's interceptors are in no trace, or last for ever."""

    async def main() -> None:
        marks = [AioMarking(), AioStreamMarking()]
        async with serving_aio(seen) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=marks) as channel:
            assert await call_aio(channel, "unary_unary", b"a") == b"a"
            assert await call_aio(channel, "unary_unary", b"own") == b"its own"
            with pytest.raises(ValueError, match="own"):
                await call_aio(channel, "unary_unary", b"raise")
            with pytest.raises(grpc.aio.AioRpcError):
                await call_aio(channel, "unary_unary", b"abort")
            assert await call_aio(channel, "unary_stream", b"a") == [b"firstfirst", b"lastlast"]
            with pytest.raises(grpc.aio.AioRpcError):
                await call_aio(channel, "unary_stream", b"abort")
            await asyncio.to_thread(until, lambda: len(reporter.spans) >= 10, "all spans")

    trace()
    asyncio.run(main())
    clients = [span for span in reporter.spans if span.kind == Kind.CLIENT]
    codes = [span.attributes.get("rpc.response.status_code") for span in clients]
    assert codes == ["OK", "OK", None, "NOT_FOUND", "OK", "NOT_FOUND"]
    assert clients[2].attributes["error.type"] == "ValueError"
    assert all("traceparent" in metadata for metadata in seen.metadata)


@pytest.mark.parametrize("own", [(("own", "1"),), [("own", "1")], grpc.aio.Metadata(("own", "1")), None])
def test_aio_metadata_of_the_program(own: Any, seen: Seen, trace: Callable[..., Tracing]) -> None:
    """The program's own metadata is changed, doubled or lost."""

    async def main() -> None:
        async with serving_aio(seen) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await call_aio(channel, "unary_unary", b"a", metadata=own)

    trace()
    asyncio.run(main())
    assert seen.metadata[0].get("own") == (None if own is None else "1")
    assert "traceparent" in seen.metadata[0]
    assert own is None or [tuple(item) for item in own] == [("own", "1")]


# What is the same.


def test_a_parent_from_elsewhere(seen: Seen, trace: Callable[..., Tracing], reporter: InMemoryReporter) -> None:
    """Callers that are traced by other agents have no children here."""
    with serving(seen):
        pass  # grpc has been used before.
    trace(OTEL_PROPAGATORS="tracecontext,b3")
    with serving(seen) as port:
        # A context of its own is not replaced, and reaches the server as a stranger's would.
        with channel_to(port) as channel:
            call(channel, "unary_unary", b"a", metadata=(("traceparent", USER_PARENT),))
        (span,) = servers(reporter)
    assert SpanContext(span.trace_id, span.parent_id) == SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)


def test_signatures_and_undo(trace: Callable[..., Tracing]) -> None:
    """Code that inspects what it calls, or runs after the agent was taken out, finds something else."""
    methods: list[Any] = [
        grpc._channel._UnaryUnaryMultiCallable.__call__,
        grpc._channel._StreamStreamMultiCallable.__call__,
        grpc._server.create_server,
    ]
    signatures = [inspect.signature(each) for each in methods]
    trace()
    patched: list[Any] = [
        grpc._channel._UnaryUnaryMultiCallable.__call__,
        grpc._channel._StreamStreamMultiCallable.__call__,
        grpc._server.create_server,
    ]
    assert [inspect.signature(each) for each in patched] == signatures
    assert all(now is not was for now, was in zip(patched, methods))


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("shop:80", ("shop", 80)),
        ("dns:///shop:80", ("shop", 80)),
        ("dns://8.8.8.8/shop:80", ("shop", 80)),
        ("ipv4:10.0.0.1:80", ("10.0.0.1", 80)),
        ("ipv6:%5B::1%5D:80", ("::1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("unix:/tmp/shop", ("/tmp/shop", 0)),
        ("unix:///tmp/shop", ("/tmp/shop", 0)),
        ("xds:///shop", ("shop", 0)),
    ],
)
def test_targets(target: str, place: tuple[str, int]) -> None:
    """Callees are told apart by their resolver, or not at all."""
    assert split_target(target) == place
