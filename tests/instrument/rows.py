"""Rows of the table of instruments that these tests are about, while the table does not have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autoinstr import instrument
from autoinstr.instrument import Watcher

from .conftest import build_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autoinstr.report import InMemoryReporter

ROWS = (
    ("redis.client", "redis", "redis:patch"),
    ("redis.cluster", "redis", "redis:patch"),
    ("redis.asyncio.client", "redis", "redis:patch_async"),
    ("redis.asyncio.cluster", "redis", "redis:patch_async"),
    ("valkey.client", "valkey", "redis:patch"),
    ("valkey.cluster", "valkey", "redis:patch"),
    ("valkey.asyncio.client", "valkey", "redis:patch_async"),
    ("valkey.asyncio.cluster", "valkey", "redis:patch_async"),
    ("kombu.transport.redis", "redis", "redis:patch_kombu"),
    ("celery.signals", "celery", "celery:patch"),
    ("celery.app.amqp", "celery", "celery:patch_amqp"),
    ("pymongo.monitoring", "pymongo", "pymongo:patch"),
    ("kafka.producer.kafka", "kafka", "kafka:patch_producer"),
    ("kafka.consumer.group", "kafka", "kafka:patch_consumer"),
    ("aiokafka.producer.producer", "aiokafka", "kafka:patch_aio_producer"),
    ("aiokafka.consumer.consumer", "aiokafka", "kafka:patch_aio_consumer"),
    ("confluent_kafka.cimpl", "confluent_kafka", "kafka:patch_confluent"),
    ("confluent_kafka", "confluent_kafka", "kafka:patch_confluent"),
)
MISSING = tuple(row for row in ROWS if row not in instrument.TABLE)


def write_package(folder: Path) -> None:
    """A package beside autoinstr with the missing rows, for programs that are started with ``folder`` in PYTHONPATH."""
    lines = [f"{module} = autoinstr.instrument.{target}" for module, _, target in MISSING]
    package = folder / "rows-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: rows\nVersion: 1\n")
    (package / "entry_points.txt").write_text("\n".join([f"[{instrument.GROUP}]", *lines, ""]))


@pytest.fixture
def watch(reporter: InMemoryReporter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watcher]]:
    """As that of ``conftest``, with the rows."""
    monkeypatch.setattr(instrument, "TABLE", (*instrument.TABLE, *MISSING))
    watchers = []

    def start(*, keep: bool = True, **environ: str) -> Watcher:
        watcher = Watcher(build_tracing(reporter, keep=keep, **environ))
        watchers.append(watcher)
        watcher.install()
        return watcher

    yield start
    for watcher in reversed(watchers):
        watcher.uninstall()
