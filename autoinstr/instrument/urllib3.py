"""urllib3, and what sends through it (requests, botocore, many SDKs): one span for each request that really goes out."""

from __future__ import annotations

from time import perf_counter_ns

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import Attempts, attempts, client_facts, excluder, full_url, needs_no_span, start_client
from autoinstr.instrument.http_client import make_finish, one_request
from autoinstr.trace import SUPPRESSED, current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``_make_request`` sends once; redirects and retries come through it again."""
    excluded = {name: excluder(tracing.config, name) for name in ("requests", "urllib3")}
    look_at_url = any(excluded.values())
    conventions = tracing.conventions

    def begin(parent: Span | None, pool: Any, conn: Any, method: str, url: str, *_: Any, **keywords: Any) -> Span | None:
        call, scope, resends = which_attempt(keywords.get("retries"))
        scheme, host, port = pool.scheme, pool.host, pool.port or 0
        if look_at_url:
            leave_out = excluded.get(scope)
            if leave_out is not None and leave_out(full_url(scheme, host, port, url)):
                return SUPPRESSED
        facts = client_facts(conventions, method, scheme, host, port, url)
        return start_client(tracing, parent, scope, method, facts, call, resends)

    from inspect import signature

    if "retries" not in signature(patcher.module.HTTPConnectionPool._make_request).parameters:
        patcher.wrap("HTTPConnectionPool.urlopen", remember_history)
    patcher.wrap("HTTPConnectionPool._make_request", one_request(tracing, begin, look_at_url=look_at_url))
    patcher.wrap("HTTPSConnectionPool._prepare_proxy", failed_tunnel(tracing))


def which_attempt(retries: Any) -> tuple[Attempts | None, str, int]:
    """The call, the scope of the span, and how many requests of the same call came before, by the client above or urllib3."""
    call = attempts.get()
    if call is None:
        return None, "urllib3", len(getattr(retries, "history", ()))
    return call, call.scope, call.next()


def remember_history(wrapped: Any) -> Callable[..., Any]:
    """urllib3 1.x does not tell ``_make_request`` which retry it is."""

    def urlopen(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if attempts.get() is not None:
            return wrapped(self, *arguments, **keywords)
        retries = arguments[4] if len(arguments) > 4 else keywords.get("retries")
        token = attempts.set(Attempts(self, "urllib3", len(getattr(retries, "history", ()))))
        try:
            return wrapped(self, *arguments, **keywords)
        finally:
            attempts.reset(token)

    return urlopen


def failed_tunnel(tracing: Tracing) -> Callable[[Any], Callable[..., Any]]:
    """A span for a CONNECT to a proxy that has failed: the request itself is never tried then, and would leave no trace."""
    conventions = tracing.conventions
    finish = make_finish(tracing)

    def report(pool: Any, error: BaseException, took_ns: int) -> None:
        parent = current.get()
        if needs_no_span(parent, False):
            return
        call, scope, resends = which_attempt(None)
        facts = client_facts(conventions, "CONNECT", pool.scheme, pool.host, pool.port or 0, "")
        span = start_client(tracing, parent, scope, "CONNECT", facts, call, resends)
        if span is not None:
            span.start_ns -= took_ns
            finish(span, None, error)

    def make(wrapped: Any) -> Callable[..., Any]:
        def _prepare_proxy(self: Any, *arguments: Any, **keywords: Any) -> Any:
            began_ns = perf_counter_ns()
            try:
                return wrapped(self, *arguments, **keywords)
            except BaseException as error:
                try:
                    report(self, error, perf_counter_ns() - began_ns)
                except Exception as trouble:  # Host safety: the program gets its own exception.
                    fault("a failed tunnel", trouble)
                raise

        return _prepare_proxy

    return make
