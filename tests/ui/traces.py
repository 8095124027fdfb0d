"""Traces as Jaeger's JSON, for the page of a trace and the comparison of two.

Owns: their shapes: a checkout, wide and deep ones, hostile text. Must not know: browsers, servers.
Invariants: times are microseconds after ``START_US``; the same arguments give the same trace.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

START_US = 1_750_000_000_000_000

Trace = dict[str, Any]


class Builder:
    """Collects spans; ``span`` answers the new span's id."""

    def __init__(self, trace_id: str) -> None:
        self.trace: Trace = {"traceID": trace_id, "spans": [], "processes": {}, "warnings": None}

    def span(
        self, service: str, name: str, start: int, duration: int, parent: str = "", *, kind: str = "", span_id: str = "",
        tags: Mapping[str, Any] | None = None, logs: list[tuple[int, dict[str, Any]]] | None = None,
        references: list[dict[str, str]] | None = None, warnings: list[str] | None = None,
    ) -> str:  # fmt: skip
        spans, processes = self.trace["spans"], self.trace["processes"]
        span_id = span_id or f"{len(spans) + 1:016x}"
        key = f"p-{service}"
        if key not in processes:
            processes[key] = {
                "serviceName": service,
                "tags": fields({"host.name": f"{service}-1", "process.pid": 4711}),
            }
        parents = [reference(self.trace["traceID"], parent)] if parent else []
        spans.append({
            "traceID": self.trace["traceID"], "spanID": span_id, "operationName": name, "startTime": START_US + start,
            "duration": duration, "references": parents + (references or []), "processID": key, "warnings": warnings,
            "tags": fields({**({"span.kind": kind} if kind else {}), **(tags or {})}),
            "logs": [{"timestamp": START_US + at, "fields": fields(values)} for at, values in logs or []],
        })  # fmt: skip
        return span_id


def fields(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = {bool: "bool", int: "int64", float: "float64"}
    return [{"key": key, "type": names.get(type(value), "string"), "value": value} for key, value in values.items()]


def reference(trace_id: str, span_id: str, kind: str = "CHILD_OF") -> dict[str, str]:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id}


CHECKOUT_ID = "5af7183fb1d4cf5f0000000000000001"
CHECKOUT_AFTER_ID = "5af7183fb1d4cf5f0000000000000002"
ELSEWHERE = reference("00000000000000000000000000000abc", "00000000000000aa", "FOLLOWS_FROM")

SAMPLED = {"sampler.type": "probabilistic", "sampler.param": 0.1}
REQUEST = {
    "http.request.method": "POST",
    "http.response.status_code": 200,
    "url.full": "https://shop.example/checkout?step=pay",
    "user.id": 8812,
    "code.filepath": "shop/views/checkout.py",
}
CART_QUERY = "SELECT sku, quantity\nFROM items\nWHERE cart = $1 ORDER BY added"
PRICE_QUERY = "SELECT amount FROM prices WHERE sku = $1"
NO_ANSWER = {"error": True, "otel.status_description": "no answer in time"}
ORDER_EVENTS = [
    (33_000, {"event": "cart.locked", "cart": "c-771"}),
    (52_000, {"event": "retry", "message": "inventory is slow", "attempt": 2}),
]
TIMED_OUT = {
    "event": "exception",
    "exception.type": "TimeoutError",
    "exception.message": "inventory did not answer within 15 ms",
}


def sql(text: str, **more: Any) -> dict[str, Any]:
    """How a database's client is traced."""
    return {"kind": "client", "tags": {"db.system.name": "postgresql", "db.query.text": text, **more}}


def checkout(trace_id: str = CHECKOUT_ID, *, prices: int = 12, slower_bank: int = 0, mail: bool = True) -> Trace:
    """A shop's checkout: five services, a failed attempt, a run of like queries, an event, a link."""
    to = Builder(trace_id)
    bank, price = 140_000 + slower_bank, 2_000
    end = 95_000 + prices * (price + 300) + bank
    root = to.span("storefront", "POST /checkout", 0, end + 30_000, kind="server", tags={**SAMPLED, **REQUEST})
    call = to.span("storefront", "GET", 4_000, 22_000, root, kind="client")
    cart = to.span("cart", "GET /items", 5_200, 19_000, call, kind="server")
    to.span("cart", "SELECT items", 7_000, 14_500, cart, **sql(CART_QUERY))
    call = to.span("storefront", "POST", 30_000, end - 10_000, root, kind="client")
    order = to.span("checkout", "POST /orders", 31_500, end - 13_500, call, kind="server", logs=ORDER_EVENTS)
    to.span("checkout", "reserve", 33_500, 16_000, order, kind="client", tags=NO_ANSWER, logs=[(49_000, TIMED_OUT)])
    again = to.span("checkout", "reserve", 52_500, 21_000, order, kind="client")
    stock = to.span("inventory", "POST /reservations", 54_000, 18_000, again, kind="server")
    to.span("inventory", "UPDATE stock", 57_000, 12_000, stock, **sql("UPDATE stock SET quantity = quantity - $1"))
    at = 76_000
    for number in range(prices):
        to.span("checkout", "SELECT price", at, price - 150 * (number % 4), order, **sql(PRICE_QUERY, sku=f"A-{number}"))
        at += price + 300
    pay = to.span("checkout", "POST", at, bank + 8_000, order, kind="client")
    charge = to.span("payments", "POST /charges", at + 2_000, bank + 4_000, pay, kind="server")
    paid = {"http.response.status_code": 201}
    to.span("payments", "POST api.bank.example", at + 3_000, bank, charge, kind="client", tags=paid)
    if mail:
        to.span("checkout", "send receipt", end - 4_000, 2_000, order, kind="producer", references=[ELSEWHERE])
    return to.trace


def skewed(trace_id: str = "5e") -> Trace:
    """A server whose clock was off, as the backend answers it."""
    to = Builder(trace_id)
    root = to.span("front", "GET /", 0, 50_000, kind="client")
    told = ["This span's timestamps were adjusted by 2.5s"]
    to.span("back", "GET /slow", 5_000, 40_000, root, kind="server", warnings=told)
    return to.trace


def orphaned(trace_id: str = "0f") -> Trace:
    """Three spans whose parent was never received, two of them of the same parent."""
    to = Builder(trace_id)
    root = to.span("front", "GET /", 0, 50_000, kind="server")
    to.span("front", "template", 40_000, 5_000, root)
    to.span("cart", "load", 4_000, 6_000, "00000000000000f1")
    to.span("cart", "load", 11_000, 6_000, "00000000000000f1")
    to.span("mail", "send", 20_000, 9_000, "00000000000000f2")
    return to.trace


def wide(spans: int, trace_id: str = "1d", seed: int = 3) -> Trace:
    """A tree of that many spans of 8 services, nested a few levels, each with a handful of tags."""
    rng, to = random.Random(seed), Builder(trace_id)
    open_spans = [(to.span("svc-0", "GET /", 0, 10_000_000, kind="server"), 0, 10_000_000, 0)]
    for number in range(1, spans):
        chosen = int(rng.expovariate(3 / len(open_spans)))
        parent, start, duration, depth = open_spans[min(len(open_spans) - 1, chosen)]
        at = start + int(duration * rng.random() * 0.9)
        took = max(1, int((start + duration - at) * rng.random() * 0.6))
        service = f"svc-{rng.randrange(8)}"
        tags = {
            "http.request.method": "GET",
            "http.route": f"/things/{number % 37}",
            "thread.id": number % 11,
            "sql.rows": rng.randrange(500),
        }
        failed = {"error": True} if rng.random() < 0.002 else {}
        kind = ("client", "server", "")[number % 3]
        span = to.span(service, f"operation-{number % 53}", at, took, parent, kind=kind, tags={**tags, **failed})
        if depth < 12 and took > 50:
            open_spans.append((span, at, took, depth + 1))
    return to.trace


def deep(levels: int, trace_id: str = "de") -> Trace:
    """A chain: each span has one child."""
    to, parent = Builder(trace_id), ""
    for level in range(levels):
        parent = to.span(f"svc-{level % 5}", f"call-{level}", level * 10, (2 * levels - 2 * level) * 10, parent)
    return to.trace


HOSTILE_NAME = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
HOSTILE_TAGS = {
    "span.kind": "server",
    HOSTILE_NAME: HOSTILE_NAME,
    "link": "javascript:window.hacked=1",
    "data": "data:text/html,<script>window.hacked=1</script>",
    "good": "https://example.org/a?b=c",
    "long": "v" * 32_768,
    "sampler.type": HOSTILE_NAME,
    "sampler.param": HOSTILE_NAME,
    "nothing": None,
    "list": [1, {"a": "<i>"}],
}
NOTHING_IN_IT = {
    "spanID": None,
    "references": [None, {}],
    "tags": None,
    "logs": None,
    "processID": "toString",
    "startTime": "x",
    "duration": -7,
    "operationName": None,
    "warnings": None,
}


def hostile(trace_id: str = "bad") -> Trace:
    """Text that wants to be script, to break the layout, or to turn the line around."""
    to = Builder(trace_id)
    told = [(10, {"event": HOSTILE_NAME})]
    root = to.span("<b>svc</b>", HOSTILE_NAME, 0, 9_000, tags=HOSTILE_TAGS, logs=told, warnings=[HOSTILE_NAME])
    to.span("x" * 10_240, "y" * 10_240, 100, 500, root)
    to.span("\u202eevil\u202e", "\u202egnp.exe\u200f \u0645\u0631\u062d\u0628\u0627", 700, 500, root)
    to.span("constructor", "__proto__", -5, 0, root, span_id="__proto__")
    to.trace["spans"].append({**NOTHING_IN_IT, "traceID": trace_id})
    return to.trace


def circle(trace_id: str = "c1") -> Trace:
    """Two spans that name each other as parent."""
    to = Builder(trace_id)
    to.span("a", "one", 0, 10, "0000000000000002")
    to.span("a", "two", 2, 5, "0000000000000001")
    return to.trace
