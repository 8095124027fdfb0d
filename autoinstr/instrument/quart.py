"""Quart: Flask's interface on ASGI."""

from __future__ import annotations

from autoinstr.instrument import Patcher, Tracing
from autoinstr.instrument.asgi import wrap_method
from autoinstr.instrument.flask import name_by_rule, record_handled


def patch(patcher: Patcher, tracing: Tracing) -> None:
    """Server spans, route names and hidden errors."""
    patcher.wrap("Quart.__call__", wrap_method(tracing, "quart"))
    patcher.wrap("Quart.full_dispatch_request", name_by_rule("quart.globals"))
    patcher.wrap("Quart.full_dispatch_websocket", name_by_rule("quart.globals", "websocket"))
    patcher.wrap("Quart.handle_exception", record_handled)
