"""Which runs a campaign makes, and in which order.

Owns: the matrix of cells, mirrored blocks, their order, how long all of it takes.
Must not know: processes, files, results.
Invariants: pure; the same seed gives the same order; the order of a block does not depend on how many blocks there are, so a
campaign can be resumed and made longer. Every variant of a block has the same mean position in time, so that a linear drift
of the machine cancels; a new order in each block spreads what one run leaves behind for the next (Abedi and Brecht, ICPE
2017, on why anything else finds differences where there are none).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from autoinstr.bench.parts import AGAIN, BASE, RATE, SATURATION, Cell, Planned, Refusal, Timing

#: Longer campaigns are split by their users; this bounds what a typing error costs.
MAX_RUNS = 100_000

#: What a run takes beside warm-up, window and idle time: start of program and generator, draining, stopping.
SECONDS_BESIDE = 2.0


def cells(
    frameworks_of: Mapping[str, Sequence[str]],
    frameworks: Sequence[str],
    modes: Sequence[str],
    concurrencies: Sequence[int],
    loads: Sequence[float],
) -> tuple[Cell, ...]:
    """The matrix. ``frameworks_of`` has the scenarios with the frameworks that can serve each.

    Raises Refusal where a scenario runs on none of the frameworks.
    """
    found: list[Cell] = []
    for scenario, able in frameworks_of.items():
        chosen = [name for name in frameworks if name in able] if frameworks else list(able)
        if not chosen:
            raise Refusal(
                f"scenario {scenario} does not run on {', '.join(frameworks)}; it runs on: {', '.join(able)}"
            )
        for framework in chosen:
            for concurrency in concurrencies:
                if SATURATION in modes:
                    found.append(Cell(scenario, framework, SATURATION, concurrency))
                if RATE in modes:
                    found.extend(Cell(scenario, framework, RATE, concurrency, load) for load in loads)
    return tuple(found)


def with_bases(variants: Sequence[str]) -> tuple[str, ...]:
    """The bare program first, then the variants in the order given, then the bare program again."""
    others = dict.fromkeys(name for name in variants if name not in (BASE, AGAIN))
    return (BASE, *others, AGAIN)


def block(cell: Cell, number: int, variants: Sequence[str], seed: int) -> tuple[Planned, ...]:
    """One mirrored block: base, v1 … vk, vk … v1, base; ``variants`` begins with the base."""
    others = list(variants[1:])
    random.Random(f"{seed}|{cell}|{number}").shuffle(others)  # noqa: S311 (an order, not a secret)
    half = [variants[0], *others]
    return tuple(Planned(cell, number, position, name) for position, name in enumerate(half + half[::-1]))


def blocks(
    all_cells: Sequence[Cell], variants: Sequence[str], count: int, seed: int
) -> Iterator[tuple[Planned, ...]]:
    """Blocks of all cells in turn, ``count`` times, the cells in a new order each time."""
    if count * len(all_cells) * len(variants) * 2 > MAX_RUNS:
        raise Refusal(f"more than {MAX_RUNS:,} runs: choose fewer cells, variants or blocks")
    for number in range(count):
        order = list(all_cells)
        random.Random(f"{seed}|cells|{number}").shuffle(order)  # noqa: S311
        for cell in order:
            yield block(cell, number, variants, seed)


def seconds_of_run(timing: Timing) -> float:
    """What a run takes when its window is steady at once."""
    return timing.warm_up_s + timing.window_s + timing.idle_s + SECONDS_BESIDE


def seconds_of_block(variants: Sequence[str], timing: Timing) -> float:
    return 2 * len(variants) * seconds_of_run(timing)


def in_words(seconds: float) -> str:
    """A duration for people: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
