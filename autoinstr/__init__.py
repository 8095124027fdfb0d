"""Distributed tracing for Python with no code changes: ``python -m autoinstr app.py``.

For programs that want more there is a small API: ``span``, ``current_span``, ``inject``, ``extract``, ``flush``, ``metrics``,
``wrap_wsgi``, ``wrap_asgi``. It is loaded when it is used: importing this package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoinstr.api import current_span, extract, flush, inject, metrics, span, wrap_asgi, wrap_wsgi
    from autoinstr.model import Kind, Link, SpanContext, Status

__version__ = "0.1.0"
__all__ = [
    "Kind",
    "Link",
    "SpanContext",
    "Status",
    "current_span",
    "extract",
    "flush",
    "inject",
    "metrics",
    "span",
    "wrap_asgi",
    "wrap_wsgi",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'autoinstr' has no attribute {name!r}")
    from importlib import import_module

    module = import_module("autoinstr.model" if name[0].isupper() else "autoinstr.api")
    value: object = getattr(module, name)
    globals()[name] = value
    return value
