"""urllib3, and what sends through it (requests, botocore, many SDKs): one span for each request that really goes out."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import attempts, excluder, full_url, start_client
from autoinstr.instrument.http_client import finish
from autoinstr.trace import SUPPRESSED, current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``_make_request`` sends once; redirects and retries come through it again."""
    conventions = tracing.conventions
    describe_request, describe_url = conventions.client_request, conventions.client_url
    excluded = {name: excluder(tracing.config, name) for name in ("requests", "urllib3")}

    def begin(pool: Any, method: str, target: str, retries: Any) -> Span | None:
        parent = current.get()
        if parent is not None and (parent.leaf or not parent.recording):
            return None
        call = attempts.get()
        if call is None:
            scope, resends = "urllib3", len(getattr(retries, "history", ()))
        else:
            scope, resends = call.scope, call.made
            call.made += 1
        scheme, host, port = pool.scheme, pool.host, pool.port or 0
        leave_out = excluded.get(scope)
        if leave_out is not None and leave_out(full_url(scheme, host, port, target)):
            return SUPPRESSED
        facts = ((describe_request, method, scheme, host, port), (describe_url, scheme, host, port, target))
        return start_client(tracing, scope, method, facts, resends)

    def make(wrapped: Any) -> Callable[..., Any]:
        def _make_request(self: Any, conn: Any, method: str, url: str, *arguments: Any, **keywords: Any) -> Any:
            try:
                span = begin(self, method, url, keywords.get("retries"))
            except Exception as trouble:  # Host safety: the request goes out untraced.
                fault("the start of a urllib3 request", trouble)
                span = None
            if span is None:
                return wrapped(self, conn, method, url, *arguments, **keywords)
            token = current.set(span)
            try:
                response = wrapped(self, conn, method, url, *arguments, **keywords)
            except BaseException as error:
                finish(span, None, error, conventions.client_response)
                raise
            finally:
                current.reset(token)
            finish(span, response, None, conventions.client_response)
            return response

        return _make_request

    patcher.wrap("HTTPConnectionPool._make_request", make)
