"""gRPC: a span for each call, at the client and at the server, plain and asyncio, whether messages come one by one or as streams.

Owns: where calls begin and end in grpcio, the metadata that carries the context, what a status means.
Must not know: messages, serializers, generated code.
Invariants: a call object is the one that it would be without us, and goes away when it would (dropping one cancels the call), so
nothing of ours refers to it; behaviours stay of the kind that they are (function, coroutine function, generator); calls that carry
telemetry are left alone, since their spans would be telemetry again.

Clients are patched where channels make calls, below the program's own interceptors: interceptors of ours would change the kind of
the channel, and of each call. Servers get one interceptor in front of all others, which puts a span around the behaviour.
"""

from __future__ import annotations

import inspect
from functools import wraps
from weakref import ref

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import excluder, is_disconnect, split_host
from autoinstr.instrument.http_client import MARKS
from autoinstr.model import Kind, Status
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any

    from autoinstr.model import AttributeValue
    from autoinstr.trace import Span

    Described = tuple[str, tuple[object, ...], str]

SCOPE = "grpc"
#: gRPC's status codes, by their numbers.
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
#: Those that are the server's fault (OpenTelemetry semantic conventions for gRPC); a client fails by all but the first two.
SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
NO_ERRORS = frozenset({"OK", "CANCELLED"})
#: Services that take spans, metrics and logs, or give out sampling strategies.
TELEMETRY = ("opentelemetry.proto.collector.", "jaeger.api_v2.")
#: Names in the metadata by which a program says itself what the callee is told.
OWN_CHOICE = frozenset(mark.decode().strip("\n:") for mark in MARKS if not mark.startswith(b"\nauthorization"))
#: What the name of an item of metadata may be made of; other names, and values in bytes, make the call fail.
LEGAL = "0123456789abcdefghijklmnopqrstuvwxyz-_."
#: Where the methods that make calls have the metadata among positional arguments: after the request and the timeout.
METADATA_AT = 2
DESCRIBED = "_autoinstr_call"
TARGET = "_autoinstr_target"

BLOCKING = ("_UnaryUnaryMultiCallable", "_StreamUnaryMultiCallable")
STREAMING = ("_SingleThreadedUnaryStreamMultiCallable", "_UnaryStreamMultiCallable", "_StreamStreamMultiCallable")
AIO = ("UnaryUnaryMultiCallable", "UnaryStreamMultiCallable", "StreamUnaryMultiCallable", "StreamStreamMultiCallable")
#: Functions that start threads which serve a channel, not the call that happens to come first.
STARTERS = ("_run_channel_spin_thread", "_subscribe")


def patch_channel(patcher: Patcher, tracing: Tracing) -> None:
    """``grpc._channel``."""
    calls = Calls(tracing)
    for name in BLOCKING:
        patcher.wrap(f"{name}.__call__", calls.make_blocking)
        patcher.wrap(f"{name}.with_call", calls.make_blocking)
        patcher.wrap(f"{name}.future", calls.make_started)
    for name in STREAMING:
        if hasattr(patcher.module, name):
            patcher.wrap(f"{name}.__call__", calls.make_started)
    for name in STARTERS:
        if hasattr(patcher.module, name):
            patcher.wrap(name, without_span)


def patch_aio_channel(patcher: Patcher, tracing: Tracing) -> None:
    """``grpc.aio._channel``."""
    calls = Calls(tracing)
    for name in AIO:
        patcher.wrap(f"{name}.__call__", calls.make_aio)
    patcher.wrap("Channel.__init__", remember_target)


def remember_target(wrapped: Any) -> Callable[..., Any]:
    """For the constructor of asyncio's channels."""

    def __init__(self: Any, target: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807 - what it stands for
        wrapped(self, target, *arguments, **keywords)
        try:
            setattr(self, TARGET, target)
        except Exception as trouble:  # Host safety: a subclass may refuse attributes.
            fault("the target of a gRPC channel", trouble)

    return __init__


def patch_server(patcher: Patcher, tracing: Tracing) -> None:
    """``grpc._server``, which ``grpc.server`` makes servers with."""
    interceptor = Interceptor(Behaviours(tracing, patcher.module.grpc))

    def make(wrapped: Any) -> Callable[..., Any]:
        def create_server(thread_pool: Any, handlers: Any, interceptors: Any, *arguments: Any, **keywords: Any) -> Any:
            return wrapped(thread_pool, handlers, in_front(interceptor, interceptors), *arguments, **keywords)

        return create_server

    patcher.wrap("create_server", make)


def patch_aio_server(patcher: Patcher, tracing: Tracing) -> None:
    """``grpc.aio._server``, which takes only interceptors of its own class."""
    base: Any = patcher.module.ServerInterceptor

    class AioInterceptor(base):  # type: ignore[misc]
        def __init__(self, behaviours: Behaviours) -> None:
            self._behaviours = behaviours

        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            """The handler that is to be used."""
            return self._behaviours.around(await continuation(details), details)

    interceptor = AioInterceptor(Behaviours(tracing, patcher.module.grpc))

    def make(wrapped: Any) -> Callable[..., Any]:
        def __init__(  # noqa: N807 - what it stands for
            self: Any, thread_pool: Any, generic_handlers: Any, interceptors: Any, *arguments: Any, **keywords: Any
        ) -> None:
            wrapped(self, thread_pool, generic_handlers, in_front(interceptor, interceptors), *arguments, **keywords)

        return __init__

    patcher.wrap("Server.__init__", make)


def in_front(interceptor: object, others: Any) -> Any:
    """All interceptors, ours first; what is no sequence is left to grpcio to complain of."""
    try:
        return (interceptor, *(others or ()))
    except TypeError:
        return others


def without_span(wrapped: Any) -> Callable[..., Any]:
    """For functions that start threads: they run for as long as the channel, and call back for all its calls."""

    def start(*arguments: Any, **keywords: Any) -> Any:
        token = current.set(None)
        try:
            return wrapped(*arguments, **keywords)
        finally:
            current.reset(token)

    return start


# What is known of a call.


def describe_method(method: str, host: str, port: int) -> dict[str, AttributeValue]:
    """Source: OpenTelemetry semantic conventions for gRPC (release candidate)."""
    found: dict[str, AttributeValue] = {"rpc.system.name": "grpc", "rpc.method": method}
    if host:
        found["server.address"] = host
    if port:
        found["server.port"] = port
    return found


def describe_status(code: str, is_error: bool) -> dict[str, AttributeValue]:
    """How it ended."""
    found: dict[str, AttributeValue] = {"rpc.response.status_code": code}
    if is_error:
        found["error.type"] = code
    return found


def describe_peer(peer: str) -> dict[str, AttributeValue]:
    """Who calls, as gRPC writes addresses (``ipv4:127.0.0.1``, ``ipv6:[::1]`` with the brackets quoted, ``unix``)."""
    kind, _, address = peer.partition(":")
    address = address.replace("%5B", "").replace("%5D", "").strip("[]")
    return {"client.address": address, "network.peer.address": address} if address and kind in {"ipv4", "ipv6"} else {}


def split_target(target: str) -> tuple[str, int]:
    """Host and port of a channel's target (``host:port``, ``dns:///host:port``, ``ipv4:address:port``, ``unix:path``)."""
    kind, colon, rest = target.partition(":")
    if kind in {"unix", "unix-abstract"}:
        return rest.removeprefix("//"), 0
    if colon and (rest.startswith("//") or kind in {"dns", "ipv4", "ipv6"}):
        target = rest.rpartition("/")[2]
    host, port = split_host(target.replace("%5B", "[").replace("%5D", "]"), "")
    return host.strip("[]"), port or 0


def code_name(code: Any) -> str:
    """The name of a status: grpcio has them as an enumeration, as numbers, and as ``None`` where nobody has set one."""
    if code is None:
        return "OK"
    if isinstance(code, int):
        return CODES[code] if 0 <= code < len(CODES) else str(code)
    return str(getattr(code, "name", code))


def text(value: Any) -> str:
    """What one side has told the other of a failure."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def is_telemetry(method: str) -> bool:
    """Whether a call is how spans get about."""
    return method.startswith(TELEMETRY)


# Clients.


class Calls:
    """The spans of calls that the program makes."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._excluded = excluder(tracing.config, SCOPE)

    def make_blocking(self, wrapped: Any) -> Callable[..., Any]:
        """For methods that return when the call has ended."""

        def call(multi_callable: Any, *arguments: Any, **keywords: Any) -> Any:
            span, arguments, keywords = self._begin(multi_callable, arguments, keywords)
            if span is None:
                return wrapped(multi_callable, *arguments, **keywords)
            try:
                result = wrapped(multi_callable, *arguments, **keywords)
            except BaseException as error:
                end_by_error(span, error)
                raise
            end_client(span, "OK")
            return result

        return call

    def make_started(self, wrapped: Any) -> Callable[..., Any]:
        """For methods that return a call which goes on."""
        return self._make(wrapped, watch)

    def make_aio(self, wrapped: Any) -> Callable[..., Any]:
        """The same where calls belong to an event loop."""
        return self._make(wrapped, watch_aio)

    def _make(self, wrapped: Any, watch_call: Callable[[Span, Any], None]) -> Callable[..., Any]:
        def call(multi_callable: Any, *arguments: Any, **keywords: Any) -> Any:
            span, arguments, keywords = self._begin(multi_callable, arguments, keywords)
            if span is None:
                return wrapped(multi_callable, *arguments, **keywords)
            try:
                started = wrapped(multi_callable, *arguments, **keywords)
            except BaseException as error:
                end_by_error(span, error)
                raise
            try:
                watch_call(span, started)
            except Exception as trouble:  # Host safety: the call goes on.
                fault("the end of a gRPC call", trouble)
                span.end()
            return started

        return call

    def _begin(
        self, multi_callable: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Span | None, tuple[Any, ...], dict[str, Any]]:
        """The span, if there is to be one, and the arguments with our metadata; never raises."""
        try:
            parent = current.get()
            method, fact, host = described(multi_callable)
            if is_telemetry(method) or (self._excluded is not None and self._excluded("/" + method)):
                return None, arguments, keywords
            span = self._start(parent, method, fact)
            context = span or parent
        except Exception as trouble:  # Host safety: the call goes out untraced.
            fault("the start of a gRPC call", trouble)
            return None, arguments, keywords
        try:
            if context is not None and context.trace_id and self._may_propagate_to(host):
                return span, *self._with_headers(context, arguments, keywords)
        except Exception as trouble:  # Host safety: the call goes out without our metadata.
            fault("trace headers", trouble)
        return span, arguments, keywords

    def _start(self, parent: Span | None, method: str, fact: tuple[object, ...]) -> Span | None:
        tracing = self._tracing
        if parent is None:
            if tracing.config.require_parent:
                return None
            span = tracing.tracer.start_local_root(method, Kind.CLIENT, None, SCOPE, False)  # noqa: FBT003
        elif parent.leaf or not parent.recording:
            return None
        else:
            span = tracing.tracer.start(method, Kind.CLIENT, parent, SCOPE)
        span.leaf = True
        if span.recording:
            span.facts = (*span.facts, fact)
        return span

    def _may_propagate_to(self, host: str) -> bool:
        may = self._tracing.conventions.may_propagate_to
        return may is None or may(host)

    def _with_headers(
        self, context: Span, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        is_positional = len(arguments) > METADATA_AT
        metadata = arguments[METADATA_AT] if is_positional else keywords.get("metadata")
        headers = [
            (name, value)
            for name, value in self._tracing.plain.inject(context)
            if not name.strip(LEGAL) and not name.endswith("-bin")
        ]
        joined = join_metadata(metadata, headers)
        if is_positional:
            return (*arguments[:METADATA_AT], joined, *arguments[METADATA_AT + 1 :]), keywords
        return arguments, {**keywords, "metadata": joined}


def described(multi_callable: Any) -> Described:
    """Method, facts and host of what makes calls to one method; kept on it, for it is made once and used often."""
    try:
        known: Described = getattr(multi_callable, DESCRIBED)
    except AttributeError:
        method = text(multi_callable._method).removeprefix("/")
        host, port = split_target(text(target_of(multi_callable)))
        known = method, (describe_method, method, host, port), host
        setattr(multi_callable, DESCRIBED, known)
    return known


def target_of(multi_callable: Any) -> Any:
    """What its channel was made for. grpcio's own channel tells it, but for that of asyncio in older versions."""
    for channel in getattr(multi_callable, "_references", ()):
        if hasattr(channel, TARGET):
            return getattr(channel, TARGET)
    return multi_callable._channel.target()


def join_metadata(metadata: Any, headers: list[tuple[str, str]]) -> Any:
    """What the program sends with ours behind it; as it is where it names a context of its own. It is never changed."""
    if not metadata:
        return tuple(headers)
    items = tuple(metadata)
    if any(name in OWN_CHOICE for name, _ in items):
        return metadata if hasattr(metadata, "__len__") else items
    there = {name for name, _ in items}
    return items + tuple(header for header in headers if header[0] not in there)


def end_client(span: Span, code: str, details: str = "") -> None:
    """By a status; that somebody did not want to wait any longer is nobody's fault."""
    try:
        if span.recording and not span.end_ns:
            is_error = code not in NO_ERRORS
            span.facts = (*span.facts, (describe_status, code, is_error))
            if is_error:
                span.set_status(Status.ERROR, str(span.tracer.limits.cut(details)))
    except Exception as trouble:  # Host safety: the result is the program's.
        fault("the status of a gRPC call", trouble)
    finally:
        span.end()


def end_by_error(span: Span, error: BaseException) -> None:
    """By what came instead of a result: gRPC's own error, which knows the status, or another one."""
    try:
        code = getattr(error, "code", None)
        if callable(code):
            end_client(span, code_name(code()), text(getattr(error, "details", str)()))
            return
        if span.recording and not is_disconnect(error):
            span.fail(error)
    except Exception as trouble:  # Host safety: the error is the program's.
        fault("the error of a gRPC call", trouble)
    span.end()


def watch(span: Span, call: Any) -> None:
    """End the span when the call ends, or when nobody refers to it any more, which cancels it."""
    gone: Callable[[Any], None] = lambda _: end_client(span, "CANCELLED")  # noqa: E731 - as short as it is
    weak = ref(call, gone)

    def done() -> None:
        ended = weak()
        if ended is None:
            gone(None)
        else:
            end_client(span, code_name(ended.code()), text(ended.details()))

    if not call.add_callback(done):
        done()


def watch_aio(span: Span, call: Any) -> None:
    """The same for asyncio, where a call with interceptors has the real one inside, once they have let it out."""
    task = getattr(call, "_interceptors_task", None)
    if task is None:
        _watch_inner(span, call)
    else:
        task.add_done_callback(lambda task: _after_interceptors(span, task))


def _after_interceptors(span: Span, task: Any) -> None:
    try:
        if task.cancelled():
            end_client(span, "CANCELLED")
        elif (error := task.exception()) is not None:
            end_by_error(span, error)
        else:
            _watch_inner(span, task.result())
    except Exception as trouble:  # Host safety: this runs in the program's event loop.
        fault("the end of a gRPC call", trouble)
        span.end()


def _watch_inner(span: Span, call: Any) -> None:
    # An interceptor may have put another iterator around a stream's call, or an answer of its own in its place.
    while not hasattr(call, "_cython_call") and hasattr(call, "_call"):
        call = call._call
    if not hasattr(call, "_cython_call"):
        end_client(span, "OK")
        return
    gone: Callable[[Any], None] = lambda _: end_client(span, "CANCELLED")  # noqa: E731 - as short as it is
    weak = ref(call, gone)

    def done() -> None:
        ended = weak()
        if ended is None:
            gone(None)
            return
        try:
            status = ended._cython_call._status
            end_client(span, code_name(status.code()), text(status.details()))
        except Exception as trouble:  # Host safety: this runs in the program's event loop.
            fault("the end of a gRPC call", trouble)
            span.end()

    # Calls themselves would keep what is called back together with themselves, and so live on when they are dropped.
    call._cython_call.add_done_callback(done)


# Servers.


class Interceptor:
    """grpcio asks for no class of its own here."""

    def __init__(self, behaviours: Behaviours) -> None:
        self._behaviours = behaviours

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler that is to be used."""
        return self._behaviours.around(continuation(details), details)


class Behaviours:
    """The spans of calls that the program answers."""

    def __init__(self, tracing: Tracing, grpc: Any) -> None:
        self._tracing = tracing
        self._grpc = grpc
        self._excluded = excluder(tracing.config, SCOPE)

    def around(self, handler: Any, details: Any) -> Any:
        """A handler like the one for this call, whose behaviour has a span; ``None`` where there is none. Never raises."""
        try:
            method = text(details.method).removeprefix("/")
            if handler is None or is_telemetry(method) or (self._excluded is not None and self._excluded("/" + method)):
                return handler
            kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
            behaviour = getattr(handler, kind)
            if getattr(behaviour, "experimental_non_blocking", False):
                return handler
            wrapped: Any = wraps(behaviour)(self._choose(behaviour, method, is_stream=handler.response_streaming))
            if hasattr(handler, "_replace"):
                return handler._replace(**{kind: wrapped})
            make = getattr(self._grpc, f"{kind}_rpc_method_handler")
            return make(wrapped, handler.request_deserializer, handler.response_serializer)
        except Exception as trouble:  # Host safety: the call is answered untraced.
            fault("a gRPC behaviour", trouble)
            return handler

    def _choose(self, behaviour: Any, method: str, *, is_stream: bool) -> Any:
        """grpcio tells behaviours by their kind how they are to be called."""
        if inspect.isasyncgenfunction(behaviour):
            return self._async_stream(behaviour, method)
        if inspect.iscoroutinefunction(behaviour):
            return self._async(behaviour, method)
        return self._stream(behaviour, method) if is_stream else self._unary(behaviour, method)

    def begin(self, method: str, context: Any) -> Span | None:
        """The span below the caller's; never raises."""
        try:
            carrier: dict[str, Any] = {}
            for name, value in context.invocation_metadata() or ():
                carrier[name] = f"{carrier[name]},{value}" if name in carrier else value
            parent = self._tracing.plain.extract(carrier)
            span = self._tracing.tracer.start(method, Kind.SERVER, parent, SCOPE)
            if span.recording:
                # The port is another one for each connection.
                peer = str(context.peer()).rpartition(":")[0]
                span.facts = (*span.facts, (describe_method, method, "", 0), (describe_peer, peer))
        except Exception as trouble:  # Host safety: the call is answered untraced.
            fault("the start of a gRPC span", trouble)
            return None
        return span

    def _unary(self, behaviour: Any, method: str) -> Any:
        def behave(request: Any, context: Any) -> Any:
            span = self.begin(method, context)
            if span is None:
                return behaviour(request, context)
            token = current.set(span)
            try:
                response = behaviour(request, context)
            except BaseException as error:
                end_server(span, context, error)
                raise
            finally:
                current.reset(token)
            end_server(span, context, None)
            return response

        return behave

    def _stream(self, behaviour: Any, method: str) -> Any:
        def behave(request: Any, context: Any) -> Any:
            span = self.begin(method, context)
            if span is None:
                return behaviour(request, context)
            token = current.set(span)
            try:
                responses = behaviour(request, context)
            except BaseException as error:
                end_server(span, context, error)
                raise
            finally:
                current.reset(token)
            return Responses(span, context, responses)

        return behave

    def _async(self, behaviour: Any, method: str) -> Any:
        async def behave(request: Any, context: Any) -> Any:
            span = self.begin(method, context)
            if span is None:
                return await behaviour(request, context)
            token = current.set(span)
            try:
                response = await behaviour(request, context)
            except BaseException as error:
                end_server(span, context, error)
                raise
            finally:
                current.reset(token)
            end_server(span, context, None)
            return response

        return behave

    def _async_stream(self, behaviour: Any, method: str) -> Any:
        async def behave(request: Any, context: Any) -> AsyncIterator[Any]:
            span = self.begin(method, context)
            inside = span or current.get()
            responses = behaviour(request, context)
            try:
                while True:
                    token = current.set(inside)
                    try:
                        response = await responses.__anext__()
                    except StopAsyncIteration:
                        break
                    finally:
                        current.reset(token)
                    yield response
            except BaseException as error:
                # Whoever closes this one wants the program's to be closed when it is.
                token = current.set(inside)
                try:
                    await responses.aclose()
                finally:
                    current.reset(token)
                if span is not None:
                    end_server(span, context, error)
                raise
            if span is not None:
                end_server(span, context, None)

        return behave


class Responses:
    """The responses of a behaviour, which makes each of them with its span as the current one.

    When the client has gone, nobody asks for the next one; the span ends when this is dropped.
    """

    __slots__ = ("_context", "_responses", "_span")

    def __init__(self, span: Span, context: Any, responses: Any) -> None:
        self._span = span
        self._context = context
        self._responses = responses

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        token = current.set(self._span)
        try:
            return next(self._responses)
        except StopIteration:
            end_server(self._span, self._context, None)
            raise
        except BaseException as error:
            end_server(self._span, self._context, error)
            raise
        finally:
            current.reset(token)

    def __del__(self) -> None:
        if not self._span.end_ns:
            end_server(self._span, self._context, GeneratorExit())


def end_server(span: Span, context: Any, error: BaseException | None) -> None:
    """By the status that the behaviour has set, or by what it has raised; never raises."""
    try:
        if span.recording and not span.end_ns:
            code = code_name(context.code()) if hasattr(context, "code") else "OK"
            is_failure = False
            if error is not None:
                code, is_failure = by_error(context, error, code)
            if is_failure:
                span.fail(error)  # type: ignore[arg-type]
            is_error = code in SERVER_ERRORS
            span.facts = (*span.facts, (describe_status, code, is_error and not is_failure))
            if is_error:
                span.status = Status.ERROR
    except Exception as trouble:  # Host safety: the response is the program's.
        fault("the outcome of a gRPC behaviour", trouble)
    finally:
        span.end()


def by_error(context: Any, error: BaseException, code: str) -> tuple[str, bool]:
    """The status, and whether it is a failure: not if the client has gone, nor if the behaviour ended the call by ``abort``."""
    if is_disconnect(error) or (hasattr(context, "is_active") and not context.is_active()):
        return ("CANCELLED" if code == "OK" else code), False
    is_abort = type(error).__name__ == "AbortError" or (type(error) is Exception and not error.args)
    if is_abort and code != "OK":
        return code, False
    return ("UNKNOWN" if code == "OK" else code), True
