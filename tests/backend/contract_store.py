"""What every store has to do, as tests: subclass ``StoreContract`` and give it stores."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import pytest

from autoinstr.backend.store import FOREVER_NS, Dependency, Store, TraceQuery, bucket_of
from autoinstr.model import Batch, Event, Kind, Link, Resource, SpanContext, SpanData, Status

from .contract_search import SearchContract
from .spans import MINUTE, MINUTE_NS, NOW_NS, SECOND_NS, SHOP, STOCK, a_span, found, span_ids, write, write_each


def described(resource: Resource, span: SpanData) -> dict:
    """Everything that a store has to give back, in plain values that can be compared."""
    plain = {
        name: getattr(span, name) for name in SpanData.__slots__ if name not in ("facts", "own", "events", "links")
    }
    plain["attributes"] = span.attributes
    plain["events"] = [(event.name, event.time_ns, dict(event.attributes)) for event in span.events or ()]
    plain["links"] = [
        (link.context.trace_id, link.context.span_id, link.context.flags, link.context.trace_state)
        + (dict(link.attributes), link.child_of)
        for link in span.links
    ]
    plain["resource"] = (resource.service_name, dict(resource.attributes))
    plain["types"] = [type(value).__name__ for value in span.attributes.values()]
    return plain


class StoreContract(SearchContract):
    """Tests that each store runs. A subclass provides the fixtures ``store`` and ``small_store``."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """An empty store that holds at least 100,000 spans of today."""
        raise NotImplementedError

    @pytest.fixture
    def small_store(self) -> Iterator[Store]:
        """An empty store that cannot hold ``FLOOD`` traces of two spans, but holds a twentieth of them."""
        raise NotImplementedError

    #: How many traces are sure to be too much for ``small_store``.
    FLOOD = 4000

    # ---- Traces -----------------------------------------------------------------------------------------

    def test_a_trace_comes_together_from_pieces(self, store: Store) -> None:
        """Each process reports its own part whenever it likes; a trace is read in the order in which its spans came."""
        write_each(store, a_span(trace_id=1, span_id=7), a_span(trace_id=2), a_span(trace_id=1, span_id=2))
        write(store, a_span("UPDATE", trace_id=1, span_id=5), a_span(trace_id=1, span_id=4), resource=STOCK)
        trace = store.trace(1)
        assert span_ids(trace) == [7, 2, 5, 4]
        assert [resource.service_name for resource, _ in trace] == ["shop", "shop", "stock", "stock"]
        assert store.trace(3) == []

    def test_one_write_takes_payloads_of_several_services(self, store: Store) -> None:
        """The writer gathers what several senders sent."""
        store.write(
            [
                Batch(SHOP, [a_span()]),
                Batch(STOCK, [a_span(span_id=2)]),
                Batch(SHOP, []),
                Batch(SHOP, [a_span(span_id=3)]),
            ]
        )
        assert [(resource.service_name, span.span_id) for resource, span in store.trace(1)] == [
            ("shop", 1),
            ("stock", 2),
            ("shop", 3),
        ]
        assert store.services() == ["shop", "stock"]

    def test_nothing_to_write(self, store: Store) -> None:
        """Empty payloads are legal in every format, and happen at flushes."""
        store.write([])
        store.write([Batch(SHOP, [])])
        assert store.find(TraceQuery()) == []
        assert store.figures()["store_spans"] == 0

    def test_everything_of_a_span_comes_back(self, store: Store) -> None:
        """A detail that the store loses is missing in the interface, and nobody finds out why."""
        link = Link(SpanContext(2**127 + 5, 2**63 + 9, 3, "vendor=1"), {"why": "retry"}, child_of=True)
        rich = a_span(
            "GET /ä",
            trace_id=2**127 + 1,
            span_id=2**64 - 1,
            parent_id=2**63,
            kind=Kind.SERVER,
            flags=0xFF,
            attributes={
                "text": "x",
                "true": True,
                "one": 1,
                "float one": 1.0,
                "big": 2**63 - 1,
                "small": -(2**63),
                "third": 1 / 3,
                "bytes": b"\x00\xff",
                "list": ["a", "b", 1, True, 0.5],
                "empty list": [],
                "nested": {"a": [b"\x01", {"b": 1}], "": "empty key"},
                "like ours": ["b", "AP8="],
                "": "no key",
            },
            events=[Event("retry", NOW_NS + 5, {"attempt": 2, "raw": b"\xfe"}), Event("", NOW_NS)],
            links=[link, Link(SpanContext(7, 8))],
            status=Status.ERROR,
            status_message="out of stock",
            scope="flask",
            trace_state="a=b",
            parent_is_remote=True,
        )
        rich.dropped = (1, 2, 3)
        plain = a_span(trace_id=2**127 + 1, span_id=1, kind=Kind.UNSPECIFIED, flags=0)
        write(store, rich, plain)
        trace = store.trace(2**127 + 1)
        assert [described(*entry) for entry in trace] == [described(SHOP, rich), described(SHOP, plain)]

    def test_numbers_that_are_none_come_back(self, store: Store) -> None:
        """Services do send NaN and infinities, for rates of nothing."""
        write(store, a_span(attributes={"nan": math.nan, "inf": math.inf, "-inf": -math.inf}))
        attributes = store.trace(1)[0][1].attributes
        assert math.isnan(attributes["nan"])
        assert (attributes["inf"], attributes["-inf"]) == (math.inf, -math.inf)
        assert found(store, tags={"nan": "nan", "inf": "inf"}) == [1]

    def test_attributes_that_were_not_written_out_yet(self, store: Store) -> None:
        """The agent's spans keep what repeats as facts; a store in the same process gets them so."""
        span = a_span(attributes={"own": "1"})
        span.facts = ((lambda method: {"http.method": method, "own": "0"}, "GET"),)
        write(store, span)
        assert store.trace(1)[0][1].attributes == {"http.method": "GET", "own": "1"}
        assert found(store, tags={"http.method": "GET"}) == [1]

    @pytest.mark.parametrize("trace_id", [1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**127, 2**128 - 1])
    def test_ids_of_64_and_128_bits(self, store: Store, trace_id: int) -> None:
        """Old clients have 64-bit ids; an id whose lower half is the same is another trace."""
        span_id = trace_id & (2**64 - 1) or 1
        write(store, a_span("mine", trace_id, span_id, parent_id=2**64 - 1))
        write(store, a_span("other", trace_id ^ (1 << 64), span_id), a_span("other", trace_id ^ (1 << 127), span_id))
        write(store, a_span("mine", trace_id, 2))
        assert [span.name for _, span in store.trace(trace_id)] == ["mine", "mine"]
        assert {(span.trace_id, span.parent_id) for _, span in store.trace(trace_id)} == {
            (trace_id, 2**64 - 1),
            (trace_id, 0),
        }
        assert found(store, operation="mine") == [trace_id]

    def test_the_same_span_twice_is_kept_once(self, store: Store) -> None:
        """A sender that had no answer in time sends again what was stored already."""
        batch = [a_span(span_id=1), a_span(span_id=2, parent_id=1, status=Status.ERROR)]
        for _ in range(2):
            store.write([Batch(SHOP, [batch[0]]), Batch(STOCK, [batch[1]])])
        store.write([Batch(SHOP, [batch[0], batch[0]])])
        assert span_ids(store.trace(1)) == [1, 2]
        assert store.figures()["store_spans"] == 2
        assert store.dependencies(0, FOREVER_NS) == [Dependency("shop", "stock", 1, 1)]
        assert sum(rate.calls for rate in store.rates([], 0, FOREVER_NS)) == 2

    def test_halves_of_a_call_that_share_an_id_are_two_spans(self, store: Store) -> None:
        """Zipkin's clients and servers report one id from both sides."""
        write(store, a_span(span_id=5, kind=Kind.CLIENT))
        write(store, a_span(span_id=5, kind=Kind.SERVER), resource=STOCK)
        assert len(store.trace(1)) == 2
        assert store.dependencies(0, FOREVER_NS) == [Dependency("shop", "stock", 1, 0)]

    def test_a_trace_of_ten_thousand_spans(self, store: Store) -> None:
        """A batch job makes such traces; they come in many payloads."""
        spans = [
            a_span(f"op{n % 7}", 1, n, n // 10, start_ns=NOW_NS + n * 1000, attributes={"n": n})
            for n in range(1, 10_001)
        ]
        for start in range(0, 10_000, 500):
            write(store, *spans[start : start + 500])
        assert span_ids(store.trace(1)) == list(range(1, 10_001))
        assert found(store, operation="op3", tags={"n": "9999"}) == [1]
        assert found(store, operation="op3", tags={"n": "9998"}) == []
        (trace,) = store.find(TraceQuery(tags={"n": "9997"}))
        assert len(trace) == 10_000

    def test_answers_do_not_change_afterwards(self, store: Store) -> None:
        """A trace that is being encoded must not grow under the encoder."""
        write(store, a_span())
        before, (searched,) = store.trace(1), store.find(TraceQuery())
        services, operations = store.services(), store.operations("shop")
        write(store, a_span("other", span_id=2))
        assert (len(before), len(searched), len(store.trace(1))) == (1, 1, 2)
        assert (services, operations) == (["shop"], [("GET", Kind.INTERNAL)])

    # ---- Names, calls, rates --------------------------------------------------------------------------------

    def test_operations_with_their_kinds(self, store: Store) -> None:
        """The interface offers them in its search form."""
        write(store, a_span("b"), a_span("a", span_id=2, kind=Kind.SERVER), a_span("a", span_id=3, kind=Kind.CLIENT))
        write(store, a_span("c", span_id=4), resource=STOCK)
        assert store.services() == ["shop", "stock"]
        assert store.operations("shop") == [("a", Kind.SERVER), ("a", Kind.CLIENT), ("b", Kind.INTERNAL)]
        assert store.operations("nobody") == []

    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
    @pytest.mark.parametrize("in_pieces", [False, True])
    def test_calls_between_services(self, store: Store, order: tuple[int, ...], in_pieces: bool) -> None:
        """The dependency graph, whatever order the services report in."""
        pieces = [
            Batch(SHOP, [a_span("root", span_id=1), a_span("inner", span_id=2, parent_id=1)]),
            Batch(STOCK, [a_span("call", span_id=3, parent_id=2, status=Status.ERROR)]),
            Batch(STOCK, [a_span("call", span_id=4, parent_id=2), a_span("inner", span_id=5, parent_id=4)]),
            Batch(Resource("bank"), [a_span("pay", span_id=6, parent_id=5), a_span("lost", span_id=7, parent_id=99)]),
        ]
        for batches in [[pieces[n]] for n in order] if in_pieces else [[pieces[n] for n in order]]:
            store.write(batches)
        assert store.dependencies(NOW_NS, NOW_NS) == [
            Dependency("shop", "stock", 2, 1),
            Dependency("stock", "bank", 1, 0),
        ]

    def test_calls_in_a_window(self, store: Store) -> None:
        """Yesterday's calls are not today's; a parent in another trace with the same span id is no parent."""
        for number, start_ns in enumerate((NOW_NS - MINUTE_NS, NOW_NS, NOW_NS + 59 * SECOND_NS, NOW_NS + MINUTE_NS)):
            write(store, a_span(trace_id=number + 1, start_ns=start_ns))
            write(store, a_span(trace_id=number + 1, span_id=2, parent_id=1, start_ns=start_ns), resource=STOCK)
        write(store, a_span(trace_id=77, span_id=2, parent_id=1), resource=STOCK)
        assert store.dependencies(NOW_NS + 1, NOW_NS + 2) == [Dependency("shop", "stock", 2, 0)]
        assert store.dependencies(NOW_NS, NOW_NS + MINUTE_NS) == [Dependency("shop", "stock", 3, 0)]
        assert store.dependencies(NOW_NS + 5 * MINUTE_NS, FOREVER_NS) == []

    def test_rates_by_minute(self, store: Store) -> None:
        """Rates, errors and durations are drawn from these."""
        write(
            store,
            a_span("GET", span_id=1, lasts_ns=5_000_000, kind=Kind.SERVER),
            a_span("GET", span_id=2, lasts_ns=7_000_000, kind=Kind.SERVER, status=Status.ERROR),
            a_span("GET", span_id=3, lasts_ns=9, start_ns=NOW_NS + MINUTE_NS, kind=Kind.SERVER),
        )
        write(store, a_span("GET", span_id=4, lasts_ns=5_000_001, kind=Kind.SERVER))
        write(store, a_span("x", span_id=5), resource=STOCK)
        first, second = store.rates(["shop"], NOW_NS, NOW_NS + MINUTE_NS)
        assert (first.minute, first.service, first.operation, first.kind) == (MINUTE, "shop", "GET", Kind.SERVER)
        assert (first.calls, first.errors, first.duration_ns) == (3, 1, 17_000_001)
        expected: dict[int, int] = {}
        for lasted in (5_000_000, 7_000_000, 5_000_001):
            expected[bucket_of(lasted)] = expected.get(bucket_of(lasted), 0) + 1
        assert dict(first.buckets) == expected
        assert (second.minute, second.calls, second.duration_ns, dict(second.buckets)) == (MINUTE + 1, 1, 9, {0: 1})
        assert [rate.service for rate in store.rates([], NOW_NS, NOW_NS)] == ["shop", "stock"]
        assert store.rates(["nobody"], NOW_NS, NOW_NS) == []
        assert store.rates([], NOW_NS + 2 * MINUTE_NS, FOREVER_NS) == []

    @pytest.mark.parametrize("start_ns", [0, 1, -(10**18), 2**63 - 1, 2**63, 2**64, 10**22])
    def test_clocks_that_are_wrong(self, store: Store, start_ns: int) -> None:
        """A device without a clock sends 1970, a broken one anything; its spans are kept and can be found by id."""
        backwards = a_span("backwards", span_id=2, start_ns=start_ns, lasts_ns=-(10**9))
        write(store, a_span(start_ns=start_ns, lasts_ns=2**63), backwards)
        assert [(span.start_ns, span.end_ns) for _, span in store.trace(1)] == [
            (start_ns, start_ns + 2**63),
            (start_ns, start_ns - 10**9),
        ]
        assert found(store, operation="backwards", start_ns=-(10**30), end_ns=10**30) == [1]
        assert found(store, service="shop", start_ns=-(10**30), end_ns=10**30) == [1]
        assert sum(rate.calls for rate in store.rates([], -(10**30), 10**30)) == 2

    # ---- Keeping and forgetting -------------------------------------------------------------------------

    def test_the_oldest_make_room(self, small_store: Store) -> None:
        """The backend runs for days; what it holds must not grow, what is new must be there, what went is counted."""
        for n in range(1, self.FLOOD + 1, 50):
            write(small_store, *_two_spans_each(range(n, n + 50), SHOP))
            write(small_store, *_two_spans_each(range(n + 10**6, n + 10**6 + 50), STOCK), resource=STOCK)
        figures, evicted = small_store.figures(), small_store.evicted()
        assert small_store.trace(1) == []
        assert len(small_store.trace(self.FLOOD)) == 2
        assert set(evicted) == {"shop", "stock"}
        assert sum(evicted.values()) == figures["store_evicted_spans_total"] > 0
        assert figures["store_spans"] == 4 * self.FLOOD - sum(evicted.values())
        newest = found(small_store, service="shop", limit=100)
        assert newest == list(range(self.FLOOD, self.FLOOD - 100, -1))
        assert found(small_store, service="shop", end_ns=NOW_NS + 2 * 10**6) == []
        calls = sum(rate.calls for rate in small_store.rates([], 0, FOREVER_NS))
        assert calls == figures["store_spans"]

    def test_names_are_forgotten_with_their_last_span(self, small_store: Store) -> None:
        """Otherwise names that vary would fill the store, and the interface would offer what cannot be found."""
        write(small_store, a_span("once", 10**7), resource=Resource("gone"))
        for n in range(1, self.FLOOD + 1, 50):
            write(small_store, *_two_spans_each(range(n, n + 50), SHOP))
        assert small_store.services() == ["shop"]
        assert small_store.operations("gone") == []

    def test_an_archived_trace_stays(self, small_store: Store) -> None:
        """A trace that somebody put aside is there when the rest of its time is long gone."""
        write(small_store, a_span(trace_id=10**7), a_span("b", 10**7, 2, parent_id=1, attributes={"raw": b"\xff"}))
        assert small_store.archive(10**7) is True
        assert small_store.archive(10**7 + 1) is False
        assert span_ids(small_store.trace(10**7)) == [1, 2]
        for n in range(1, self.FLOOD + 1, 50):
            write(small_store, *_two_spans_each(range(n, n + 50), SHOP))
        assert [(span.name, span.attributes) for _, span in small_store.trace(10**7)] == [
            ("GET", {}),
            ("b", {"raw": b"\xff"}),
        ]

    def test_what_comes_after_archiving_is_there_too(self, store: Store) -> None:
        """A trace may be put aside while it is still coming in, twice if need be."""
        write(store, a_span(trace_id=5, span_id=1))
        assert store.archive(5)
        write(store, a_span(trace_id=5, span_id=2), a_span(trace_id=5, span_id=1))
        assert span_ids(store.trace(5)) == [1, 2]
        assert store.archive(5)
        assert span_ids(store.trace(5)) == [1, 2]
        assert [span_ids(trace) for trace in store.find(TraceQuery())] == [[1, 2]]

    def test_clear_forgets_everything(self, store: Store) -> None:
        """Before a demonstration, or after a mistake; and life goes on."""
        write(store, a_span(trace_id=1), a_span(trace_id=2))
        write(store, a_span(trace_id=1, span_id=2, parent_id=1), resource=STOCK)
        store.archive(1)
        store.clear()
        assert (store.trace(1), store.trace(2), store.find(TraceQuery()), store.services()) == ([], [], [], [])
        assert (store.dependencies(0, FOREVER_NS), store.rates([], 0, FOREVER_NS)) == ([], [])
        assert store.figures()["store_spans"] == store.figures()["store_traces"] == 0
        write(store, a_span(trace_id=1))
        assert (span_ids(store.trace(1)), found(store), store.services()) == ([1], [1], ["shop"])

    def test_figures(self, store: Store) -> None:
        """What the status page shows."""
        before = store.figures()
        assert {"store_spans", "store_traces", "store_bytes", "store_evicted_spans_total"} <= set(before)
        write(
            store, *(a_span(trace_id=n // 2 + 1, span_id=n + 1, attributes={"text": str(n) * 100}) for n in range(2000))
        )
        after = store.figures()
        assert (after["store_spans"], after["store_traces"], after["store_evicted_spans_total"]) == (2000, 1000, 0)
        assert after["store_bytes"] > before["store_bytes"]
        assert all(isinstance(value, int) for value in after.values())
        assert store.evicted() == {}

    # ---- Several at once ----------------------------------------------------------------------------------

    def test_readers_beside_the_writer(self, store: Store) -> None:
        """Pages are looked at while spans come in: everybody sees whole writes, and nobody gets an error."""
        failures: list[BaseException] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                try:
                    newest = store.find(TraceQuery(service="shop", tags={"key": "x"}, limit=5))
                    assert all(len(trace) == 20 for trace in newest)
                    assert len(store.trace(1)) in (0, 20)
                    store.operations("shop")
                    store.dependencies(0, FOREVER_NS)
                    store.rates([], 0, FOREVER_NS)
                    store.figures()
                except BaseException as error:
                    failures.append(error)
                    return

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for trace_id in range(1, 61):
            write(store, *(a_span(f"op{n}", trace_id, n + 1, attributes={"key": "x"}) for n in range(20)))
        stop.set()
        for reader in readers:
            reader.join(timeout=60)
        assert failures == []
        assert store.figures()["store_spans"] == 1200

    def test_readers_while_the_oldest_go(self, small_store: Store) -> None:
        """What makes room may be what somebody is looking at: they get an answer, old or new, not an error."""
        failures: list[BaseException] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                try:
                    for trace in small_store.find(TraceQuery(service="shop", limit=200)):
                        assert len(trace) == 2
                    assert len(small_store.trace(1)) in (0, 2)
                    small_store.rates([], 0, FOREVER_NS)
                except BaseException as error:
                    failures.append(error)
                    return

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for n in range(1, self.FLOOD + 1, 50):
            write(small_store, *_two_spans_each(range(n, n + 50), SHOP))
        stop.set()
        for reader in readers:
            reader.join(timeout=60)
        assert failures == []
        assert len(small_store.trace(self.FLOOD)) == 2


def _two_spans_each(trace_ids: Sequence[int], resource: Resource) -> list[SpanData]:
    """Spans with texts that do not compress, a millisecond apart by trace id."""
    made = []
    for trace_id in trace_ids:
        start_ns = NOW_NS + (trace_id % 10**6) * 10**6
        text = f"{hash((trace_id, 1)):x}{hash((trace_id, 2)):x}{hash((trace_id, 3)):x}"
        made.append(a_span("root", trace_id, 1, start_ns=start_ns, attributes={"text": text}))
        made.append(a_span("child", trace_id, 2, 1, start_ns + 1, attributes={"text": text[::-1]}))
    return made
