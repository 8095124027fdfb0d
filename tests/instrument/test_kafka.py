"""kafka-python, aiokafka and confluent-kafka, against a broker: one trace across it."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import warnings
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiokafka
import confluent_kafka
import pytest

from autoinstr import trouble
from autoinstr.model import Kind, Status
from autoinstr.trace import current

from .contract_client import below
from .kafka_broker import BROKERS, running

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # It reads its files in an old way.
    import kafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autoinstr.instrument import Watcher
    from autoinstr.report import InMemoryReporter

OWN = [("own", b"kept")]
STALE = [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", b"old=1")]
_topics = itertools.count(1)


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(request.param, tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture
def topic() -> str:
    return f"orders-{next(_topics)}"


class KafkaPython:
    scope = "kafka"
    #: What a broker can do is not asked: the simple one cannot say.
    settings = {"api_version": (2, 0)}
    group = "shop"

    def send(self, broker: str, topic: str, *records: tuple[bytes, Any]) -> None:
        with closing(kafka.KafkaProducer(bootstrap_servers=broker, **self.settings)) as producer:
            for value, headers in records:
                producer.send(topic, value, headers=headers).get(timeout=20)

    def consumer(self, broker: str, topic: str) -> Any:
        # Without `subscribe`, no group has to be joined, which takes seconds.
        consumer = kafka.KafkaConsumer(bootstrap_servers=broker, group_id="shop", enable_auto_commit=False, auto_offset_reset="earliest", consumer_timeout_ms=20_000, **self.settings)
        consumer.assign([kafka.TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)])
        return consumer

    def receive(self, broker: str, topic: str, count: int) -> list[bytes]:
        with closing(self.consumer(broker, topic)) as consumer:
            return [next(consumer).value for _ in range(count)]

    def receive_together(self, broker: str, topic: str, count: int) -> list[bytes]:
        with closing(self.consumer(broker, topic)) as consumer:
            found: list[bytes] = []
            for _ in range(40):
                if len(found) == count:
                    break
                found += [record.value for records in consumer.poll(timeout_ms=500).values() for record in records]
            return found


class AIOKafka:
    scope = "aiokafka"
    group = ""

    def send(self, broker: str, topic: str, *records: tuple[bytes, Any]) -> None:
        async def work() -> None:
            producer = aiokafka.AIOKafkaProducer(bootstrap_servers=broker)
            await producer.start()
            try:
                for value, headers in records:
                    await producer.send_and_wait(topic, value, headers=headers)
            finally:
                await producer.stop()

        asyncio.run(work())

    def _received(self, broker: str, topic: str, work: Callable[[Any], Any]) -> list[bytes]:
        async def session() -> Any:
            consumer = aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=broker, auto_offset_reset="earliest")
            await consumer.start()
            try:
                return await asyncio.wait_for(work(consumer), 20)
            finally:
                await consumer.stop()

        return asyncio.run(session())

    def receive(self, broker: str, topic: str, count: int) -> list[bytes]:
        async def work(consumer: Any) -> list[bytes]:
            found = [(await consumer.getone()).value]
            async for record in consumer if count > 1 else nothing():
                found.append(record.value)
                if len(found) == count:
                    break
            return found

        return self._received(broker, topic, work)

    def receive_together(self, broker: str, topic: str, count: int) -> list[bytes]:
        async def work(consumer: Any) -> list[bytes]:
            found: list[bytes] = []
            while len(found) < count:
                found += [record.value for records in (await consumer.getmany(timeout_ms=500)).values() for record in records]
            return found

        return self._received(broker, topic, work)


async def nothing() -> Any:
    for one in ():
        yield one


class Confluent:
    scope = "confluent_kafka"
    group = ""

    def send(self, broker: str, topic: str, *records: tuple[bytes, Any]) -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": broker})
        for value, headers in records:
            producer.produce(topic, value, headers=headers)
        assert producer.flush(20) == 0

    def consumer(self, broker: str, topic: str) -> Any:
        consumer = confluent_kafka.Consumer({"bootstrap.servers": broker, "group.id": "shop", "enable.auto.commit": False, "auto.offset.reset": "earliest"})
        partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, number, confluent_kafka.OFFSET_BEGINNING) for number in partitions])
        return consumer

    def receive(self, broker: str, topic: str, count: int) -> list[bytes]:
        consumer = self.consumer(broker, topic)
        try:
            found: list[bytes] = []
            for _ in range(100):
                message = consumer.poll(0.2)
                found += [message.value()] if message is not None and message.error() is None else []
                if len(found) == count:
                    break
            return found
        finally:
            consumer.close()

    def receive_together(self, broker: str, topic: str, count: int) -> list[bytes]:
        consumer = self.consumer(broker, topic)
        try:
            found: list[bytes] = []
            for _ in range(100):
                found += [message.value() for message in consumer.consume(count, 0.5)]
                if len(found) == count:
                    break
            return found
        finally:
            consumer.close()


@pytest.fixture(params=[KafkaPython(), AIOKafka(), Confluent()], ids=lambda one: type(one).__name__)
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_one_trace_across_the_broker(library: Any, watch: Callable[..., Watcher], reporter: InMemoryReporter, broker: str, topic: str) -> None:
    """What a request has sent would be another trace where it arrives; what it says would lie open."""
    watcher = watch()
    with below(watcher) as parent:
        library.send(broker, topic, (b"secret", None))
        assert current.get() is parent
    (sent,) = reporter.spans
    assert (sent.name, sent.kind, sent.scope, sent.status) == (f"send {topic}", Kind.PRODUCER, library.scope, Status.UNSET)
    assert (sent.trace_id, sent.parent_id) == (parent.trace_id, parent.span_id)
    assert library.receive(broker, topic, 1) == [b"secret"]
    assert current.get() is None
    (_, received) = reporter.spans
    assert (received.name, received.kind, received.scope) == (f"receive {topic}", Kind.CONSUMER, library.scope)
    assert (received.trace_id, received.parent_id, received.parent_is_remote) == (sent.trace_id, sent.span_id, True)
    found = {key: value for key, value in received.attributes.items() if key.startswith("messaging.")}
    assert found.pop("messaging.destination.partition.id") in {"0", "1", "2", "3"}
    assert found.pop("messaging.consumer.group.name", "") == library.group
    assert found == {
        "messaging.system": "kafka",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": topic,
        "messaging.kafka.offset": 0,
    }
    assert "secret" not in str([span.attributes for span in reporter.spans])


def test_headers_of_the_program(library: Any, watch: Callable[..., Watcher], reporter: InMemoryReporter, broker: str, topic: str) -> None:
    """They would be lost, or changed under the program's hands; those of a record that is passed on would win over what is true."""
    watcher = watch()
    headers = [*OWN, *STALE]
    with below(watcher) as parent:
        library.send(broker, topic, (b"v", headers))
    assert headers == [*OWN, *STALE]
    seen = []
    original = type(watcher.tracing.plain).extract
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(watcher.tracing.plain), "extract", lambda self, carrier: (seen.append(dict(carrier)), original(self, carrier))[1])
        library.receive(broker, topic, 1)
    assert seen[0]["own"] == "kept"
    assert "tracestate" not in seen[0]
    assert reporter.spans[-1].trace_id == parent.trace_id


def test_records_that_come_together(library: Any, watch: Callable[..., Watcher], reporter: InMemoryReporter, broker: str, topic: str) -> None:
    """A poll would be as many spans as there are records, or say nothing of where they came from."""
    watch()
    library.send(broker, topic, *[(b"v", None)] * 3)
    sent = {(span.trace_id, span.span_id) for span in reporter.spans}
    reporter.spans.clear()
    library.receive_together(broker, topic, 3)
    assert {span.name for span in reporter.spans} == {f"receive {topic}"}
    assert sum(int(span.attributes["messaging.batch.message_count"]) for span in reporter.spans) == 3
    linked = [(link.context.trace_id, link.context.span_id) for span in reporter.spans for link in span.links]
    assert (len(linked), set(linked)) == (3, sent)


def test_in_the_middle_of_another_trace(library: Any, watch: Callable[..., Watcher], reporter: InMemoryReporter, broker: str, topic: str) -> None:
    """The trace of a job that fetches its work would end where it has found some."""
    watcher = watch()
    library.send(broker, topic, (b"v", None))
    with below(watcher) as parent:
        library.receive(broker, topic, 1)
    sent, received = reporter.spans
    assert (received.trace_id, received.parent_id) == (parent.trace_id, parent.span_id)
    assert [link.context.span_id for link in received.links] == [sent.span_id]


def test_several_by_iteration(library: Any, watch: Callable[..., Watcher], reporter: InMemoryReporter, broker: str, topic: str) -> None:
    """Records that are handed out one by one would be there twice: alone, and in the poll that has fetched them."""
    watch()
    library.send(broker, topic, (b"1", None), (b"2", None))
    assert sorted(library.receive(broker, topic, 2)) == [b"1", b"2"]
    assert [span.name for span in reporter.spans] == [f"send {topic}"] * 2 + [f"receive {topic}"] * 2


def test_a_trace_that_is_not_kept(library: Any, watch: Callable[..., Watcher], reporter: InMemoryReporter, broker: str, topic: str) -> None:
    """The receiver would decide anew, and keep half of a trace."""
    watcher = watch(keep=False)
    with below(watcher):
        library.send(broker, topic, (b"v", None))
    assert watcher.tracing.tracer.children_unsampled == 0
    library.receive(broker, topic, 1)
    assert (watcher.tracing.tracer.joined_unsampled, list(reporter.spans)) == (1, [])


def test_trouble_of_ours_stays_ours(library: Any, watch: Callable[..., Watcher], monkeypatch: pytest.MonkeyPatch, broker: str, topic: str, capfd: Any) -> None:
    """A record would not be sent, or be lost on arrival, by a mistake of the agent's."""
    watcher = watch()
    monkeypatch.setattr(trouble, "_last_said", {})
    monkeypatch.setattr(type(watcher.tracing.tracer), "start", lambda *_: 1 / 0)
    monkeypatch.setattr(type(watcher.tracing.plain), "inject", lambda *_: 1 / 0)
    monkeypatch.setattr(type(watcher.tracing.plain), "extract", lambda *_: 1 / 0)
    library.send(broker, topic, (b"v", OWN))
    assert library.receive(broker, topic, 1) == [b"v"]
    assert library.receive_together(broker, topic, 1) == [b"v"]
    assert "internal error" in capfd.readouterr().err


def test_what_cannot_be_sent(watch: Callable[..., Watcher], reporter: InMemoryReporter, broker: str, topic: str) -> None:
    """The program would see another error than without us, or the trace none."""
    watch()
    producer = confluent_kafka.Producer({"bootstrap.servers": broker})
    with pytest.raises(confluent_kafka.KafkaException):
        producer.produce(topic, b"v" * 2_000_000)
    with closing(kafka.KafkaProducer(bootstrap_servers=broker, **KafkaPython.settings)) as other, pytest.raises(TypeError, match="headers must be list-type"):
        other.send(topic, b"v", headers="odd")
    assert [(span.status, span.attributes["error.type"]) for span in reporter.spans] == [
        (Status.ERROR, "cimpl.KafkaException"), (Status.ERROR, "TypeError"),
    ]
    assert current.get() is None


def test_headers_by_position_and_as_a_mapping(watch: Callable[..., Watcher], reporter: InMemoryReporter, broker: str, topic: str) -> None:
    """Callers that name nothing would have theirs overwritten."""
    watcher = watch()
    with below(watcher) as parent:
        producer = confluent_kafka.Producer({"bootstrap.servers": broker})
        producer.produce(topic, b"1", None, -1, None, None, 0, {"own": b"kept"})
        assert producer.flush(20) == 0
        with closing(kafka.KafkaProducer(bootstrap_servers=broker, **KafkaPython.settings)) as other:
            other.send(topic, b"2", None, OWN).get(timeout=20)
    consumer = Confluent().consumer(broker, topic)
    messages: list[Any] = []
    for _ in range(40):
        messages += consumer.consume(2, 0.5) if len(messages) < 2 else []
    consumer.close()
    for message in messages:
        headers = dict(message.headers())
        assert headers["own"] == b"kept"
        assert f"{parent.trace_id:032x}" in headers["traceparent"].decode()
    assert len(messages) == 2


def test_brokers_without_headers(watch: Callable[..., Watcher], reporter: InMemoryReporter) -> None:
    """What an old broker cannot take would not be sent at all."""
    from autoinstr.instrument.kafka import takes_headers

    class Owner:
        def __init__(self, version: Any) -> None:
            self.config = {"api_version": version}

    assert [takes_headers(Owner(version)) for version in ((0, 10), (0, 11), (3, 9), None, "auto")] == [False, True, True, True, True]
    assert takes_headers(object())


def test_classes_are_what_they_would_be(watch: Callable[..., Watcher]) -> None:
    """``isinstance``, subclasses and messages would not be as the program knows them."""
    bare = confluent_kafka.Producer, confluent_kafka.Consumer
    watcher = watch()
    for was, now in zip(bare, (confluent_kafka.Producer, confluent_kafka.Consumer)):
        assert now is not was
        assert issubclass(now, was)
        assert (now.__name__, now.__module__, now.__doc__) == (was.__name__, was.__module__, was.__doc__)
    watcher.uninstall()
    assert bare == (confluent_kafka.Producer, confluent_kafka.Consumer)


def test_a_program_that_imports_it(tmp_path: Path) -> None:
    """Classes that are made of those of the library would be made of the bare ones."""
    text = """
import http.client
import confluent_kafka
from confluent_kafka import SerializingProducer, DeserializingConsumer
print([hasattr(kind, "__autoinstr__") for kind in (confluent_kafka.Producer, confluent_kafka.Consumer, SerializingProducer, DeserializingConsumer)])
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "AUTOINSTR_EXPORTER": "none"}
    done = subprocess.run([sys.executable, "-m", "autoinstr", "-c", text], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("[True, True, True, True]\n", "")
