"""logging: the ids of the current span in every record, and records as events of the current span; each only when asked for.

Owns: what a record gets (``AUTOINSTR_LOG_CORRELATION``), which records become events (``AUTOINSTR_LOG_EVENTS``), and how all that gets
into the module without wrapt: everybody imports ``logging``, and wrapt brings asyncio with it, which would come too early for gevent.
Must not know: handlers, formatters, anybody's configuration; none is added, changed or looked at.
Invariants: nothing of ours is on the stack while handlers run (some look at their callers there to find out who logs); what a program
says itself, by ``extra`` or in a record from elsewhere, wins; an exception is recorded once for a span, however often it is logged.

The names of the attributes are those of OpenTelemetry's instrumentation, so that format strings made for it do.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from functools import wraps

from autoinstr.instrument import Patcher, Tracing
from autoinstr.model import SAMPLED
from autoinstr.trace import current, is_recorded
from autoinstr.trouble import ERROR, fault, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from autoinstr.model import AttributeValue
    from autoinstr.trace import Span

WATCHED = "logging"
#: What a record gets.
NAMES = frozenset({"otelTraceID", "otelSpanID", "otelTraceSampled", "otelServiceName"})
#: The names of levels, as the configuration knows them before ``logging`` is there.
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """What the configuration asks for; nothing by default."""
    config: Any = tracing.config
    module: Any = patcher.module
    if config.log_correlation:
        _replace(patcher, module.LogRecord, "__init__", make_init(config.service_name))
        _replace(patcher, module.Logger, "makeRecord", make_make_record)
    if level := config.log_events:
        _replace(patcher, module.Logger, "filter", make_filter(LEVELS[level]))


def _replace(patcher: Patcher, owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
    """``Patcher.wrap`` without wrapt."""
    original = getattr(owner, name)
    patcher.set(owner, name, wraps(original)(make(original)))


# Ids in records.


def make_init(service_name: str) -> Callable[[Any], Callable[..., Any]]:
    """For ``LogRecord.__init__``: records are made there whatever their factory, logger or class."""
    get_current = current.get

    def make(wrapped: Any) -> Callable[..., Any]:
        def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:  # noqa: N807 - what it stands for
            wrapped(self, *arguments, **keywords)
            try:
                span = get_current()
                self.otelServiceName = service_name
                if span is None or not span.trace_id:
                    self.otelTraceID = self.otelSpanID = "0"
                    self.otelTraceSampled = False
                else:
                    self.otelTraceID = f"{span.trace_id:032x}"
                    self.otelSpanID = f"{span.span_id:016x}"
                    self.otelTraceSampled = bool(span.flags & SAMPLED)
            except Exception as trouble:  # Host safety: the record is what it would be without us.
                fault("the ids of a log record", trouble)

        return __init__

    return make


def make_make_record(wrapped: Any) -> Callable[..., Any]:
    """For ``Logger.makeRecord``, which refuses to set by ``extra`` what is there already: our attributes are not, for the program."""

    def makeRecord(  # noqa: N802 - what it stands for
        self: Any,
        name: Any,
        level: Any,
        fn: Any,
        lno: Any,
        msg: Any,
        args: Any,
        exc_info: Any,
        func: Any = None,
        extra: Any = None,
        sinfo: Any = None,
    ) -> Any:
        if extra is None or NAMES.isdisjoint(extra):
            return wrapped(self, name, level, fn, lno, msg, args, exc_info, func, extra, sinfo)
        others = {key: extra[key] for key in extra if key not in NAMES}
        record = wrapped(self, name, level, fn, lno, msg, args, exc_info, func, others, sinfo)
        record.__dict__.update({key: extra[key] for key in extra if key in NAMES})
        return record

    return makeRecord


# Records as events.


def make_filter(level: int) -> Callable[[Any], Callable[..., Any]]:
    """For ``Logger.filter``: a record that it lets through goes to the handlers, as soon as it has returned."""
    get_current = current.get
    #: Threads that are at work here: a text may log when it is put together.
    busy: set[int] = set()

    def note(record: Any) -> None:
        span = get_current()
        thread = get_ident()
        if span is None or not span.recording or span.end_ns or thread in busy:
            return
        busy.add(thread)
        try:
            add_event(span, record)
        finally:
            busy.discard(thread)

    def make(wrapped: Any) -> Callable[..., Any]:
        def filter(self: Any, record: Any) -> Any:  # noqa: A001 - what it stands for
            passed = wrapped(self, record)
            if passed:
                try:
                    if record.levelno >= level:
                        # From Python 3.12 on a filter may put another record in its place.
                        note(passed if hasattr(passed, "levelno") else record)
                except Exception as trouble:  # Host safety: the record goes to the handlers as it is.
                    fault("a log record as an event", trouble)
            return passed

        return filter

    return make


def add_event(span: Span, record: Any) -> None:
    """The record, and the exception that it tells of."""
    now_ns = span.now_ns()
    attributes: dict[str, AttributeValue] = {
        "log.severity": str(record.levelname),
        "log.logger": str(record.name),
        "log.message": _message(record),
        "code.file.path": str(record.pathname),
        "code.line.number": int(record.lineno),
    }
    if record.funcName:
        attributes["code.function.name"] = str(record.funcName)
    span.add_event("log", attributes, now_ns)
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, BaseException) and not is_recorded(span, error):
        span.record_exception(error)


def _message(record: Any) -> str:
    try:
        return str(record.getMessage())
    except Exception:  # The arguments do not fit the text, or cannot be made one; handlers will say so.
        return record.msg if isinstance(record.msg, str) else "<unprintable>"


# Into the module.


class Finder:
    """Patches ``logging`` when it is imported, or now if it is there: as wrapt's hooks do, for this one module.

    A finder that finds what the others find, whose loader calls us afterwards. Nothing of it stays in the module.
    """

    def __init__(self, tracing: Tracing, patchers: list[Patcher]) -> None:
        self._tracing = tracing
        self._patchers = patchers

    def install(self) -> None:
        """Begin to wait for the import; it need not be far away."""
        module = sys.modules.get(WATCHED)
        # Half executed it has no `Logger` yet.
        if module is not None and hasattr(module, "getLogger"):
            self.patch(module)
        else:
            sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Stop waiting. The patches themselves are undone with all others."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Called for every import until the one that matters."""
        if name != WATCHED:
            return None
        try:
            for finder in sys.meta_path:
                find_spec = None if finder is self else getattr(finder, "find_spec", None)
                spec: Any = None if find_spec is None else find_spec(name, path, target)
                if spec is not None:
                    if self._follow(spec.loader):
                        self.uninstall()
                    found: ModuleSpec = spec
                    return found
        except Exception as trouble:  # Host safety: the program's import goes on without us.
            fault("the import hook for logging", trouble)
        return None

    def _follow(self, loader: Any) -> bool:
        """Be called when a loader is through; not possible where it is a class (frozen modules)."""
        if loader is None or isinstance(loader, type):
            return False
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if module.__name__ != WATCHED:  # A zip file has one loader for all that is in it.
                execute(module)
                return
            loader.__dict__.pop("exec_module", None)
            execute(module)
            self.patch(module)

        loader.exec_module = exec_module
        return True

    def patch(self, module: ModuleType) -> None:
        """Whatever happens here, the import succeeds."""
        patcher = Patcher(module)
        try:
            patch(patcher, self._tracing)
        except Exception as error:  # Host safety: as for any other instrument.
            patcher.undo()
            say(f"cannot instrument logging: {type(error).__name__}: {error}; it runs, untraced", WATCHED, ERROR, error)
        else:
            self._patchers.append(patcher)
