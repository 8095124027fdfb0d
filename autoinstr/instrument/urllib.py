"""urllib.request: one span for each request that really goes out."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import attempts, excluder, one_call, start_client
from autoinstr.instrument.http_client import one_request
from autoinstr.trace import SUPPRESSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoinstr.trace import Span


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``do_open`` is real HTTP only; ``open``, which redirects call again, takes ``file:`` and ``data:``, too."""
    describe_target, longest = tracing.conventions.client_target, tracing.conventions.longest
    excluded = excluder(tracing.config, "urllib")

    def begin(parent: Span | None, handler: Any, http_class: Any, req: Any, **_: Any) -> Span | None:
        call = attempts.get()
        resends = 0 if call is None else call.next()
        url, method = req.full_url, req.get_method()
        if excluded is not None and excluded(url):
            return SUPPRESSED
        return start_client(tracing, parent, "urllib", method, ((describe_target, method, url[:longest]),), call, resends)

    look_at_url = excluded is not None
    patcher.wrap("AbstractHTTPHandler.do_open", one_request(tracing, begin, look_at_url=look_at_url))
    patcher.wrap("OpenerDirector.open", one_call(tracing, "urllib", look_at_url=look_at_url))
