"""The order of runs: what keeps a drifting machine from being taken for an agent's cost."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.bench import plan
from autoinstr.bench.parts import AGAIN, BASE, RATE, SATURATION, Cell, Refusal, Timing

CELL = Cell("hello", "flask", SATURATION, 16)
names = st.lists(st.sampled_from(["off", "const:0", "prob:0.1", "const:1", "otel", "burn:50"]), unique=True)


@given(names, st.integers(0, 50), st.integers())
def test_drift_cancels(others: list[str], number: int, seed: int) -> None:
    """A machine that gets slower would make variants that come later look dearer."""
    block = plan.block(CELL, number, plan.with_bases(others), seed)
    positions: dict[str, list[int]] = {}
    for one in block:
        positions.setdefault(one.variant, []).append(one.position)
    assert {statistics.mean(found) for found in positions.values()} == {(len(block) - 1) / 2}
    assert {len(found) for found in positions.values()} == {2}
    assert (block[0].variant, block[-1].variant) == (BASE, BASE)
    assert [one.position for one in block] == list(range(len(block)))


def test_order_changes_from_block_to_block() -> None:
    """What one variant leaves behind always meets the same next one."""
    variants = plan.with_bases(["off", "const:0", "prob:0.1", "const:1"])
    orders = {tuple(one.variant for one in plan.block(CELL, number, variants, 1)) for number in range(20)}
    assert len(orders) > 15


def test_seed_decides() -> None:
    """A campaign cannot be planned again to be gone on with, or every campaign has the same order."""
    variants = plan.with_bases(["off", "const:0", "prob:0.1", "const:1"])
    cells = [CELL, Cell("hello", "flask", SATURATION, 128)]
    first, again, other = (list(plan.blocks(cells, variants, 4, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_longer_campaigns_begin_alike() -> None:
    """A campaign that is made longer would have to run its first blocks again."""
    variants = plan.with_bases(["const:1"])
    assert list(plan.blocks([CELL], variants, 8, 1))[:3] == list(plan.blocks([CELL], variants, 3, 1))


def test_keys_are_unique() -> None:
    """A resumed campaign would take one run for another."""
    cells = plan.cells({"hello": ("flask", "fastapi")}, [], [SATURATION, RATE], [1, 16], [0.3, 0.6])
    assert len(cells) == 2 * 2 * 3
    runs = [one.key for block in plan.blocks(cells, plan.with_bases(["off"]), 3, 1) for one in block]
    assert len(set(runs)) == len(runs) == 12 * 6 * 3


def test_bases_are_always_there() -> None:
    """Without bare runs nothing can be compared; without bare against bare nobody knows the error."""
    assert plan.with_bases([]) == (BASE, AGAIN)
    assert plan.with_bases(["off", BASE, AGAIN, "off"]) == (BASE, "off", AGAIN)


def test_scenario_without_a_framework() -> None:
    """A campaign silently leaves out what was asked for."""
    with pytest.raises(Refusal, match="asgi_concurrent does not run on flask; it runs on: fastapi"):
        plan.cells({"asgi_concurrent": ("fastapi",)}, ["flask"], [SATURATION], [1], [])


def test_too_much() -> None:
    """A typing error plans a year of runs."""
    with pytest.raises(Refusal, match="more than 100,000 runs"):
        list(plan.blocks([CELL], plan.with_bases([]), 1_000_000, 1))


def test_time_needed() -> None:
    """The estimate that is printed is not that of what runs."""
    timing = Timing(warm_up_s=5, window_s=8, idle_s=1)
    assert plan.seconds_of_run(timing) == 16
    assert plan.seconds_of_block(plan.with_bases(["off"]), timing) == 6 * 16
    assert [plan.in_words(seconds) for seconds in (40, 720, 12_000)] == ["40 s", "12 min", "3 h 20 min"]
