"""The live tail, over HTTP and, where a client has to be slow, without."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoinstr.backend.query import live
from autoinstr.backend.query.live import _Client

from .conftest import HOST, Backend, poll, running

JSON = {"Content-Type": "application/json"}


class Stream:
    """A browser's EventSource, in a few lines."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=30)
        self._connection.request("GET", "/ui/data/live")
        self.response = self._connection.getresponse()

    def event(self) -> tuple[str, Any]:
        """The next event's name and data; ("", None) at the end of the stream."""
        name = ""
        while line := self.response.readline().decode():
            if line.startswith("event: "):
                name = line[7:].strip()
            if line.startswith("data: "):
                return name, json.loads(line[6:])
        return "", None

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@contextmanager
def listening(backend: Backend) -> Iterator[Stream]:
    with closing(Stream(backend.ports["query"])) as stream:
        assert stream.response.status == 200
        assert stream.response.headers["Content-Type"].startswith("text/event-stream")
        yield stream


def send(backend: Backend, service: str, trace_id: int, span_id: int = 1) -> None:
    span = {
        "traceId": f"{trace_id:032x}",
        "id": f"{span_id:016x}",
        "name": "GET",
        "timestamp": time.time_ns() // 1000,
        "duration": 5,
        "localEndpoint": {"serviceName": service},
    }
    assert backend.post("zipkin", "/api/v2/spans", json.dumps([span]).encode(), JSON)[0] == 202


def test_traces_appear_by_themselves(backend: Backend) -> None:
    """Within a second of its end, and again when more of it has come; to everybody who looks."""
    with listening(backend) as first, listening(backend) as second:
        send(backend, "tail", 0x901)
        for stream in (first, second):
            name, data = stream.event()
            assert (name, data["skipped"]) == ("traces", 0)
            assert [(trace["traceID"], trace["service"], trace["spans"]) for trace in data["traces"]] == [
                ("0000000000000901", "tail", 1)
            ]
        send(backend, "tail", 0x901, span_id=2)
        assert first.event()[1]["traces"][0]["spans"] == 2


def test_events_come_at_most_twice_a_second(backend: Backend) -> None:
    """A busy service must not make the browser draw all the time; nothing is left out for it."""
    with listening(backend) as stream:
        stop = threading.Event()

        def keep_sending() -> None:
            number = 0
            while not stop.wait(0.01):
                number += 1
                send(backend, "busy", 0xA000 + number)

        sender = threading.Thread(target=keep_sending)
        sender.start()
        try:
            stream.event()
            started = time.monotonic()
            for _ in range(4):
                assert stream.event()[0] == "traces"
            lasted = time.monotonic() - started
        finally:
            stop.set()
            sender.join()
    assert lasted >= 4 * live.TICK_S * 0.9


def test_an_open_live_tail_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Somebody who leaves the page open must not make Ctrl-C take seconds, or look like a crash."""
    with running(tmp_path) as backend, listening(backend) as stream:
        send(backend, "end", 1)
        assert stream.event()[0] == "traces"
        started = time.monotonic()
        backend.process.terminate()
        assert stream.event() == ("", None)
        backend.process.wait(30)
        assert time.monotonic() - started < 2.5
        assert backend.process.returncode == 0


def test_a_client_that_does_not_read_is_told_what_it_missed() -> None:
    """What waits for it is bounded, so that it costs no memory; and it must know that its list has a gap."""

    async def read() -> list[str]:
        client = _Client()
        for number in range(live.MOST_EVENTS + 3):
            client.tell(live.event("traces", {"n": number}))
        events = client.events()
        found = [await anext(events) for _ in range(live.MOST_EVENTS + 2)]
        client.end()
        assert [text async for text in events] == []
        return found[1:]

    found = asyncio.run(read())
    assert found[:-1] == [live.event("traces", {"n": number}) for number in range(live.MOST_EVENTS)]
    assert found[-1] == 'event: missed\ndata: {"events":3}\n\n'


def test_a_silent_stream_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies close what is silent for a minute."""
    monkeypatch.setattr(live, "KEEP_ALIVE_S", 0.01)

    async def read() -> list[str]:
        client = _Client()
        events = client.events()
        found = [await anext(events) for _ in range(3)]
        client.end()
        return found + [text async for text in events]

    assert asyncio.run(read())[1:] == [": still here\n\n"] * 2


def test_live_tails_are_counted(backend: Backend) -> None:
    """Pages that are left open in many tabs must not take the server's connections; closed ones make room again."""
    streams = [Stream(backend.ports["query"]) for _ in range(live.MOST_CLIENTS)]
    try:
        assert {stream.response.status for stream in streams} == {200}
        status, body = backend.get("query", "/ui/data/live")
        assert (status, b"live tails are open" in body) == (503, True)
    finally:
        for stream in streams:
            stream.close()

    def opened() -> bool:
        with closing(Stream(backend.ports["query"])) as stream:
            return stream.response.status == 200

    poll(opened, "room for a live tail")
