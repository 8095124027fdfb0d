"""``autoinstr bench micro``: nanoseconds of single operations, from several fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from autoinstr.bench import micro
from autoinstr.bench.parts import Estimate, Refusal

QUICK = {"round_ns": 20_000, "rounds": 3}


def burning(ns: int) -> micro.Operation:
    """An operation of a known cost."""

    def call() -> None:
        end = time.thread_time_ns() + ns
        while time.thread_time_ns() < end:
            pass

    return micro.Operation("burn", call)


def test_a_known_cost_is_found() -> None:
    """The figures are what people decide by; CPU time, so that a busy machine does not change them."""
    assert micro.nanoseconds(burning(100_000)) == pytest.approx(100_000, rel=0.1)


def test_the_call_itself_is_not_counted() -> None:
    """Calling a function takes 30 ns, as much as a sampler's decision."""
    found = sorted(micro.nanoseconds(micro.Operation("nothing", lambda: None), 200_000) for _ in range(5))
    assert abs(found[2]) < 15


def test_a_call_that_does_several_is_divided() -> None:
    """Encoders are given batches, and the figure is per span."""
    one = burning(100_000)
    assert micro.nanoseconds(micro.Operation("ten", one.call, per_call=10)) == pytest.approx(10_000, rel=0.1)


def test_every_round_begins_anew() -> None:
    """A queue that filled up over the rounds would be measured as one that drops."""
    seen: list[str] = []
    operation = micro.Operation("one", lambda: seen.append("call"), reset=lambda: seen.append("reset"))
    micro._round(operation, 3, time.perf_counter_ns)
    micro._round(operation, 1, time.perf_counter_ns)
    assert seen == ["reset", "call", "call", "call", "reset", "call"]


def test_all_operations_are_measured_in_fresh_processes() -> None:
    """Everything that the documentation promises, from each process, and the interval over them."""
    timed = micro.measure(2, with_rivals=find_spec("opentelemetry") is not None, **QUICK)
    names = [one.name for one in timed]
    for word in ("span, sampled", "span, unsampled", "sampler: ", "inject: ", "extract: ", "report: ", "encode a span: "):
        assert any(name.startswith(word) for name in names)
    for name in ("jaeger", "tracecontext", "baggage", "b3", "b3multi"):
        assert {f"inject: {name}", f"extract: {name}"} <= set(names)
    assert len(names) == len(set(names))
    for one in timed:
        assert len(one.processes) == 2
        assert one.ns.low <= min(one.processes) <= one.ns.mean <= max(one.processes) <= one.ns.high
    cost = {one.name: one.ns.mean for one in timed}
    assert cost["span, sampled: start and end of a root"] > cost["sampler: const"] > 0
    text = micro.as_text(timed)
    assert all(name in text for name in names)


def test_a_measuring_process_is_pinned_and_has_an_order_of_its_own() -> None:
    """Moving between cores changes caches; always the same order would make neighbours part of the figure."""
    text = """
import json, os
from autoinstr.bench import micro
def names(seed):
    seen = []
    operation = lambda name: micro.Operation(name, lambda: seen.append(name))
    micro._operations = lambda: [operation(name) for name in "abcdefgh"]
    micro._child({"seed": seed, "only": "", "with_rivals": False, "cpus": [max(os.sched_getaffinity(0))], "round_ns": 1, "rounds": 1})
    return "".join(dict.fromkeys(seen))
print(json.dumps([names(1), names(2), names(1), sorted(os.sched_getaffinity(0))]))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    *results, last = map(json.loads, done.stdout.splitlines())
    first, second, again, cpus = last
    assert [list(result) for result in results] == [list("abcdefgh")] * 3
    assert first == again != second
    assert sorted(second) == list("abcdefgh")
    assert cpus == [max(os.sched_getaffinity(0))]


def test_the_reporting_process_does_not_import_the_agent() -> None:
    """What the harness imports must not be in what it measures, nor start anything."""
    text = """
import sys
from autoinstr.bench import micro
micro.main(["--processes", "2", "--only", "sampler: const"])
print([name for name in sys.modules if name.startswith("autoinstr.") and not name.startswith("autoinstr.bench")])
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    table, modules = done.stdout.rstrip().rsplit("\n", 1)
    assert "sampler: const" in table
    assert not {"autoinstr.trace", "autoinstr.sampling", "autoinstr.runtime"} & set(eval(modules))


def test_the_callers_settings_do_not_reach_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PYTHONPATH leading to the agent, the agent would run in the process that measures it."""
    monkeypatch.setenv("PYTHONPATH", os.path.join(os.path.dirname(os.path.dirname(micro.__file__)), "_boot"))
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    seen = {}

    def run(command: list[str], env: dict[str, str], **_: object) -> object:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, '{"one": 1.0}', "")

    monkeypatch.setattr(micro.subprocess, "run", run)
    micro._asked({"seed": 7, "only": "", "with_rivals": False})
    assert "_boot" not in seen.get("PYTHONPATH", "")
    assert "PYTHONDEVMODE" not in seen
    assert seen["PYTHONHASHSEED"] == "7"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--processes", "1"], "at least 2"),
        (["--processes", "2", "--only", "no such thing"], "no operation's name contains 'no such thing'"),
        (["--cpu", "4095"], "CPU 4095 cannot be used here"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], text: str) -> None:
    """In one line, before anything takes its time."""
    with pytest.raises(Refusal, match=text):
        micro.main(words)


def test_a_measuring_process_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback of the harness about JSON."""
    monkeypatch.setattr(micro.sys, "executable", "/bin/false")
    with pytest.raises(Refusal, match="a measuring process failed: it said nothing"):
        micro.measure(2)


def test_json_has_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    """For people who want to do their own statistics."""
    assert micro.main(["--processes", "2", "--only", "report: a span into", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["machine"]["cpu"]["cores"] == os.cpu_count()
    (operation,) = printed["operations"].values()
    assert len(operation["processes"]) == 2
    assert operation["ns"]["low"] <= operation["ns"]["mean"] <= operation["ns"]["high"]


def test_figures_that_differ_between_processes_are_marked() -> None:
    """An interval that comes from two kinds of processes is no statement."""
    steady = micro.Timed("one", Estimate(100, 99, 101), (99.0, 100.0, 101.0))
    shaky = micro.Timed("other", Estimate(100, 10, 190), (60.0, 100.0, 140.0))
    tiny = micro.Timed("tiny", Estimate(2, 0, 4), (1.0, 2.0, 3.0))
    assert [one.is_unstable for one in (steady, shaky, tiny)] == [False, True, False]
    assert micro.as_text([steady, shaky]).count("unstable") == 1
