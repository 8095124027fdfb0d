"""redis and valkey, its fork, plain and asynchronous, single and cluster: a span for each command, one for a pipeline.

Owns: which calls are commands, how they are named and described, and what of an error may be told.
Must not know: versions; classes and methods that a version does not have are passed over.
Invariants: of what the program stores nothing is recorded, neither keys nor values nor channels: arguments are counted, and errors
are told without those that the library or the server quotes in them.

Waiting for messages (``PubSub.listen``, ``get_message``) is no span: it may take for ever, and nothing in a message says where it
came from. What a command needs inside (scripts, redirections, retries) belongs to its span.
Source: OpenTelemetry semantic conventions for Redis client spans.
"""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.operation import around, around_async, end
from autoinstr.trace import current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.instrument.operation import Begin
    from autoinstr.model import AttributeValue, Facts
    from autoinstr.trace import Span

#: Commands whose first argument is a part of what they do.
CONTAINERS = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "FUNCTION", "HIMPORT", "LATENCY", "MEMORY", "MODULE", "OBJECT", "PUBSUB", "SCRIPT", "SLOWLOG", "XGROUP", "XINFO"}
)
#: Arguments of a command that are counted, and commands of a pipeline that are named.
MOST_COUNTED = 20
MOST_NAMED = 20
LONGEST_NAME = 40
MOST_REMEMBERED = 1000
#: The classes by module, with those of their methods that send at once.
COMMANDS = (
    ("Redis", "execute_command"),
    ("Valkey", "execute_command"),
    ("Pipeline", "immediate_execute_command"),
    ("RedisCluster", "execute_command"),
    ("ValkeyCluster", "execute_command"),
)
SUBSCRIPTIONS = (("PubSub", "execute_command"), ("ClusterPubSub", "execute_command"))
BATCHES = (("Pipeline", "execute"), ("ClusterPipeline", "execute"))
NODES = (("RedisCluster", "_execute_command"), ("ValkeyCluster", "_execute_command"))
#: How the library puts a pipeline's command into the message of its error: "Command # 2 (SET k v) of pipeline caused error: …".
IN_PIPELINE = " of pipeline caused error: "
#: Behind this the server quotes arguments.
QUOTED = ", with args beginning with:"

#: What was given as a command -> (name, number of arguments that stand in the same text).
_names: dict[str, tuple[str, int]] = {}


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``redis.client``, ``redis.cluster``, and the same of valkey."""
    _wrap(patcher, tracing, is_async=False)


def patch_async(patcher: Patcher, tracing: Tracing) -> None:
    """``redis.asyncio.client``, ``redis.asyncio.cluster``, and the same of valkey."""
    _wrap(patcher, tracing, is_async=True)


def patch_kombu(patcher: Patcher, tracing: Tracing) -> None:
    """``kombu.transport.redis``: its clients fetch and acknowledge messages outside of all requests, all the time.

    Each of these commands would be a trace of its own. Those below a span are that span's.
    """

    def make(wrapped: Any) -> Callable[..., Any]:
        def get_pool(*arguments: Any, **keywords: Any) -> Any:
            pool = wrapped(*arguments, **keywords)
            try:
                pool.__autoinstr_is_quiet__ = True
            except Exception as trouble:  # Host safety: a pool that takes no marks has its commands traced.
                fault("a pool of kombu", trouble)
            return pool

        return get_pool

    for owner in ("Channel", "SentinelChannel"):
        if "_get_pool" in vars(getattr(patcher.module, owner, None) or object):
            patcher.wrap(f"{owner}._get_pool", make)


def _wrap(patcher: Patcher, tracing: Tracing, *, is_async: bool) -> None:
    system = patcher.module.__name__.partition(".")[0]
    described = Described(system)

    def traced(begin: Begin) -> Callable[[Any], Callable[..., Any]]:
        return (around_async if is_async else around)(tracing, system, begin, end_failed=end_failed)

    kinds = (
        (COMMANDS, traced(described.command)),
        (SUBSCRIPTIONS, traced(described.subscription)),
        (BATCHES, traced(described.batch)),
        (NODES, noting_node(system, is_async=is_async)),
    )
    for methods, make in kinds:
        for owner, method in methods:
            if method in vars(getattr(patcher.module, owner, None) or object):
                patcher.wrap(f"{owner}.{method}", make)


def noting_node(system: str, *, is_async: bool = False) -> Callable[[Any], Callable[..., Any]]:
    """For a cluster's way to send to one node: the span of the command learns which it was, the first of several."""

    def note(arguments: tuple[Any, ...]) -> None:
        try:
            span = current.get()
            if span is not None and span.recording and span.scope == system and not span.end_ns:
                node = arguments[1]
                if span.facts[-1][0] is not describe_node:
                    span.facts = (*span.facts, (describe_node, str(node.host), int(node.port)))
        except Exception as trouble:  # Host safety: the command goes out, where to remains unsaid.
            fault(f"the look at a node of {system}", trouble)

    def make(wrapped: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            note(arguments)
            return wrapped(*arguments, **keywords)

        return call

    def make_async(wrapped: Any) -> Callable[..., Any]:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            note(arguments)
            return await wrapped(*arguments, **keywords)

        return call

    return make_async if is_async else make


class Described:
    """Names and facts of what is sent, for one of the two packages."""

    def __init__(self, system: str) -> None:
        self.system = system

    def command(self, client: Any, *arguments: Any, **_: Any) -> tuple[str, tuple[Facts, ...]] | None:
        """One command."""
        if is_quiet(client):
            return None
        name, count = name_and_count(arguments)
        return name or self.system, ((describe_command, self.system, name, count, *where(client)),)

    def subscription(self, client: Any, *arguments: Any, **_: Any) -> tuple[str, tuple[Facts, ...]] | None:
        """A change of what a listener listens to; no trace of its own, for that is upkeep."""
        return None if current.get() is None else self.command(client, *arguments)

    def batch(self, pipeline: Any, *_: Any, **__: Any) -> tuple[str, tuple[Facts, ...]] | None:
        """What waits in a pipeline; of an empty one nothing is sent."""
        waiting, is_transaction = queue_of(pipeline)
        if not waiting or is_quiet(pipeline):
            return None
        commands = tuple([name_and_count(arguments_of(one)) for one in waiting[:MOST_NAMED]])
        name = "MULTI" if is_transaction else "PIPELINE"
        if len(waiting) <= MOST_NAMED and len({command for command, _ in commands}) == 1:
            name = f"{name} {commands[0][0]}".strip()
        return name, ((describe_batch, self.system, name, len(waiting), commands, *where(pipeline)),)


def name_and_count(arguments: Any) -> tuple[str, int]:
    """The command with its subcommand, in capitals, and how many arguments it has, up to some.

    The library takes "CONFIG GET" or even "SET key value" as its first argument, and splits it.
    """
    first = arguments[0] if arguments else ""
    if first.__class__ is not str:
        first = bytes(first).decode("latin-1") if isinstance(first, (bytes, bytearray, memoryview)) else str(first)
    known = _names.get(first)
    if known is None:
        known = _read(first)
        if len(first) <= LONGEST_NAME:
            if len(_names) >= MOST_REMEMBERED:
                _names.clear()
            _names[first] = known
    name, count = known
    count += len(arguments) - 1
    if count > 0 and name in CONTAINERS and isinstance(arguments[1], str):
        name, count = f"{name} {_word(arguments[1])}".rstrip(), count - 1
    return name, min(count, MOST_COUNTED)


def _read(text: str) -> tuple[str, int]:
    words = text.split()
    name = _word(words[0]) if words else ""
    if name in CONTAINERS and len(words) > 1:
        return f"{name} {_word(words[1])}".rstrip(), len(words) - 2
    return name, max(len(words) - 1, 0)


def _word(text: str) -> str:
    """The name of a command; "" for what cannot be one, and may be anything."""
    known = text[:LONGEST_NAME].upper()
    return known if known.isascii() and known.translate({46: "", 95: "", 45: ""}).isalnum() else ""


def queue_of(pipeline: Any) -> tuple[Any, bool]:
    """What waits in a pipeline, and whether it will be done as a transaction."""
    strategy = getattr(pipeline, "_execution_strategy", None)
    if strategy is not None:  # A cluster's.
        return strategy._command_queue, type(strategy).__name__ == "TransactionStrategy"
    waiting = getattr(pipeline, "command_stack", None)
    if waiting is None:
        return getattr(pipeline, "_command_stack", ()), False
    # By this name, it is a method of every client.
    said = [getattr(pipeline, name, False) for name in ("is_transaction", "transaction", "explicit_transaction")]
    return waiting, any(one for one in said if not callable(one))


def arguments_of(command: Any) -> Any:
    """Of what waits in a pipeline: a pair, or in a cluster an object."""
    return command[0] if isinstance(command, tuple) else command.args


def is_quiet(client: Any) -> bool:
    """Whether it belongs to what must not begin traces (``patch_kombu``), and would."""
    return getattr(getattr(client, "connection_pool", None), "__autoinstr_is_quiet__", False) and current.get() is None


def where(client: Any) -> tuple[str, int, int]:
    """Host or path, port, number of the database; "", 0, -1 for what is not known beforehand: a cluster's node."""
    pool: Any = getattr(client, "connection_pool", None)
    settings = getattr(pool, "connection_kwargs", None)
    if settings is None:
        return "", 0, -1
    host, port = settings.get("host"), settings.get("port")
    if not host:
        if settings.get("path"):
            host, port = settings["path"], 0
        elif hasattr(pool, "master_address"):  # By way of a sentinel; ``None`` before the first connection.
            host, port = pool.master_address or ("", 0)
    return "localhost" if host is None else str(host), 6379 if port is None else int(port), int(settings.get("db") or 0)


def end_failed(span: Span, system: str, error: BaseException) -> None:
    """End it with an error, told without what the program stores."""
    told = error
    try:
        if span.recording:
            told = without_arguments(error)
            code = str(told).partition(" ")[0]
            if code.isupper() and code.isalnum() and "ResponseError" in [kind.__name__ for kind in type(error).__mro__]:
                span.facts = (*span.facts, (describe_error, code))
    except Exception as trouble:  # Host safety: the error is the program's; here it must not be told as it is.
        fault(f"the look at an error of {system}", trouble)
        told = type("Error", (Exception,), {"__module__": system})()
    end(span, system, None, None, told)


def without_arguments(error: BaseException) -> BaseException:
    """The error, or one like it with the arguments taken out of its message."""
    text = str(error)
    head, mark, cause = text.rpartition(IN_PIPELINE)
    safe = head.partition(" (")[0] + mark + cause.partition(QUOTED)[0]
    if safe == text:
        return error
    told = type(error).__new__(type(error))
    told.args = (safe,)
    return told.with_traceback(error.__traceback__)


def describe_command(system: str, name: str, count: int, host: str, port: int, database: int) -> dict[str, AttributeValue]:
    """The attributes of a command."""
    found = _describe_server(system, host, port, database)
    if name:
        found["db.operation.name"] = name
        found["db.query.text"] = _text(name, count)
    return found


def describe_batch(
    system: str, name: str, size: int, commands: tuple[tuple[str, int], ...], host: str, port: int, database: int
) -> dict[str, AttributeValue]:
    """The attributes of a pipeline; the size of a batch of one is not told."""
    found = _describe_server(system, host, port, database)
    found["db.operation.name"] = name
    texts = [_text(command, count) for command, count in commands]
    if len(set(texts)) == 1 and size == len(texts):
        found["db.query.text"] = texts[0]
    else:
        found["db.query.text"] = "; ".join([*texts, "…"] if size > len(texts) else texts)
    if size > 1:
        found["db.operation.batch.size"] = size
    return found


def describe_node(host: str, port: int) -> dict[str, AttributeValue]:
    """The node of a cluster that a command went to."""
    return {"server.address": host, "server.port": port}


def describe_error(code: str) -> dict[str, AttributeValue]:
    """The prefix of the server's answer."""
    return {"db.response.status_code": code}


def _text(name: str, count: int) -> str:
    return " ".join([name or "?", *["?"] * count])


def _describe_server(system: str, host: str, port: int, database: int) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {"db.system.name": system}
    if database >= 0:
        found["db.namespace"] = str(database)
    if host:
        found["server.address"] = host
    if port:
        found["server.port"] = port
    return found
