"""CPU that autoinstr adds to one client call, with its patches put in and taken out again inside one process.

Two processes of one program differ by some 20 µs per client call by the accident of where their memory lies, which is more than
this agent costs. Here the calls with and without the patches are made by the same process, in blocks of some 15 ms that take
turns; flushing (after every 500 calls, as in ``overhead.py``) is timed for itself and added. Only an agent that can be taken out
can be measured like this, so rivals are not: ``overhead.py`` measures all of them, by processes.

    python benchmarks/toggled.py                        # requests and urlopen, 100 % and 0 %
    python benchmarks/toggled.py --scenarios urlopen --variants autoinstr@0 --pairs 9
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP = 10
#: Calls per block, and pairs of blocks per process.
TURNS = {"requests": (25, 160), "urlopen": (60, 160)}


def measure(scenario: str, block: int, turns: int) -> None:
    """In the process under the agent: print the µs of CPU per call of each pair of blocks, bare and patched, and of flushing."""
    from workloads import FLUSH_EVERY, SCENARIOS

    import autoinstr
    from autoinstr import runtime

    assert runtime.running is not None
    watcher = runtime.running.watcher
    loop = SCENARIOS[scenario]()
    modules = list(dict.fromkeys(patcher.module for patcher in watcher.patchers))

    def take_out() -> None:
        while watcher.patchers:
            watcher.patchers.pop().undo()

    def put_in() -> None:
        for module in modules:
            watcher._on_import(module)

    def timed(work: Callable[[], object]) -> float:
        begin = time.process_time_ns()
        work()
        return (time.process_time_ns() - begin) / 1000

    loop(200)
    autoinstr.flush(10)
    pairs, flushes, unflushed = [], [], 0
    for turn in range(turns):
        sample = {}
        for patched in (turn % 2 == 0, turn % 2 == 1):
            (put_in if patched else take_out)()
            loop(WARM_UP)  # Python learns the changed classes anew.
            sample[patched] = timed(lambda: loop(block)) / block
        pairs.append((sample[False], sample[True]))
        unflushed += block + WARM_UP
        if unflushed >= FLUSH_EVERY:
            flushes.append(timed(lambda: autoinstr.flush(10)) / unflushed)
            unflushed = 0
    print("@pairs", json.dumps({"pairs": pairs, "flushes": flushes}), flush=True)
    os._exit(0)


def added_by_one(pairs: list[tuple[float, float]], flushes: list[float]) -> float:
    """The µs of one process: the median of the blocks, since a neighbour's noise falls on a few of them, and has no sign."""
    return statistics.median(patched - bare for bare, patched in pairs) + statistics.median(flushes)


def main() -> None:
    from measure import (
        MEASURED_CPU,
        Report,
        SampleFailed,
        Spread,
        chosen_variants,
        collector,
        in_words,
        parser,
        peer,
        start_pinned,
        table,
    )

    arguments = parser(__doc__, pairs=5)
    arguments.set_defaults(variants=["autoinstr@100", "autoinstr@0"])
    arguments.add_argument("--scenarios", nargs="+", choices=list(TURNS), default=list(TURNS))
    options = arguments.parse_args()
    variants = chosen_variants(options)
    report = Report("toggled", options)
    with collector() as to, peer("origin.py") as origin:
        for scenario in options.scenarios:
            block, turns = TURNS[scenario]
            samples = report.record["samples"][scenario] = {}
            for variant in variants * options.pairs:
                variables = {**variant.agent.variables(to, variant.rate), "BENCH_ORIGIN": f"http://127.0.0.1:{origin['port']}/stock"}
                command = variant.agent.command("python", "toggled.py", "--inside", scenario, str(block), str(turns))
                process = start_pinned(command, MEASURED_CPU, env=variables, stdout=subprocess.PIPE)
                output = process.communicate(timeout=600)[0]
                mark, _, sample = output.partition(" ")
                if mark != "@pairs":
                    raise SampleFailed(f"{variant.label}: the process ended early with status {process.returncode}")
                samples.setdefault(variant.label, []).append(json.loads(sample))
            rows = []
            for label, processes in samples.items():
                added = Spread([added_by_one(**sample) for sample in processes])
                alone = Spread([statistics.median(bare for bare, _ in sample["pairs"]) for sample in processes])
                rows.append([in_words(label), alone.text(), added.text()])
            report.add(f"One {scenario} call", table(("agent", "bare, µs of CPU", "added µs of CPU (processes: min to max)"), rows))
    report.save()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    main()
