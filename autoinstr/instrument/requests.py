"""requests: ties the requests of one call together; their spans are made where urllib3 sends them."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.http import count_attempts


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """``send`` calls itself for each redirect."""
    patcher.wrap("Session.send", count_attempts("requests"))
