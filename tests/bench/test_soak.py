"""``autoinstr bench soak``: flat is said only when it is shown, and growth is found per request."""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from autoinstr.bench import load, machine, soak
from autoinstr.bench.parts import BROKEN, INCONCLUSIVE, INVALID, PASSED, Refusal
from autoinstr.bench.soak import FLAT, GROWING, TOO_FEW, UNCLEAR, Growth

LOOKS, REQUESTS = 480, 600_000
KB = 1024


def memory(kind: str, growth_kb: float, seed: int = 1) -> list[tuple[float, int]]:
    """A simulated run: what an allocator does, in pages, and so many KB more per 1,000 requests."""
    chance = random.Random(seed)
    level, found = 0.0, []
    for look in range(LOOKS):
        served = look * REQUESTS / LOOKS
        if kind == "white":
            level = chance.gauss(0, 20 * KB)
        elif kind == "alike":
            level = 0.97 * level + chance.gauss(0, 10 * KB)
        elif kind == "walk":
            level += chance.gauss(0, 8 * KB)
        elif kind == "arenas" and chance.random() < 1 / 200:
            level += chance.choice([1, -1]) * 256 * KB
        size = 50e6 + level + growth_kb * KB * served / 1000
        found.append((served, int(size // 4096 * 4096)))
    return found


@pytest.mark.parametrize("kind", ["white", "alike", "walk", "arenas"])
@pytest.mark.parametrize("growth_kb", [0.0, 2.0])
def test_the_interval_holds_the_truth_though_memory_remembers(kind: str, growth_kb: float) -> None:
    """Theil-Sen's own interval holds it in as few as 22 % where memory is a random walk: flat would be said of leaks."""
    held = 0
    for seed in range(60):
        found = soak.judged("one", memory(kind, growth_kb, seed), 1.0)
        held += found.slope.low <= growth_kb <= found.slope.high
    assert held >= 54


def test_a_leak_as_large_as_the_limit_is_not_called_flat() -> None:
    """The promise behind the word."""
    for kind in ("white", "alike", "walk", "arenas"):
        verdicts = [soak.judged("one", memory(kind, 1.0, seed), 1.0).verdict for seed in range(40)]
        assert verdicts.count(FLAT) <= 2, kind


@pytest.mark.parametrize(("growth_kb", "verdict"), [(0.0, FLAT), (3.0, GROWING), (1.0, UNCLEAR)])
def test_twenty_minutes_tell_three_cases_apart(growth_kb: float, verdict: str) -> None:
    """A byte a request is the limit, and three of them are found."""
    found = soak.judged("one", memory("alike", growth_kb), 1.0, seconds=1200)
    assert found.verdict == verdict
    assert found.slope.mean == pytest.approx(growth_kb, abs=0.3)
    assert found.per_second == pytest.approx(REQUESTS / 1200, rel=0.01)


def test_growth_at_the_start_is_not_held_against_it() -> None:
    """Caches fill, pools grow: every program does that."""
    warming = [(x, y + min(int(x), 100_000) * 100) for x, y in memory("white", 0.0)]
    found = soak.judged("one", warming, 1.0)
    assert found.verdict == FLAT
    assert found.end_bytes - found.begin_bytes < 1 << 20
    assert found.series[-1][1] - found.series[0][1] > 9_000_000


def test_memory_that_does_not_move_is_flat() -> None:
    """All looks equal: no division by their variance."""
    assert soak.judged("one", [(float(x), 4096) for x in range(100)], 1.0).slope.high == 0.0


@pytest.mark.parametrize("series", [[], [(0.0, 4096)], [(0.0, 4096)] * 50, [(float(x), 4096) for x in range(8)]])
def test_a_run_without_requests_says_nothing(series: list[tuple[float, int]]) -> None:
    """Not flat: nothing was shown."""
    found = soak.judged("one", series, 1.0)
    assert (found.verdict, found.slope) == (TOO_FEW, None)


def slot(end_s: int, requests: int) -> load.Slot:
    return load.Slot(end_s, 1.0, requests, 0, 0, 1.0, "", "", None, 0.0)


def test_looks_are_placed_by_the_requests_served_until_then() -> None:
    """Growth per second would depend on the rate."""
    looks = [(9.5, 1), (10.5, 2), (11.0, 3), (11.25, 4), (12.5, 5)]
    assert soak._by_requests(looks, [slot(11, 100), slot(12, 200)]) == [(50.0, 2), (100.0, 3), (150.0, 4)]
    assert soak._by_requests(looks, []) == []


def growth(variant: str, verdict: str) -> Growth:
    return Growth(variant, verdict, None, 0, 0, 0.0, 0, 0, ())


@pytest.mark.parametrize(
    ("bare", "verdict", "status", "text"),
    [
        (FLAT, FLAT, PASSED, "const:1: flat"),
        (FLAT, GROWING, BROKEN, "const:1: growing"),
        (FLAT, UNCLEAR, INCONCLUSIVE, "more --minutes"),
        (FLAT, TOO_FEW, INCONCLUSIVE, "more --minutes"),
        (GROWING, GROWING, INCONCLUSIVE, "grows without tracing, too"),
        (GROWING, FLAT, PASSED, "const:1: flat"),
    ],
)
def test_exit_code_and_words_of_the_verdict(bare: str, verdict: str, status: int, text: str) -> None:
    """For CI; a program that leaks by itself must not break the agent's gate."""
    found = [growth("none", bare), growth("const:1", verdict)]
    assert soak.status_of(found) == status
    assert text in soak.verdict_text(found, 1.0)
    assert text in soak.as_text(found, 100.0, 1.0)
    assert soak.status_of(found[1:]) == (BROKEN if verdict == GROWING else status)


LEAK = """
import gunicorn.http.wsgi as wsgi
kept, create = [], wsgi.create
def leaking(*arguments, **keywords):
    kept.append(b"x" * 16384)
    return create(*arguments, **keywords)
wsgi.create = leaking
"""
needs_two = pytest.mark.skipif(
    len(machine.allowed_cpus()) == 1 or find_spec("locust") is None or find_spec("gunicorn") is None,
    reason="needs two CPUs, Locust and gunicorn",
)


@needs_two
def test_a_real_leak_of_a_real_service_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 KiB for each request that Flask answers: the slope has to say 16 KiB a request, by Locust's own count of them."""
    (tmp_path / "sitecustomize.py").write_text(LEAK)
    words = ["--variant", f"leaky=PYTHONPATH={tmp_path} {{app}}", "--without-bare", "--minutes", "0.12", "--rate", "100"]
    assert soak.main([*words, "--limit-kb", "2000", "--json"]) == BROKEN
    printed = json.loads(capsys.readouterr().out)
    (run,) = printed["runs"]
    assert (run["variant"], run["verdict"], run["errors"]) == ("leaky", GROWING, 0)
    assert run["slope"]["mean"] == pytest.approx(16_384 * 1000 / 1024, rel=0.25)
    assert printed["status"] == BROKEN
    assert len(run["series"]) > 20


@needs_two
def test_a_service_that_dies_ends_the_soak_with_its_words(tmp_path: Path) -> None:
    """Twenty minutes of nothing would look flat."""
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('out of luck')\n")
    words = ["--variant", f"broken=PYTHONPATH={tmp_path} {{app}}", "--without-bare", "--minutes", "0.1", "--rate", "10"]
    with pytest.raises(Refusal, match="out of luck") as refused:
        soak.main(words)
    assert refused.value.status == INVALID


def test_failing_requests_make_it_invalid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service that refuses everything needs no memory."""

    class Fake:
        def kill(self) -> None: ...

        def slots(self) -> list[Any]:
            return [slot(1, 10)]

        def stop(self, *_: object) -> load.Final:
            return load.Final(1000, 1, kinds={"503": 1})

    monkeypatch.setattr(soak.Setting, "server", lambda *_: Fake())
    monkeypatch.setattr(soak.Setting, "generator", lambda *_: Fake())
    monkeypatch.setattr(soak, "_watched", lambda *_: [])
    setting = soak.Setting(None, None, None, None, "", 1, tmp_path)
    with pytest.raises(Refusal, match=r"1 of 1000 requests failed under none \(1 × 503\)") as refused:
        soak.soak(setting, soak.variants.parse("none"), 1.0, 1.0, 1.0)
    assert refused.value.status == INVALID


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--minutes", "0"], "must be more than 0"),
        (["--limit-kb", "-1"], "must be more than 0"),
        (["--rate", "0"], "must be more than 0"),
        (["--scenario", "burst"], "sets its own load"),
        (["--scenario", "helo"], "did you mean hello"),
        (["--variant", "cosnt:1"], "cosnt"),
        (["--framework", "falsk"], "did you mean flask"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], text: str) -> None:
    """Before twenty minutes are spent."""
    with pytest.raises(Refusal, match=text):
        soak.main(words)
