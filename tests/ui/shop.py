"""Traces of a small shop, as OTLP JSON: what the pages are tried with and what the screenshots show.

Owns: which services there are, who calls whom, how long it takes and what fails. Must not know: browsers, the backend.
Invariants: the same seed and end give the same traces; ids are unlike each other; no trace starts after ``end_ns``.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

SERVER, CLIENT, PRODUCER, CONSUMER, INTERNAL = 2, 3, 4, 5, 1
MS = 10**6

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A call: who does what, how long it takes of itself (median, ms), how often it fails, what it calls in turn."""

    service: str
    name: str
    kind: int
    own_ms: float
    attributes: Attributes = field(default_factory=dict)
    failure: str = ""
    failure_rate: float = 0.0
    calls: tuple[Step, ...] = ()


def server(service: str, method: str, route: str, own_ms: float, *calls: Step, **more: Any) -> Step:
    attributes = {"http.request.method": method, "http.route": route, "url.scheme": "http"}
    return Step(service, f"{method} {route}", SERVER, own_ms, attributes, calls=calls, **more)


def request(service: str, target: Step) -> Step:
    method = target.attributes["http.request.method"]
    attributes = {"http.request.method": method, "server.address": target.service}
    return Step(service, method, CLIENT, 0.9, attributes, calls=(target,))


def sql(service: str, text: str, own_ms: float = 2.5, **more: Any) -> Step:
    words = text.split()
    verb, table = words[0], words[{"SELECT": 3, "UPDATE": 1}.get(words[0], 2)]
    attributes = {"db.system.name": "postgresql", "db.query.text": text, "server.address": f"{service}-db"}
    return Step(service, f"{verb} {table}", CLIENT, own_ms, attributes, **more)


PRICES = server("catalog", "GET", "/prices", 3, sql("catalog", "SELECT * FROM prices WHERE sku = ANY($1)", 6))
STOCK = server(
    "inventory", "GET", "/stock/{sku}", 2, sql("inventory", "SELECT * FROM stock WHERE sku = $1"),
    failure="TimeoutError: no connection within 2 s", failure_rate=0.03,
)  # fmt: skip
CHARGE = server(
    "payments", "POST", "/charges", 9,
    Step("payments", "POST", CLIENT, 140, {"http.request.method": "POST", "server.address": "api.bank.example"},
         "ConnectionResetError: [Errno 104] Connection reset by peer", 0.14),
    sql("payments", "INSERT INTO charges (order_id, amount) VALUES ($1, $2)"),
)  # fmt: skip
RESERVE = server(
    "inventory", "POST", "/reservations", 3, sql("inventory", "SELECT * FROM stock FOR UPDATE", 7),
    sql("inventory", "UPDATE stock SET quantity = quantity - $1", 4),
)  # fmt: skip
ROOTS: tuple[tuple[int, tuple[str, Any], Step], ...] = (
    (9, ("probabilistic", 0.1), server(
        "storefront", "GET", "/", 4, request("storefront", PRICES),
        request("storefront", server("recommender", "GET", "/for/{user}", 28, Step("recommender", "GET", CLIENT, 0.8, {
            "db.system.name": "redis", "server.address": "cache"}))),
    )),
    (8, ("probabilistic", 0.1), server(
        "storefront", "GET", "/products/{sku}", 5, request("storefront", PRICES), request("storefront", STOCK),
    )),
    (4, ("const", True), server(
        "storefront", "GET", "/search", 6,
        request("storefront", server("catalog", "GET", "/search", 8, sql("catalog", "SELECT * FROM products", 55))),
    )),
    (4, ("lowerbound", 0.001), server(
        "storefront", "POST", "/cart/items", 4,
        request("storefront", server("cart", "POST", "/items", 3, request("cart", STOCK), sql("cart", "INSERT INTO items"))),
    )),
    (5, ("ratelimiting", 2.0), server(
        "storefront", "POST", "/checkout", 8,
        request("storefront", server("cart", "GET", "/items", 2, sql("cart", "SELECT * FROM items WHERE cart = $1"))),
        request("storefront", server(
            "checkout", "POST", "/orders", 7, request("checkout", RESERVE), request("checkout", CHARGE),
            sql("checkout", "INSERT INTO orders"),
            Step("checkout", "send orders", PRODUCER, 1.4, {"messaging.system": "kafka"}, calls=(
                Step("mailer", "process orders", CONSUMER, 35, {"messaging.system": "kafka"}, calls=(
                    Step("mailer", "render receipt", INTERNAL, 12),)),)),
        )),
    )),
    (1, ("debug", ""), server("storefront", "GET", "/health", 0.4)),
)  # fmt: skip


def payloads(end_ns: int, *, traces: int = 160, minutes: float = 50, seed: int = 7) -> list[bytes]:
    """Bodies for ``/v1/traces``, one for each trace, the oldest first."""
    rng = random.Random(seed)
    age_ns = int(minutes * 60 * 10**9)
    starts = sorted(end_ns - 5 * 10**9 - rng.randrange(age_ns) for _ in range(traces))
    return [one_trace(rng, start_ns) for start_ns in starts]


def one_trace(rng: random.Random, start_ns: int) -> bytes:
    """One visit to the shop."""
    _, (kind, param), root = rng.choices(ROOTS, [weight for weight, _, _ in ROOTS])[0]
    sampled = {"sampler.type": kind, "sampler.param": param} if kind != "debug" else {"jaeger-debug-id": "support-4711"}
    spans: dict[str, list[Attributes]] = defaultdict(list)
    slowness = rng.lognormvariate(0, 0.35) * (6 if rng.random() < 0.04 else 1)
    _run(rng, spans, root, f"{rng.getrandbits(128):032x}", "", start_ns, slowness, sampled)
    return body(spans)


def body(spans: dict[str, list[Attributes]]) -> bytes:
    """An OTLP request from spans by service."""
    resources = [
        {
            "resource": {"attributes": attributes(_process(service))},
            "scopeSpans": [{"spans": rows}],
        }
        for service, rows in spans.items()
    ]
    return json.dumps({"resourceSpans": resources}).encode()


def _process(service: str) -> Attributes:
    """The mailer stands for services that are traced by somebody else, and do not say what that costs them."""
    cost = {} if service == "mailer" else {"autoinstr.span_cost_us": 3.0 + len(service) / 4}
    return {"service.name": service, "host.name": f"{service}-1", **cost}


def attributes(values: Attributes) -> list[Attributes]:
    """OTLP's list of keys and values."""
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> Attributes:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def _run(
    rng: random.Random, spans: dict[str, list[Attributes]], step: Step, trace_id: str, parent: str, start_ns: int,
    slowness: float, more: Attributes,
) -> tuple[int, bool]:  # fmt: skip
    """Lay out a step and its calls, one after the other; (when it ends, whether it failed)."""
    own_ns = int(step.own_ms * MS * slowness * rng.lognormvariate(0, 0.3))
    span_id, now, failed = f"{rng.getrandbits(64):016x}", start_ns + own_ns // 2, rng.random() < step.failure_rate
    broken = failed
    for call in step.calls:
        latency = rng.randrange(100_000, 600_000) if call.service != step.service else 20_000
        now, call_failed = _run(rng, spans, call, trace_id, span_id, now + latency, slowness, {})
        now += latency
        broken = broken or call_failed
        if call_failed:
            break
    end_ns = now + own_ns // 2
    span = {
        "traceId": trace_id, "spanId": span_id, "parentSpanId": parent, "name": step.name, "kind": step.kind,
        "startTimeUnixNano": str(start_ns), "endTimeUnixNano": str(end_ns), "status": {"code": 2} if broken else {},
        "attributes": attributes({**step.attributes, **_status_code(step, broken=broken), **more}),
        "events": [_exception(step.failure, end_ns)] if failed else [],
    }  # fmt: skip
    spans[step.service].append(span)
    return end_ns, broken


def _status_code(step: Step, *, broken: bool) -> Attributes:
    return {"http.response.status_code": 502 if broken else 200} if "http.request.method" in step.attributes else {}


def _exception(failure: str, time_ns: int) -> Attributes:
    kind, _, message = failure.partition(": ")
    values = {"exception.type": kind, "exception.message": message}
    return {"name": "exception", "timeUnixNano": str(time_ns), "attributes": attributes(values)}
