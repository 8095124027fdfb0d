"""``autoinstr bench startup``: what an agent adds before the first request, told apart from what the machine does meanwhile."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoinstr.bench import machine, parts, probe, startup, stats, store, variants
from autoinstr.bench.parts import AGAIN, BASE, INVALID, Refusal
from autoinstr.bench.startup import FIRST, PASS, Starter
from bench import example_results

NOWHERE = {"http": "http://127.0.0.1:9", "http_port": 9, "udp_port": 9}
#: An agent of known cost: so much CPU before the program.
BURNER = """
import os, sys, time
while time.process_time() < float(sys.argv[1]): pass
os.execvp(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def starter() -> Starter:
    return Starter(machine.Cores(frozenset(), frozenset()), NOWHERE)


def drifting(costs: dict[str, float], drift: float, noise: float = 0.0) -> Any:
    """A machine on which starts of variants cost this much, plus ``drift`` more with every start."""
    chance = random.Random(1)
    asked: list[str] = []

    def sample(name: str, program: str) -> dict[str, float]:
        asked.append(name)
        cold = 1000.0 if asked.count(name) == 1 else 0.0
        return {"ms": costs[name] + drift * len(asked) + chance.gauss(0, noise) + cold}

    sample.asked = asked
    return sample


def test_what_a_variant_adds_is_found_on_a_machine_that_gets_slower() -> None:
    """A laptop that warms up must not make whatever is started last look expensive; nor must the first, cold start count."""
    sample = drifting({BASE: 100, "a": 110, "b": 150, AGAIN: 100}, drift=0.5)
    results = startup.measure(["a", "b"], 4, sample, programs=[PASS])[PASS]
    found = {one.variant: one for one in results}
    assert {name: round(one.absolute.mean, 6) for name, one in found.items()} == {"a": 10, "b": 50, AGAIN: 0}
    assert all(one.blocks == 4 and len(one.series) == 4 for one in results)
    assert found["a"].value - found["a"].base == pytest.approx(10)


def test_every_block_starts_every_variant_twice_mirrored() -> None:
    """That is what makes the drift cancel."""
    sample = drifting(dict.fromkeys((BASE, "a", "b", AGAIN), 1.0), 0)
    startup.measure(["a", "b"], 3, sample, programs=[PASS], seed=5)
    blocks = [sample.asked[begin : begin + 8] for begin in range(4, 28, 8)]
    assert len(sample.asked) == 4 + 3 * 8
    for block in blocks:
        assert block == block[::-1]
        assert block[0] == BASE
        assert sorted(block[:4]) == sorted([BASE, "a", "b", AGAIN])


def test_intervals_hold_the_truth_and_p_is_for_claims_only() -> None:
    """The figures are printed with them; A/A is not one of the claims among which false alarms are counted."""
    sample = drifting({BASE: 100, "a": 103, AGAIN: 100}, 0.1, noise=1.0)
    found = {one.variant: one for one in startup.measure(["a"], 12, sample, programs=[PASS])[PASS]}
    assert found["a"].absolute.low < 3 < found["a"].absolute.high
    assert found["a"].absolute.excludes(0)
    assert found["a"].p_holm == found["a"].p < 0.05
    assert found[AGAIN].p_holm is None
    assert found["a"].blocks_for_one_percent == stats.blocks_needed(found["a"].series, 0.01 * found["a"].base)


def test_a_known_cost_of_starting_is_measured(starter: Starter, tmp_path: Path) -> None:
    """By real processes; CPU time, for the machine may be busy."""
    script = tmp_path / "agent.py"
    script.write_text(BURNER)
    cheap, dear = (variants.parse(f"{name}={sys.executable} {script} {cpu} {{app}}") for name, cpu in (("cheap", 0), ("dear", 0.2)))
    differences = [starter.sample(dear, PASS)["cpu_ms"] - starter.sample(cheap, PASS)["cpu_ms"] for _ in range(3)]
    # The interpreter's own start is inside the 200 ms, and so not all of them are added.
    assert 130 < sorted(differences)[1] < 230
    assert starter.sample(dear, PASS)["ms"] > 130


@pytest.mark.skipif(not probe.IS_LINUX, reason="memory and CPU of whole servers are read from Linux's /proc")
def test_the_first_answer_is_timed_with_all_processes_of_the_server(starter: Starter) -> None:
    """gunicorn's worker imports the application; its master alone would be cheap. And nothing may stay behind."""
    before = set(probe.descendants(os.getpid()))
    found = starter.sample(variants.parse(BASE), FIRST)
    assert found["ms"] > 0
    assert found["cpu_ms"] > 30
    assert found["rss_bytes"] > 15 << 20
    assert set(probe.descendants(os.getpid())) <= before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_a_start_is_pinned_and_the_harness_is_not(tmp_path: Path) -> None:
    """The start would otherwise share its core with who times it."""
    last, told = max(os.sched_getaffinity(0)), tmp_path / "told"
    script = tmp_path / "tell.py"
    script.write_text(f"import os, sys\nopen({str(told)!r}, 'w').write(repr(os.sched_getaffinity(0)))\n")
    before = os.sched_getaffinity(0)
    starter = Starter(machine.Cores(frozenset({last}), frozenset()), NOWHERE)
    starter.sample(variants.parse(f"tell={sys.executable} {script} {{app}}"), PASS)
    assert told.read_text() == repr({last})
    assert os.sched_getaffinity(0) == before


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Any]:
    def variant(text: str) -> Any:
        script = tmp_path / "broken.py"
        script.write_text(text)
        return variants.parse(f"broken={sys.executable} {script} {{app}}")

    return variant


@pytest.mark.parametrize("program", [PASS, FIRST])
def test_a_program_that_fails_is_refused_with_its_last_words(starter: Starter, broken: Any, program: str) -> None:
    """Whoever misspells a launcher must read why, not a fast start."""
    with pytest.raises(Refusal, match="under broken ended with status 3: no such agent") as refused:
        starter.sample(broken("import sys; print('hello', flush=True); print('no such agent', file=sys.stderr); sys.exit(3)"), program)
    assert refused.value.status == INVALID


@pytest.mark.parametrize(("program", "how"), [(PASS, "did not end within 0.5 s"), (FIRST, "did not answer within 0.5 s")])
def test_a_program_that_hangs_is_ended(
    starter: Starter, broken: Any, program: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness must not hang with it, nor leave it there."""
    monkeypatch.setattr(startup, "PATIENCE_S", 0.5)
    before = set(probe.descendants(os.getpid()))
    with pytest.raises(Refusal, match=how):
        starter.sample(broken("import time; time.sleep(100)"), program)
    assert set(probe.descendants(os.getpid())) <= before


def test_an_answer_that_is_an_error_is_not_a_start(starter: Starter, broken: Any) -> None:
    """An application that could not be loaded answers 500, quickly."""
    text = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self): self.send_error(500, "no application")
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--bind") + 1].rpartition(":")[2])), Handler).serve_forever()
"""
    with pytest.raises(Refusal, match="answered 'HTTP/1.0 500 no application'"):
        starter.sample(broken(text), FIRST)


@pytest.mark.skipif(len(machine.allowed_cpus()) == 1, reason="needs two CPUs")
def test_the_command_measures_real_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As typed: an agent that is off costs something, the JSON says what, per block, and the campaign's folder keeps it."""
    campaign = store.Folder.create(tmp_path / "campaign", example_results.campaign(blocks=1).manifest).path
    words = ["--programs", "pass", "--runs", "2", "--variants", "off", "--json", "--add-to", str(campaign)]
    assert startup.main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    differences = printed["programs"]["pass"]["differences"]
    assert {(one["variant"], one["metric"]) for one in differences} == {
        (name, metric) for name in ("off", AGAIN) for metric in ("ms", "cpu_ms")
    }
    off = next(one for one in differences if one["variant"] == "off" and one["metric"] == "cpu_ms")
    assert off["value"] > off["base"] > 0
    assert printed["machine"]["python"]["version"]
    assert parts.to_json(store.read(campaign).start_up[startup.TITLES[PASS]]) == differences


def test_the_table_shows_what_is_added_with_its_interval() -> None:
    """Absolute figures first, bare again among them, and a stamp where the machine cannot tell."""
    results = startup.measure(["a"], 3, drifting({BASE: 100, "a": 110, AGAIN: 100}, 0.01, 0.001), programs=[PASS])
    text = startup.as_text(results)
    assert "+10.0 [+10.0, +10.0] (+9.9 %)" in text or "+10.0 [+10.0, +10.0] (+10.0 %)" in text
    assert "bare again (A/A)" in text
    assert "noisy" not in text
    results = startup.measure(["a"], 3, drifting({BASE: 100, "a": 110, AGAIN: 90}, 0.01, 0.001), programs=[PASS])
    assert startup.as_text(results).count("noisy: bare differs from itself") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--runs", "1"], "at least 2"),
        (["--programs", "walk"], "there are pass, import, request"),
        (["--variants", "cosnt:1"], "cosnt:1"),
        (["--add-to", "/nowhere"], "not the folder of a campaign"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], text: str) -> None:
    """Before minutes are spent."""
    with pytest.raises(Refusal, match=text):
        startup.main(words)
