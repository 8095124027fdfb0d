"""The live tail: browsers are told of traces a moment after they were written.

Owns: who is listening, what each of them has still to be told, how often, the form of server-sent events.
Must not know: what a trace looks like on a page.
Invariants: the writer's thread only ever adds ids to a bounded set; nobody listening costs nothing; what a slow client has
to be told is bounded, and it is told what it missed; at the end all streams end at once, so that a server can stop.

Source: server-sent events, in the HTML standard.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from autoinstr.backend.query.analysis import summarise
from autoinstr.backend.query.asking import Asking, Refused
from autoinstr.model import Batch

TICK_S = 0.5
KEEP_ALIVE_S = 15.0
#: What a client has to read the end of its stream.
END_S = 1.0
MOST_CLIENTS = 32
#: Events that wait for a slow client, traces in one event, and traces that are remembered between two events.
MOST_EVENTS, MOST_TRACES, MOST_TOUCHED = 8, 50, 10_000

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class LiveTail:
    """All clients of the live tail. Everything but the noting of ids happens in the event loop."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._clients: set[_Client] = set()
        self._lock = threading.Lock()
        self._touched: dict[int, None] = {}
        self._publishing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False

    def open(self) -> EventStream:
        """A stream for one more client. ``Refused`` when there are too many, or when the server stops."""
        if self._ended:
            raise Refused(503, "the server is stopping")
        if len(self._clients) >= MOST_CLIENTS:
            raise Refused(503, f"{MOST_CLIENTS} live tails are open already; close one")
        client = _Client()
        self._clients.add(client)
        if self._publishing is None or self._loop is not asyncio.get_running_loop():
            self._loop = asyncio.get_running_loop()
            self._publishing = self._loop.create_task(self._publish())
        return EventStream(client, self._clients.discard)

    def end(self) -> None:
        """End all streams, now and for good; from any thread, also when there are none."""
        self._ended = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_clients)

    def _end_clients(self) -> None:
        for client in self._clients:
            client.end()

    async def _publish(self) -> None:
        """Runs as long as anybody listens."""
        forget = self._asking.parts.writer.listen(self._note)
        try:
            while self._clients and not self._ended:
                await asyncio.sleep(TICK_S)
                await self._tell()
        finally:
            forget()
            self._publishing = None
            self._take()

    def _note(self, batches: Sequence[Batch]) -> None:
        """On the writer's thread, which must not wait."""
        ids = dict.fromkeys([span.trace_id for batch in batches for span in batch.spans])
        with self._lock:
            if len(self._touched) < MOST_TOUCHED:
                self._touched.update(ids)

    def _take(self) -> list[int]:
        with self._lock:
            ids, self._touched = list(self._touched), {}
        return ids

    async def _tell(self) -> None:
        ids = self._take()
        if not ids:
            return
        try:
            text = await self._asking.lookups.run(self._traces_event, ids[-MOST_TRACES:], len(ids) - MOST_TRACES)
        except Exception:  # noqa: BLE001 - a store that fails, or is asked too much, must not end the live tail
            return
        for client in self._clients:
            client.tell(text)

    def _traces_event(self, ids: Sequence[int], skipped: int) -> str:
        traces = [self._asking.parts.store.trace(trace_id) for trace_id in ids]
        summaries = [summarise(trace) for trace in traces if trace]
        summaries.sort(key=lambda summary: summary["start_us"], reverse=True)
        return event("traces", {"traces": summaries, "skipped": max(0, skipped)})


class _Client:
    """What one client has still to be told."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque()
        self._missed = 0
        self._ended = False
        self._woken = asyncio.Event()

    def tell(self, text: str) -> None:
        if len(self._texts) < MOST_EVENTS:
            self._texts.append(text)
        else:
            self._missed += 1
        self._woken.set()

    def end(self) -> None:
        self._ended = True
        self._woken.set()

    async def events(self) -> AsyncIterator[str]:
        # A stream that says nothing for long would look as if it never began.
        yield "retry: 2000\n\n"
        while not self._ended:
            while self._texts and not self._ended:
                yield self._texts.popleft()
            if self._missed:
                missed, self._missed = self._missed, 0
                yield event("missed", {"events": missed})
                continue
            self._woken.clear()
            if self._ended:
                return
            try:
                await asyncio.wait_for(self._woken.wait(), KEEP_ALIVE_S)
            except asyncio.TimeoutError:
                yield ": still here\n\n"


class EventStream(StreamingResponse):
    """The answer to one client; ``close`` is called with it once, however the connection ends."""

    def __init__(self, client: _Client, close: Callable[[_Client], None]) -> None:
        super().__init__(client.events(), media_type="text/event-stream", headers=HEADERS)
        self._client = client
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As any response of Starlette's, but a client that leaves, or a server that stops, always ends it."""
        streaming = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((streaming, leaving), return_when=asyncio.FIRST_COMPLETED)
            self._client.end()
            # One that does not read what it is sent cannot be waited for.
            await asyncio.wait((streaming,), timeout=END_S)
        finally:
            self._close(self._client)
            streaming.cancel()
            leaving.cancel()
            await asyncio.gather(streaming, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event(name: str, data: Mapping[str, Any]) -> str:
    """One server-sent event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
