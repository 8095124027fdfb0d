"""The overhead budget: whether the share holds, at any load and while it changes, and what is kept beyond the rate."""

from __future__ import annotations

import random

import pytest

from autoinstr.budget import BudgetSampler, Prices, Reading, Slowness, WatchedSpan, watching
from autoinstr.model import Kind, SpanData, Status
from autoinstr.trace import Tracer, UnsampledSpan

PRICES = Prices(kept_s=15e-6, below_s=4e-6, unkept_s=2e-6, watched_s=8e-6, injected_s=0.0)
SENDING_S = 5e-6


class Service:
    """A program in simulated time: requests of a cost, traced by a sampler."""

    def __init__(self, share: float, seed: int = 1) -> None:
        self.now_ns = 0
        self.reading = Reading()
        self.tracing_s = 0.0
        self.random = random.Random(seed)
        self.sampler = BudgetSampler(share, self.read, lambda: self.now_ns)
        self.sampler.prices = PRICES

    def read(self) -> Reading:
        now = self.reading
        return Reading(now.cpu_s, now.reporting_s, now.kept, now.below, now.unkept, now.watched, now.injected, now.roots, now.roots_kept)

    def serve(self, seconds: float, per_second: float, cpu_s: float, spans: int = 1) -> tuple[float, float]:
        """The share of the CPU that tracing took, and the share of the requests that were kept."""
        before_s, tracing_before_s, kept, count = self.reading.cpu_s, self.tracing_s, 0, int(seconds * per_second)
        for _ in range(count):
            self.now_ns += int(1e9 / per_second)
            trace_id = self.random.getrandbits(128)
            reading = self.reading
            reading.roots += 1
            if self.sampler.decide(trace_id, "GET /") is not None:
                kept += 1
                reading.roots_kept += 1
                reading.kept += 1
                reading.below += spans - 1
                reading.reporting_s += spans * SENDING_S
                cost_s = PRICES.kept_s + (spans - 1) * PRICES.below_s + spans * SENDING_S
            elif self.sampler.is_watched(trace_id):
                reading.watched += 1
                cost_s = PRICES.watched_s
            else:
                reading.unkept += 1
                cost_s = PRICES.unkept_s
            reading.cpu_s += cpu_s + cost_s
            self.tracing_s += cost_s
        return (self.tracing_s - tracing_before_s) / (reading.cpu_s - before_s), kept / count


@pytest.mark.parametrize("per_second", [20, 300, 3000])
@pytest.mark.parametrize("cpu_s", [0.2e-3, 1e-3, 5e-3])
def test_share_holds_at_every_load(per_second: float, cpu_s: float) -> None:
    """A team that allows 1 % would pay 5 % on its busiest service."""
    service = Service(0.02)
    service.serve(20, per_second, cpu_s)
    share, kept = service.serve(60, per_second, cpu_s)
    assert share <= 0.02 * 1.05
    assert share > 0.02 * 0.85 or kept > 0.99  # And what is allowed is used.


def test_share_holds_while_traffic_changes() -> None:
    """Rates that follow too late would break the budget at each change, or starve after it."""
    service = Service(0.02)
    loads = [(100, 5e-3, 1), (2000, 0.3e-3, 1), (50, 10e-3, 20), (1000, 0.5e-3, 4)]
    total = [service.serve(20, *load) for load in loads * 3]
    assert service.tracing_s / service.reading.cpu_s <= 0.02 * 1.05
    assert all(share < 0.02 * 1.6 for share, _ in total)


def test_requests_that_are_not_kept_cost_more_than_the_budget() -> None:
    """The rate would go below 0, or the sampler fail; and nobody would see a single trace."""
    service = Service(0.01)
    service.serve(5, 2000, 50e-6)
    share, kept = service.serve(60, 2000, 50e-6)
    assert share < 0.045  # What cannot be spared: 2 of 52 us.
    assert 0 < kept < 0.001


def test_few_requests_are_all_kept_where_the_budget_allows() -> None:
    """A developer would miss traces on an idle laptop."""
    service = Service(0.05)
    _, kept = service.serve(30, 5, 20e-3)
    assert kept > 0.97


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_share_is_checked(share: float) -> None:
    with pytest.raises(ValueError, match="share of the program's CPU time"):
        BudgetSampler(share, Reading)


def test_clock_and_counts_that_go_back() -> None:
    """After a fork, or on an odd clock, a negative balance would silence the sampler for ever."""
    service = Service(0.02)
    service.serve(10, 300, 1e-3)
    service.reading = Reading()
    service.now_ns -= 5_000_000_000
    service.serve(10, 300, 1e-3)
    _, kept = service.serve(20, 300, 1e-3)
    assert kept > 0.1


class Sink:
    def __init__(self) -> None:
        self.spans: list[SpanData] = []

    def report(self, span: SpanData) -> None:
        self.spans.append(span)


def watched_root(name: str = "GET /") -> tuple[Sink, WatchedSpan]:
    sampler = BudgetSampler(0.5, Reading, lambda: 0)
    sampler._set_rates(0.0, 1.0)
    sink = Sink()
    span = watching(Tracer)(sampler, sink).start_local_root(name, Kind.SERVER, None, "test", True)
    assert isinstance(span, WatchedSpan)
    return sink, span


def test_error_is_kept_beyond_the_rate() -> None:
    """What one looks for in traces first would be missing from most of them."""
    sink, span = watched_root()
    span.set_status(Status.ERROR)
    span.end()
    assert sink.spans == [span]
    assert span.attributes["sampler.reason"] == "error"
    assert (span.tracer.roots_sampled, span.tracer.roots_unsampled) == (1, 0)


def test_request_without_a_reason_is_not_kept() -> None:
    """Watching would be sampling at 100 %."""
    sink, span = watched_root()
    child = span.tracer.start("SELECT", Kind.CLIENT, span)
    assert child.__class__ is UnsampledSpan
    child.end()
    span.end()
    span.end()
    assert sink.spans == []
    assert (span.tracer.roots_sampled, span.tracer.roots_unsampled, span.tracer.finished_unsampled) == (0, 1, 2)


def test_what_is_unusually_slow() -> None:
    """Slow requests would drown in those that are always slow, or ordinary ones be kept as slow."""
    slowness, noise = Slowness(), random.Random(1)
    usual = [int(noise.lognormvariate(0, 0.3) * 1e6) for _ in range(20_000)]
    unusual = sum(slowness.is_unusual("GET /", duration) for duration in usual)
    assert unusual < len(usual) * 0.01
    assert slowness.is_unusual("GET /", 10_000_000)
    assert not slowness.is_unusual("GET /report", 10_000_000)


def test_many_operations_are_bounded() -> None:
    """Names made of ids would fill the memory."""
    slowness = Slowness()
    for number in range(5000):
        slowness.is_unusual(f"GET /{number}", 1)
    assert len(slowness._seen) <= 1001
