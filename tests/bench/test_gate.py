"""Rules for continuous integration: what passes, what is broken, and what a campaign cannot say."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as some

from autoinstr.bench import app, compare, gate, stats, store
from autoinstr.bench.parts import (
    BROKEN,
    INCONCLUSIVE,
    INVALID,
    PASSED,
    USAGE,
    Campaign,
    Estimate,
    Refusal,
    Results,
    to_json,
)
from bench import example_results as example

CELL = "hello flask c16 saturation"


@pytest.fixture(scope="module")
def results() -> Results:
    return example.results(example.FULL[:6])


def statuses(verdict: gate.Verdict) -> list[int]:
    return [one.status for one in verdict.outcomes]


# --- what a rule says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "metric", "limit", "is_percent"),
    [
        ("cpu_us(const:0) < 5", "cpu_us", 5.0, False),
        ("cpu(const:0)<5us", "cpu_us", 5.0, False),
        ("cpu_us( const:0 ) > -2.5 µs", "cpu_us", -2.5, False),
        ("p99(const:0) < 0.25ms", "p99_us", 250.0, False),
        ("p999(const:0) < 1 s", "p999_us", 1e6, False),
        ("p99(const:0) < +3%", "p99_us", 3.0, True),
        ("throughput(const:0) > −5 %", "throughput", -5.0, True),
        ("throughput(const:0) > -50/s", "throughput", -50.0, False),
        ("rss(const:0) < 5MB", "rss_bytes", 5e6, False),
        ("rss(const:0) < 512 KiB", "rss_bytes", 524288.0, False),
    ],
)
def test_a_rule_is_read_in_its_own_unit(text: str, metric: str, limit: float, is_percent: bool) -> None:
    """A limit of 0.25 ms that is taken for 0.25 µs fails every build; one taken for 250 ms passes every build."""
    rule = gate.parse(text)
    assert (rule.metric, rule.variant, rule.limit, rule.is_percent) == (
        metric,
        "const:0",
        pytest.approx(limit),
        is_percent,
    )
    assert rule.is_below == ("<" in text)


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 1, "a metric"),
        ("cpu_us const:0 < 5", 8, "here must be ("),
        ("cpu_us() < 5", 8, "a variant must stand here"),
        ("cpu_us(const:0 < 5", 9, "must end with )"),
        ("cpu_us(const:0) 5", 17, "< or >"),
        ("cpu_us(const:0) <= 5", 18, "only < and >"),
        ("cpu_us(const:0) < five", 19, "a number"),
        ("cpu_us(const:0) < 5..5", 19, "not a number"),
        ("cpu_us(const:0) < 5us please", 20, "must end"),
        ("cpu_us(const:0) < 5MB", 20, "no unit of cpu_us"),
        ("cpu(const:0) < 5", 17, "needs a unit"),
        ("p98(const:0) < 5us", 1, "no metric 'p98'"),
        ("rss(const:0) < 3us", 17, "no unit of rss"),
    ],
)
def test_a_rule_that_cannot_be_understood_is_shown_with_the_place(text: str, position: int, says: str) -> None:
    """A wrong rule must stop the build as a wrong rule, with a mark below the letter, and never pass unnoticed."""
    with pytest.raises(Refusal, match=rf"position {position}: ") as refused:
        gate.parse(text)
    assert refused.value.status == USAGE
    message = str(refused.value)
    assert says in message
    assert message.splitlines()[-1].index("^") == position + 1


@given(some.text(max_size=40))
def test_whatever_is_written_a_rule_is_read_or_refused(text: str) -> None:
    """No rule makes a traceback."""
    try:
        gate.parse(text)
    except Refusal as refusal:
        assert refusal.status == USAGE  # noqa: PT017


# --- the interval decides ---------------------------------------------------------------------------------------------


def test_the_whole_interval_must_be_inside(results: Results) -> None:
    """const:1 costs 12 µs: below 20 is passed, below 5 broken, and below the mean itself nobody knows."""
    mean = results.cells[1].difference("const:1").absolute.mean
    rules = [
        "cpu_us(const:1) < 20us",
        "cpu_us(const:1) < 5us",
        f"cpu_us(const:1) < {mean + 0.01:.4f}us",
        "cpu_us(const:1) > 5us",
        "cpu_us(const:1) > 20us",
    ]
    found = [
        gate.check(results, [f"{rule.split(' ')[0]} in flask c16 saturation {rule.split(' ', 1)[1]}"]) for rule in rules
    ]
    assert [one.status for one in found] == [PASSED, BROKEN, INCONCLUSIVE, PASSED, BROKEN]
    assert (
        found[1]
        .lines[0]
        .startswith("broken: cpu_us(const:1) in flask c16 saturation < 5us [hello flask c16 saturation, const:1]: +1")
    )


@given(some.floats(-50, 50), some.floats(0, 20), some.floats(-60, 60))
def test_no_interval_passes_one_way_and_is_not_broken_the_other_way(mean: float, half: float, limit: float) -> None:
    """`< L` and `> L` of the same figure never both pass, and are unclear together, when the limit is within."""
    below, above = (
        gate.decided(
            dataclasses.replace(gate.parse(f"cpu_us(x) {sign} 1"), limit=limit),
            Estimate(mean, mean - half, mean + half),
        )
        for sign in "<>"
    )
    if mean - half < limit < mean + half:
        assert (below, above) == (INCONCLUSIVE, INCONCLUSIVE)
    if PASSED in (below, above):
        assert {below, above} == {PASSED, BROKEN}
    assert (below == PASSED) == (mean + half < limit)
    assert (above == PASSED) == (mean - half > limit)


def test_how_many_more_blocks_are_needed_is_what_they_would_take(results: Results) -> None:
    """Somebody will let a campaign run all night because of this number."""
    cell = results.cells[1]
    one = cell.difference("const:1")
    limit = one.absolute.mean + (one.absolute.high - one.absolute.mean) * 0.6
    (line,) = gate.check(results, [f"cpu_us(const:1) in flask c16 saturation < {limit:.6f}us"]).lines
    in_all = int(re.search(r"\((\d+) in all\)", line)[1])
    distance = limit - one.absolute.mean

    def half(blocks: int) -> float:
        return stats.t_quantile(0.975, blocks - 1) * stdev(one.series) / blocks**0.5

    assert half(in_all) <= distance < half(in_all - 1)
    assert f"about {in_all - one.blocks} more blocks" in line


def test_more_blocks_for_a_percentage_and_for_a_change_are_counted_in_their_own_spread() -> None:
    """A change between two campaigns scatters more than either; a limit in percent is not one in microseconds."""
    before, now = example.results(seed=1), example.results(seed=2)
    one = now.cells[0].difference("const:1")
    wide = one.percent.high - one.percent.mean
    (line,) = gate.check(now, [f"cpu_us(const:1) < {one.percent.mean + wide / 2:.6f}%"]).lines
    # Half as wide takes about four times as many; a little less, as t is smaller for more blocks.
    assert 2.5 * one.blocks < int(re.search(r"\((\d+) in all\)", line)[1]) <= 4 * one.blocks
    changed = compare.change(before.cells[0].difference("const:1"), one).absolute.estimate
    half = changed.high - changed.mean
    (line,) = gate.check(now, [f"cpu_us(const:1) < {changed.mean + half / 2:.6f}us"], before).lines
    assert 2.5 * one.blocks < int(re.search(r"\((\d+) in all\)", line)[1]) <= 4 * one.blocks


def test_a_limit_at_the_mean_is_not_a_matter_of_blocks(results: Results) -> None:
    """ "About 40 million more blocks" is no advice."""
    known = results.cells[1].difference("const:1").absolute
    for limit in (known.mean, known.mean + 0.02 * (known.high - known.mean)):
        (line,) = gate.check(results, [f"cpu_us(const:1) in flask c16 saturation < {limit!r}us"]).lines
        assert line.startswith("inconclusive") and "choose another limit" in line


def test_percentages_and_memory_are_decided_by_their_own_intervals(results: Results) -> None:
    """+3.8 % is above 1 %, though +12 is not above a limit of 100 %; bytes are not megabytes."""
    where = "in flask c16 saturation"
    assert statuses(gate.check(results, [f"cpu_us(const:1) {where} < 1%", f"cpu_us(const:1) {where} < 100%"])) == [
        BROKEN,
        PASSED,
    ]
    assert statuses(gate.check(results, [f"rss(const:1) {where} < 1MB", f"rss(const:1) {where} < 40000KB"])) == [
        BROKEN,
        PASSED,
    ]
    assert statuses(
        gate.check(results, [f"throughput(const:1) {where} > -10%", f"throughput(const:1) {where} > -0.5%"])
    ) == [PASSED, BROKEN]


# --- which cells and variants -----------------------------------------------------------------------------------------


def test_a_rule_is_for_all_cells_unless_it_names_some(results: Results) -> None:
    """A rule that silently looked at the first cell only would be no gate."""

    def cells(rule: str) -> list[str]:
        return [one.cell for one in gate.check(results, [rule]).outcomes]

    assert len(cells("cpu_us(const:1) < 50us")) == 6
    assert cells("cpu_us(const:1) in rate < 50us") == [
        str(one.cell) for one in results.cells if one.cell.mode == "rate"
    ]
    assert cells("cpu_us(const:1) in flask 60% < 50us") == ["hello flask c16 rate 60%"]
    assert cells("cpu_us(const:1) in c1* sat* < 50us") == [
        "hello flask c1 saturation",
        "hello flask c16 saturation",
        "hello flask c128 saturation",
    ]
    assert len(cells("throughput(const:1) > -20%")) == 3
    assert {one.variant for one in gate.check(results, ["cpu_us(prob:*) < 50us"]).outcomes} == {"prob:0.01", "prob:0.1"}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("cpu_us(const:7) < 5us", "no variant 'const:7'; it has: off, const:0"),
        ("cpu_us(const:1) in django < 5us", "no cell 'django'; it has: hello flask c1 saturation"),
        ("throughput(const:1) in rate > -5%", "throughput was not measured there"),
    ],
)
def test_a_rule_about_nothing_is_refused(results: Results, rule: str, says: str) -> None:
    """A misspelt variant would otherwise be a rule that always passes."""
    with pytest.raises(Refusal, match=re.escape(says)):
        gate.check(results, [rule])


def test_a_gate_without_rules_is_refused(results: Results) -> None:
    """Nothing checked is not everything passed."""
    with pytest.raises(Refusal, match="needs a rule"):
        gate.check(results, [])


# --- data that cannot decide ------------------------------------------------------------------------------------------


def test_a_noisy_cell_decides_nothing_and_the_others_do(results: Results) -> None:
    """Where bare differs from bare, neither a pass nor a failure means anything."""
    verdict = gate.check(example.noisy(results, 1), ["cpu_us(const:1) < 50us"])
    assert verdict.status == INVALID
    assert [one.cell for one in verdict.outcomes if one.status == INVALID] == [CELL]
    assert "bare differs from bare" in next(line for line in verdict.lines if CELL in line)
    assert statuses(verdict).count(PASSED) == 5


def test_an_invalid_campaign_passes_nothing(results: Results) -> None:
    """An agent that drops spans is fast, and must not pass for it."""
    verdict = gate.check(example.invalid(results), ["cpu_us(const:1) < 50us", "cpu_us(const:1) < 1us"])
    assert verdict.status == INVALID and set(statuses(verdict)) == {INVALID}
    assert "dropped spans" in verdict.lines[0]


def test_noise_that_is_too_small_to_matter_spoils_nothing(results: Results) -> None:
    """One quiet cell in twenty would be invalid by chance."""
    first = results.cells[0]
    assert first.again is not None
    harmless = dataclasses.replace(first, is_noisy=True, again=dataclasses.replace(first.again, is_equivalent=True))
    verdict = gate.check(dataclasses.replace(results, cells=(harmless, *results.cells[1:])), ["cpu_us(const:1) < 50us"])
    assert verdict.status == PASSED


def test_a_broken_rule_stays_broken_beside_invalid_and_unclear_ones(results: Results) -> None:
    """Noise in one cell must not hide what another one clearly shows."""
    verdict = gate.check(example.noisy(results, 0), ["cpu_us(const:1) < 5us"])
    assert verdict.status == BROKEN and INVALID in statuses(verdict)


def test_few_blocks_and_smoke_campaigns_are_inconclusive() -> None:
    """The quick campaign of a pull request must not be able to approve it."""
    few = gate.check(example.results(blocks=3), ["cpu_us(const:1) < 50us"])
    assert few.status == INCONCLUSIVE and "3 complete blocks" in few.lines[0] and "1 more blocks" in few.lines[0]
    assert gate.check(example.results(blocks=1), ["cpu_us(const:1) < 50us"]).status == INCONCLUSIVE
    smoke = gate.check(example.results(is_smoke=True), ["cpu_us(const:1) < 50us"])
    assert smoke.status == INCONCLUSIVE and "without --quick" in smoke.lines[0]


# --- against a baseline -----------------------------------------------------------------------------------------------


def test_with_a_baseline_the_limit_is_for_the_change() -> None:
    """12 µs are allowed when they were 12 µs before; 20 µs are a regression."""
    before = example.results(seed=1)
    same, dearer = example.results(seed=2), example.results(seed=3, shift_us={"const:1": 8.0})
    rules = ["cpu_us(const:1) < 4us", "cpu_us(const:1) < 2%"]
    assert statuses(gate.check(same, rules, before)) == [PASSED, PASSED]
    assert statuses(gate.check(dearer, ["cpu_us(const:1) < 4us", "cpu_us(const:1) < 1%"], before)) == [BROKEN, BROKEN]
    assert statuses(gate.check(dearer, ["cpu_us(const:0) < 4us"], before)) == [PASSED]


def test_a_baseline_of_another_machine_allows_only_percentages() -> None:
    """Microseconds of a laptop say nothing about a server."""
    other = example.MACHINE | {"cpu": {"model": "Another"}}
    before = dataclasses.replace(
        example.results(seed=1), manifest=example.manifest(example.ONE_CELL, example.LADDER, 10, machine=other)
    )
    verdict = gate.check(example.results(seed=2), ["cpu_us(const:1) < 4us", "cpu_us(const:1) < 3%"], before)
    assert statuses(verdict) == [INVALID, PASSED]
    assert "different machine" in verdict.lines[0]


def test_a_baseline_without_the_cell_or_with_noise_decides_nothing() -> None:
    """A comparison needs both halves."""
    one, other = example.results(), example.results((example.cell("hello fastapi c16 saturation"),))
    assert "no such cell" in gate.check(one, ["cpu_us(const:1) < 4us"], other).lines[0]
    noisy = gate.check(one, ["cpu_us(const:1) < 4us"], example.noisy(example.results(seed=5)))
    assert noisy.status == INVALID and "baseline: noisy" in noisy.lines[0]


# --- the command ------------------------------------------------------------------------------------------------------


def written(path: Path, campaign: Campaign) -> Path:
    folder = store.Folder.create(path, campaign.manifest)
    lines = (json.dumps(to_json(run)) for run in campaign.runs)
    (folder.path / "runs.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_the_command_reads_a_campaign_and_answers_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a pipeline sees: real files, real analysis, an exit code, and a line for each rule."""
    run = str(written(tmp_path / "run", example.campaign()))
    assert gate.main([run, "--rule", "cpu_us(const:0) < 5", "--rule", "cpu_us(const:1) in flask < 20us"]) == PASSED
    assert capsys.readouterr().out.splitlines()[-1] == "gate: passed"
    assert gate.main([run, "--rule", "cpu_us(const:1) < 5"]) == BROKEN
    assert capsys.readouterr().out.startswith("broken: cpu_us(const:1) < 5 [hello flask c16 saturation, const:1]: +1")
    assert gate.main([run, "--rule", "cpu_us(const:1) < 12", "--json"]) == INCONCLUSIVE
    said = json.loads(capsys.readouterr().out)
    assert (said["status"], said["exit_code"], said["rules"][0]["variant"]) == ("inconclusive", 3, "const:1")


def test_the_command_takes_rules_from_a_file_and_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rules live in the repository; comments say why they are what they are."""
    now, then = (str(written(tmp_path / name, example.campaign(seed=seed))) for name, seed in (("now", 1), ("then", 2)))
    rules = tmp_path / "rules"
    rules.write_text("# the price list\n\ncpu_us(const:1) < 5us\n", encoding="utf-8")
    assert gate.main([now, "--rules", str(rules)]) == BROKEN
    assert gate.main([now, "--rules", str(rules), "--baseline", then]) == PASSED
    assert "change since the baseline" in capsys.readouterr().out
    rules.write_text("cpu_us(const:1) < 5us\ncpu_us(const:1) ~ 5us\n", encoding="utf-8")
    with pytest.raises(Refusal, match=r"rules, line 2: rule, position 17"):
        gate.main([now, "--rules", str(rules)])


def test_wrong_use_is_exit_code_2_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error in a pipeline must not look like a regression."""
    run = str(written(tmp_path / "run", example.campaign(blocks=2)))
    assert app.main(["gate", run, "--rule", "cpu_us(const:0) =< 5"]) == USAGE
    assert "position 17" in capsys.readouterr().err
    assert app.main(["gate", str(tmp_path / "nothing"), "--rule", "cpu_us(const:0) < 5"]) == USAGE
    assert "nothing" in capsys.readouterr().err
