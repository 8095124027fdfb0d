"""When requests are due: an absolute schedule, the same for everybody who knows its kind, rate and seed.

Owns: the arrivals, and how workers share them. Must not know: clocks, users, Locust.
Invariants: the schedule does not depend on what the server does (open load); worker k of n has the arrivals k, k + n, k + 2n …,
so that together the workers send every arrival once, whatever their number.

Why absolute: pacing after the last answer skips what was due during a stall, and with it the stall ("coordinated omission",
G. Tene; see docs/bench.md).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

from autoinstr.bench.parts import Refusal

POISSON, UNIFORM = "poisson", "uniform"
KINDS = (POISSON, UNIFORM)


def arrivals(kind: str, per_second: float, seed: int, worker: int = 0, workers: int = 1) -> Iterator[float]:
    """Seconds after the start at which requests of this worker are due, without end.

    poisson: independent users, gaps exponentially distributed (the same seed gives the same gaps); uniform: every
    1/``per_second``, seed unused. Raises Refusal for a kind or rate that there is not, ValueError for a worker that there is not.
    """
    check(kind, per_second)
    if not 0 <= worker < workers:
        raise ValueError(f"There is no worker {worker} among {workers}.")
    every = _poisson(per_second, seed) if kind == POISSON else _uniform(per_second)
    return itertools.islice(every, worker, None, workers)


def check(kind: str, per_second: float) -> None:
    """Raises Refusal for a kind of arrivals or a rate that there is not."""
    if kind not in KINDS:
        raise Refusal(f"There are no {kind!r} arrivals: choose {' or '.join(KINDS)}.")
    if not (math.isfinite(per_second) and per_second > 0):
        raise Refusal(f"A rate of {per_second} requests per second cannot be kept: give a number above 0.")


def _poisson(per_second: float, seed: int) -> Iterator[float]:
    gaps = random.Random(seed)  # noqa: S311 - a repeatable schedule, no secret.
    return itertools.accumulate(gaps.expovariate(per_second) for _ in itertools.count())


def _uniform(per_second: float) -> Iterator[float]:
    """Each by a division of its own: adding up gaps would drift."""
    return (number / per_second for number in itertools.count())
