"""Work that is handed to other threads and tasks stays below the span that handed it over, and no longer."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr import trace
from autoinstr.trace import Span, current

from .contract_client import below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoinstr.instrument import Watcher

DEADLINE_S = 10


@pytest.fixture
def watcher(watch: Callable[..., Watcher]) -> Watcher:
    """The agent at work."""
    return watch()


def run(thread: threading.Thread) -> None:
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


# Threads


def test_thread(watcher: Watcher) -> None:
    """Calls that a thread makes are traces of their own."""
    seen: list[object] = []
    with below(watcher) as span:
        run(threading.Thread(target=lambda: seen.append(current.get())))
        run(threading.Thread(target=lambda: seen.append(current.get()), daemon=True))
    run(threading.Thread(target=lambda: seen.append(current.get())))
    assert seen == [span, span, None]


def test_thread_of_own_kind(watcher: Watcher) -> None:
    """Threads whose class overrides ``run`` (or ``start``, or has slots) lose the trace, or fail."""
    seen = []

    class Worker(threading.Thread):
        def start(self) -> None:
            super().start()

        def run(self) -> None:
            seen.append(current.get())

    class Narrow(threading.Thread):
        __slots__ = ("anything",)

        def run(self) -> None:
            seen.append(current.get())

    with below(watcher) as span:
        run(Worker())
        run(Narrow())
    assert seen == [span, span]


def test_timer(watcher: Watcher) -> None:
    """What a timer does later is a trace of its own."""
    seen: list[object] = []
    with below(watcher) as span:
        run(threading.Timer(0.001, lambda: seen.append(current.get())))
    assert seen == [span]


def test_thread_inside_a_thread(watcher: Watcher) -> None:
    """Only the first thread is followed, or both are one's."""
    seen: list[object] = []

    def outer() -> None:
        run(threading.Thread(target=lambda: seen.append(current.get())))
        seen.append(current.get())

    with below(watcher) as span:
        run(threading.Thread(target=outer))
    assert seen == [span, span]


def test_thread_object_is_as_bare(watch: Callable[..., Watcher]) -> None:
    """Programs that look at a thread's attributes (debuggers, picklers of state) find ours."""

    def attributes() -> set[str]:
        thread = threading.Thread(target=int)
        run(thread)
        return set(vars(thread))

    bare = attributes(), inspect.signature(threading.Thread.start)
    with below(watch()):
        assert (attributes(), inspect.signature(threading.Thread.start)) == bare


def test_thread_that_cannot_start(watcher: Watcher) -> None:
    """A second ``start()`` fails differently, or leaves the span on the thread."""
    thread = threading.Thread(target=int)
    with below(watcher):
        run(thread)
        with pytest.raises(RuntimeError, match="only be started once"):
            thread.start()
    assert not [name for name in vars(thread) if "autoinstr" in name]


def test_thread_does_not_keep_the_span(watcher: Watcher) -> None:
    """A thread that has ended, and is kept by the program, holds a request's span in memory."""
    with below(watcher) as span:
        thread = threading.Thread(target=int)
        run(thread)
    assert not [holder for holder in gc.get_referrers(span) if holder is vars(thread)]


def test_own_context_variables_do_not_leak(watcher: Watcher) -> None:
    """The program's own context variables are suddenly there in threads, which is not so in Python."""
    own: contextvars.ContextVar[str] = contextvars.ContextVar("own", default="none")
    seen: list[str] = []
    with below(watcher), ThreadPoolExecutor(1) as pool:
        token = own.set("request")
        run(threading.Thread(target=lambda: seen.append(own.get())))
        seen.append(pool.submit(own.get).result(DEADLINE_S))
        own.reset(token)
    assert seen == ["none", "none"]


# Thread pools


def test_pool(watcher: Watcher) -> None:
    """Work in a pool is not below the request that wanted it."""
    with ThreadPoolExecutor(2) as pool, below(watcher) as span:
        assert pool.submit(current.get).result(DEADLINE_S) is span
        assert list(pool.map(lambda _: current.get(), range(3))) == [span] * 3


def test_pool_forgets(watcher: Watcher) -> None:
    """The threads of a pool are started by the first request, and count all later work to it."""
    with ThreadPoolExecutor(1) as pool:
        with below(watcher) as first:
            assert pool.submit(current.get).result(DEADLINE_S) is first
        assert pool.submit(current.get).result(DEADLINE_S) is None
        with below(watcher) as second:
            assert pool.submit(current.get).result(DEADLINE_S) is second
        assert pool.submit(current.get).result(DEADLINE_S) is None
    assert current.get() is None


def test_pool_starts_with_nothing(watcher: Watcher) -> None:
    """What an initializer sees, or a thread that a pool starts, is the first submitter's for ever."""
    seen: list[object] = []
    with below(watcher):
        with ThreadPoolExecutor(1, initializer=lambda: seen.append(current.get())) as pool:
            pool.submit(int).result(DEADLINE_S)
        assert seen == [None]


def test_pool_passes_everything_on(watcher: Watcher) -> None:
    """Arguments named like our own (``fn``, ``span``, ``self``), results or exceptions get lost."""

    def work(*arguments: Any, **keywords: Any) -> Any:
        if not arguments:
            raise LookupError("own")
        return arguments, keywords

    with ThreadPoolExecutor(1) as pool, below(watcher):
        result = pool.submit(work, 1, span=2, function=3).result(DEADLINE_S)
        assert result == ((1,), {"span": 2, "function": 3})
        with pytest.raises(LookupError, match="own"):
            pool.submit(work).result(DEADLINE_S)
        with pytest.raises(TypeError):
            pool.submit()  # type: ignore[call-arg]
        assert current.get() is not None


def test_future_does_not_keep_the_span(watcher: Watcher) -> None:
    """Futures and idle threads of a pool hold a request's span in memory."""

    class Watched(Span):
        __slots__ = ("__weakref__",)

    with ThreadPoolExecutor(1) as pool:
        span = Watched()
        gone = weakref.ref(span)
        token = current.set(span)
        future = pool.submit(int)
        future.result(DEADLINE_S)
        current.reset(token)
        del span, token
        pool.submit(int).result(DEADLINE_S)
        gc.collect()
        assert gone() is None


def test_executor_of_own_kind(watcher: Watcher) -> None:
    """Executors that override ``submit`` (as Django's and asgiref's do) fail, or are followed twice."""

    class Executor(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *arguments: Any, **keywords: Any) -> Any:
            return super().submit(functools.partial(fn, *arguments), **keywords)

    with Executor(1) as pool, below(watcher) as span:
        assert pool.submit(lambda number: (number, current.get()), 1).result(DEADLINE_S) == (1, span)


def test_wrappers_are_functions(watcher: Watcher) -> None:
    """``submit`` and ``start`` look different to inspect and pickle."""
    for function in (ThreadPoolExecutor.submit, threading.Thread.start):
        assert inspect.isfunction(function)
        assert pickle.loads(pickle.dumps(function)) is function


# asyncio


def test_tasks(watcher: Watcher) -> None:
    """Coroutines that run side by side take each other's spans."""

    async def child() -> object:
        before = current.get()
        await asyncio.sleep(0)
        assert current.get() is before
        return before

    async def request() -> list[object]:
        with below(watcher) as span:
            found = await asyncio.gather(child(), asyncio.create_task(child()), asyncio.wait_for(child(), 1))
        return [span, *found]

    async def main() -> list[list[object]]:
        return await asyncio.gather(*[request() for _ in range(5)])

    results = asyncio.run(main())
    assert all(len({id(span) for span in result}) == 1 for result in results)
    assert len({id(result[0]) for result in results}) == 5


def test_threads_of_a_loop(watcher: Watcher) -> None:
    """``to_thread``, ``run_in_executor`` and callbacks lose the span, or keep that of another request."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with below(watcher) as span:
            assert await asyncio.to_thread(current.get) is span
            assert await loop.run_in_executor(None, current.get) is span
            called: asyncio.Future[object] = loop.create_future()
            loop.call_soon(lambda: called.set_result(current.get()))
            assert await called is span
            later: asyncio.Future[object] = loop.create_future()
            loop.call_later(0.001, lambda: later.set_result(current.get()))
        assert await later is span
        assert await loop.run_in_executor(None, current.get) is None
        assert await asyncio.to_thread(current.get) is None

    asyncio.run(main())


def test_worker_that_was_started_in_a_request(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A background task that the first request happened to start counts everything to that request's trace for ever."""
    now_ns = [10**18]
    monkeypatch.setattr(trace, "time_ns", lambda: now_ns[0])
    monkeypatch.setattr(trace, "perf_counter_ns", lambda: now_ns[0])
    tracer = watcher.tracing.tracer
    made: list[Span] = []

    async def worker(queue: asyncio.Queue[bool]) -> None:
        while await queue.get():
            made.append(tracer.start("job", parent=current.get()))
            queue.task_done()

    async def main() -> Span:
        queue: asyncio.Queue[bool] = asyncio.Queue()
        with below(watcher) as request:
            task = asyncio.create_task(worker(queue))
            queue.put_nowait(True)
            await queue.join()
            request.end()
        for _ in range(2):
            now_ns[0] += trace.STALE_PARENT_NS // 2 + 1
            queue.put_nowait(True)
            await queue.join()
        queue.put_nowait(False)
        await task
        return request

    request = asyncio.run(main())
    during, soon_after, long_after = made
    assert [during.trace_id, soon_after.trace_id] == [request.trace_id] * 2
    assert long_after.trace_id != request.trace_id
    assert long_after.parent_id == 0
    assert [link.context.span_id for link in long_after.links] == [request.span_id]


# Generators


def test_generator(watcher: Watcher) -> None:
    """A generator runs in its consumer's context, whichever request made it."""

    def numbers() -> Iterator[object]:
        while True:
            yield current.get()

    generator = numbers()
    with below(watcher) as first:
        assert next(generator) is first
    with below(watcher) as second:
        assert next(generator) is second
    assert next(generator) is None


def test_switched_off(watch: Callable[..., Watcher]) -> None:
    """The switches of the two do not work."""
    watcher = watch(AUTOINSTR_DISABLED_INSTRUMENTS="threading,futures")
    seen: list[object] = []
    with below(watcher), ThreadPoolExecutor(1) as pool:
        run(threading.Thread(target=lambda: seen.append(current.get())))
        seen.append(pool.submit(current.get).result(DEADLINE_S))
    assert seen == [None, None]
