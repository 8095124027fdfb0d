"""``autoinstr bench soak``: whether memory grows under steady load.

Owns: long runs of bare and of one variant, memory against requests served, the verdict flat, growing or inconclusive.
Must not know: what the requests are, how they are made, how CPU is measured.
Invariants: growth is per request, never per second, so it does not depend on the rate; "flat" is said only when the whole
interval lies below a limit stated beforehand (the absence of proof of growth is no proof of flatness); a program that grows
without tracing, too, is not held against the variant.

The slope is Theil-Sen's over medians of equal parts of the run, its start left out: caches fill and pools grow there. Memory
remembers, so neighbouring medians are alike, and Sen's interval, made for independent points, is too narrow. It is widened to
what Student's t says of the growth from one eighth of the run to the next, which is right where memory is a random walk.
In simulated runs of 600,000 requests this interval covers the truth in 95 to 100 %, Sen's own in 22 to 99 %
(tests/bench/test_soak.py).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from autoinstr.bench import load, machine, probe, rivals, scenarios, stats, validity, variants
from autoinstr.bench.parts import (
    BASE,
    BROKEN,
    INCONCLUSIVE,
    INVALID,
    PASSED,
    RATE,
    SATURATION,
    Estimate,
    Refusal,
    Variant,
    to_json,
)
from autoinstr.bench.plan import in_words
from autoinstr.bench.sink import Sink
from autoinstr.bench.target import COUNTER_PORTS, Target, TargetFailed, free_port, nothing_left

MINUTES = 20.0
#: KB per 1,000 requests: about one byte a request.
LIMIT_KB = 1.0
KB = 1024.0
#: Of the run, at its start, in which memory may grow.
WARM_UP = 0.2
PARTS = 40
#: Fewer medians than this make no trend.
FEWEST_PARTS = 10
#: Parts whose growth is compared; the points of the trend must be more.
STEPS = 8
#: How often memory is looked at: so many times in a run, but no more than ten times and no less than once in 5 seconds.
LOOKS = 600
SHORTEST_S, LONGEST_S = 0.1, 5.0
#: Half of what bare can do at most: steady, and no queue grows.
SHARE_OF_MOST = 0.5
CALIBRATION_S = 5
#: Spans may still be on their way.
STOP_S = 15.0

FLAT, GROWING, UNCLEAR, TOO_FEW = "flat", "growing", "inconclusive", "too short"
_STATUS = {FLAT: PASSED, GROWING: BROKEN, UNCLEAR: INCONCLUSIVE, TOO_FEW: INCONCLUSIVE}


@dataclass(frozen=True)
class Growth:
    """What the memory of one run did.

    ``slope`` is in KB per 1,000 requests, None for a run that was too short. ``series`` has the points (requests served so far,
    resident bytes of all processes), warm-up included.
    """

    variant: str
    verdict: str
    slope: Estimate | None
    requests: int
    errors: int
    per_second: float
    begin_bytes: int
    end_bytes: int
    series: tuple[tuple[float, int], ...]


def judged(
    variant: str, series: Sequence[tuple[float, int]], limit_kb: float, *, errors: int = 0, seconds: float = 1.0
) -> Growth:
    """The verdict on a series of (requests so far, resident bytes); ``seconds`` is how long it took."""
    requests = series[-1][0] if series else 0.0
    steady = [point for point in series if point[0] >= WARM_UP * requests]
    medians = _medians(steady)
    slope = None
    verdict = TOO_FEW
    if len(medians) >= FEWEST_PARTS:
        slope = slope_kb(medians)
        verdict = FLAT if slope.high < limit_kb else GROWING if slope.low > limit_kb else UNCLEAR
    return Growth(
        variant=variant,
        verdict=verdict,
        slope=slope,
        requests=round(requests),
        errors=errors,
        per_second=requests / seconds,
        begin_bytes=steady[0][1] if steady else 0,
        end_bytes=steady[-1][1] if steady else 0,
        series=tuple(series),
    )


def _medians(points: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """One point for each of ``PARTS`` parts with equally many looks."""
    size = max(1, math.ceil(len(points) / PARTS))
    parts = [points[at : at + size] for at in range(0, len(points), size)]
    medians = [(median(x for x, _ in part), float(median(y for _, y in part))) for part in parts]
    return medians if len({x for x, _ in medians}) > 1 else []


def slope_kb(points: Sequence[tuple[float, float]]) -> Estimate:
    """Growth in KB per 1,000 requests with its 95 % interval, from (requests, bytes)."""
    slope, steps = stats.theil_sen([x for x, _ in points], [y for _, y in points]), _steps(points)
    unit = 1000 / KB
    return Estimate(slope.mean * unit, min(slope.low, steps.low) * unit, max(slope.high, steps.high) * unit)


def _steps(points: Sequence[tuple[float, float]]) -> Estimate:
    """The mean growth per request over ``STEPS`` parts of the run, one after the other."""
    edges = [points[round(number * (len(points) - 1) / STEPS)] for number in range(STEPS + 1)]
    return stats.t_interval([(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.pairwise(edges)])


# ---- Runs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What both runs share."""

    scenario: scenarios.Scenario
    framework: scenarios.Framework
    cores: machine.Cores
    sink: Sink
    origin: str
    users: int
    folder: Path
    seed: int = 1

    def server(self, variant: Variant, host: str) -> Target:
        """The service under a variant, once it answers at ``host``. Raises TargetFailed."""
        port, metrics_port = int(host.rpartition(":")[2]), free_port(COUNTER_PORTS)
        addresses: dict[str, int | str] = {
            "http": self.sink.url,
            "http_port": self.sink.http_port,
            "udp_port": self.sink.udp_port,
            "metrics_port": metrics_port,
        }
        return Target.start(
            variants.command(variant, self.framework.command(port), addresses),
            variants.environment(variant, addresses, self.framework.environment(self.origin)),
            url=host + self.scenario.path,
            log=self.folder / "server.log",
            cpus=self.cores.server or None,
            folder=self.framework.folder,
        )

    def generator(self, host: str, mode: str, rate: float | None) -> load.Generator:
        """Load on the service. Raises GeneratorFailed, Refusal."""
        return load.Generator.start(
            self.scenario.locustfile,
            host,
            users=self.users,
            mode=mode,
            rate=rate,
            seed=self.seed,
            cpus=self.cores.generator or None,
            folder=self.folder / "generator",
        )


def most_per_second(setting: Setting, seconds: int = CALIBRATION_S) -> float:
    """Requests per second of the bare program at saturation. Raises TargetFailed, GeneratorFailed."""
    with contextlib.ExitStack() as stack:
        host = _host()
        server = setting.server(variants.parse(BASE), host)
        stack.callback(server.kill)
        generator = setting.generator(host, SATURATION, None)
        stack.callback(generator.kill)
        deadline = time.monotonic() + 10 * seconds + 10
        while len(slots := generator.slots()) < seconds + 1:
            server.check()
            if time.monotonic() > deadline:
                raise load.GeneratorFailed("the program made no answers while it was tried how many it can make")
            time.sleep(0.1)
        generator.stop()
        server.stop(STOP_S)
    return median(slot.requests / slot.seconds for slot in slots[1:])


def soak(
    setting: Setting,
    variant: Variant,
    seconds: float,
    rate: float,
    limit_kb: float,
    say: Callable[[str], None] = lambda line: None,
) -> Growth:
    """One run under steady load. Raises TargetFailed, GeneratorFailed, and Refusal (invalid) where requests failed."""
    with contextlib.ExitStack() as stack:
        host = _host()
        server = setting.server(variant, host)
        stack.callback(server.kill)
        generator = setting.generator(host, RATE, rate)
        stack.callback(generator.kill)
        looks = _watched(server, generator, setting.sink, seconds, lambda line: say(f"{variant.name}: {line}"))
        slots = generator.slots()
        final = generator.stop()
        server.stop(STOP_S)
    if final.all_errors > validity.MOST_ERRORS * max(final.all_requests, 1):
        kinds = ", ".join(f"{count} × {kind}" for kind, count in final.kinds.items())
        raise Refusal(
            f"{final.all_errors} of {final.all_requests} requests failed under {variant.name} ({kinds}):"
            " what grows then is not what is asked about; try a lower --rate",
            INVALID,
        )
    return judged(variant.name, _by_requests(looks, slots), limit_kb, errors=final.all_errors, seconds=seconds)


def _host() -> str:
    return f"http://127.0.0.1:{free_port()}"


def _watched(
    server: Target, generator: load.Generator, sink: Sink, seconds: float, say: Callable[[str], None]
) -> list[tuple[float, int]]:
    """(epoch second, resident bytes of all processes of the server), for so many seconds."""
    interval_s = min(max(seconds / LOOKS, SHORTEST_S), LONGEST_S)
    looks: list[tuple[float, int]] = []
    begun = time.monotonic()
    due, told = begun, begun
    while (now := time.monotonic()) < begun + seconds:
        server.check()
        generator.slots()
        looks.append((time.time(), probe.memory(server.pids(), with_pss=False).rss_bytes))
        if now - told >= 10:
            told = now
            # The sink keeps what comes until it is asked.
            sink.take()
            say(f"{looks[-1][1] / 2**20:.1f} MiB, {in_words(begun + seconds - now)} left")
        due += interval_s
        time.sleep(max(0.0, due - time.monotonic()))
    return looks


def _by_requests(looks: Sequence[tuple[float, int]], slots: Sequence[load.Slot]) -> list[tuple[float, int]]:
    """The looks by requests served so far, linear within a slot; those before the first and after the last are left out."""
    if not slots:
        return []
    ends = [float(slot.end_s) for slot in slots]
    served = [0.0]
    for slot in slots:
        served.append(served[-1] + slot.requests)
    found = []
    for at_s, size in looks:
        number = bisect_left(ends, at_s)
        share = at_s - (ends[number] - 1) if number < len(slots) else -1.0
        if 0 <= share <= 1:
            found.append((served[number] + share * slots[number].requests, size))
    return found


# ---- The command -----------------------------------------------------------------------------------


def main(words: list[str]) -> int:
    """Carry out ``autoinstr bench soak words``; the exit status. Raises Refusal."""
    options = _parser().parse_args(words)
    if not options.minutes > 0 or not options.limit_kb > 0 or (options.rate is not None and not options.rate > 0):
        raise Refusal("--minutes, --limit-kb and --rate must be more than 0")
    variant = variants.parse(options.variant)
    missing = rivals.missing([variant])
    if missing:
        raise Refusal(missing)
    scenario = scenarios.find(options.scenario)
    framework = scenarios.find_framework(options.framework, scenario)
    if not scenario.is_measurable:
        raise Refusal(f"scenario {scenario.name} sets its own load: choose another one")
    cores = machine.cores(options.server_cpus, options.generator_cpus)
    seconds = options.minutes * 60
    todo = [variant] if variant.name == BASE or options.without_bare else [variants.parse(BASE), variant]
    _progress(f"{len(todo)} runs of {in_words(seconds)} each")
    with contextlib.ExitStack() as stack:
        stack.enter_context(nothing_left())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoinstr-bench-")))
        sink = stack.enter_context(Sink.start(cores.generator or None))
        origin = stack.enter_context(scenarios.start_origin(cores.generator)).url if scenario.needs_origin else ""
        setting = Setting(scenario, framework, cores, sink, origin, options.users, folder, options.seed)
        try:
            rate = options.rate or SHARE_OF_MOST * most_per_second(setting)
            found = [soak(setting, one, seconds, rate, options.limit_kb, _progress) for one in todo]
        except (TargetFailed, load.GeneratorFailed) as error:
            raise Refusal(str(error), INVALID) from None
    if options.json:
        print(json.dumps(as_json(found, rate, options.limit_kb), indent=1))
    else:
        print(as_text(found, rate, options.limit_kb))
    return status_of(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("autoinstr bench soak", description="Whether memory grows under steady load.")
    parser.add_argument("--variant", default="const:1", metavar="NAME", help="default: const:1; bare is measured first")
    parser.add_argument("--without-bare", action="store_true", help="only the variant: half the time")
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help=f"of each run; default: {MINUTES:g}")
    parser.add_argument("--scenario", default="hello", help="default: hello")
    parser.add_argument("--framework", default="flask", help="default: flask")
    parser.add_argument("--rate", type=float, metavar="N", help="requests per second; default: half of what bare can do")
    parser.add_argument("--users", type=int, default=16, help="most requests at once; default: 16")
    limit = f"KB per 1,000 requests that still count as flat; default: {LIMIT_KB:g} (a byte a request)"
    parser.add_argument("--limit-kb", type=float, default=LIMIT_KB, metavar="X", help=limit)
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals; default: 1")
    parser.add_argument("--server-cpus", metavar="0", help="default: the first one")
    parser.add_argument("--generator-cpus", metavar="1", help="default: all others")
    parser.add_argument("--json", action="store_true", help="figures and series as JSON")
    return parser


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def status_of(found: Sequence[Growth]) -> int:
    """The exit code. A variant that grows on a program that grows without it as well is inconclusive."""
    last = found[-1]
    if last.verdict == GROWING and _grows_bare(found):
        return INCONCLUSIVE
    return _STATUS[last.verdict]


def _grows_bare(found: Sequence[Growth]) -> bool:
    return found[0].variant == BASE and len(found) > 1 and found[0].verdict == GROWING


def as_json(found: Sequence[Growth], rate: float, limit_kb: float) -> dict[str, Any]:
    """Everything, with the series."""
    runs: Sequence[Mapping[str, Any]] = to_json(tuple(found))
    return {
        "machine": machine.machine(),
        "target_per_second": rate,
        "limit_kb_per_1000_requests": limit_kb,
        "runs": runs,
        "status": status_of(found),
    }


def as_text(found: Sequence[Growth], rate: float, limit_kb: float) -> str:
    """The table for people, and the verdict in words."""
    lines = [f"{'variant':<16} {'requests':>10} {'MiB, begin':>11} {'MiB, end':>9}  KB per 1,000 requests, 95 % interval"]
    for one in found:
        slope = f"{one.slope.mean:+.3f} [{one.slope.low:+.3f}, {one.slope.high:+.3f}]" if one.slope else "-"
        begin, end = one.begin_bytes / 2**20, one.end_bytes / 2**20
        lines.append(f"{one.variant:<16} {one.requests:>10,} {begin:>11.1f} {end:>9.1f}  {slope}")
    lines.append(f"at {rate:.0f} requests/s; the first {WARM_UP:.0%} of each run is left out")
    lines.append(verdict_text(found, limit_kb))
    return "\n".join(lines)


def verdict_text(found: Sequence[Growth], limit_kb: float) -> str:
    """What holds, and what to do where nothing does."""
    last = found[-1]
    if last.verdict == FLAT:
        return f"{last.variant}: flat: memory grows by less than {limit_kb:g} KB per 1,000 requests"
    if last.verdict == GROWING:
        if _grows_bare(found):
            return f"{last.variant}: inconclusive: the program's memory grows without tracing, too; choose another program"
        return f"{last.variant}: growing: memory grows by more than {limit_kb:g} KB per 1,000 requests"
    if last.verdict == UNCLEAR:
        return f"{last.variant}: inconclusive: the interval reaches over {limit_kb:g} KB per 1,000 requests; more --minutes"
    return f"{last.variant}: inconclusive: too few requests for a trend; more --minutes"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
