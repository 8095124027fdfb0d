"""Spans as somebody sends them who wants to break the page, or whose names are just unlike others'.

Owns: the texts and the OTLP JSON that carries them everywhere. Must not know: browsers.
Invariants: whatever runs sets ``window.hacked``.
"""

from __future__ import annotations

import time
from typing import Any

from ui import shop

SCRIPT = "<script>window.hacked = 1</script>"
IMAGE = '"><img src=x onerror="window.hacked = 2">'
QUOTES = "'; window.hacked = 3; //`${window.hacked = 4}` </style></title>"
LONG = "long-name-" * 1024
WIDE = "W" * 300
RIGHT_TO_LEFT = "\u202egnp.ecivres \u05e9\u05dc\u05d5\u05dd"
CONTROL = "a\u0000b\u0007c\u2028d\u200be\ufffff"
STACKED = "Z" + "\u0301\u0302\u0303\u0304\u0305" * 60
PROTOTYPE = "__proto__"
TEMPLATE = "{{constructor.constructor('window.hacked = 5')()}} javascript:alert(1)"
TEXTS = (SCRIPT, IMAGE, QUOTES, LONG, WIDE, RIGHT_TO_LEFT, CONTROL, STACKED, PROTOTYPE, TEMPLATE, "constructor", "a/b?c#d%2F%zz", " ", "..")


def payloads() -> list[bytes]:
    """One trace for each text, which is everything in it: service, operation, keys, values, sampler; each calls the next."""
    now = time.time_ns() - 60 * 10**9
    return [_trace(number, text, TEXTS[(number + 1) % len(TEXTS)], now) for number, text in enumerate(TEXTS, 1)]


def _trace(number: int, text: str, other: str, now_ns: int) -> bytes:
    trace_id = f"{number:032x}"
    more: dict[str, Any] = {
        text: text, "sampler.type": text, "sampler.param": text, "http.url": text, "exception.message": text,
    }  # fmt: skip
    return shop.body(
        {
            text: [_span(trace_id, "1" * 16, "", text, now_ns, more)],
            other: [_span(trace_id, "2" * 16, "1" * 16, other, now_ns + 10**6, {})],
        }
    )


def _span(trace_id: str, span_id: str, parent: str, name: str, start_ns: int, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "traceId": trace_id, "spanId": span_id, "parentSpanId": parent, "name": name, "kind": shop.SERVER,
        "startTimeUnixNano": str(start_ns), "endTimeUnixNano": str(start_ns + 4 * 10**6), "status": {"code": 2, "message": name[:500]},
        "attributes": shop.attributes(more),
        "events": [{"name": name, "timeUnixNano": str(start_ns), "attributes": shop.attributes(more)}],
    }  # fmt: skip
