"""jaeger_client on this engine: a service that was written for it runs after one import is changed.

``from jaeger_client import Config`` becomes ``from autoinstr.bridge.jaeger_client import Config``.

Owns: what the settings of ``jaeger_client.Config`` are here, and the names that services import besides.
Must not know: how OpenTracing's spans are made (``bridge.opentracing`` does), what samplers and reporters do.
Invariants: settings in the code stand where JAEGER_* variables do, and win over those; AUTOINSTR_* and OTEL_* win over
both, so that who runs a service decides. The first configuration is that of the process, whether it was started by the
launcher or not; what differs from it later has an agent of its own. Whatever goes wrong, the program gets a tracer.

Source: jaeger-client 4.8.0, README and behaviour.
"""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import Future
from threading import Lock
from types import ModuleType

import opentracing as api
from opentracing import Format

from autoinstr import runtime, sampling
from autoinstr.bridge import opentracing
from autoinstr.config import DEFAULTS, from_env
from autoinstr.config import Config as Settings
from autoinstr.instrument import Tracing
from autoinstr.model import DEBUG, SAMPLED, Kind
from autoinstr.model import SpanContext as OwnContext
from autoinstr.propagate import Propagator, asgi_key, environ_key, plain
from autoinstr.report import NullReporter as Nowhere
from autoinstr.trace import Limits
from autoinstr.trace import Tracer as OwnTracer
from autoinstr.trouble import fault, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from typing import Any

    from autoinstr.model import Facts, SpanData
    from autoinstr.model import Sampler as OwnSampler
    from autoinstr.propagate import Headers
    from autoinstr.runtime import Runtime
    from autoinstr.trace import Span as OwnSpan

__version__ = "4.8.0"
logger = logging.getLogger("jaeger_tracing")

TRACE_ID_HEADER, BAGGAGE_HEADER_PREFIX, DEBUG_ID_HEADER_KEY = "uber-trace-id", "uberctx-", "jaeger-debug-id"
SAMPLER_TYPE_TAG_KEY, SAMPLER_PARAM_TAG_KEY = "sampler.type", "sampler.param"
DEFAULT_RATE = 0.001

#: Settings that have an effect.
SUPPORTED = frozenset(
    (
        "baggage_header_prefix",
        "debug_id_header",
        "generate_128bit_trace_id",
        "local_agent",
        "logging",
        "max_operations",
        "max_tag_value_length",
        "propagation",
        "reporter_batch_size",
        "reporter_flush_interval",
        "reporter_queue_size",
        "sampler",
        "sampling_refresh_interval",
        "service_name",
        "tags",
        "trace_id_header",
    )
)
#: Settings that are accepted. ``enabled`` is only a property there, too; metrics are the agent's own.
IGNORED = frozenset(("enabled", "max_traceback_length", "metrics", "throttler"))
#: The agent is told by variables, so that it is one table that says what is valid. These are in seconds.
INTERVALS = {
    "reporter_flush_interval": "JAEGER_REPORTER_FLUSH_INTERVAL",
    "sampling_refresh_interval": "JAEGER_SAMPLER_REFRESH_INTERVAL",
}
VARIABLES = {
    "service_name": "JAEGER_SERVICE_NAME",
    "max_operations": "JAEGER_SAMPLER_MAX_OPERATIONS",
    "reporter_queue_size": "JAEGER_REPORTER_MAX_QUEUE_SIZE",
    # There is no JAEGER_* for these: the variable itself, where it is set, wins.
    "reporter_batch_size": "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "max_tag_value_length": "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
}
COUNTERS = tuple(name for name in OwnTracer.__slots__ if name.startswith(("roots", "joined", "children", "finished")))


def get_boolean(value: object, default: bool) -> bool:  # noqa: FBT001 - as there
    """As jaeger_client reads a setting that may be text."""
    return {"true": True, "1": True, "false": False, "0": False, "none": False}.get(str(value).lower(), default)


# Contexts and spans -----------------------------------------------------------------------------------------------


class SpanContext(opentracing.SpanContext):
    """A context that a program can make itself."""

    def __init__(
        self,
        trace_id: int | None,
        span_id: int | None,
        parent_id: int | None,
        flags: int | None,
        baggage: Mapping[str, str] | None = None,
        debug_id: str | None = None,
    ) -> None:
        self._given_parent_id = parent_id
        self._source = OwnContext(
            trace_id or 0,
            span_id or 0,
            flags or 0,
            baggage=dict(baggage) if baggage else None,
            debug_id=debug_id or "",
            is_remote=True,
        )

    @property
    def parent_id(self) -> int | None:
        return getattr(self, "_given_parent_id", None) or super().parent_id

    def with_baggage_item(self, key: str, value: str | None) -> SpanContext:
        """Another one with an item more, or, with ``None``, less."""
        baggage = self.baggage
        baggage.pop(key, None)
        if value is not None:
            baggage[key] = value
        return type(self)(self.trace_id, self.span_id, self.parent_id, self.flags, baggage)

    @property
    def is_debug_id_container_only(self) -> bool:
        return not self.trace_id and self.debug_id is not None

    @classmethod
    def with_debug_id(cls, debug_id: str) -> SpanContext:
        """A context that starts a trace which is kept and can be found by this."""
        return cls(None, None, None, None, debug_id=debug_id)


class Span(opentracing.Span):
    """With what jaeger_client's spans have beyond OpenTracing."""

    @property
    def operation_name(self) -> str:
        return self.own.name

    @property
    def start_time(self) -> float:
        """Seconds since the epoch."""
        return self.own.start_ns / 1e9

    @property
    def end_time(self) -> float | None:
        """Seconds since the epoch; ``None`` while it is open."""
        return self.own.end_ns / 1e9 if self.own.end_ns else None

    @property
    def finished(self) -> bool:
        return self.own.end_ns != 0

    @property
    def tags(self) -> dict[str, Any]:
        """A copy, as a dictionary; there it is a list of Thrift's objects."""
        return dict(self.own.attributes)

    @property
    def trace_id(self) -> int:
        return self.own.trace_id

    @property
    def span_id(self) -> int:
        return self.own.span_id

    @property
    def parent_id(self) -> int | None:
        return self.own.parent_id or None

    @property
    def flags(self) -> int:
        return opentracing.settled(self.own).flags & 0xFF

    def is_sampled(self) -> bool:
        return self.flags & SAMPLED != 0

    def is_debug(self) -> bool:
        return self.flags & DEBUG != 0

    def is_rpc(self) -> bool:
        return self.own.kind in (Kind.SERVER, Kind.CLIENT)

    def is_rpc_client(self) -> bool:
        return self.own.kind == Kind.CLIENT

    def info(self, message: str, payload: object = None) -> Span:
        """A log; deprecated there."""
        self.log_kv({"event": message, "payload": payload} if payload else {"event": message})
        return self

    def error(self, message: str, payload: object = None) -> Span:
        """A log, and the span has failed; deprecated there."""
        self.set_tag("error", True)
        return self.info(message, payload)

    def finish(self, finish_time: float | None = None) -> None:
        """End it; a second time is a mistake that the log tells of."""
        if self._is_borrowed or not self.own.recording:
            super().finish(finish_time)
        elif self.own.end_ns:
            logger.warning("Span has already been finished; will not be reported again.")
        else:
            super().finish(finish_time)
            if self.tracer.has_logging:
                logger.info("Reporting span %s", self)

    def __repr__(self) -> str:
        return f"{self.context!r} {self.tracer.service_name}.{self.operation_name}"


# Samplers ---------------------------------------------------------------------------------------------------------


class Sampler:
    """Decides, by ``is_sampled``, which traces are kept; a program's own kinds are asked as they are there."""

    #: What the configuration calls it, and its parameter; empty: a program's own.
    kind = ""
    param: float = 0.0
    own: OwnSampler | None = None

    def is_sampled(self, trace_id: int, operation: str = "") -> tuple[bool, dict[str, Any]]:
        """Whether the trace is kept, and the tags that its root gets."""
        if self.own is None:
            raise NotImplementedError
        facts = self.own.decide(trace_id, operation)
        return facts is not None, {SAMPLER_TYPE_TAG_KEY: self.kind, SAMPLER_PARAM_TAG_KEY: self.param}

    def close(self) -> None:
        """Nothing to let go of."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (other.kind, other.param) == (self.kind, self.param)

    def __hash__(self) -> int:
        return hash((type(self), self.param))

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.param})"


class ConstSampler(Sampler):
    """All traces, or none."""

    kind = "const"

    def __init__(self, decision: bool) -> None:  # noqa: FBT001 - as there
        self.decision = self.param = decision
        self.own = sampling.ConstSampler(decision)


class ProbabilisticSampler(Sampler):
    """A share of the traces."""

    kind = "probabilistic"

    def __init__(self, rate: float) -> None:
        assert 0.0 <= rate <= 1.0, "Sampling rate must be between 0.0 and 1.0"  # noqa: S101 - as there
        self.rate = self.param = rate
        self.own = sampling.ProbabilisticSampler(rate)


class RateLimitingSampler(Sampler):
    """So many traces a second."""

    kind = "ratelimiting"

    def __init__(self, max_traces_per_second: float = 10) -> None:
        assert max_traces_per_second >= 0, "max_traces_per_second must not be negative"  # noqa: S101 - as there
        self.traces_per_second = self.param = max_traces_per_second
        self.own = sampling.RateLimitingSampler(max_traces_per_second)


class RemoteControlledSampler(Sampler):
    """As the backend says, once it is in a ``Config``; ``init_sampler`` decides until then."""

    kind = "remote"

    def __init__(self, channel: object = None, service_name: str = "", **options: Any) -> None:
        self.service_name = service_name
        self.sampler: Sampler = options.get("init_sampler") or ProbabilisticSampler(DEFAULT_RATE)
        self.param = self.sampler.param
        self.own = self.sampler.own


class Asked:
    """A program's own sampler, as the tracer asks samplers."""

    by_name = True
    ignores_parent = False

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def decide(self, trace_id: int, name: str) -> Facts | None:
        """As ``model.Sampler.decide``."""
        try:
            is_kept, tags = self._sampler.is_sampled(trace_id, name)
            return (describe_tags, *((str(key), opentracing.plain(tags[key])) for key in tags)) if is_kept else None
        except Exception as error:  # Host safety: it is the program's, but called where the program does not expect it.
            fault("the program's sampler", error)
            return None


def describe_tags(*tags: tuple[str, Any]) -> dict[str, Any]:
    """The tags of a sampler."""
    return dict(tags)


def own_sampler(sampler: Any) -> OwnSampler:
    """A sampler that the tracer can ask."""
    return getattr(sampler, "own", None) or Asked(sampler)


# Reporters --------------------------------------------------------------------------------------------------------


class Done(Future):  # type: ignore[type-arg]
    """The outcome of what is over already; can be awaited, too."""

    def __init__(self, result: object = True) -> None:
        super().__init__()
        self.set_result(result)

    def __await__(self) -> Generator[None, None, Any]:
        return self.result()
        yield


class BaseReporter:
    """Takes finished spans."""

    def report_span(self, span: Span) -> None:
        raise NotImplementedError

    def set_process(self, service_name: str, tags: Any, max_length: int) -> None:
        """Told who reports."""

    def close(self) -> Any:
        return Done()


class NullReporter(BaseReporter):
    """Forgets them."""

    def report_span(self, span: Span) -> None:
        """Nothing."""


class InMemoryReporter(BaseReporter):
    """Keeps them, for tests."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def report_span(self, span: Span) -> None:
        self.spans.append(span)

    def get_spans(self) -> list[Span]:
        return self.spans[:]


class LoggingReporter(BaseReporter):
    """Writes them to the log."""

    def __init__(self, logger: logging.Logger = logger) -> None:
        self.logger = logger

    def report_span(self, span: Span) -> None:
        self.logger.info("Reporting span %s", span)


class CompositeReporter(BaseReporter):
    """Hands them to several."""

    def __init__(self, *reporters: BaseReporter) -> None:
        self.reporters = reporters

    def set_process(self, service_name: str, tags: Any, max_length: int) -> None:
        for reporter in self.reporters:
            reporter.set_process(service_name, tags, max_length)

    def report_span(self, span: Span) -> None:
        for reporter in self.reporters:
            reporter.report_span(span)

    def close(self) -> Any:
        for reporter in self.reporters:
            reporter.close()
        return Done()


class AgentReporter(BaseReporter):
    """The agent, which takes spans from the tracer by itself."""

    def __init__(self, tracing: Tracing) -> None:
        self.tracing = tracing

    def report_span(self, span: Span) -> None:
        """Nothing."""


class ReportingSink:
    """Where a tracer with a reporter of the program's sends its spans."""

    def __init__(self, reporter: Any, tracer: Tracer) -> None:
        self._reporter = reporter
        self._tracer = tracer

    def report(self, span: SpanData) -> None:
        """As ``model.Sink.report``."""
        own: OwnSpan = span  # type: ignore[assignment]
        try:
            self._reporter.report_span(opentracing.facade(own, self._tracer))
        except Exception as error:  # Host safety: spans end in the middle of the program.
            fault("the program's reporter", error)


# The tracer -------------------------------------------------------------------------------------------------------


class Tracer(opentracing.Tracer):
    """A tracer of a ``Config``, or one that a program puts together of a reporter and a sampler."""

    span_class = Span
    context_class = SpanContext
    prefers_active = True

    def __init__(
        self,
        service_name: str,
        reporter: Any,
        sampler: Any,
        metrics: object = None,
        metrics_factory: object = None,
        trace_id_header: str = TRACE_ID_HEADER,
        generate_128bit_trace_id: bool = False,  # noqa: FBT001, FBT002 - as there
        baggage_header_prefix: str = BAGGAGE_HEADER_PREFIX,
        debug_id_header: str = DEBUG_ID_HEADER_KEY,
        one_span_per_rpc: bool = False,  # noqa: FBT001, FBT002
        extra_codecs: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        max_tag_value_length: int = 1024,
        max_traceback_length: int = 4096,
        throttler: object = None,
        scope_manager: Any = None,
    ) -> None:
        if isinstance(reporter, AgentReporter):
            tracing = reporter.tracing
        else:
            bits = 128 if generate_128bit_trace_id else 64
            limits = Limits(attribute_length=max_tag_value_length)
            sink = ReportingSink(reporter, self)
            tracing = tracing_of(from_env(os.environ), OwnTracer(own_sampler(sampler), sink, limits, bits))
            reporter.set_process(service_name, dict(tags or ()), max_tag_value_length)
        super().__init__(tracing, scope_manager)
        self.service_name = service_name
        self.reporter = reporter
        self.sampler = sampler
        self.tags = dict(tags or ())
        self.codecs = dict(extra_codecs or ())
        self.has_logging = False
        #: Our names of headers -> the program's, as they stand in carriers.
        self._names = {
            TRACE_ID_HEADER: header_name(trace_id_header),
            BAGGAGE_HEADER_PREFIX: header_name(baggage_header_prefix),
            DEBUG_ID_HEADER_KEY: header_name(debug_id_header),
        }
        self._has_other_names = any(ours != theirs for ours, theirs in self._names.items())

    def close(self) -> Done:
        """Send what is there; the outcome is there at once. Tracing goes on: instruments have spans of their own."""
        done = self.flush()
        try:
            self.reporter.close()
        except Exception as error:  # Host safety: the program is about to end.
            fault("closing the program's reporter", error)
        return Done(done)

    def _write_headers(self, source: opentracing.Source, format: str) -> Headers:  # noqa: A002
        codec = self.codecs.get(format)
        if codec is not None:
            carrier: dict[str, str] = {}
            codec.inject(self.context_class.of(opentracing.settled(source)), carrier)
            return list(carrier.items())
        headers = super()._write_headers(source, format)
        if not self._has_other_names:
            return headers
        prefix = self._names[BAGGAGE_HEADER_PREFIX]
        return [
            (prefix + name[len(BAGGAGE_HEADER_PREFIX) :], value)
            if name.startswith(BAGGAGE_HEADER_PREFIX)
            else (self._names.get(name, name), value)
            for name, value in headers
        ]

    def _read_headers(self, headers: dict[str, Any], format: str) -> OwnContext | None:  # noqa: A002
        codec = self.codecs.get(format)
        if codec is not None:
            found = opentracing.source_of(codec.extract(headers))
            return found if isinstance(found, OwnContext) else None
        if self._has_other_names:
            ours = {theirs: name for name, theirs in self._names.items()}
            prefix = self._names[BAGGAGE_HEADER_PREFIX]
            headers = {
                BAGGAGE_HEADER_PREFIX + name[len(prefix) :] if name.startswith(prefix) else ours.get(name, name): value
                for name, value in headers.items()
            }
        return super()._read_headers(headers, format)


def header_name(name: str) -> str:
    """As it is compared there."""
    return name.lower().replace("_", "-")


def tracing_of(settings: Settings, tracer: OwnTracer) -> Tracing:
    """What a tracer needs that has no agent."""
    return Tracing(tracer, settings, *(Propagator(settings.propagators, key) for key in (plain, environ_key, asgi_key)))


class B3Codec:
    """``propagation: b3``: the form with several headers, in OpenTracing's carriers of HTTP."""

    def __init__(self, generate_128bit_trace_id: bool = False) -> None:  # noqa: FBT001, FBT002 - as there
        self._headers = Propagator(("b3multi",))

    def inject(self, span_context: Any, carrier: Any) -> None:
        """Write the headers."""
        source = opentracing.source_of(span_context)
        if source is not None:
            carrier.update(self._headers.inject(source))

    def extract(self, carrier: Mapping[str, Any]) -> SpanContext | None:
        """Read them."""
        found = self._headers.extract({key.lower(): value for key, value in carrier.items() if value is not None})
        return None if found is None else SpanContext.of(found)


# The configuration ------------------------------------------------------------------------------------------------


class Config:
    """jaeger_client's configuration: a dictionary, and a tracer by it."""

    _initialized = False
    _initialized_lock = Lock()
    #: What the process's agent follows: (variables, tags) of the first configuration.
    _followed: tuple[dict[str, str], dict[str, Any]] | None = None

    def __init__(
        self,
        config: dict[str, Any],
        metrics: object = None,
        service_name: str | None = None,
        metrics_factory: object = None,
        validate: bool = False,  # noqa: FBT001, FBT002 - as there
        scope_manager: Any = None,
    ) -> None:
        if validate:
            unexpected = [key for key in config if key not in SUPPORTED | IGNORED]
            if unexpected:
                raise ValueError(f"Unexpected keys found in config:{','.join(unexpected)}")
        self.config = config
        self.scope_manager = scope_manager
        self._service_name = config.get("service_name", service_name)
        if not self._service_name:
            raise ValueError("service_name required in the config or param")
        ignored = sorted(IGNORED.intersection(config) - {"enabled", "metrics"})
        if ignored:
            say(f"settings of jaeger_client.Config without effect here: {', '.join(ignored)}", "jaeger_client.Config")

    @property
    def service_name(self) -> str:
        return str(self._service_name)

    @property
    def enabled(self) -> bool:
        """Only a property, as there: a program may look at it."""
        return get_boolean(self.config.get("enabled", True), True)  # noqa: FBT003

    @property
    def logging(self) -> bool:
        return get_boolean(self.config.get("logging", False), False)  # noqa: FBT003

    @property
    def tags(self) -> dict[str, Any]:
        """Those of the configuration; JAEGER_TAGS are added by the agent."""
        return dict(self.config.get("tags") or ())

    @property
    def trace_id_header(self) -> str:
        return str(self.config.get("trace_id_header", TRACE_ID_HEADER))

    @property
    def baggage_header_prefix(self) -> str:
        return str(self.config.get("baggage_header_prefix", BAGGAGE_HEADER_PREFIX))

    @property
    def debug_id_header(self) -> str:
        return str(self.config.get("debug_id_header", DEBUG_ID_HEADER_KEY))

    @property
    def propagation(self) -> dict[str, Any]:
        return {Format.HTTP_HEADERS: B3Codec()} if self.config.get("propagation") == "b3" else {}

    @property
    def local_agent_reporting_host(self) -> str:
        return str(self._of_agent("reporting_host") or os.environ.get("JAEGER_AGENT_HOST") or "localhost")

    @property
    def local_agent_reporting_port(self) -> int:
        return int(self._of_agent("reporting_port") or os.environ.get("JAEGER_AGENT_PORT") or 6831)

    @property
    def sampler(self) -> Any:
        """The sampler that is asked for; ``None``: the backend's strategies."""
        given = self.config.get("sampler") or {}
        if not isinstance(given, dict):
            return given
        kind, param = given.get("type"), given.get("param")
        if not kind:
            return None
        if kind == "const":
            return ConstSampler(get_boolean(param, False))  # noqa: FBT003
        if kind == "probabilistic":
            return ProbabilisticSampler(float(param))  # type: ignore[arg-type]
        if kind in ("ratelimiting", "rate_limiting"):
            return RateLimitingSampler(float(param))  # type: ignore[arg-type]
        if kind == "remote":
            initial = None if param is None else ProbabilisticSampler(float(param))
            return RemoteControlledSampler(None, self.service_name, init_sampler=initial)
        raise ValueError(f"Unknown sampler type {kind}")

    @classmethod
    def initialized(cls) -> bool:
        """Whether the global tracer is there."""
        return Config._initialized

    def initialize_tracer(self, io_loop: object = None) -> Tracer | None:
        """The tracer, which is the global one from now on; only the first call has an effect."""
        with Config._initialized_lock:
            if Config._initialized:
                logger.warning("Jaeger tracer already initialized, skipping")
                return None
            Config._initialized = True
        tracer = self.new_tracer(io_loop)
        api.set_global_tracer(tracer)
        logger.info("opentracing.tracer initialized to %s[app_name=%s]", tracer, self.service_name)
        return tracer

    def new_tracer(self, io_loop: object = None) -> Tracer:
        """A tracer, which is not the global one."""
        sampler = self.sampler
        tracer = self.create_tracer(AgentReporter(self._tracing(sampler)), sampler)
        tracer.has_logging = self.logging
        return tracer

    def create_tracer(self, reporter: Any, sampler: Any, throttler: object = None) -> Tracer:
        """A tracer with a reporter and a sampler of the program's own."""
        return Tracer(
            self.service_name,
            reporter,
            sampler,
            trace_id_header=self.trace_id_header,
            generate_128bit_trace_id=get_boolean(self.config.get("generate_128bit_trace_id"), False),  # noqa: FBT003
            baggage_header_prefix=self.baggage_header_prefix,
            debug_id_header=self.debug_id_header,
            extra_codecs=self.propagation,
            tags=self.tags,
            max_tag_value_length=int(self.config.get("max_tag_value_length", 1024)),
            scope_manager=self.scope_manager,
        )

    def variables(self, sampler: Any) -> dict[str, str]:
        """The configuration in the words of the agent's own."""
        found = {VARIABLES["service_name"]: self.service_name}
        for setting, variable in VARIABLES.items():
            value = self.config.get(setting)
            if value is not None and setting != "service_name":
                found[variable] = str(int(value))
        for setting, variable in INTERVALS.items():
            value = self.config.get(setting)
            if value:
                found[variable] = f"{float(value) * 1000:.0f}ms"
        if "generate_128bit_trace_id" in self.config:
            is_wide = get_boolean(self.config["generate_128bit_trace_id"], False)  # noqa: FBT003
            found["JAEGER_TRACEID_128BIT"] = str(is_wide).lower()
        host, port = self._of_agent("reporting_host"), self._of_agent("reporting_port")
        if host:
            found["JAEGER_AGENT_HOST"] = str(host)
        if port:
            found["JAEGER_AGENT_PORT"] = str(port)
        if self._of_agent("sampling_port"):
            address = f"{self.local_agent_reporting_host}:{self._of_agent('sampling_port')}"
            found["JAEGER_SAMPLER_MANAGER_HOST_PORT"] = address
        if isinstance(sampler, Sampler) and sampler.kind:
            found["JAEGER_SAMPLER_TYPE"] = sampler.kind
            found["JAEGER_SAMPLER_PARAM"] = f"{float(sampler.param):g}"
        return found

    def _of_agent(self, key: str) -> Any:
        group = self.config.get("local_agent")
        return group.get(key) if isinstance(group, dict) else None

    def _tracing(self, sampler: Any) -> Tracing:
        variables = self.variables(sampler)
        try:
            agent = agent_of(variables, self.tags, sampler)
            if agent is not None:
                return agent.tracing
        except Exception as error:  # Host safety: the service starts, without traces.
            fault("the start by jaeger_client.Config", error)
        return tracing_of(Settings(), OwnTracer(sampling.ConstSampler(False), Nowhere()))  # noqa: FBT003


# The agent --------------------------------------------------------------------------------------------------------


def agent_of(variables: dict[str, str], tags: dict[str, Any], sampler: Any) -> Runtime | None:
    """The agent that follows a configuration: the process's, if it is the first; ``None`` where tracing is off."""
    agent = runtime.get()
    if agent is None:
        return None
    with Config._initialized_lock:
        is_first = Config._followed is None
        if is_first:
            Config._followed = variables, tags
    if not is_first and Config._followed == (variables, tags):
        return agent
    settings = settings_of(variables, tags)
    for warning in settings.warnings:
        if warning not in agent.config.warnings:
            say(warning)
    custom = None if sampler is None or getattr(sampler, "kind", None) else own_sampler(sampler)
    if is_first:
        follow(agent, settings, custom)
        return agent
    another = runtime.Runtime(settings)
    if custom is not None:
        another.sampler = another.tracing.tracer.sampler = custom
    another.install(instrument=False)
    return another


def settings_of(variables: dict[str, str], tags: dict[str, Any]) -> Settings:
    """What the environment and the program say together."""
    # There is no JAEGER_* for some: then whoever runs the service has said otherwise.
    said = {name: value for name, value in variables.items() if not (name.startswith("OTEL_") and os.environ.get(name))}
    settings = from_env({**os.environ, **said}, getattr(sys, "orig_argv", ()))
    if not tags:
        return settings
    values = {field: getattr(settings, field) for field in DEFAULTS}
    mine = {str(key): opentracing.plain(value) for key, value in tags.items()}
    values["resource_attributes"] = {**mine, **settings.resource_attributes}
    return Settings(sources=settings.sources, warnings=settings.warnings, **values)


def follow(agent: Runtime, settings: Settings, sampler: OwnSampler | None) -> None:
    """Make a running agent follow other settings. What it has recorded before goes where it was to go."""
    if sampler is None and all(getattr(settings, field) == getattr(agent.config, field) for field in DEFAULTS):
        return
    reporter, remote, before = agent.reporter, agent.remote, agent.tracing.tracer
    if reporter._has_exporters:
        agent.flush(agent.config.exit_timeout_s)
    agent.config = agent.tracing.config = settings
    agent.remote = agent.budget = None
    agent.sampler = agent._build_sampler() if sampler is None else sampler
    tracer = agent._build_tracer()
    for name in COUNTERS:
        setattr(tracer, name, getattr(before, name))
    reporter.max_queue = settings.max_queue_size
    reporter.max_batch = min(settings.max_batch_size, settings.max_queue_size)
    reporter._wake_at = max(reporter.max_batch - 1, 1)
    reporter.interval_s = settings.flush_interval_s
    let_go_of_exporters(reporter, settings.exit_timeout_s)
    agent.tracing.tracer = tracer
    if remote is not None:
        remote.stop()


def let_go_of_exporters(reporter: Any, timeout_s: float) -> None:
    """The next span makes new ones; not while the worker is sending."""
    if not reporter._has_exporters or not reporter._exporting.acquire(True, timeout_s):  # noqa: FBT003
        return
    try:
        exporters, reporter.exporters, reporter._has_exporters = reporter.exporters, [], False
    finally:
        reporter._exporting.release()
    for exporter in exporters:
        exporter.transport.close()


# Names of its submodules ------------------------------------------------------------------------------------------


class MetricsFactory:
    """Takes what programs configure; the agent has counters of its own (AUTOINSTR_METRICS_PORT)."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        """Nothing is kept."""

    def create_counter(self, name: str, tags: object = None) -> Any:
        return lambda value=1: None

    create_timer = create_gauge = create_counter


Metrics = LegacyMetricsFactory = PrometheusMetricsFactory = MetricsFactory


def submodule(name: str, **members: Any) -> ModuleType:
    """``from autoinstr.bridge.jaeger_client.constants import ...``, as services have it from there."""
    made = ModuleType(f"{__name__}.{name}", f"Names of jaeger_client.{name}.")
    vars(made).update(members)
    sys.modules[made.__name__] = made
    return made


constants = submodule(
    "constants",
    TRACE_ID_HEADER=TRACE_ID_HEADER,
    BAGGAGE_HEADER_PREFIX=BAGGAGE_HEADER_PREFIX,
    DEBUG_ID_HEADER_KEY=DEBUG_ID_HEADER_KEY,
    BAGGAGE_HEADER_KEY="jaeger-baggage",
    MAX_ID_BITS=64,
    DEFAULT_SAMPLING_INTERVAL=60,
    DEFAULT_FLUSH_INTERVAL=1,
    JAEGER_CLIENT_VERSION=f"Python-{__version__}",
    JAEGER_VERSION_TAG_KEY="jaeger.version",
    JAEGER_HOSTNAME_TAG_KEY="hostname",
    JAEGER_IP_TAG_KEY="ip",
    SAMPLER_TYPE_CONST="const",
    SAMPLER_TYPE_REMOTE="remote",
    SAMPLER_TYPE_PROBABILISTIC="probabilistic",
    SAMPLER_TYPE_RATE_LIMITING="ratelimiting",
    SAMPLER_TYPE_LOWER_BOUND="lowerbound",
    CLIENT_UUID_TAG_KEY="client-uuid",
    MAX_TAG_VALUE_LENGTH=1024,
    MAX_TRACEBACK_LENGTH=4096,
    SAMPLED_FLAG=SAMPLED,
    DEBUG_FLAG=DEBUG,
)
config = submodule("config", Config=Config)
tracer = submodule("tracer", Tracer=Tracer)
span = submodule("span", Span=Span, SAMPLED_FLAG=SAMPLED, DEBUG_FLAG=DEBUG)
span_context = submodule("span_context", SpanContext=SpanContext)
codecs = submodule("codecs", B3Codec=B3Codec)
sampler = submodule(
    "sampler",
    Sampler=Sampler,
    ConstSampler=ConstSampler,
    ProbabilisticSampler=ProbabilisticSampler,
    RateLimitingSampler=RateLimitingSampler,
    RemoteControlledSampler=RemoteControlledSampler,
)
reporter = submodule(
    "reporter",
    BaseReporter=BaseReporter,
    NullReporter=NullReporter,
    InMemoryReporter=InMemoryReporter,
    LoggingReporter=LoggingReporter,
    CompositeReporter=CompositeReporter,
)
metrics = submodule(
    "metrics",
    Metrics=Metrics,
    MetricsFactory=MetricsFactory,
    LegacyMetricsFactory=LegacyMetricsFactory,
    prometheus=submodule("metrics.prometheus", PrometheusMetricsFactory=PrometheusMetricsFactory),
)
