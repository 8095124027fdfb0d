"""``autoinstr bench doctor``: is this machine fit to measure, and what can it tell apart?

Owns: the checks, their advice, the report for people and (``--json``) for machines.
Must not know: how anything is measured; it asks the modules that do.
Invariants: every trouble comes with what to do; a check that fails is a finding, and the others still run; the limits are
those by which runs are judged (``validity``), so that what passes here is not thrown out there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoinstr.bench import load, machine, probe, rivals, target, validity
from autoinstr.bench.parts import INVALID, PASSED, Difference, NoiseFigures, Refusal, Timing, to_json
from autoinstr.bench.plan import in_words, seconds_of_run
from autoinstr.bench.sink import Sink

OK, NOTE, TROUBLE = "ok", "note", "trouble"
MARKS = {OK: "ok  ", NOTE: "note", TROUBLE: "!!  "}

#: For bare against bare; with the other checks it comes to about three minutes.
SECONDS = 150.0
NOISE_S = 5.0
CEILING_S = 3.0
#: A service's own most must be so many times less, so that it is the service that is saturated.
CEILING_OVER_SERVICE = 3
#: Short runs: many blocks tell more than long ones here.
TIMING = Timing(warm_up_s=2.0, warm_up_requests=500, window_s=3, idle_s=0.3, extensions=0)
#: Runs of a block: bare and bare again, mirrored.
RUNS_OF_BLOCK = 4
FEWEST_BLOCKS = 2
#: The half-width (percent of bare) above which nothing that matters can be seen, and above which it takes long.
COARSE, BAD = 2.0, 5.0
#: Less than this (percent) between bare and bare is no trouble, even where it is beyond chance.
LEAST_DIFFERENCE = 1.0
#: Share of time in which something waited for a CPU.
MOST_PRESSURE = 0.05
#: A tick of the clock that is more than this share of a window's CPU is too coarse for µs per request.
COARSEST_CLOCK_NS = 1e6
PACKAGES = ("locust", "gevent", "geventhttpclient", "hdrhistogram", "psutil", "jinja2")

STEAL, OTHERS = BUSY = ("steal", "other processes")

#: ``again(seconds, say)``: bare against bare for about so long, the difference, or None where it could not be measured.
Again = Callable[[float, Callable[[str], None]], "Difference | None"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``state`` is ok, note or trouble; ``advice`` says what to do."""

    about: str
    state: str
    text: str
    advice: str = ""


@dataclass
class Report:
    """All that was found, and the figures behind it."""

    machine: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    server_cpus: list[int] = field(default_factory=list)
    generator_cpus: list[int] = field(default_factory=list)
    noise: NoiseFigures | None = None
    ceiling_per_second: float | None = None
    again: Difference | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_fit(self) -> bool:
        """Whether nothing is in the way of measuring."""
        return all(finding.state != TROUBLE for finding in self.findings)


def main(words: list[str], again: Again | None = None) -> int:
    """Carry out ``autoinstr bench doctor words``; the exit status: 0 fit, 4 unfit. Raises Refusal for wrong use."""
    parser = argparse.ArgumentParser("autoinstr bench doctor", description="Is this machine fit to measure?")
    text = f"for comparing bare with bare (default: {SECONDS:g}); 0: do not"
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="N", help=text)
    parser.add_argument("--server-cpus", metavar="0", help="of the program; default: the first one")
    parser.add_argument("--generator-cpus", metavar="1", help="of the load generator; default: all others")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    options = parser.parse_args(words)
    if not options.seconds >= 0:
        raise Refusal("--seconds must be 0 or more")
    report = examine(options.seconds, options.server_cpus, options.generator_cpus, again)
    if options.json:
        print(json.dumps(as_json(report), indent=1))
    else:
        print(as_text(report))
    return PASSED if report.is_fit else INVALID


def examine(
    seconds: float,
    server_cpus: str | None = None,
    generator_cpus: str | None = None,
    again: Again | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Look at everything. A check that fails is a finding."""
    report = Report(machine=machine.machine())
    report.fingerprint = machine.fingerprint(report.machine)
    say = say or _progress
    cores = _cores(report, server_cpus, generator_cpus)
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("machine", lambda: check_machine(report.machine)),
        ("packages", check_packages),
        ("rivals", check_rivals),
        ("clock", check_clock),
    ]
    if cores is not None:
        found = cores
        checks += [
            ("pinning", lambda: check_pinning(found)),
            ("noise", lambda: check_noise(report, found, say)),
            ("sink", lambda: check_sink(found)),
            ("generator", lambda: check_ceiling(report, found, say)),
        ]
        if seconds:
            checks.append(("A/A", lambda: check_again(report, seconds, again or _campaign_again(report, found), say)))
    for about, check in checks:
        report.findings += _guarded(about, check)
    return report


def _cores(report: Report, server_cpus: str | None, generator_cpus: str | None) -> machine.Cores | None:
    try:
        cores = machine.cores(server_cpus, generator_cpus)
    except Refusal as refusal:
        report.findings.append(Finding("cores", TROUBLE, str(refusal), "without that nothing can be measured here"))
        return None
    report.server_cpus, report.generator_cpus = sorted(cores.server), sorted(cores.generator)
    return cores


def _guarded(about: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(check())
    except Refusal as refusal:
        found.append(Finding(about, TROUBLE, str(refusal), "see what it says"))
    except Exception as error:
        text = f"this check failed: {type(error).__name__}: {error}"
        found.append(Finding(about, TROUBLE, text, "report this as a bug, with the output of --json"))
    return found


# ---- What stands still -----------------------------------------------------------------------------


def check_machine(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """What kind of machine it is, and what of it makes figures vary."""
    cpu, python = facts["cpu"], facts["python"]
    memory = f"{facts['memory_bytes'] / 2**30:.0f} GiB" if facts["memory_bytes"] else "unknown memory"
    text = f"{cpu['model']}, {cpu['cores']} CPUs, {memory}, {facts['system']} {facts['kernel']}"
    yield Finding("machine", OK, f"{text}, {python['implementation']} {python['version']}")
    if facts["virtualisation"]:
        text = "a virtual machine: its neighbours' load comes and goes"
        yield Finding("machine", NOTE, text, "compare within one campaign only; take more blocks")
    if cpu["governor"] not in (None, "performance"):
        text = f"the CPU's frequency is governed by {cpu['governor']!r}: it depends on the load"
        yield Finding("machine", NOTE, text, "as root: cpupower frequency-set -g performance")
    if cpu["boost"]:
        yield Finding("machine", NOTE, "the CPU boosts its clock: it depends on the temperature", _advice_on_boost())
    limit = facts["cgroup"]["cpu_limit_cores"]
    if limit is not None and limit < (cpu["allowed"] or 1):
        text = f"the control group may use {limit:g} CPUs of {cpu['allowed']}: it will be throttled"
        yield Finding("machine", TROUBLE, text, "lift the limit, or limit by cpuset instead of by quota")
    if python["is_debug"]:
        yield Finding("machine", TROUBLE, "this Python was built for debugging", "measure with a release build")


def _advice_on_boost() -> str:
    if Path("/sys/devices/system/cpu/intel_pstate/no_turbo").exists():
        return "as root: echo 1 > /sys/devices/system/cpu/intel_pstate/no_turbo"
    return "as root: echo 0 > /sys/devices/system/cpu/cpufreq/boost"


def check_packages() -> Iterator[Finding]:
    """Whether all that the harness needs is installed."""
    found = machine.versions(PACKAGES)
    missing = [name for name in PACKAGES if name not in found]
    if missing:
        text = f"not installed: {', '.join(missing)}"
        yield Finding("packages", TROUBLE, text, "pip install 'autoinstr[bench]'")
    else:
        yield Finding("packages", OK, ", ".join(f"{name} {version}" for name, version in found.items()))


def check_rivals() -> Iterator[Finding]:
    """Which other agents can be compared with."""
    for name, rival in rivals.RIVALS.items():
        if rivals.is_installed(name):
            yield Finding("rivals", OK, f"{name}: {rival.title} is installed")
        else:
            advice = f"to compare with it: autoinstr bench rivals --install {name}"
            yield Finding("rivals", NOTE, f"{name}: {rival.title} is not installed", advice)


def check_clock() -> Iterator[Finding]:
    """How finely a process's CPU is counted."""
    step_ns = probe.cpu_resolution_ns()
    text = f"CPU of processes is counted in steps of {step_ns:,.0f} ns"
    if step_ns <= COARSEST_CLOCK_NS:
        yield Finding("clock", OK, text)
    else:
        yield Finding("clock", NOTE, f"{text}: windows must be long", "--window 30; or measure on Linux")


def check_pinning(cores: machine.Cores) -> Iterator[Finding]:
    """Whether a process stays where it is put, and its CPU can be read from outside."""
    if not cores.can_pin:
        text = "this system cannot pin processes to CPUs: program and load generator share them"
        yield Finding("pinning", NOTE, text, "figures of CPU hold; take those of latency and throughput on Linux")
        return
    for who, cpus in (("the program", cores.server), ("the load generator", cores.generator)):
        with _sleeper(cpus) as process:
            found = os.sched_getaffinity(process.pid)
            probe.cpu_ns(process.pid)
        if found == cpus:
            yield Finding("pinning", OK, f"{who} runs on CPU {','.join(map(str, sorted(cpus)))}")
        else:
            text = f"{who} was put on CPU {sorted(cpus)}, and may run on {sorted(found)}"
            yield Finding("pinning", TROUBLE, text, "something moves processes between CPUs (a cpuset?): end that")


@contextlib.contextmanager
def _sleeper(cpus: frozenset[int]) -> Iterator[subprocess.Popen[bytes]]:
    with target.pinned(cpus):
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # noqa: S603 (a wait)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---- What moves ------------------------------------------------------------------------------------


def check_noise(
    report: Report, cores: machine.Cores, say: Callable[[str], None], seconds: float = NOISE_S
) -> Iterator[Finding]:
    """What else goes on on the CPUs in use, while we do nothing."""
    say(f"listening for {in_words(seconds)}")
    with probe.Noise(cores.server | cores.generator or range(os.cpu_count() or 1)) as noise:
        time.sleep(seconds)
    report.noise = noise.figures()
    yield from judged_noise(report.noise)


def judged_noise(noise: NoiseFigures) -> Iterator[Finding]:
    """By the limits above which runs are invalid."""
    steal, others = validity.STEAL_LIMITS[0], validity.OTHERS_LIMITS[0]
    yield _compared(
        STEAL,
        noise.steal,
        steal,
        "the hypervisor took {:.1%} of the CPUs' time",
        "measure at a quieter time, or on a machine of your own",
    )
    yield _compared(
        OTHERS,
        noise.other_cores,
        others,
        "other processes used {:.1%} of a core",
        "end them (top shows which they are), or give other CPUs with --server-cpus and --generator-cpus",
    )
    if noise.psi is not None:
        is_high = noise.psi > MOST_PRESSURE
        text = f"something waited for a CPU {noise.psi:.1%} of the time"
        yield Finding("pressure", NOTE if is_high else OK, text, "the machine has more to do than it can: see above" if is_high else "")
    if noise.throttled:
        text = f"the control group was throttled {noise.throttled} times"
        yield Finding("throttling", TROUBLE, text, "lift its quota, or limit by cpuset instead")


def _compared(about: str, value: float | None, limit: float, text: str, advice: str) -> Finding:
    if value is None:
        return Finding(about, NOTE, "the system does not say", "nothing: runs cannot be judged by it here")
    if value <= limit:
        return Finding(about, OK, text.format(value))
    return Finding(about, TROUBLE, f"{text.format(value)}, which spoils runs above {limit:.0%}", advice)


def check_sink(cores: machine.Cores) -> Iterator[Finding]:
    """Whether the counting collector starts, takes a span and counts it."""
    import urllib.request

    span = [{"traceId": "1" * 32, "id": "2" * 16, "name": "doctor", "timestamp": 1, "duration": 1}]
    with target.nothing_left(), Sink.start(cores.generator or None) as sink:
        request = urllib.request.Request(  # noqa: S310 (our own sink)
            f"{sink.url}/api/v2/spans", json.dumps(span).encode(), {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            status = answer.status
        counts = sink.take()
    if counts.spans == 1:
        yield Finding("sink", OK, "the sink takes spans and counts them")
    else:
        text = f"the sink was sent 1 span, answered {status} and counted {counts.spans}"
        yield Finding("sink", TROUBLE, text, "report this as a bug, with the output of --json")


def check_ceiling(
    report: Report, cores: machine.Cores, say: Callable[[str], None], seconds: float = CEILING_S
) -> Iterator[Finding]:
    """How many requests the generator can make at most."""
    say("how much load can the generator make?")
    with tempfile.TemporaryDirectory(prefix="autoinstr-bench-") as folder:
        try:
            most = load.ceiling(cores.generator or None, seconds, folder=Path(folder))
        except load.GeneratorFailed as error:
            yield Finding("generator", TROUBLE, str(error), "see what it says; `locust --version` must work here")
            return
    report.ceiling_per_second = most
    text = f"the generator makes up to {most:,.0f} requests/s in one process"
    yield Finding("generator", OK, f"{text}: services of up to {most / CEILING_OVER_SERVICE:,.0f}/s can be saturated by it")


def check_again(report: Report, seconds: float, again: Again, say: Callable[[str], None]) -> Iterator[Finding]:
    """Bare against bare: what difference this machine invents, and how finely it can tell."""
    busy = [one.text for one in report.findings if one.state == TROUBLE and one.about in BUSY]
    if busy and _is_hopeless(report.noise):
        text = f"bare was not compared with bare: no run would be valid ({'; '.join(busy)})"
        yield Finding("A/A", TROUBLE, text, "mend the troubles above first")
        return
    say(f"comparing bare with bare, for about {in_words(seconds)}")
    report.again = found = again(seconds, say)
    yield judged_again(found)


def _is_hopeless(noise: NoiseFigures | None) -> bool:
    """Whether noise as now would spoil every figure of a run."""
    if noise is None:
        return False
    return (noise.steal or 0.0) > validity.STEAL_LIMITS[1] or (noise.other_cores or 0.0) > validity.OTHERS_LIMITS[1]


def judged_again(found: Difference | None) -> Finding:
    """The verdict on A/A, from the primary figure."""
    if found is None or found.absolute is None or found.percent is None:
        text = "bare could not be compared with bare: too few runs could be used"
        return Finding("A/A", TROUBLE, text, "mend the troubles above first")
    width, width_us = (found.percent.high - found.percent.low) / 2, (found.absolute.high - found.absolute.low) / 2
    text = f"this machine resolves about ±{width:.1f} % (±{width_us:.1f} µs) in {found.blocks} blocks"
    if found.percent.excludes(0) and abs(found.percent.mean) > LEAST_DIFFERENCE:
        text = f"bare differs from itself by {found.absolute.mean:+.1f} µs ({found.percent.mean:+.1f} %): {text}"
        return Finding("A/A", TROUBLE, text, "something changes while it runs: close programs, and try again with --seconds 600")
    more = f"; ±1 % takes about {found.blocks_for_one_percent}" if found.blocks_for_one_percent else ""
    if width > BAD:
        return Finding("A/A", TROUBLE, text + more, "close programs; try again with more --seconds")
    return Finding("A/A", OK if width <= COARSE else NOTE, text + more, "" if width <= COARSE else "take more blocks")


def _campaign_again(report: Report, cores: machine.Cores) -> Again:
    """As many short blocks as fit, by a campaign of its own."""

    def again(seconds: float, say: Callable[[str], None]) -> Difference | None:
        from autoinstr.bench import campaign

        blocks = max(FEWEST_BLOCKS, int(seconds // (RUNS_OF_BLOCK * seconds_of_run(TIMING))))
        return campaign.again(blocks, TIMING, cores, report.machine)

    return again


# ---- The report ------------------------------------------------------------------------------------


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def as_json(report: Report) -> dict[str, Any]:
    """Everything."""
    return {"is_fit": report.is_fit, **{key: to_json(value) for key, value in asdict(report).items()}}


def as_text(report: Report) -> str:
    """For people: a line for each finding, what to do below it, and the verdict."""
    width = max(len(finding.about) for finding in report.findings)
    lines = []
    for finding in report.findings:
        lines.append(f"{MARKS[finding.state]} {finding.about:<{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"     {'':<{width}}  → {finding.advice}")
    troubles = sum(finding.state == TROUBLE for finding in report.findings)
    verdict = "fit to measure" if not troubles else f"unfit to measure: {troubles} trouble{'s' * (troubles > 1)}"
    return "\n".join([*lines, "", f"This machine is {verdict}."])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
