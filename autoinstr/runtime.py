"""The composition root: builds the agent from a configuration, installs it in the process, and takes it down again.

Owns: the one global (``running``), what happens at start, fork, SIGTERM and exit, and the client metrics. This is the only
module that knows all parts of the agent.
Invariants: ``start`` never raises and does its work once; nothing is sent, and no thread runs, before the first span; codecs
and transports are loaded by the worker, not at start-up; leaving the process takes no longer than ``exit_timeout_s``,
by whichever way out (``os._exit`` and ``os.exec*`` too).
"""

from __future__ import annotations

import sys

from autoinstr.trouble import ERROR, fault, say, set_level

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from autoinstr.budget import BudgetSampler, Reading
    from autoinstr.config import Config
    from autoinstr.instrument import Watcher
    from autoinstr.model import Encoder, Resource, Sampler, SpanData, Transport
    from autoinstr.prometheus import MetricsServer
    from autoinstr.remote import RemoteSampler
    from autoinstr.report import Exporter
    from autoinstr.trace import Span, Tracer

#: How long a fork waits for threads of ours that are just busy with the network.
FORK_PATIENCE_S = 0.05
#: How long the end waits for spans of other threads that are about to end: who was just given an answer may ask the process
#: to end before the thread that gave it is through with the request.
LAST_SPANS_S = 0.05
#: Of so many spans the first export tells what it costs to encode one (``cost.MOST_SPANS``, which is not loaded at start).
FIRST_SPANS = 40
_SIGTERM = 15
_SIGTERM_HANDLER = "autoinstr.on_sigterm"
_MARK = "_autoinstr_running"


class Counters:
    """What the remote sampler counts."""

    __slots__ = ("sampler_queries_err", "sampler_queries_ok", "sampler_updates_err", "sampler_updates_ok")

    def __init__(self) -> None:
        self.sampler_queries_ok = self.sampler_queries_err = 0
        self.sampler_updates_ok = self.sampler_updates_err = 0

    def clear(self) -> None:
        """Begin anew, in a forked child."""
        for name in self.__slots__:
            setattr(self, name, 0)


class Runtime:
    """The agent of this process, put together."""

    def __init__(self, config: Config) -> None:
        from autoinstr.instrument import Tracing
        from autoinstr.propagate import Propagator, asgi_key, environ_key, plain
        from autoinstr.report import Reporter
        from autoinstr.trace import SUPPRESSED, current

        self.config = config
        self.counters = Counters()
        self.remote: RemoteSampler | None = None
        self.budget: BudgetSampler | None = None
        self.watcher: Watcher | None = None
        self.metrics_server: MetricsServer | None = None
        self._undo: list[Callable[[], object]] = []
        self._is_stopped = False
        self.sampler = self._build_sampler()
        self.reporter = Reporter(
            self._make_exporters,
            max_queue=config.max_queue_size,
            max_batch=config.max_batch_size,
            interval_s=config.flush_interval_s,
            retry_for_s=config.export_timeout_s,
            on_trouble=lambda text: say(text, about="export"),
            shield=lambda: current.set(SUPPRESSED),
            start_thread=start_thread,
            on_fork=_guarded("fork", self._after_fork_in_child),
        )
        if config.metrics_port is not None:
            from autoinstr.prometheus import MetricsServer

            self.metrics_server = MetricsServer(config.metrics_port, self.metrics, start_thread)
        self.tracing = Tracing(
            self._build_tracer(),
            config,
            Propagator(config.propagators, plain),
            Propagator(config.propagators, environ_key),
            Propagator(config.propagators, asgi_key),
        )

    def _build_tracer(self) -> Any:
        from autoinstr.trace import Limits, Tracer

        config = self.config
        limits = Limits(
            config.attribute_count,
            config.attribute_length,
            config.event_count,
            config.link_count,
            config.event_attribute_count,
            config.link_attribute_count,
        )
        self._tracer_kind = Tracer
        if self.budget is not None:
            from autoinstr.budget import watching

            self._tracer_kind = watching(Tracer)
        self._tracer_kind = noticing(self._move, self._tracer_kind)
        if self.metrics_server is not None:
            from autoinstr.prometheus import announcing

            self._tracer_kind = announcing(self.metrics_server.start, self._tracer_kind)
        return self._tracer_kind(self.sampler, self.reporter, limits, config.trace_id_bits)

    def _build_sampler(self) -> Sampler:
        from autoinstr import sampling

        config = self.config
        ignores_parent = not config.sampler_parent_based
        if config.sampler_type == "const":
            return sampling.ConstSampler(config.sampler_param != 0, ignores_parent=ignores_parent)
        if config.sampler_type == "probabilistic":
            return sampling.ProbabilisticSampler(config.sampler_param, ignores_parent=ignores_parent)
        if config.sampler_type == "ratelimiting":
            return sampling.RateLimitingSampler(config.sampler_param)
        if config.sampler_type == "budget":
            from autoinstr.budget import BudgetSampler

            self.budget = BudgetSampler(config.sampler_param, self._read_costs)
            return self.budget
        from autoinstr.remote import RemoteSampler

        self.remote = RemoteSampler(
            config.service_name,
            config.sampler_endpoint,
            initial=sampling.ProbabilisticSampler(config.sampler_initial_rate),
            fetch=fetch_untraced,
            on_trouble=lambda text: self._on_sampler_trouble(text),
            counters=self.counters,
            refresh_s=config.sampler_refresh_s,
            max_operations=config.sampler_max_operations,
            first_wait_s=config.sampler_wait_s,
            ignores_parent=ignores_parent,
        )
        return self.remote

    def _make_exporters(self) -> list[Exporter]:
        """For the worker, before it sends the first spans."""
        if self.budget is not None:
            _adapt_prices(self.budget)
        return build_exporters(self.config, self.reporter.peek(FIRST_SPANS), in_haste=self.reporter.is_awaited)

    def _read_costs(self) -> Reading:
        """What the overhead budget is reckoned from."""
        from time import process_time

        from autoinstr.budget import Reading

        tracer = self.tracing.tracer
        propagators = (self.tracing.plain, self.tracing.environ, self.tracing.asgi)
        watched = getattr(tracer, "watched", 0)
        return Reading(
            cpu_s=process_time(),
            reporting_s=self.reporter.cpu_s,
            kept=tracer.roots_sampled + tracer.joined_sampled,
            below=tracer.children,
            unkept=max(tracer.roots_unsampled + tracer.joined_unsampled + tracer.children_unsampled - watched, 0),
            watched=watched,
            injected=sum(propagator.injected for propagator in propagators),
            roots=tracer.roots_sampled + tracer.roots_unsampled,
            roots_kept=tracer.roots_sampled,
        )

    def _on_sampler_trouble(self, text: str) -> None:
        from autoinstr.transport import name_missing_backend

        if "ConnectionRefusedError" in text:
            name_missing_backend(f"{self.config.sampler_endpoint} (sampling strategies)")
        else:
            say(text, about="sampling")

    def install(self, *, instrument: bool = True) -> None:
        """Hook into the process: imports, forks, the end."""
        import atexit
        import os

        if instrument:
            from autoinstr.instrument import Watcher

            self.watcher = Watcher(self.tracing)
            self.watcher.install()
        atexit.register(self._at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_guarded("fork", self._before_fork),
                after_in_parent=_guarded("fork", self._after_fork_in_parent),
                after_in_child=_guarded("fork", self._after_fork_in_child),
            )
            # No module exists yet that could have taken the originals.
            self._undo += [flush_before(name, self._before_abrupt_end) for name in ("_exit", "execv", "execve")]
        if self.config.sigterm:
            flush_on_sigterm(self)
            self._undo.append(leave_sigterm_alone)
            self.tracing.catch_sigterm = lambda: flush_on_sigterm(self)

    def uninstall(self) -> None:
        """Take everything out again that ``install`` put in, and end all threads."""
        import atexit

        atexit.unregister(self._at_exit)
        for undo in self._undo:
            undo()
        if self.watcher is not None:
            self.watcher.uninstall()
        self.close()
        self._is_stopped = True  # The hooks of forks cannot be taken out.

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued; True when all of it was sent or given up in time."""
        return self._suppressed(lambda: self.reporter.flush(timeout_s))

    def close(self) -> bool:
        """Send what is queued for the last time and end all threads; False if that took longer than it may."""
        if self.remote is not None:
            self.remote.stop()
            self.remote.pause(FORK_PATIENCE_S)
        done = self._suppressed(lambda: self.reporter.close(self.config.exit_timeout_s))
        if self.metrics_server is not None:
            self.metrics_server.stop(FORK_PATIENCE_S)
        return done

    def close_in_the_end(self) -> bool:
        """``close``, a moment later where spans are open: those that do not end by then are not lost by haste."""
        from time import monotonic, sleep

        self.reporter.notice_fork()
        deadline = monotonic() + min(LAST_SPANS_S, self.config.exit_timeout_s)
        while self._open_spans() > 0 and monotonic() < deadline:
            sleep(0.001)
        return self.close()

    def _open_spans(self) -> int:
        """Sampled spans that have started and not ended."""
        return self._started() - self._finished()

    def _started(self) -> int:
        tracer = self.tracing.tracer
        return tracer.roots_sampled + tracer.joined_sampled + tracer.children

    def _finished(self) -> int:
        reporter = self.reporter
        return reporter.taken + len(reporter.queue) + reporter.dropped

    def _before_abrupt_end(self) -> None:
        """Somebody leaves without Python's exit handlers; perhaps only tries to, so that everything has to go on."""
        if not self.reporter.is_idle:
            self.flush(self.config.exit_timeout_s)

    @staticmethod
    def _suppressed(work: Callable[[], bool]) -> bool:
        """Run something that may send on this very thread, without tracing what it sends."""
        from autoinstr.trace import SUPPRESSED, current

        token = current.set(SUPPRESSED)
        try:
            return work()
        finally:
            current.reset(token)

    def _at_exit(self) -> None:
        try:
            if not self.close_in_the_end():
                say(
                    f"left with spans unsent: the backend took longer than {self.config.exit_timeout_s:g} s"
                    " (AUTOINSTR_EXIT_TIMEOUT)",
                    about="export",
                )
        except KeyboardInterrupt:  # Somebody is tired of waiting; the program itself has ended already.
            return
        except Exception as error:  # Host safety: an exception here would be printed on the program's stderr.
            fault("exit", error)
        finally:
            stay_interrupted()

    def _before_fork(self) -> None:
        """End our threads: a child would lose them, and Python 3.12 blames the program for a fork beside threads."""
        if self._is_stopped:
            return
        ended = [part.pause(FORK_PATIENCE_S) for part in (self.reporter, self.remote, self.metrics_server) if part]
        await_threads(ended, FORK_PATIENCE_S)

    def _after_fork_in_parent(self) -> None:
        if self._is_stopped:
            return
        for part in (self.reporter, self.remote, self.metrics_server):
            if part is not None:
                part.resume()
        self.tracing.tracer.__class__ = self._tracer_kind  # Whose next span is announced.

    def _after_fork_in_child(self) -> None:
        """Spans, queue, threads and connections of before the fork are the parent's: begin anew."""
        if self._is_stopped:
            return
        from autoinstr.report import NullReporter

        self.tracing.tracer.sink = NullReporter()
        self.reporter.abandon()
        self.counters.clear()
        for propagator in (self.tracing.plain, self.tracing.environ, self.tracing.asgi):
            propagator.decoding_errors = propagator.injected = 0
        if self.metrics_server is not None:
            self.metrics_server.abandon()
        if self.remote is not None:
            self.remote.after_fork()
        self.tracing.tracer = self._build_tracer()
        if self.budget is not None:
            self.budget.renew(self._read_costs())

    def _move(self) -> Tracer:
        """The tracer for a child that was forked without Python's hooks."""
        self._after_fork_in_child()
        tracer: Tracer = self.tracing.tracer
        return tracer

    def metrics(self) -> dict[str, int]:
        """The client's counts by Jaeger's names, with tags as in Prometheus (``name{tag="value"}``).

        ``reporter_spans`` counts a span once for each exporter; spans that are only printed (``log_spans``) do not count.
        """
        tracer, reporter, counters = self.tracing.tracer, self.reporter, self.counters
        unsampled = tracer.roots_unsampled + tracer.joined_unsampled + tracer.children_unsampled
        exporters = [exporter for exporter in reporter.exporters if exporter.name != "log"]
        propagators = (self.tracing.plain, self.tracing.environ, self.tracing.asgi)
        budget = self.budget
        return {
            **({} if budget is None else budget.counts()),
            'traces{state="started",sampled="y"}': tracer.roots_sampled,
            'traces{state="started",sampled="n"}': tracer.roots_unsampled,
            'traces{state="joined",sampled="y"}': tracer.joined_sampled,
            'traces{state="joined",sampled="n"}': tracer.joined_unsampled,
            'started_spans{sampled="y"}': self._started(),
            'started_spans{sampled="n"}': unsampled,
            'finished_spans{sampled="y"}': self._finished(),
            'finished_spans{sampled="n"}': tracer.finished_unsampled,
            'reporter_spans{result="ok"}': sum(exporter.sent for exporter in exporters),
            'reporter_spans{result="err"}': sum(exporter.failed + exporter.too_large for exporter in exporters),
            'reporter_spans{result="dropped"}': reporter.dropped,
            "reporter_queue_length": len(reporter.queue),
            "reporter_backlog_length": sum(exporter.waiting for exporter in exporters),
            'sampler_queries{result="ok"}': counters.sampler_queries_ok,
            'sampler_queries{result="err"}': counters.sampler_queries_err,
            'sampler_updates{result="ok"}': counters.sampler_updates_ok,
            'sampler_updates{result="err"}': counters.sampler_updates_err,
            "span_context_decoding_errors": sum(propagator.decoding_errors for propagator in propagators),
        }


#: The agent of this process, or ``None`` while there is none.
running: Runtime | None = None


def start(environ: Mapping[str, str], *, instrument: bool = True) -> None:
    """Start the agent as the environment says; once per process, and without ever raising.

    ``instrument=False`` leaves the libraries alone, for programs that use the API by hand.
    """
    global running  # noqa: PLW0603 - the one global there is
    if running is not None or hasattr(sys, _MARK):
        return
    try:
        from autoinstr.config import PROGRAM_VARIABLE, from_env

        config = from_env(environ, getattr(sys, "orig_argv", ()))
        set_level(config.log_level)
        for warning in config.warnings:
            say(warning)
        if not config.enabled:
            return
        agent = Runtime(config)
        if hasattr(environ, "setdefault") and "service_name" not in config.sources:
            # The command line of a multiprocessing child does not name the program. Only where no variable does: requests
            # reads the whole environment at each call, and takes some microseconds for every variable.
            environ.setdefault(PROGRAM_VARIABLE, config.service_name)
        agent.install(instrument=instrument)
        # In `sys`, because modules are reloaded and thrown away by test runners and by gevent's tools.
        setattr(sys, _MARK, agent)
        running = agent
    except Exception as error:  # Host safety: the program runs, without traces.
        say(f"could not start: {type(error).__name__}: {error}; the program runs, untraced", "", ERROR, error)


def get() -> Runtime | None:
    """The running agent; one without patches is started for a program that uses the API by itself."""
    global running  # noqa: PLW0603
    if running is None:
        running = getattr(sys, _MARK, None)
    if running is None:
        import os

        start(os.environ, instrument=False)
    return running


def stop() -> None:
    """Take everything out again: patches, hooks, threads. For tests and for programs that manage the agent by hand."""
    global running  # noqa: PLW0603
    agent, running = running, None
    if hasattr(sys, _MARK):
        delattr(sys, _MARK)
    if agent is None:
        return
    agent.uninstall()


def noticing(move: Callable[[], Tracer], kind: type[Tracer]) -> type[Tracer]:
    """A kind of tracer whose first root looks whether C code has forked this process since; then it is a plain one.

    Servers that are not written in Python load the application, and with it the agent, and fork their workers afterwards,
    past Python's hooks: these would all draw the same ids. uWSGI's master may have had spans by then, at the application's
    import; there it is looked for at each root.
    """
    import os

    pid = os.getpid()

    class NoticingTracer(kind):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def start_local_root(self, *arguments: Any) -> Span:
            if os.getpid() != pid:
                return move().start_local_root(*arguments)
            if "uwsgi" not in sys.modules:
                self.__class__ = kind  # type: ignore[assignment]
            return kind.start_local_root(self, *arguments)

    return NoticingTracer


def flush_on_sigterm(agent: Runtime) -> None:
    """Send what is queued when the process is asked to end and the program leaves that to the system.

    The handler puts the default back and lets the signal strike again, so that the exit status is the same. A program that
    installs its own handler replaces ours.
    """
    import _signal  # type: ignore[import-not-found]

    def end() -> None:
        import os

        try:
            agent.close_in_the_end()
        except Exception as error:  # Host safety: whatever happens, the process ends.
            fault("SIGTERM", error)
        finally:
            os.kill(os.getpid(), _SIGTERM)

    def on_sigterm(number: int, frame: object) -> None:
        # First of all, so that whoever asks twice does not wait.
        _signal.signal(_SIGTERM, _signal.SIG_DFL)
        _run_where_one_can_wait(end, frame)

    on_sigterm.__qualname__ = _SIGTERM_HANDLER
    try:
        if _signal.getsignal(_SIGTERM) == _signal.SIG_DFL:
            _signal.signal(_SIGTERM, on_sigterm)
    except ValueError:  # Not the main thread (an embedded interpreter): signals are its host's.
        return


def _run_where_one_can_wait(work: Callable[[], object], frame: Any) -> None:
    """Here, as a rule. eventlet runs signal handlers inside its hub, which must not wait: then on a greenlet of its own.

    The hub waits for its next event then, and has to be told that it was interrupted.
    """
    eventlet: Any = sys.modules.get("eventlet")
    is_in_hub = False
    try:
        if eventlet is not None and eventlet.getcurrent() is eventlet.hubs.get_hub().greenlet:
            eventlet.spawn_n(work)
            is_in_hub = True
    except Exception as error:  # Host safety: another eventlet, or half of one.
        fault("eventlet's hub", error)
    if not is_in_hub:
        work()
    elif frame is not None and frame.f_code.co_name == "do_poll":
        from errno import EINTR

        raise InterruptedError(EINTR, "SIGTERM")


def leave_sigterm_alone() -> None:
    """Put the default back unless the program has a handler of its own."""
    import _signal

    try:
        if getattr(_signal.getsignal(_SIGTERM), "__qualname__", "") == _SIGTERM_HANDLER:
            _signal.signal(_SIGTERM, _signal.SIG_DFL)
    except ValueError:  # Not the main thread: it stays, and does no harm.
        return


def stay_interrupted() -> None:
    """Keep the exit status of a program that Ctrl-C has ended: killed by SIGINT, as Python does after everything else.

    It forgets that when source text is run meanwhile, as ``namedtuple`` does, which is what the worker's imports use. So run
    some that ends likewise.
    """
    if getattr(sys, "last_type", None) is KeyboardInterrupt and not (sys.flags.interactive or hasattr(sys, "ps1")):
        try:
            exec("raise KeyboardInterrupt")  # noqa: S102
        except KeyboardInterrupt:
            return


def flush_before(name: str, flush: Callable[[], None]) -> Callable[[], object]:
    """Make ``os.<name>`` call ``flush`` first; whatever becomes of that, it does what it always did. Returns how to undo it.

    All of ``os.exec*`` end in ``execv`` or ``execve``, and the children of ``multiprocessing`` that were forked in ``_exit``:
    neither runs Python's exit handlers.
    """
    import os

    original: Callable[..., Any] = getattr(os, name)

    def flush_and_go(*arguments: Any, **keywords: Any) -> Any:
        try:
            flush()
        except Exception as error:  # Host safety: the process has to end.
            fault(f"os.{name}", error)
        return original(*arguments, **keywords)

    def undo() -> None:
        if getattr(os, name) is flush_and_go:
            setattr(os, name, original)

    flush_and_go.__name__ = flush_and_go.__qualname__ = name
    flush_and_go.__module__ = "os"
    flush_and_go.__doc__ = original.__doc__
    flush_and_go.__wrapped__ = original  # type: ignore[attr-defined]
    setattr(os, name, flush_and_go)
    return undo


def start_thread(work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Begin a thread that the interpreter does not wait for.

    ``threading`` is imported here, because up to Python 3.12 it takes the thread that imports it first for the main one: were
    that our worker (``http.client`` needs ``threading``), the interpreter would wait for it at its end, for ever.
    """
    import _thread
    import threading  # noqa: F401

    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is not None:
        _look_at_uwsgi(uwsgi)
    _thread.start_new_thread(work, arguments)


def _look_at_uwsgi(uwsgi: Any) -> None:
    """Raise ``RuntimeError`` before it has forked: its workers would wait for a thread that they do not have when they end.

    What the application does at import is lost by that, where the master imports it.
    """
    if not (uwsgi.worker_id() or uwsgi.mule_id() or uwsgi.i_am_the_spooler()):
        raise RuntimeError("uWSGI is about to fork")
    if not getattr(uwsgi, "has_threads", True):  # The default of old versions.
        say("uWSGI runs without threads, so that spans are sent late: start it with --enable-threads")


def await_threads(ids: list[int], timeout_s: float) -> None:
    """Wait until the system has let go of threads whose Python part has ended, by their ids (0: none); where it tells."""
    from os import path
    from time import monotonic, sleep

    deadline = monotonic() + timeout_s
    for number in ids:
        while number and path.exists(f"/proc/self/task/{number}") and monotonic() < deadline:
            sleep(0.0002)


def fetch_untraced(url: str) -> bytes:
    """GET a URL without a span for it."""
    from autoinstr.trace import SUPPRESSED, current
    from autoinstr.transport import fetch

    token = current.set(SUPPRESSED)
    try:
        return fetch(url)
    finally:
        current.reset(token)


def build_resource(config: Config) -> Resource:
    """Who we are, for the receiver: configured attributes, host, process and agent."""
    import os

    from autoinstr import __version__
    from autoinstr.model import Resource

    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    attributes: dict[str, Any] = {
        "hostname": host,
        "host.name": host,
        "process.pid": os.getpid(),
        "process.runtime.version": ".".join(map(str, sys.version_info[:3])),
        "service.instance.id": os.urandom(16).hex(),
        "telemetry.sdk.name": "autoinstr",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": __version__,
        "jaeger.version": f"Python-autoinstr-{__version__}",
    }
    attributes.update(config.resource_attributes)
    return Resource(config.service_name, attributes)


def _adapt_prices(budget: BudgetSampler) -> None:
    """Prices were found on one machine; this one may be slower."""
    from autoinstr.budget import CYCLE_S, PRICES
    from autoinstr.cost import cpu_clock, tracer_cost_s
    from autoinstr.report import NullReporter
    from autoinstr.sampling import ConstSampler
    from autoinstr.trace import Tracer

    try:
        cost_s = tracer_cost_s(Tracer(ConstSampler(True), NullReporter()), cpu_clock(), lambda seconds: None)
    except Exception as error:  # Host safety: then those of the other machine hold.
        fault("measuring the cost of a span", error)
        return
    budget.prices = PRICES.times(cost_s / CYCLE_S)


def add_span_cost(resource: Resource, config: Config, spans: Sequence[SpanData], *, in_haste: bool = False) -> None:
    """Say, for the receiver, how many microseconds a span costs here (``autoinstr.span_cost_us``); measured on ``spans``."""
    from autoinstr.cost import span_cost_us
    from autoinstr.report import NullReporter
    from autoinstr.sampling import ConstSampler
    from autoinstr.trace import Tracer

    encoders = []
    for name in config.exporters:
        try:
            if name != "none":
                # One for the measuring alone: an encoder numbers its batches, and writes its resource when it is made.
                encoders.append(build_exporter(name, config, resource)[0])
        except Exception:  # noqa: S112 - Host safety: it is said when the exporter itself is built.
            continue
    if encoders and spans:
        cost_us = span_cost_us(Tracer(ConstSampler(True), NullReporter()), encoders, spans, in_haste=in_haste)
        resource.attributes.setdefault("autoinstr.span_cost_us", cost_us)


def build_exporters(config: Config, spans: Sequence[SpanData] = (), *, in_haste: bool = False) -> list[Exporter]:
    """The ways out that are configured; one that cannot be built is said and left out.

    ``spans`` wait to be sent; ``in_haste``: and somebody for them.
    """
    from autoinstr.report import Exporter

    resource = build_resource(config)
    try:
        add_span_cost(resource, config, spans, in_haste=in_haste)
    except Exception as error:  # Host safety: the figure may be missing, the spans not.
        fault("measuring the cost of a span", error)
    exporters = []
    for name in config.exporters:
        if name == "none":
            continue
        try:
            encoder, transport = build_exporter(name, config, resource)
        except Exception as error:  # Host safety: a bad certificate path costs the spans, not the worker.
            say(f"exporter {name} cannot be used: {type(error).__name__}: {error}", "", ERROR, error)
            continue
        exporters.append(Exporter(name, encoder, transport))
    if config.log_spans:
        exporters.append(Exporter("log", *build_exporter("console", config, resource)))
    return exporters


def build_exporter(name: str, config: Config, resource: Resource) -> tuple[Encoder, Transport]:
    """Encoder and transport of one exporter."""
    from autoinstr import transport

    limit = config.attribute_length
    if name == "jaeger-udp":
        from autoinstr.wire.jaeger import CompactEncoder

        reconnect_s = config.agent_reconnect_interval_s if config.agent_reconnect else 0.0
        return (
            CompactEncoder(resource, config.max_packet_size, max_value_length=limit),
            transport.UDPTransport(config.agent_host, config.agent_port, reconnect_s),
        )
    if name == "jaeger-http":
        from autoinstr.wire.jaeger import BinaryEncoder

        encoder = BinaryEncoder(resource, max_value_length=limit)
        return encoder, transport.HTTPTransport(
            config.jaeger_endpoint,
            headers={"Content-Type": encoder.content_type, **_authorization(config)},
            timeout_s=config.jaeger_timeout_s,
            certificate=config.jaeger_certificate,
        )
    if name == "otlp":
        return _build_otlp(config, resource, limit)
    if name == "zipkin":
        from autoinstr.wire import zipkin

        zipkin_encoder = zipkin.JsonEncoder(resource, max_value_length=limit)
        return zipkin_encoder, transport.HTTPTransport(
            config.zipkin_endpoint,
            headers={"Content-Type": zipkin_encoder.content_type},
            timeout_s=config.zipkin_timeout_s,
        )
    if name == "file":
        from autoinstr.wire import otlp

        return otlp.JsonEncoder(resource, max_value_length=limit), transport.FileTransport(config.file_path)
    from autoinstr.wire.console import ConsoleEncoder

    return ConsoleEncoder(resource), transport.StderrTransport()


def _build_otlp(config: Config, resource: Resource, limit: int | None) -> tuple[Encoder, Transport]:
    from autoinstr import __version__, transport
    from autoinstr.wire import otlp

    make = otlp.JsonEncoder if config.otlp_protocol == "http/json" else otlp.ProtobufEncoder
    encoder = make(resource, max_value_length=limit, version=__version__)
    return encoder, transport.HTTPTransport(
        config.otlp_endpoint,
        headers={
            "Content-Type": encoder.content_type,
            "User-Agent": f"autoinstr/{__version__}",
            **config.otlp_headers,
        },
        timeout_s=config.otlp_timeout_s,
        gzip=config.otlp_compression == "gzip",
        certificate=config.otlp_certificate,
        client_certificate=config.otlp_client_certificate,
        client_key=config.otlp_client_key,
    )


def _authorization(config: Config) -> dict[str, str]:
    """Jaeger's clients: basic authentication wins over a token."""
    if config.jaeger_user:
        from binascii import b2a_base64

        pair = f"{config.jaeger_user}:{config.jaeger_password}".encode()
        return {"Authorization": "Basic " + b2a_base64(pair, newline=False).decode()}
    return {"Authorization": f"Bearer {config.jaeger_token}"} if config.jaeger_token else {}


def _guarded(what: str, work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except Exception as error:  # Host safety: Python would print it on the program's stderr.
            fault(what, error)

    return run
