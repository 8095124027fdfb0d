"""``autoinstr bench doctor``: before an hour is spent, whether this machine can measure, and what to do where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from autoinstr.bench import doctor, load, machine, rivals, validity
from autoinstr.bench.doctor import NOTE, OK, TROUBLE, Finding
from autoinstr.bench.parts import INVALID, PASSED, Difference, Estimate, NoiseFigures, Refusal

QUIET = NoiseFigures(steal=0.0, psi=0.01, other_cores=0.01, load_average=0.1, throttled=0)
DIFFERENCE = Difference(
    variant="none#2",
    metric="cpu_us",
    blocks=4,
    base=100.0,
    value=100.1,
    absolute=Estimate(0.1, -0.9, 1.1),
    percent=Estimate(0.1, -0.9, 1.1),
    p=1.0,
    p_holm=None,
    is_equivalent=None,
    blocks_for_one_percent=5,
)
needs_two = pytest.mark.skipif(len(machine.allowed_cpus()) == 1, reason="needs two CPUs")


def states(findings: Any) -> dict[str, str]:
    found = list(findings)
    assert all(finding.advice for finding in found if finding.state == TROUBLE)
    return {finding.about: finding.state for finding in found}


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"steal": 0.02}, "steal"),
        ({"other_cores": 0.06}, "other processes"),
        ({"throttled": 1}, "throttling"),
    ],
)
def test_noise_that_spoils_runs_is_trouble_with_advice(change: dict[str, Any], about: str) -> None:
    """Whoever starts a campaign of an hour on a busy machine would only be told afterwards."""
    assert set(states(doctor.judged_noise(QUIET)).values()) == {OK}
    assert states(doctor.judged_noise(replace(QUIET, **change)))[about] == TROUBLE


def test_the_limits_are_those_of_the_runs() -> None:
    """What the doctor lets pass must not be thrown out by the rules, nor the other way round."""
    steal, others = validity.STEAL_LIMITS[0], validity.OTHERS_LIMITS[0]
    at_the_limit = replace(QUIET, steal=steal, other_cores=others)
    above = replace(QUIET, steal=steal + 0.001, other_cores=others + 0.001)
    assert TROUBLE not in states(doctor.judged_noise(at_the_limit)).values()
    assert list(states(doctor.judged_noise(above)).values()).count(TROUBLE) == 2


def test_what_the_system_does_not_say_is_a_note() -> None:
    """Not silence: runs cannot be judged by it then."""
    found = states(doctor.judged_noise(NoiseFigures()))
    assert found == {"steal": NOTE, "other processes": NOTE}


@pytest.mark.parametrize(
    ("difference", "state", "text"),
    [
        (DIFFERENCE, OK, "this machine resolves about ±1.0 % (±1.0 µs) in 4 blocks; ±1 % takes about 5"),
        (replace(DIFFERENCE, percent=Estimate(0, -3, 3)), NOTE, "about ±3.0 %"),
        (replace(DIFFERENCE, percent=Estimate(0, -9, 9)), TROUBLE, "about ±9.0 %"),
        (
            replace(DIFFERENCE, percent=Estimate(3, 1, 5), absolute=Estimate(3, 1, 5)),
            TROUBLE,
            "bare differs from itself by +3.0 µs (+3.0 %)",
        ),
        (replace(DIFFERENCE, percent=Estimate(0.3, 0.1, 0.5)), OK, "about ±0.2 %"),
        (replace(DIFFERENCE, absolute=None, percent=None), TROUBLE, "too few runs"),
        (None, TROUBLE, "too few runs"),
    ],
)
def test_the_verdict_on_bare_against_bare(difference: Difference | None, state: str, text: str) -> None:
    """The one number that says what differences may be believed here."""
    found = doctor.judged_again(difference)
    assert (found.state, text in found.text) == (state, True)
    assert found.advice or state == OK


@pytest.mark.parametrize(
    ("path", "value", "state", "advice"),
    [
        (("cpu", "governor"), "powersave", NOTE, "cpupower"),
        (("cpu", "boost"), True, NOTE, "as root"),
        (("cgroup", "cpu_limit_cores"), 0.5, TROUBLE, "cpuset"),
        (("python", "is_debug"), True, TROUBLE, "release"),
        (("virtualisation",), "kvm", NOTE, "blocks"),
    ],
)
def test_what_makes_a_machine_vary_is_said(path: tuple[str, ...], value: Any, state: str, advice: str) -> None:
    """A quota throttles the server in the middle of a window; a governor makes the first runs slow."""
    steady = {
        **machine.machine(),
        "virtualisation": None,
        "cgroup": {"cpu_limit_cores": None, "memory_limit_bytes": None},
    }
    steady["cpu"] = {**steady["cpu"], "governor": "performance", "boost": False, "allowed": 2}
    steady["python"] = {**steady["python"], "is_debug": False}
    (described,) = doctor.check_machine(steady)
    assert (described.about, described.state) == ("machine", OK)
    changed = json.loads(json.dumps(steady))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    _, found = doctor.check_machine(changed)
    assert found.state == state
    assert advice in found.advice


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Locust there is no load."""
    monkeypatch.setattr(doctor, "PACKAGES", ("pytest", "no-such-distribution"))
    (found,) = doctor.check_packages()
    assert (found.state, found.text) == (TROUBLE, "not installed: no-such-distribution")
    assert "autoinstr[bench]" in found.advice


def test_rivals_that_are_not_there_are_a_note_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring without them is fine; the reader should know how to get them."""
    monkeypatch.setenv("AUTOINSTR_BENCH_CACHE", str(tmp_path))
    found = list(doctor.check_rivals())
    assert len(found) == len(rivals.RIVALS)
    assert {finding.state for finding in found} == {NOTE}
    assert "autoinstr bench rivals --install otel" in " ".join(finding.advice for finding in found)


@pytest.mark.parametrize(("step_ns", "state"), [(1.0, OK), (10_000_000.0, NOTE)])
def test_a_coarse_clock_is_said(monkeypatch: pytest.MonkeyPatch, step_ns: float, state: str) -> None:
    """Ticks of 10 ms make short windows worthless."""
    monkeypatch.setattr(doctor.probe, "cpu_resolution_ns", lambda: step_ns)
    assert states(doctor.check_clock()) == {"clock": state}


@needs_two
def test_pinning_is_tried_with_real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In some sandboxes the call succeeds and nothing happens."""
    cores = machine.cores()
    assert [finding.state for finding in doctor.check_pinning(cores)] == [OK, OK]
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(doctor.target, "pinned", doctor.contextlib.nullcontext)
    assert {finding.state for finding in doctor.check_pinning(cores)} == {TROUBLE}


@needs_two
def test_the_sink_is_tried_with_a_span() -> None:
    """A sink that takes nothing would make every agent look as if it lost its spans."""
    (found,) = doctor.check_sink(machine.cores())
    assert found == Finding("sink", OK, "the sink takes spans and counts them")


@needs_two
def test_noise_is_listened_to() -> None:
    """By the same probe as in runs."""
    report = doctor.Report()
    found = list(doctor.check_noise(report, machine.cores(), lambda line: None, seconds=0.2))
    assert {finding.about for finding in found} >= {"steal", "other processes"}
    assert report.noise is not None
    assert report.noise.load_average is not None


@pytest.mark.skipif(find_spec("locust") is None, reason="load is made by Locust")
@needs_two
def test_the_generators_most_is_measured() -> None:
    """Real Locust against a real server."""
    report = doctor.Report()
    (found,) = doctor.check_ceiling(report, machine.cores(), lambda line: None, seconds=1)
    assert found.state == OK
    assert report.ceiling_per_second > 10
    assert f"{report.ceiling_per_second:,.0f} requests/s" in found.text


def test_a_generator_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are what the user needs."""

    def fails(*_: object, **__: object) -> float:
        raise load.GeneratorFailed("no gevent here")

    monkeypatch.setattr(doctor.load, "ceiling", fails)
    (found,) = doctor.check_ceiling(doctor.Report(), machine.Cores(frozenset(), frozenset()), lambda line: None)
    assert (found.state, found.text) == (TROUBLE, "no gevent here")


def test_a_check_that_breaks_does_not_take_the_others_with_it() -> None:
    """The report is wanted most on machines where something is odd."""

    def breaks() -> Any:
        yield Finding("odd", OK, "so far")
        raise OSError("no such file")

    def refuses() -> Any:
        raise Refusal("the sink did not start")
        yield

    kept, broken = doctor._guarded("odd", breaks)
    assert (kept.text, broken.state, broken.text) == ("so far", TROUBLE, "this check failed: OSError: no such file")
    assert doctor._guarded("sink", refuses)[0].text == "the sink did not start"


def test_bare_is_compared_with_bare_for_the_time_that_was_given() -> None:
    """And not at all where noise would spoil every run: it would only take three times as long."""
    asked: list[float] = []

    def again(seconds: float, say: Any) -> Difference:
        asked.append(seconds)
        return DIFFERENCE

    report = doctor.Report(noise=QUIET)
    (found,) = doctor.check_again(report, 60.0, again, lambda line: None)
    assert (asked, found.state, report.again) == ([60.0], OK, DIFFERENCE)
    busy = replace(QUIET, other_cores=1.5)
    report = doctor.Report(noise=busy, findings=list(doctor.judged_noise(busy)))
    (found,) = doctor.check_again(report, 60.0, again, lambda line: None)
    assert (len(asked), found.state) == (1, TROUBLE)
    assert "no run would be valid (other processes used 150.0% of a core" in found.text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_a_machine_with_one_cpu_is_unfit() -> None:
    """As typed; with the exit code for scripts."""
    text = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from autoinstr.bench import doctor
sys.exit(doctor.main(["--seconds", "0"]))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == INVALID
    assert "this process may use one CPU only" in done.stdout
    assert "This machine is unfit to measure: 1 trouble." in done.stdout


@pytest.mark.parametrize(("state", "status", "is_fit"), [(OK, PASSED, True), (NOTE, PASSED, True), (TROUBLE, INVALID, False)])
def test_exit_code_and_json_say_whether_it_is_fit(
    state: str, status: int, is_fit: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For scripts that prepare a machine."""
    report = doctor.Report(
        machine=machine.machine(), noise=QUIET, again=DIFFERENCE, findings=[Finding("one", state, "text", "advice")]
    )
    monkeypatch.setattr(doctor, "examine", lambda *_: report)
    assert doctor.main(["--json"]) == status
    printed = json.loads(capsys.readouterr().out)
    assert printed["is_fit"] is is_fit
    assert printed["again"]["percent"]["high"] == 1.1
    assert printed["findings"] == [{"about": "one", "state": state, "text": "text", "advice": "advice"}]
    assert printed["noise"]["steal"] == 0.0
    assert doctor.main([]) == status
    assert "→ advice" in capsys.readouterr().out


def test_negative_seconds_are_refused() -> None:
    """Not taken for: no limit."""
    with pytest.raises(Refusal, match="0 or more"):
        doctor.main(["--seconds", "-1"])
