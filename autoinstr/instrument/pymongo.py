"""pymongo, plain and asynchronous (and motor, which is made of it): a span for each command that a server gets.

Owns: the listener that pymongo tells of its commands, names and attributes, and what of an error may be told.
Must not know: clients, collections, cursors, retries: these all end in commands.
Invariants: of documents and filters nothing is recorded, nor of messages of errors, which quote them; the table of open commands is
bounded, since pymongo does not tell the end of a command that was cancelled.

Clients take the list of listeners when they are made; those that were made before have none of ours.
Source: OpenTelemetry semantic conventions for MongoDB client spans.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.operation import is_left_alone, start
from autoinstr.model import Kind, Status
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.model import AttributeValue
    from autoinstr.trace import Span

SCOPE, SYSTEM = "pymongo", "mongodb"
MOST_OPEN = 10_000
#: What the driver sends of its own accord: no traces of their own.
UPKEEP = frozenset({"hello", "ismaster", "isMaster", "saslStart", "saslContinue", "endSessions", "killCursors", "ping", "buildInfo"})
#: Where a command has what it does many of.
BATCHES = {"insert": "documents", "update": "updates", "delete": "deletes"}


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``pymongo.monitoring``; the second time there is nothing to do."""
    known = patcher.module._LISTENERS
    if any(hasattr(one, "__autoinstr__") for one in known.command_listeners):
        return
    commands = Commands(tracing)
    members = {"__autoinstr__": True, "started": guarded(commands.started), "succeeded": guarded(commands.succeeded), "failed": guarded(commands.failed)}
    listener = type("Listener", (patcher.module.CommandListener,), members)()
    patcher.set(patcher.module, "_LISTENERS", known._replace(command_listeners=[*known.command_listeners, listener]))


def guarded(listen: Callable[[Any], None]) -> Callable[[Any, Any], None]:
    """As a method of the listener: what it raises pymongo would print."""

    def listener(_: Any, event: Any) -> None:
        try:
            listen(event)
        except Exception as trouble:  # Host safety: the command is the program's.
            fault("an event of pymongo", trouble)

    return listener


class Commands:
    """The commands that have no answer yet."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._open: dict[tuple[int, Any], Span] = {}

    def started(self, event: Any) -> None:
        """It is about to be sent; by the program's own thread or task."""
        parent, operation = current.get(), event.command_name
        if is_left_alone(self._tracing, parent) or (parent is None and operation in UPKEEP):
            return
        command = event.command  # Empty where pymongo thinks it secret.
        collection = collection_of(operation, command)
        host, port = event.connection_id
        size = len(command.get(BATCHES.get(operation, ""), ()))
        fact = (describe_command, operation, collection, event.database_name, host, port or 0, size)
        if len(self._open) >= MOST_OPEN:
            self._open.pop(next(iter(self._open)), None)
        span = start(self._tracing, parent, SCOPE, Kind.CLIENT, f"{operation} {collection}".rstrip(), (fact,))
        self._open[event.request_id, event.connection_id] = span

    def succeeded(self, event: Any) -> None:
        """It was answered."""
        span = self._open.pop((event.request_id, event.connection_id), None)
        if span is not None:
            span.end()

    def failed(self, event: Any) -> None:
        """The server has refused it, or there was no answer."""
        span = self._open.pop((event.request_id, event.connection_id), None)
        if span is None:
            return
        if span.recording:
            failure = event.failure
            code = failure.get("code")
            kind = str(failure.get("codeName") or failure.get("errtype") or code or "_OTHER")
            span.facts = (*span.facts, (describe_failure, kind, "" if code is None else str(code)))
            if kind not in ("CancelledError", "_OperationCancelled"):
                span.set_status(Status.ERROR, kind)
        span.end()


def collection_of(operation: str, command: Any) -> str:
    """The collection that a command is about; "" if none."""
    found = command.get("collection" if operation == "getMore" else operation)
    return found if isinstance(found, str) and operation not in UPKEEP else ""


def describe_command(operation: str, collection: str, namespace: str, host: str, port: int, size: int) -> dict[str, AttributeValue]:
    """The attributes of a command; the size of a batch of one is not told."""
    found: dict[str, AttributeValue] = {
        "db.system.name": SYSTEM,
        "db.operation.name": operation,
        "db.namespace": namespace,
        "server.address": host,
    }
    if collection:
        found["db.collection.name"] = collection
    if port:
        found["server.port"] = port
    if size > 1:
        found["db.operation.batch.size"] = size
    return found


def describe_failure(kind: str, code: str) -> dict[str, AttributeValue]:
    """What went wrong, by its name and its number."""
    return {"error.type": kind, "db.response.status_code": code} if code else {"error.type": kind}
