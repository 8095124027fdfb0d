"""kafka-python, aiokafka and confluent-kafka: a span for what is sent, one for what is received, and the context in the headers.

Owns: where each of the three has topic and headers among its arguments and on its records; names and attributes.
Must not know: partitions' logic, groups, serializers; keys and values are not looked at.
Invariants: the program's own lists of headers are not changed; a span is never left behind as the current one: nobody says when the
program is done with a record, so what it does with it is not below the span that received it, but has the same trace to link to.

A record that is received alone belongs to the trace of what sent it, or, in the middle of another, to that one, with a link. Several
at once are one span with links. To wait in vain is none.
Source: OpenTelemetry semantic conventions for messaging spans and for Kafka.
"""

from __future__ import annotations

from functools import wraps

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.operation import end, is_left_alone, start
from autoinstr.model import Kind
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from autoinstr.model import AttributeValue, SpanContext
    from autoinstr.trace import Span

    Make = Callable[[Any], Callable[..., Any]]
    #: Topic, partition, offset and headers of a record.
    Read = Callable[[Any], tuple[str, int, int, Any]]

#: Where ``headers`` is among what is given to send, behind the topic.
HEADERS_AT, AIO_HEADERS_AT, CONFLUENT_HEADERS_AT = 2, 4, 6
#: The first brokers that know headers; those before refuse them.
WITH_HEADERS = (0, 11)


def patch_producer(patcher: Patcher, tracing: Tracing) -> None:
    """``kafka.producer.kafka``."""
    patcher.wrap("KafkaProducer.send", sending(tracing, "kafka", HEADERS_AT))


def patch_consumer(patcher: Patcher, tracing: Tracing) -> None:
    """``kafka.consumer.group``: iteration, which polls inside and says so, and ``poll`` by the program."""
    receive = Receiving(tracing, "kafka", read_record)

    def make_next(wrapped: Any) -> Callable[..., Any]:
        def following(self: Any) -> Any:
            record = wrapped(self)
            receive.one(record, group_of(self))
            return record

        return following

    def make_poll(wrapped: Any) -> Callable[..., Any]:
        def poll(self: Any, *arguments: Any, **keywords: Any) -> Any:
            found = wrapped(self, *arguments, **keywords)
            if found and keywords.get("update_offsets", True):
                receive.several((record for records in found.values() for record in records), group_of(self))
            return found

        return poll

    patcher.wrap("KafkaConsumer.__next__", make_next)
    patcher.wrap("KafkaConsumer.poll", make_poll)


def patch_aio_producer(patcher: Patcher, tracing: Tracing) -> None:
    """``aiokafka.producer.producer``."""
    patcher.wrap("AIOKafkaProducer.send", sending_async(tracing, "aiokafka", AIO_HEADERS_AT))


def patch_aio_consumer(patcher: Patcher, tracing: Tracing) -> None:
    """``aiokafka.consumer.consumer``; iteration gets its records by ``getone``."""
    receive = Receiving(tracing, "aiokafka", read_record)

    def make_getone(wrapped: Any) -> Callable[..., Any]:
        async def getone(self: Any, *partitions: Any) -> Any:
            record = await wrapped(self, *partitions)
            receive.one(record, group_of(self))
            return record

        return getone

    def make_getmany(wrapped: Any) -> Callable[..., Any]:
        async def getmany(self: Any, *partitions: Any, **keywords: Any) -> Any:
            found = await wrapped(self, *partitions, **keywords)
            if found:
                receive.several((record for records in found.values() for record in records), group_of(self))
            return found

        return getmany

    patcher.wrap("AIOKafkaConsumer.getone", make_getone)
    patcher.wrap("AIOKafkaConsumer.getmany", make_getmany)


def patch_confluent(patcher: Patcher, tracing: Tracing) -> None:
    """``confluent_kafka.cimpl``, and the package that has copied its names: classes made in C, replaced by subclasses of theirs."""
    receive = Receiving(tracing, "confluent_kafka", read_message)

    def make_poll(wrapped: Any) -> Callable[..., Any]:
        def poll(self: Any, *arguments: Any, **keywords: Any) -> Any:
            message = wrapped(self, *arguments, **keywords)
            if message is not None:
                receive.one(message, "")
            return message

        return poll

    def make_consume(wrapped: Any) -> Callable[..., Any]:
        def consume(self: Any, *arguments: Any, **keywords: Any) -> Any:
            found = wrapped(self, *arguments, **keywords)
            if found:
                receive.several(found, "")
            return found

        return consume

    made: dict[str, dict[str, Make]] = {
        "Producer": {"produce": sending(tracing, "confluent_kafka", CONFLUENT_HEADERS_AT)},
        "Consumer": {"poll": make_poll, "consume": make_consume},
    }
    for name, methods in made.items():
        kind = getattr(patcher.module, name)
        if not hasattr(kind, "__autoinstr__"):
            patcher.set(patcher.module, name, subclass(kind, methods))


def subclass(kind: Any, methods: dict[str, Make]) -> Any:
    """It goes by the name of what it stands for."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, "__autoinstr__": True}
    made = {name: wraps(getattr(kind, name))(make(getattr(kind, name))) for name, make in methods.items()}
    return type(kind)(kind.__name__, (kind,), {**names, **made})


def sending(tracing: Tracing, scope: str, headers_at: int) -> Make:
    """For what hands a record to the library, which sends it later."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def send(self: Any, topic: Any, *arguments: Any, **keywords: Any) -> Any:
            span, given, named = prepared(tracing, scope, headers_at, self, topic, arguments, keywords)
            if span is None:
                return wrapped(self, topic, *given, **named)
            token = current.set(span)
            try:
                result = wrapped(self, topic, *given, **named)
            except BaseException as error:
                end(span, scope, None, None, error)
                raise
            finally:
                current.reset(token)
            end(span, scope, None, None, None)
            return result

        return send

    return make


def sending_async(tracing: Tracing, scope: str, headers_at: int) -> Make:
    """The same for a coroutine function."""

    def make(wrapped: Any) -> Callable[..., Any]:
        async def send(self: Any, topic: Any, *arguments: Any, **keywords: Any) -> Any:
            span, given, named = prepared(tracing, scope, headers_at, self, topic, arguments, keywords)
            if span is None:
                return await wrapped(self, topic, *given, **named)
            token = current.set(span)
            try:
                result = await wrapped(self, topic, *given, **named)
            except BaseException as error:
                end(span, scope, None, None, error)
                raise
            finally:
                current.reset(token)
            end(span, scope, None, None, None)
            return result

        return send

    return make


def prepared(
    tracing: Tracing, scope: str, headers_at: int, owner: Any, topic: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Span | None, tuple[Any, ...], dict[str, Any]]:
    """A span, if there is to be one, and what to hand on: with headers that tell of it, or of the trace that is not kept."""
    span = None
    try:
        parent = current.get()
        if not is_left_alone(tracing, parent):
            span = start(tracing, parent, scope, Kind.PRODUCER, f"send {topic}", ((describe_message, "send", str(topic), "", 0),))
        sender = span or parent
        if sender is None or not sender.trace_id or not takes_headers(owner):
            return span, arguments, keywords
        is_positional = len(arguments) > headers_at
        old = arguments[headers_at] if is_positional else keywords.get("headers")
        new = with_context(tracing, sender, old)
        if is_positional:
            return span, (*arguments[:headers_at], new, *arguments[headers_at + 1 :]), keywords
        return span, arguments, {**keywords, "headers": new}
    except Exception as trouble:  # Host safety: the record is sent as it would be without us.
        fault(f"the start of a {scope} call", trouble)
        return span, arguments, keywords


def takes_headers(owner: Any) -> bool:
    """Whether the broker is new enough for headers, as far as it is known."""
    version = getattr(owner, "config", {}).get("api_version")
    return not isinstance(version, tuple) or version >= WITH_HEADERS


def with_context(tracing: Tracing, sender: Span, headers: Any) -> Any:
    """New headers: the program's, without a context that it has copied from another record, and ours. What is none stays as it is."""
    ours = [(name, value.encode("latin-1", "replace")) for name, value in tracing.plain.inject(sender)]
    fields = tracing.plain.fields
    if headers is None:
        return ours
    if isinstance(headers, dict):
        return {**{name: value for name, value in headers.items() if name not in fields}, **dict(ours)}
    if isinstance(headers, (list, tuple)):
        return [*[pair for pair in headers if pair[0] not in fields], *ours]
    return headers


class Receiving:
    """What is done with records that have arrived; nothing of it raises."""

    def __init__(self, tracing: Tracing, scope: str, read: Read) -> None:
        self._tracing = tracing
        self._scope = scope
        self._read = read

    def one(self, record: Any, group: str) -> None:
        """A record by itself."""
        try:
            topic, partition, offset, headers = self._read(record)
            if not topic:
                return
            context = self._context(headers)
            parent = current.get()
            if parent is None and context is not None:
                span = self._tracing.tracer.start(f"receive {topic}", Kind.CONSUMER, context, self._scope)
            elif is_left_alone(self._tracing, parent):
                return
            else:
                span = self._tracing.tracer.start(f"receive {topic}", Kind.CONSUMER, parent, self._scope)
                if context is not None and context.is_valid:
                    span.add_link(context)
            if span.recording:
                span.facts = (*span.facts, (describe_message, "receive", topic, group, 0))
                span.set_attributes({"messaging.destination.partition.id": str(partition), "messaging.kafka.offset": offset})
            span.end()
        except Exception as trouble:  # Host safety: the record is the program's.
            fault(f"a record of {self._scope}", trouble)

    def several(self, records: Iterable[Any], group: str) -> None:
        """Records that came together."""
        try:
            if is_left_alone(self._tracing, current.get()):
                return
            known = [found for found in map(self._read, records) if found[0]]
            if not known:
                return
            topics = {topic for topic, _, _, _ in known}
            topic = topics.pop() if len(topics) == 1 else ""
            span = self._tracing.tracer.start(f"receive {topic}".rstrip(), Kind.CONSUMER, current.get(), self._scope)
            if span.recording:
                span.facts = (*span.facts, (describe_message, "receive", topic, group, len(known)))
                self._link(span, [headers for _, _, _, headers in known])
            span.end()
        except Exception as trouble:  # Host safety: the records are the program's.
            fault(f"records of {self._scope}", trouble)

    def _link(self, span: Span, all_headers: list[Any]) -> None:
        """To what has sent them, each once, as many as a span may have."""
        most = self._tracing.tracer.limits.link_count
        contexts: dict[tuple[int, int], SpanContext] = {}
        for headers in all_headers:
            if len(contexts) >= most:
                return self._add(span, contexts)
            context = self._context(headers)
            if context is not None and context.is_valid:
                contexts[context.trace_id, context.span_id] = context
        return self._add(span, contexts)

    @staticmethod
    def _add(span: Span, contexts: dict[tuple[int, int], SpanContext]) -> None:
        for context in contexts.values():
            span.add_link(context)

    def _context(self, headers: Any) -> SpanContext | None:
        if not headers:
            return None
        carrier = {name.lower(): value.decode("latin-1") for name, value in headers if isinstance(value, bytes)}
        return self._tracing.plain.extract(carrier)


def read_record(record: Any) -> tuple[str, int, int, Any]:
    """Of kafka-python and of aiokafka."""
    return record.topic, record.partition, record.offset, record.headers


def read_message(message: Any) -> tuple[str, int, int, Any]:
    """Of confluent-kafka, where an error, or the end of a partition, comes as a message as well: it has no topic here."""
    if message.error() is not None:
        return "", 0, 0, None
    return message.topic(), message.partition(), message.offset(), message.headers()


def group_of(consumer: Any) -> str:
    """The group that a consumer belongs to; "" if none."""
    try:
        found = getattr(consumer, "_group_id", None) or getattr(consumer, "config", {}).get("group_id")
    except Exception as trouble:  # Host safety: a consumer of the program's own kind.
        fault("the group of a consumer", trouble)
        return ""
    return str(found) if found else ""


def describe_message(operation: str, topic: str, group: str, size: int) -> dict[str, AttributeValue]:
    """The attributes that all records of a topic share; ``size`` of those that came together, 0 where one came alone."""
    found: dict[str, AttributeValue] = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    if topic:
        found["messaging.destination.name"] = topic
    if group:
        found["messaging.consumer.group.name"] = group
    if size:
        found["messaging.batch.message_count"] = size
    return found
