"""requests: ties the requests of one call together; their spans are made where urllib3 sends them."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import excluder, one_call


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``send`` calls itself for each redirect."""
    look_at_url = excluder(tracing.config, "requests") is not None
    patcher.wrap("Session.send", one_call(tracing, "requests", look_at_url=look_at_url))
