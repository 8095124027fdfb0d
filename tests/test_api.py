"""The Python API: spans by hand, headers by hand, flushing, and all of it where the agent is off."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import autoinstr
from autoinstr import runtime
from autoinstr.report import InMemoryReporter
from autoinstr.trace import SUPPRESSED, current

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

KEEP_ALL = {"JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1", "AUTOINSTR_EXPORTER": "none"}


@pytest.fixture
def agent() -> Iterator[runtime.Runtime]:
    """The agent as a program that uses the API alone has it, in this process, with no library patched."""
    runtime.start({**KEEP_ALL, "AUTOINSTR_SIGTERM": "false"}, instrument=False)
    assert runtime.running is not None
    yield runtime.running
    runtime.stop()


@pytest.fixture
def spans(agent: runtime.Runtime) -> Any:
    """What was finished."""
    memory = InMemoryReporter()
    agent.tracing.tracer.sink = memory
    return memory.spans


@pytest.fixture
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is switched off."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")


def test_block(spans: Any) -> None:
    """A span around a block is not there, not current inside, or stays current."""
    with autoinstr.span("outer", kind=autoinstr.Kind.CONSUMER, attributes={"a": 1}) as outer:
        assert autoinstr.current_span() is outer
        with autoinstr.span("inner") as inner:
            inner.set_attribute("b", "2")
        assert autoinstr.current_span() is outer
    assert current.get() is None
    first, second = spans
    assert (first.name, first.parent_id, first.attributes) == ("inner", outer.span_id, {"b": "2"})
    assert (second.name, second.kind, second.attributes["a"]) == ("outer", autoinstr.Kind.CONSUMER, 1)


def test_error(spans: Any) -> None:
    """An exception is swallowed, changed, or not on the span."""
    error = LookupError("own")
    with pytest.raises(LookupError) as caught, autoinstr.span("work"):
        raise error
    assert caught.value is error
    assert spans[0].status == autoinstr.Status.ERROR
    assert spans[0].attributes["error.type"] == "LookupError"
    assert spans[0].events[0].attributes["exception.message"] == "own"
    assert current.get() is None


def test_decorated_function(spans: Any) -> None:
    """A decorated function is called with other arguments, has one span for ever, or looks different."""

    @autoinstr.span("load")
    def load(number: int, /, *, factor: int = 2) -> int:
        """Docstring."""
        return number * factor if number else load(1)

    assert [load(1), load(2, factor=3), load(0)] == [2, 6, 2]
    assert str(inspect.signature(load)) == "(number: 'int', /, *, factor: 'int' = 2) -> 'int'"
    assert (load.__name__, load.__doc__) == ("load", "Docstring.")
    assert [span.name for span in spans] == ["load"] * 4
    nested, outer = spans[2], spans[3]
    assert (nested.parent_id, nested.trace_id) == (outer.span_id, outer.trace_id)
    assert len({span.span_id for span in spans}) == 4


def test_decorated_coroutine(spans: Any) -> None:
    """The span of a coroutine function ends before the coroutine has run, or it is none any more."""

    @autoinstr.span("wait")
    async def wait(name: str) -> object:
        await asyncio.sleep(0)
        return name, autoinstr.current_span().span_id

    assert inspect.iscoroutinefunction(wait)

    async def main() -> list[Any]:
        return await asyncio.gather(*[wait(str(number)) for number in range(3)])

    results = asyncio.run(main())
    assert [name for name, _ in results] == ["0", "1", "2"]
    assert {number for _, number in results} == {span.span_id for span in spans}
    assert len(spans) == 3


def test_decorated_generators(spans: Any) -> None:
    """The span of a generator function ends before its body has run, or stays current in the consumer between the steps."""

    @autoinstr.span("numbers")
    def numbers() -> Any:
        received = yield autoinstr.current_span()
        yield received
        return "returned"

    @autoinstr.span("letters")
    async def letters() -> Any:
        for letter in "ab":
            yield letter, autoinstr.current_span()

    generator = numbers()
    assert inspect.isgeneratorfunction(numbers)
    inside = next(generator)
    assert current.get() is None
    assert not spans
    assert generator.send("sent") == "sent"
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "returned"
    assert list(spans) == [inside]
    assert inspect.isasyncgenfunction(letters)

    async def main() -> list[Any]:
        found = []
        async for item in letters():
            assert current.get() is None
            found.append(item)
        return found

    async def other() -> Any:
        generator = letters()
        await generator.__anext__()
        with pytest.raises(LookupError):
            await generator.athrow(LookupError())
        return spans.pop()

    assert asyncio.run(other()).status == autoinstr.Status.ERROR
    (first, span), (second, again) = asyncio.run(main())
    assert (first, second) == ("a", "b")
    assert span is again is spans[1]


def test_block_in_a_generator_that_is_given_up(spans: Any) -> None:
    """A block that is left in another context, as generators do, raises there."""

    def numbers() -> Generator[int]:
        with autoinstr.span("numbers"):
            yield 1
            yield 2

    async def main() -> None:
        generator = numbers()
        await asyncio.create_task(step(generator))
        generator.close()

    async def step(generator: Iterator[int]) -> None:
        next(generator)

    asyncio.run(main())
    (span,) = spans
    assert span.status == autoinstr.Status.UNSET


def test_same_object_twice(spans: Any) -> None:
    """A ``span`` object that is kept and entered again, also inside itself, mixes up its two spans."""
    work = autoinstr.span("work")
    with work as outer, work as inner:
        assert inner.parent_id == outer.span_id
    assert [span.span_id for span in spans] == [inner.span_id, outer.span_id]
    assert current.get() is None


def test_headers_by_hand(spans: Any) -> None:
    """Queues and other transports that the agent does not know cannot be joined."""
    with autoinstr.span("send", kind=autoinstr.Kind.PRODUCER) as sent:
        headers = autoinstr.inject({"other": "kept"})
        assert headers["other"] == "kept"
        assert headers == autoinstr.inject({"other": "kept"}, sent)
        assert headers["traceparent"] == autoinstr.inject(context=sent.context)["traceparent"]
    assert autoinstr.inject() == {}
    context = autoinstr.extract({name.title(): value for name, value in headers.items()})
    assert context is not None
    assert (context.trace_id, context.span_id, context.is_remote) == (sent.trace_id, sent.span_id, True)
    with autoinstr.span("receive", parent=context, links=[autoinstr.Link(context)]) as received:
        assert (received.trace_id, received.parent_id) == (sent.trace_id, sent.span_id)
        assert received.links[0].context is context
    assert autoinstr.extract({}) is None
    assert autoinstr.extract({"traceparent": "nonsense"}) is None


def test_headers_of_bytes(spans: Any) -> None:
    """Message queues hand headers over as bytes; they are not understood, or raise."""
    with autoinstr.span("send") as sent:
        headers = {name.encode(): value.encode() for name, value in autoinstr.inject().items()}
    context = autoinstr.extract(headers)
    assert context is not None
    assert context.span_id == sent.span_id


def test_current_span_outside(spans: Any) -> None:
    """``current_span()`` has to be asked whether there is one."""
    span = autoinstr.current_span()
    assert not span.recording
    span.set_attribute("a", 1).add_event("b").set_status(autoinstr.Status.ERROR)
    assert (span.attributes, span.status) == ({}, autoinstr.Status.UNSET)


def test_current_span_stays_as_it_is(spans: Any) -> None:
    """What a program does to the span that is none lasts for ever: for the agent's own traffic, and other requests."""
    token = current.set(SUPPRESSED)
    suppressed = autoinstr.current_span()
    current.reset(token)
    for outside in (autoinstr.current_span(), suppressed):
        outside.set_attribute("sampling.priority", 1)
        outside.set_baggage("user", "ann")
        outside.update_name("own")
        outside.end()
    assert not autoinstr.current_span().recording
    assert autoinstr.current_span().baggage is None
    assert autoinstr.inject() == {}
    assert not spans


def test_wrap(spans: Any) -> None:
    """Applications on servers that the agent does not know are not traced."""

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"body"]

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http", "HTTP_HOST": "h"}
    wrapped = autoinstr.wrap_wsgi(application)
    result = wrapped(environ, lambda status, headers, exc_info=None: lambda data: None)
    assert b"".join(result) == b"body"
    if hasattr(result, "close"):
        result.close()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def ignore(message: Any = None) -> Any:
        return {"type": "http.request"}

    asyncio.run(autoinstr.wrap_asgi(asgi)({"type": "http", "method": "GET", "path": "/", "headers": []}, ignore, ignore))
    assert [span.kind for span in spans] == [autoinstr.Kind.SERVER] * 2
    assert [span.attributes["http.response.status_code"] for span in spans] == [200, 204]


def test_flush_and_metrics(agent: runtime.Runtime) -> None:
    """A short script cannot make sure that its spans are sent, nor see how many were."""
    with autoinstr.span("work"):
        pass
    assert autoinstr.flush(timeout=5.0)
    metrics = autoinstr.metrics()
    assert metrics['traces{state="started",sampled="y"}'] == 1
    assert metrics["reporter_queue_length"] == 0


def test_switched_off(no_agent: None) -> None:
    """A program that uses the API cannot run without the agent."""
    with autoinstr.span("work", attributes={"a": 1}) as span:
        assert not span.recording
        span.set_attribute("b", 1)
        assert autoinstr.inject({"a": "b"}) == {"a": "b"}

    @autoinstr.span("load")
    def load() -> str:
        return "loaded"

    assert load() == "loaded"
    assert autoinstr.extract({"traceparent": "00-" + "1" * 32 + "-" + "1" * 16 + "-01"}) is None
    assert autoinstr.flush()
    assert autoinstr.metrics() == {}
    assert autoinstr.wrap_wsgi(load) is load
    assert autoinstr.wrap_asgi(load) is load
    with pytest.raises(LookupError), autoinstr.span("work"):
        raise LookupError


def test_names() -> None:
    """A name of the API is there in editors but not at run time, or a typing error gives None."""
    for name in autoinstr.__all__:
        assert getattr(autoinstr, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'spam'"):
        autoinstr.spam  # noqa: B018


def test_import_costs_nothing() -> None:
    """``import autoinstr`` at the top of a module makes every start slower."""
    code = "import sys; before = set(sys.modules); import autoinstr; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, env=_path())
    assert done.stdout == "['__future__', 'autoinstr']\n", done.stderr


def _path() -> dict[str, str]:
    from pathlib import Path

    return {"PYTHONPATH": str(Path(autoinstr.__file__).parents[1])}
