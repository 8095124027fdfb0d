"""celery: a span where a task is sent, and one where it runs, in one trace across the broker.

Owns: which of celery's signals mean what, the headers in its messages, names and attributes.
Must not know: brokers, pools, kinds of tasks; task classes stay as they are.
Invariants: a message carries the context of whatever sent it, kept or not; what a retried task's old message carried is not sent
again; between a run's two signals its span is the current one, for they are sent by the same frame.

Headers are written at ``before_task_publish``, when celery has put the message together. The span around it is no matter of
signals: none is sent when a broker refuses the message. A retry is a further run, below the one that asked for it.
A task that its worker has killed (a hard time limit) is never told to have ended: its span is lost, those below it are not.
Source: OpenTelemetry semantic conventions for messaging spans.
"""

from __future__ import annotations

from functools import wraps

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.operation import around, is_left_alone
from autoinstr.model import Kind
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from typing import Any

    from autoinstr.model import AttributeValue, Facts, SpanContext
    from autoinstr.trace import Span

SCOPE = "celery"
UID = "autoinstr"
#: Runs whose end is awaited. A worker has as many as its pool has places; more are a sign that ends are not told.
MOST_RUNS = 10_000


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``celery.signals``."""
    connected = Connected(patcher.module)
    for name, receiver in Runs(tracing).receivers().items():
        patcher.set(connected, name, receiver)
    patcher.set(connected, "before_task_publish", guarded(writing_headers(tracing)))
    # A process of the pool that was terminated has put the default back, and gets a second SIGTERM while it tells its end.
    patcher.set(connected, "worker_process_shutdown", guarded(lambda **_: tracing.catch_sigterm()))


def patch_amqp(patcher: Patcher, tracing: Tracing) -> None:
    """``celery.app.amqp``: what makes the function that sends every task, those of beat, chains and retries as well."""

    def make(wrapped: Any) -> Callable[..., Any]:
        def create_task_sender(*arguments: Any, **keywords: Any) -> Any:
            send = wrapped(*arguments, **keywords)
            try:
                return wraps(send)(around(tracing, SCOPE, begin_publish, kind=Kind.PRODUCER)(send))
            except Exception as trouble:  # Host safety: tasks are sent, untraced.
                fault("the sender of celery's tasks", trouble)
                return send

        return create_task_sender

    patcher.wrap("AMQP._create_task_sender", make)


class Connected:
    """Receivers as attributes, by the names of their signals: set, they are connected, and deleted, they are not.

    They are held strongly, since nobody else does.
    """

    _signals: Any

    def __init__(self, signals: Any) -> None:
        object.__setattr__(self, "_signals", signals)

    def __setattr__(self, name: str, receiver: Any) -> None:
        getattr(self._signals, name).connect(receiver, weak=False, dispatch_uid=UID)
        object.__setattr__(self, name, receiver)

    def __delattr__(self, name: str) -> None:
        getattr(self._signals, name).disconnect(getattr(self, name), dispatch_uid=UID)
        object.__delattr__(self, name)


def guarded(receive: Callable[..., None]) -> Callable[..., None]:
    """For a signal: celery would log what it raises as the program's error."""

    def receiver(**keywords: Any) -> None:
        try:
            receive(**keywords)
        except Exception as trouble:  # Host safety: the task is none of ours.
            fault("a signal of celery", trouble)

    return receiver


def begin_publish(producer: Any, name: Any, *_: Any, **__: Any) -> tuple[str, tuple[Facts, ...]]:
    """Where the broker is; what is sent, and to which queue, is known when the headers are written."""
    connection = getattr(producer, "__connection__", None)
    host, port = getattr(connection, "hostname", None) or "", getattr(connection, "port", None) or 0
    if any(letter in host for letter in "@/;"):  # A list of URLs, passwords among them.
        host, port = "", 0
    return f"publish {name}", ((describe_server, str(host), int(port)),)


def writing_headers(tracing: Tracing) -> Callable[..., None]:
    """For ``before_task_publish``."""

    def receive(sender: Any = None, headers: Any = None, body: Any = None, routing_key: Any = "", exchange: Any = "", **_: Any) -> None:
        span = current.get()
        if span is None or not span.trace_id or headers is None:
            return
        # A retried task is sent with the headers that its own message had.
        for field in tracing.plain.fields:
            headers.pop(field, None)
        headers.update(tracing.plain.inject(span))
        if span.recording and span.kind == Kind.PRODUCER and span.scope == SCOPE:
            queue = str(routing_key or getattr(exchange, "name", exchange) or "")
            span.facts = (*span.facts, (describe_message, "publish", "send", str(sender), queue))
            task_id = headers.get("id") or (body.get("id") if isinstance(body, dict) else None)  # Protocol 1: in the body.
            if task_id:
                span.set_attribute("messaging.message.id", str(task_id))

    return receive


class Runs:
    """The spans of the tasks that run now."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        #: By the identity of celery's request, which lives as long as the run.
        self._open: dict[int, tuple[Span, Token[Span | None]]] = {}

    def receivers(self) -> dict[str, Callable[..., None]]:
        """What is done at which signal."""
        return {
            "task_prerun": guarded(self.started),
            "task_retry": guarded(self.will_be_retried),
            "task_failure": guarded(self.failed),
            "task_postrun": guarded(self.ended),
        }

    def started(self, task: Any, task_id: Any = "", **_: Any) -> None:
        """A span below the one that sent the task; of a task that runs where it is called, below the caller's."""
        request = task.request
        parent: Span | SpanContext | None
        kind, parent = Kind.CONSUMER, None
        if request.is_eager:
            kind, parent = Kind.INTERNAL, current.get()
            if is_left_alone(self._tracing, parent):
                return
        else:
            extract = self._tracing.plain.extract
            parent = extract(request.headers or {}) or extract(vars(request))
        name = str(task.name)
        span = self._tracing.tracer.start(f"run {name}", kind, parent, SCOPE)
        if span.recording:
            # In the default exchange queues are found by this.
            queue = "" if request.is_eager else (request.delivery_info or {}).get("routing_key") or ""
            span.facts = (*span.facts, (describe_message, "run", "process", name, str(queue)))
            span.set_attribute("messaging.message.id", str(task_id))
            if request.retries:
                span.set_attribute("celery.retries", int(request.retries))
        if len(self._open) >= MOST_RUNS:
            self._open.clear()
        self._open[id(request)] = span, current.set(span)

    def will_be_retried(self, request: Any, reason: Any = None, **_: Any) -> None:
        """It has failed, but that is not the end of it."""
        span, _token = self._open.get(id(request), (None, None))
        error = getattr(reason, "exc", None)
        if span is not None and isinstance(error, BaseException):
            span.record_exception(error)

    def failed(self, sender: Any, exception: Any = None, **_: Any) -> None:
        """It has failed; the worker's main process says so, too, of tasks that it does not run."""
        span, _token = self._open.get(id(sender.request), (None, None))
        if span is not None and isinstance(exception, BaseException):
            span.fail(exception)

    def ended(self, task: Any, state: Any = "", **_: Any) -> None:
        """However it went."""
        span, token = self._open.pop(id(task.request), (None, None))
        if span is None or token is None:
            return
        try:
            current.reset(token)
        except ValueError:  # The pool has changed contexts on the way.
            current.set(None)
        if state:
            span.set_attribute("celery.state", str(state))
        span.end()


def describe_server(host: str, port: int) -> dict[str, AttributeValue]:
    """Where the broker is."""
    found: dict[str, AttributeValue] = {}
    if host:
        found["server.address"] = host
    if port:
        found["server.port"] = port
    return found


def describe_message(operation: str, operation_type: str, task: str, queue: str) -> dict[str, AttributeValue]:
    """The attributes that the spans of all messages of a kind share."""
    found: dict[str, AttributeValue] = {
        "messaging.system": "celery",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation_type,
        "celery.task_name": task,
    }
    if queue:
        found["messaging.destination.name"] = queue
    return found
