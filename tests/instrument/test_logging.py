"""logging: ids in records, records as events, and nothing else that a program could notice."""

from __future__ import annotations

import inspect
import io
import json
import logging
import logging.handlers
import pickle
import queue
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from pythonjsonlogger.json import JsonFormatter

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.logging import Finder, patch
from autoinstr.model import Kind, Status
from autoinstr.trace import SUPPRESSED, current

from .conftest import build_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoinstr.report import InMemoryReporter
    from autoinstr.trace import Span

IDS = "%(levelname)s %(otelTraceID)s %(otelSpanID)s %(otelTraceSampled)s %(otelServiceName)s %(message)s"


class Asked:
    """A configuration, as far as it is looked at here."""

    def __init__(self, *, correlation: bool = False, events: str = "") -> None:
        self.service_name = "shop"
        self.log_correlation = correlation
        self.log_events = events


@pytest.fixture
def ask(reporter: InMemoryReporter) -> Iterator[Callable[..., Tracing]]:
    """``ask(correlation=..., events=...)`` patches the module; everything is taken out after the test."""
    patchers: list[Patcher] = []

    def start(*, keep: bool = True, **wanted: Any) -> Tracing:
        tracing = build_tracing(reporter, keep=keep)
        tracing.config = Asked(**wanted)  # type: ignore[assignment]
        patchers.append(Patcher(logging))
        patch(patchers[-1], tracing)
        return tracing

    yield start
    for patcher in reversed(patchers):
        patcher.undo()


@contextmanager
def inside(tracing: Tracing, span: Span | None = None) -> Iterator[Span]:
    """As inside a request that the program is serving."""
    span = span or tracing.tracer.start("GET /", Kind.SERVER)
    token = current.set(span)
    try:
        yield span
    finally:
        current.reset(token)


def own_logger(handler: logging.Handler, level: int = logging.DEBUG) -> logging.Logger:
    """One that nobody else has or listens to."""
    logger = logging.getLogger(f"own.{id(handler)}")
    logger.propagate = False
    logger.setLevel(level)
    logger.handlers = [handler]
    logger.filters = []
    logger.disabled = False
    return logger


class Log:
    """A logger of its own, and what it has written."""

    def __init__(self, formatter: logging.Formatter | None = None, level: int = logging.DEBUG) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(formatter or logging.Formatter(IDS))
        self.logger = own_logger(self.handler, level)

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()


def events(span: Span) -> list[tuple[str, Any]]:
    """Severity and text of a span's log events, the type of its exceptions."""
    return [
        (str(event.attributes["log.severity"]), event.attributes["log.message"])
        if event.name == "log"
        else (event.name, event.attributes["exception.type"])
        for event in span.events or ()
    ]


# Ids in records.


def test_ids_of_the_current_span(ask: Callable[..., Tracing]) -> None:
    """From a line of the log nobody would find the trace."""
    tracing = ask(correlation=True)
    log = Log()
    with inside(tracing) as span:
        log.logger.info("in")
    log.logger.info("out")
    assert log.lines == [f"INFO {span.trace_id:032x} {span.span_id:016x} True shop in", "INFO 0 0 False shop out"]


def test_a_trace_that_is_not_kept_is_told_apart(ask: Callable[..., Tracing]) -> None:
    """Links from the log would lead nowhere, and our own work would look like a trace."""
    tracing = ask(correlation=True, keep=False)
    log = Log()
    with inside(tracing) as span:
        log.logger.info("in")
    with inside(tracing, SUPPRESSED):
        log.logger.info("own")
    assert log.lines == [f"INFO {span.trace_id:032x} {span.span_id:016x} False shop in", "INFO 0 0 False shop own"]


def test_however_a_record_is_made(ask: Callable[..., Tracing]) -> None:
    """A format string with our names would fail for some records: of own factories, classes, or made by hand."""

    class OwnRecord(logging.LogRecord):
        pass

    tracing = ask(correlation=True)
    factory = logging.getLogRecordFactory()
    try:
        logging.setLogRecordFactory(OwnRecord)
        log = Log()
        with inside(tracing) as span:
            log.logger.info("factory")
            log.logger.handle(logging.LogRecord("n", 20, "f", 1, "by hand", (), None))
            log.logger.handle(logging.makeLogRecord({"msg": "made", "levelname": "INFO", "levelno": 20}))
    finally:
        logging.setLogRecordFactory(factory)
    ids = f"INFO {span.trace_id:032x} {span.span_id:016x} True shop"
    assert log.lines == [f"{ids} factory", f"{ids} by hand", f"{ids} made"]


def test_a_record_of_another_process_keeps_its_ids(ask: Callable[..., Tracing]) -> None:
    """What a log server receives would be filed below the server's own trace."""
    tracing = ask(correlation=True)
    log = Log()
    with inside(tracing) as sender:
        record = logging.LogRecord("n", 20, "f", 1, "sent", (), None)
    received = pickle.loads(pickle.dumps(record))
    with inside(tracing):
        log.logger.handle(received)
        log.logger.handle(logging.makeLogRecord(record.__dict__))
    assert log.lines == [f"INFO {sender.trace_id:032x} {sender.span_id:016x} True shop sent"] * 2


def test_what_the_program_says_by_extra_wins(ask: Callable[..., Tracing]) -> None:
    """logging refuses to overwrite what a record has: code that puts the ids in itself would raise KeyError."""
    tracing = ask(correlation=True)
    log = Log(logging.Formatter("%(otelTraceID)s %(otelServiceName)s %(own)s"))
    extra = {"otelTraceID": "mine", "own": "1"}
    with inside(tracing):
        log.logger.info("in", extra=extra)
    assert (log.lines, extra) == (["mine shop 1"], {"otelTraceID": "mine", "own": "1"})
    with pytest.raises(KeyError, match="Attempt to overwrite 'name'"):
        log.logger.info("in", extra={"otelTraceID": "mine", "name": "x"})  # noqa: G101 - that it is refused is the point


def test_json_loggers_have_them(ask: Callable[..., Tracing]) -> None:
    """The ids would have to be configured where no format is."""
    tracing = ask(correlation=True)
    log = Log(JsonFormatter())
    with inside(tracing) as span:
        log.logger.warning("in")
    assert json.loads(log.lines[0]) == {
        "message": "in",
        "otelTraceID": f"{span.trace_id:032x}",
        "otelSpanID": f"{span.span_id:016x}",
        "otelTraceSampled": True,
        "otelServiceName": "shop",
    }


def test_nothing_is_done_unasked(ask: Callable[..., Tracing]) -> None:
    """JSON logs would get fields that nobody wants, and every record would cost more."""
    before = [logging.LogRecord.__init__, logging.Logger.makeRecord, logging.Logger.filter]
    tracing = ask()
    log = Log(JsonFormatter())
    with inside(tracing) as span:
        log.logger.error("in")
    assert [logging.LogRecord.__init__, logging.Logger.makeRecord, logging.Logger.filter] == before
    assert json.loads(log.lines[0]) == {"message": "in"}
    assert not span.events


def test_all_is_taken_out_again(reporter: InMemoryReporter) -> None:
    """Patches would stay in a process that has stopped tracing."""
    before = [logging.LogRecord.__init__, logging.Logger.makeRecord, logging.Logger.filter]
    signatures = [inspect.signature(each) for each in before]
    tracing = build_tracing(reporter)
    tracing.config = Asked(correlation=True, events="info")  # type: ignore[assignment]
    patcher = Patcher(logging)
    patch(patcher, tracing)
    patched = [logging.LogRecord.__init__, logging.Logger.makeRecord, logging.Logger.filter]
    assert all(now is not was for now, was in zip(patched, before))
    assert [inspect.signature(each) for each in patched] == signatures
    patcher.undo()
    assert [logging.LogRecord.__init__, logging.Logger.makeRecord, logging.Logger.filter] == before
    assert "filter" not in vars(logging.Logger)


# Records as events.


def test_records_become_events(ask: Callable[..., Tracing]) -> None:
    """What a request logged would not be seen in its trace."""
    tracing = ask(events="warning")
    log = Log(logging.Formatter("%(message)s"))
    with inside(tracing) as span:
        log.logger.info("too little")
        log.logger.warning("%d of %s", 2, "three")
        line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
        log.logger.critical("last")
    log.logger.error("outside")
    assert events(span) == [("WARNING", "2 of three"), ("CRITICAL", "last")]
    first = span.events[0]  # type: ignore[index]
    assert dict(first.attributes) == {
        "log.severity": "WARNING",
        "log.logger": log.logger.name,
        "log.message": "2 of three",
        "code.file.path": __file__,
        "code.line.number": line,
        "code.function.name": "test_records_become_events",
    }
    assert span.start_ns <= first.time_ns <= span.now_ns()
    assert log.lines == ["too little", "2 of three", "last", "outside"]


def test_only_what_is_logged(ask: Callable[..., Tracing]) -> None:
    """Records that the program's own levels and filters hold back, for secrets in them, would be sent to the backend."""
    tracing = ask(events="debug")
    log = Log(level=logging.INFO)
    log.logger.addFilter(lambda record: "secret" not in record.getMessage())
    with inside(tracing) as span:
        log.logger.debug("below the logger's level")
        log.logger.info("a secret")
        log.logger.info("fine")
        log.logger.disabled = True
        log.logger.info("disabled")
    assert events(span) == [("INFO", "fine")]


def test_a_filter_may_replace_the_record(ask: Callable[..., Tracing]) -> None:
    """What a filter has masked would be sent unmasked."""

    def mask(record: logging.LogRecord) -> logging.LogRecord:
        return logging.makeLogRecord({**record.__dict__, "msg": "masked", "args": ()})

    tracing = ask(events="info")
    log = Log(logging.Formatter("%(message)s"))
    log.logger.addFilter(mask)
    with inside(tracing) as span:
        log.logger.info("secret")
    text = "masked" if sys.version_info >= (3, 12) else "secret"  # Before, it is only asked whether there is anything.
    assert (events(span), log.lines) == ([("INFO", text)], [text])


def test_an_exception_is_recorded_once(ask: Callable[..., Tracing]) -> None:
    """The stack trace of one failure would fill the span: it is logged where it is caught, and again further up."""
    tracing = ask(events="error")
    log = Log()
    with inside(tracing) as span:
        for number in range(2):
            try:
                raise ValueError(f"bad {number}")
            except ValueError as error:
                log.logger.exception("first")
                log.logger.error("again", exc_info=error)
                if number:
                    span.fail(error)
                    log.logger.exception("and again")
    kinds = [kind for kind, _ in events(span)]
    assert kinds == ["ERROR", "exception", "ERROR", "ERROR", "exception", "ERROR", "ERROR"]
    assert span.status == Status.ERROR
    stack = span.events[1].attributes["exception.stacktrace"]  # type: ignore[index]
    assert "test_logging.py" in str(stack)


def test_the_caller_is_found_from_handlers(ask: Callable[..., Tracing]) -> None:
    """Handlers that pass records on to loguru walk up the stack to the first frame that is not of logging."""
    found = []

    class Walker(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            frame = sys._getframe()
            while frame.f_code.co_filename in {__file__, logging.__file__} and frame.f_code.co_name in {
                "emit", "handle", "callHandlers", "_log", "error", "acquire",
            }:
                frame = frame.f_back  # type: ignore[assignment]
            found.append((frame.f_code.co_filename, frame.f_code.co_name))

    tracing = ask(correlation=True, events="debug")
    logger = own_logger(Walker())
    with inside(tracing):
        logger.error("in")
    assert found == [(__file__, "test_the_caller_is_found_from_handlers")]


class Talkative:
    """Logs when it is made a text, as objects do whose text comes from a database."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.made = 0

    def __str__(self) -> str:
        self.made += 1
        if self.made < 50:
            self.logger.info("made %s", self)
        return "text"


def test_no_recursion(ask: Callable[..., Tracing]) -> None:
    """A text that logs while it is put together would log for each of our own readings, too."""
    tracing = ask(events="info")
    logger = own_logger(logging.NullHandler())
    talkative = Talkative(logger)
    with inside(tracing) as span:
        logger.info("%s", talkative)
    assert events(span) == [("INFO", "text")]
    assert talkative.made == 1


def test_records_that_cannot_be_read(ask: Callable[..., Tracing], capfd: pytest.CaptureFixture[str]) -> None:
    """Broken calls to logging, of which handlers only complain, would raise, or be laid at our door."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    tracing = ask(correlation=True, events="info")
    logger = own_logger(logging.NullHandler())
    with inside(tracing) as span:
        logger.info("%d", "no number")
        logger.info(Unprintable())
        logger.error("failed", exc_info=Unprintable())
        logger.error("failed", exc_info=Unprintable())
        logger.info({"event": "structured"})
    assert events(span) == [
        ("INFO", "%d"),
        ("INFO", "<unprintable>"),
        ("ERROR", "failed"),
        ("exception", f"{__name__}.test_records_that_cannot_be_read.<locals>.Unprintable"),
        ("ERROR", "failed"),
        ("INFO", "{'event': 'structured'}"),
    ]
    assert capfd.readouterr().err == ""


def test_queues_and_structlog(ask: Callable[..., Tracing]) -> None:
    """Programs that log through a queue, or with structlog on top, would lose ids or have events twice."""
    tracing = ask(correlation=True, events="info")
    log = Log()
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    logger = own_logger(logging.handlers.QueueHandler(waiting))
    wrapped = structlog.wrap_logger(
        logger, processors=[structlog.processors.KeyValueRenderer()], wrapper_class=structlog.stdlib.BoundLogger
    )
    with inside(tracing) as span:
        logger.info("plain")
        wrapped.info("bound", key=1)
    assert events(span) == [("INFO", "plain"), ("INFO", "key=1 event='bound'")]
    listener = logging.handlers.QueueListener(waiting, log.handler)
    listener.start()
    listener.stop()
    ids = f"INFO {span.trace_id:032x} {span.span_id:016x} True shop"
    assert log.lines == [f"{ids} plain", f"{ids} key=1 event='bound'"]


# Into the module.

PROGRAM = """
import sys
from autoinstr.config import Config
from autoinstr.instrument import Tracing
from autoinstr.instrument.logging import Finder
from autoinstr.propagate import Propagator

class Asked:
    service_name, log_correlation, log_events = "shop", True, ""

plain = Propagator(("tracecontext",))
patchers = []
assert "logging" not in sys.modules
Finder(Tracing(None, Asked, plain, plain, plain), patchers).install()
assert not {"logging", "wrapt", "asyncio", "socket", "threading"} & set(sys.modules)
import re
import logging, logging.handlers
assert len(patchers) == 1
assert "exec_module" not in vars(logging.__loader__)
assert not any(type(each).__name__ == "Finder" for each in sys.meta_path)
logging.basicConfig(format="%(otelTraceID)s %(otelServiceName)s %(message)s", stream=sys.stdout)
logging.warning("at once")
assert not {"wrapt", "asyncio"} & set(sys.modules)
"""


def test_import_hook() -> None:
    """Lines that are logged before a library is instrumented fail in their format, or wrapt comes before gevent has patched."""
    done = subprocess.run([sys.executable, "-S", "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False, cwd=".")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 shop at once\n", "")


def test_a_module_that_is_there_already(reporter: InMemoryReporter) -> None:
    """A .pth file that imports logging would switch the correlation off."""
    tracing = build_tracing(reporter)
    tracing.config = Asked(correlation=True)  # type: ignore[assignment]
    patchers: list[Patcher] = []
    Finder(tracing, patchers).install()
    try:
        assert logging.LogRecord("n", 20, "f", 1, "m", (), None).otelTraceID == "0"  # type: ignore[attr-defined]
    finally:
        patchers.pop().undo()


def test_a_failure_of_ours_leaves_it_as_it_is(reporter: InMemoryReporter, capfd: pytest.CaptureFixture[str]) -> None:
    """The import of logging, and with it the program, would fail."""
    tracing = build_tracing(reporter)
    tracing.config = Asked(correlation=True, events="unheard of")  # type: ignore[assignment]
    patchers: list[Patcher] = []
    before = logging.LogRecord.__init__
    Finder(tracing, patchers).install()
    assert (patchers, logging.LogRecord.__init__) == ([], before)
    assert "cannot instrument logging" in capfd.readouterr().err
