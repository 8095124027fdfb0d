"""urllib.request: one span for each request that really goes out."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import attempts, count_attempts, excluder, start_client
from autoinstr.instrument.http_client import finish
from autoinstr.trace import SUPPRESSED, current
from autoinstr.trouble import fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoinstr.trace import Span


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``do_open`` is real HTTP only; ``open``, which redirects call again, takes ``file:`` and ``data:``, too."""
    conventions = tracing.conventions
    describe_target = conventions.client_target
    excluded = excluder(tracing.config, "urllib")

    def begin(request: Any) -> Span | None:
        parent = current.get()
        if parent is not None and (parent.leaf or not parent.recording):
            return None
        call = attempts.get()
        resends = 0
        if call is not None:
            resends = call.made
            call.made += 1
        url, method = request.full_url, request.get_method()
        if excluded is not None and excluded(url):
            return SUPPRESSED
        return start_client(tracing, "urllib", method, ((describe_target, method, url),), resends)

    def make(wrapped: Any) -> Callable[..., Any]:
        def do_open(self: Any, http_class: Any, req: Any, **keywords: Any) -> Any:
            try:
                span = begin(req)
            except Exception as trouble:  # Host safety: the request goes out untraced.
                fault("the start of a urllib request", trouble)
                span = None
            if span is None:
                return wrapped(self, http_class, req, **keywords)
            token = current.set(span)
            try:
                response = wrapped(self, http_class, req, **keywords)
            except BaseException as error:
                finish(span, None, error, conventions.client_response)
                raise
            finally:
                current.reset(token)
            finish(span, response, None, conventions.client_response)
            return response

        return do_open

    patcher.wrap("AbstractHTTPHandler.do_open", make)
    patcher.wrap("OpenerDirector.open", count_attempts("urllib"))
