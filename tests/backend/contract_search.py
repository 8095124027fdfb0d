"""What a search means, as tests that every store runs.

The rules are those that Jaeger's integration fixtures state: one single span satisfies everything, tags are found on spans,
processes and logs and compare as text, all spans of a matching trace are returned, newest first.
"""

from __future__ import annotations

import pytest

from autoinstr.backend.store import FOREVER_NS, Store, TraceQuery, matches
from autoinstr.model import Batch, Event, Kind, Resource, SpanData, Status

from .spans import MINUTE_NS, NOW_NS, SECOND_NS, SHOP, STOCK, a_span, found, span_ids, write, write_each

#: What people put into tags, by accident or on purpose; each is looked for again by its exact text.
HOSTILE_TEXTS = [
    "",
    " ",
    "\x00",
    "a\x00b",
    "\udcff half of a pair",
    "'; DROP TABLE spans; --",
    '"quoted"',
    'NEAR("a" "b")',
    "a AND b OR NOT c*",
    "column:value ^start",
    "%_\\",
    "ÄÖÜ ß İ 中文 🦄",
    "<script>alert(1)</script>",
    "key=value|service=other",
    "x" * 32 * 1024,
    "🦄" * 8 * 1024,
]


class SearchContract:
    """Part of ``StoreContract``."""

    def test_newest_first_and_limited(self, store: Store) -> None:
        """By the start of the first span, not by arrival, nor by the span that was found."""
        write_each(
            store,
            a_span(trace_id=1, start_ns=NOW_NS + 300),
            a_span(trace_id=2, start_ns=NOW_NS + 100),
            a_span(trace_id=3, start_ns=NOW_NS + 200),
            a_span("late", trace_id=2, span_id=2, start_ns=NOW_NS + 90 * SECOND_NS),
        )
        assert found(store) == [1, 3, 2]
        assert found(store, limit=2) == [1, 3]
        assert found(store, service="shop", limit=1) == [1]
        assert found(store, limit=0) == []

    def test_the_newest_of_many(self, store: Store) -> None:
        """The first page has to show what happened last, however much there is, and in whatever order it came."""
        order = [(n * 7919) % 500 for n in range(500)]
        for start in range(0, 500, 50):
            write(store, *(a_span(f"op{n % 5}", n + 1, start_ns=NOW_NS + n * 10**7) for n in order[start : start + 50]))
        assert found(store, service="shop", limit=30) == list(range(500, 470, -1))
        assert found(store, limit=30) == list(range(500, 470, -1))
        assert found(store, service="shop", operation="op0", limit=3) == [496, 491, 486]
        assert found(store, service="shop", end_ns=NOW_NS + 10**9, limit=3) == [101, 100, 99]

    def test_all_conditions_hold_for_one_and_the_same_span(self, store: Store) -> None:
        """Jaeger's rule: a slow span and an erroneous span elsewhere in the trace are no "slow error"."""
        write(store, a_span("a", attributes={"x": "1"}, lasts_ns=50), a_span("b", span_id=2, lasts_ns=5000))
        write(store, a_span("c", span_id=3, attributes={"y": "2"}), resource=STOCK)
        assert found(store, operation="a", tags={"x": "1"}) == [1]
        assert found(store, operation="b", tags={"x": "1"}) == []
        assert found(store, tags={"x": "1", "y": "2"}) == []
        assert found(store, service="stock", tags={"x": "1"}) == []
        assert found(store, service="stock", operation="a") == []
        assert found(store, operation="a", min_duration_ns=51) == []
        assert found(store, service="shop", tags={"hostname": "db-1"}) == []

    def test_all_spans_of_a_matching_trace_are_returned(self, store: Store) -> None:
        """Who finds a span wants to see what is around it, also what came in other payloads."""
        write(store, a_span("a"))
        write(store, a_span("b", span_id=2), resource=STOCK)
        (trace,) = store.find(TraceQuery(service="stock", operation="b"))
        assert span_ids(trace) == [1, 2]

    @pytest.mark.parametrize(
        ("conditions", "is_found"),
        [
            ({}, True),
            ({"service": "shop"}, True),
            ({"service": "sho"}, False),
            ({"service": "SHOP"}, False),
            ({"operation": "GET"}, True),
            ({"operation": "get"}, False),
            ({"service": "shop", "operation": "GET"}, True),
            ({"service": "shop", "operation": "PUT"}, False),
            ({"start_ns": NOW_NS, "end_ns": NOW_NS}, True),
            ({"service": "shop", "start_ns": NOW_NS, "end_ns": NOW_NS}, True),
            ({"start_ns": NOW_NS + 1}, False),
            ({"service": "shop", "start_ns": NOW_NS + 1}, False),
            ({"end_ns": NOW_NS - 1}, False),
            ({"service": "shop", "end_ns": NOW_NS - 1}, False),
            ({"min_duration_ns": 12_345_678, "max_duration_ns": 12_345_678}, True),
            ({"service": "shop", "min_duration_ns": 12_345_678, "max_duration_ns": 12_345_678}, True),
            ({"min_duration_ns": 12_345_679}, False),
            ({"service": "shop", "operation": "GET", "max_duration_ns": 12_345_677}, False),
        ],
    )
    def test_conditions(self, store: Store, conditions: dict, is_found: bool) -> None:
        """Bounds are inclusive to the nanosecond, names exact, as in Jaeger."""
        write(store, a_span(lasts_ns=12_345_678), a_span("other", 2, start_ns=NOW_NS - MINUTE_NS), resource=SHOP)
        assert (1 in found(store, **conditions)) is is_found

    @pytest.mark.parametrize(
        ("key", "text", "is_found"),
        [
            ("http.status_code", "404", True),
            ("http.status_code", "40", False),
            ("HTTP.status_code", "404", False),
            ("cache", "true", True),
            ("cache", "True", False),
            ("cache", "1", False),
            ("one", "1", True),
            ("one", "true", False),
            ("ratio", "0.5", True),
            ("third", "0.3333333333", True),
            ("raw", "00ff", True),
            ("list", '["a","b"]', True),
            ("case", "MiXed", True),
            ("case", "mixed", False),
            ("hostname", "web-1", True),
            ("shards", "3", True),
            ("event", "retry", True),
            ("attempt", "2", True),
            ("span.kind", "server", True),
            ("component", "flask", True),
            ("otel.status_description", "boom", True),
            ("error", "true", True),
            ("error", "false", False),
            ("absent", "", False),
        ],
    )
    @pytest.mark.parametrize("service", ["", "shop"])
    def test_tags_are_found_as_text_on_span_process_and_logs(
        self, store: Store, service: str, key: str, text: str, is_found: bool
    ) -> None:
        """What the interface shows can be searched for in the form in which Jaeger's users type it."""
        attributes = {
            "http.status_code": 404,
            "cache": True,
            "one": 1,
            "ratio": 0.5,
            "third": 1 / 3,
            "raw": b"\x00\xff",
            "list": ["a", "b"],
            "case": "MiXed",
        }
        more = {"kind": Kind.SERVER, "status": Status.ERROR, "status_message": "boom", "scope": "flask"}
        write(store, a_span(attributes=attributes, events=[Event("retry", NOW_NS, {"attempt": 2})], **more))
        assert bool(found(store, service=service, tags={key: text})) is is_found

    def test_values_that_are_equal_but_not_the_same(self, store: Store) -> None:
        """Python takes 1, 1.0 and True for one key; a search must not."""
        values = [1, True, 1.0, "1", "true", 0, False, "0", "false", 10**10, 1e10, "10000000000"]
        for _ in range(2):
            write(store, *(a_span(trace_id=n + 1, attributes={"key": value}) for n, value in enumerate(values)))
        wanted = {
            "1": {1, 3, 4},
            "true": {2, 5},
            "0": {6, 8},
            "false": {7, 9},
            "10000000000": {10, 12},
            "1e+10": {11},
            "1.0": set(),
        }
        for text, trace_ids in wanted.items():
            assert set(found(store, service="shop", tags={"key": text})) == trace_ids, text

    def test_error_false_finds_what_has_no_error(self, store: Store) -> None:
        """Nobody writes error=false on a span, and still it is what users type."""
        write(store, a_span(trace_id=1), a_span(trace_id=2, status=Status.ERROR))
        assert found(store, tags={"error": "false"}) == [1]
        assert found(store, service="shop", tags={"error": "true"}) == [2]

    @pytest.mark.parametrize("number", range(len(HOSTILE_TEXTS)))
    def test_hostile_text_anywhere(self, store: Store, number: int) -> None:
        """Whatever a service sends is kept, found by its exact text, and harms nothing."""
        text = HOSTILE_TEXTS[number]
        resource = Resource(text or "empty", {text: text})
        write(
            store,
            a_span(text, attributes={text: text, "key": text}, events=[Event(text, NOW_NS, {text: text})]),
            resource=resource,
        )
        write(store, a_span("other", 2, attributes={"key": "x"}))
        service = resource.service_name
        assert found(store, service=service, operation=text, tags={"key": text, text: text}) == [1]
        assert found(store, tags={"key": text}) == [1]
        assert found(store, service=service, tags={"key": text + "x"}) == []
        assert store.operations(service) == [(text, Kind.INTERNAL)]
        assert sorted(store.services()) == sorted(["shop", service])
        ((resource_back, span_back),) = store.trace(1)
        assert (resource_back.attributes, span_back.name, span_back.attributes["key"]) == ({text: text}, text, text)
        assert [rate.operation for rate in store.rates([service], 0, FOREVER_NS)] == [text]

    @pytest.mark.parametrize("apart_ns", [5 * 10**6, 9 * 10**8, 5 * SECOND_NS, 3600 * SECOND_NS])
    @pytest.mark.parametrize("service", ["", "shop"])
    def test_a_window_that_ends_within_a_trace(self, store: Store, apart_ns: int, service: str) -> None:
        """What goes on after the end of the window must not hide what began within it."""
        write(store, a_span(), a_span(span_id=2, start_ns=NOW_NS + apart_ns))
        for end_ns in (NOW_NS, NOW_NS + 1, NOW_NS + apart_ns - 1):
            assert found(store, service=service, operation="GET", end_ns=end_ns) == [1]
        assert found(store, service=service, start_ns=NOW_NS + 1) == [1]
        assert found(store, service=service, start_ns=NOW_NS + 1, end_ns=NOW_NS + apart_ns - 1) == []

    def test_one_rare_span_among_many(self, store: Store) -> None:
        """The request of one user, of thousands: what tag searches are for."""
        for start in range(0, 3000, 500):
            spans = [
                a_span("GET", n + 1, start_ns=NOW_NS + n * 10**6, attributes={"user": f"u{n}", "http.method": "GET"})
                for n in range(start, start + 500)
            ]
            write(store, *spans)
        assert found(store, service="shop", tags={"user": "u1234"}) == [1235]
        assert found(store, tags={"user": "u7", "http.method": "GET"}) == [8]
        assert found(store, service="shop", tags={"http.method": "GET"}, limit=2) == [3000, 2999]
        assert found(store, service="shop", tags={"user": "u7", "http.method": "PUT"}) == []

    def test_slow_ones_among_many(self, store: Store) -> None:
        """The slow requests of an operation: what duration searches are for."""
        lasts = [10**6 if n % 100 else 10**9 + n for n in range(2000)]
        write(store, *(a_span(f"op{n % 2}", n + 1, start_ns=NOW_NS + n, lasts_ns=lasts[n]) for n in range(2000)))
        assert found(store, service="shop", operation="op0", min_duration_ns=10**9, limit=3) == [1901, 1801, 1701]
        assert found(store, min_duration_ns=10**9 + 1900) == [1901]
        assert found(store, service="shop", min_duration_ns=10**9, max_duration_ns=10**9 + 150) == [101, 1]

    def test_a_search_answers_as_looking_at_each_span_would(self, store: Store) -> None:
        """An index may be coarse, but it must not hide anything: compared with the rule itself, span by span."""
        spans = _a_mix_of_spans(600)
        for start in range(0, len(spans), 37):
            store.write([Batch(resource, [span]) for resource, span in spans[start : start + 37]])
        for query in _a_mix_of_queries():
            expected = {span.trace_id for resource, span in spans if matches(query, resource, span)}
            assert {trace[0][1].trace_id for trace in store.find(query)} == expected, query


def _a_mix_of_spans(count: int) -> list[tuple[Resource, SpanData]]:
    """Spans of 60 traces, of a few services, operations, tags and lengths, in every combination, over a minute."""
    resources = [SHOP, STOCK, Resource("bank", {"zone": "a"})]
    return [
        (
            resources[n % 3],
            a_span(
                f"op{n * 13 % 4}",
                trace_id=n % 60 + 1,
                span_id=n + 1,
                parent_id=n // 2,
                start_ns=NOW_NS + n * 97_000_001,
                lasts_ns=10 ** (n % 10),
                kind=n % 6,
                status=Status.ERROR if n % 7 == 0 else Status.UNSET,
                attributes={"http.status_code": (200, 404, 500)[n % 5 % 3], "cache": n % 2 == 0, "user": f"u{n % 50}"},
                events=[Event("retry", NOW_NS, {"attempt": n % 4})] if n % 3 == 0 else None,
            ),
        )
        for n in range(count)
    ]


def _a_mix_of_queries() -> list[TraceQuery]:
    services, operations = ("", "shop", "bank"), ("", "op1")
    tags: list[dict[str, str]] = [
        {},
        {"http.status_code": "500"},
        {"user": "u7"},
        {"cache": "true", "attempt": "2"},
        {"zone": "a", "error": "true"},
        {"error": "false", "hostname": "db-1"},
        {"span.kind": "client"},
    ]
    windows = [
        {},
        {"start_ns": NOW_NS + 20 * SECOND_NS, "end_ns": NOW_NS + 21 * SECOND_NS},
        {"min_duration_ns": 1001, "max_duration_ns": 10**6},
        {"end_ns": NOW_NS + 10 * SECOND_NS, "min_duration_ns": 10**8},
    ]
    return [
        TraceQuery(service=service, operation=operation, tags=wanted, limit=1000, **window)
        for service in services
        for operation in operations
        for wanted in tags
        for window in windows
    ]
