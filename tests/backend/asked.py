"""The query port in this process: real parts around a store in memory, and a client that needs no socket."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from autoinstr.backend.parts import Parts
from autoinstr.backend.query import query_app
from autoinstr.backend.receive.losses import LossBook
from autoinstr.backend.receive.writer import QueueWriter
from autoinstr.backend.sampling import StrategyBook
from autoinstr.backend.store import MemoryStore, Store
from autoinstr.model import Batch, Kind, Resource, SpanData

SECOND_NS = 10**9
SHOP, STOCK = Resource("shop", {"host.name": "web-1"}), Resource("stock", {"host.name": "db-1"})


class Client:
    """Asks an ASGI application without a socket. The event loop is one of its own, and lasts, as in a server."""

    def __init__(self, app: Any, root_path: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        transport = httpx.ASGITransport(app, root_path=root_path)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        asked = self._client.request(method, path, **options)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(60)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Asked:
    """A query port and what stands behind it."""

    def __init__(self, parts: Parts, client: Client) -> None:
        self.parts = parts
        self.client = client

    def get(self, path: str, **options: Any) -> Any:
        """The JSON of an answer that must be 200."""
        response = self.client.get(path, **options)
        assert response.status_code == 200, response.text
        return response.json()

    def data(self, path: str) -> Any:
        """What an answer of Jaeger's API says, without its envelope."""
        return self.get(path)["data"]

    def error(self, path: str, method: str = "GET", **options: Any) -> tuple[int, str]:
        """Status and sentence of an answer that must be an error."""
        response = self.client.request(method, path, **options)
        return response.status_code, response.json()["errors"][0]["msg"]

    def write(self, *spans: SpanData, resource: Resource = SHOP) -> None:
        """As a receiver does it; done when the store has it."""
        self.parts.writer.submit([Batch(resource, list(spans))], 100).result(10)


@contextmanager
def asking(store: Store | None = None, *, root_path: str = "", **more: Any) -> Iterator[Asked]:
    """A query port over a store; ``more`` are other parts than the usual ones."""
    store = store or MemoryStore(200_000)
    writer = QueueWriter(store)
    chosen = {"writer": writer, "losses": LossBook(), "strategies": StrategyBook(), **more}
    parts = Parts(store=store, **chosen)
    client = Client(query_app(parts), root_path)
    try:
        yield Asked(parts, client)
    finally:
        client.close()
        writer.close(10)
        store.close()


def now_span(name: str = "GET /", trace_id: int = 1, span_id: int = 0, parent_id: int = 0, **more: Any) -> SpanData:
    """A span that began a second ago and lasted ten milliseconds, unless ``more`` says otherwise."""
    more.setdefault("start_ns", time.time_ns() - SECOND_NS)
    more.setdefault("end_ns", more["start_ns"] + more.pop("lasts_ns", 10_000_000))
    more.setdefault("kind", Kind.SERVER)
    return SpanData(name, trace_id, span_id or trace_id, parent_id, **more)
