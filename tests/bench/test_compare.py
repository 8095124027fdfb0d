"""Two campaigns side by side: what has changed, what has not, and when nothing may be said."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
from scipy import stats as judge

from autoinstr.bench import app, compare, stats
from autoinstr.bench.parts import AGAIN, INCONCLUSIVE, INVALID, PASSED, USAGE, Difference, Refusal, Results
from bench import example_results as example
from bench.test_gate import written

OTHER = example.MACHINE | {"cpu": {"model": "Another"}}


def on_other_machine(results: Results) -> Results:
    return dataclasses.replace(results, manifest=dataclasses.replace(results.manifest, machine=OTHER))


def of(found: compare.Comparison, variant: str, metric: str = "cpu_us") -> compare.Change:
    return next(one for one in found.changes if (one.variant, one.metric) == (variant, metric))


def two() -> tuple[Difference, Difference]:
    old, new = example.results(seed=1, blocks=8), example.results(seed=2, blocks=11, shift_us={"const:1": 3.0})
    return old.cells[0].difference("const:1"), new.cells[0].difference("const:1")


def test_the_change_is_welchs_difference_of_the_block_differences() -> None:
    """The interval on which a regression is called is the textbook's."""
    old, new = two()
    found = compare.change(old, new).absolute
    theirs = judge.ttest_ind(new.series, old.series, equal_var=False)
    low, high = theirs.confidence_interval(0.95)
    assert (found.estimate.low, found.estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(theirs.pvalue)
    ours = stats.welch_interval(new.series, old.series)
    assert (found.estimate.mean, found.estimate.low) == (pytest.approx(ours.mean), pytest.approx(ours.low))


def test_percentages_are_compared_on_their_logarithms() -> None:
    """+4 % after +1 % is a request that is 1.04/1.01 as dear, not 3 % of something else."""
    old, new = two()
    found = compare.change(old, new).percent.estimate
    mean = math.log1p(new.percent.mean / 100) - math.log1p(old.percent.mean / 100)
    assert found.mean == pytest.approx(100 * math.expm1(mean))
    errors = [
        math.log((100 + d.percent.high) / (100 + d.percent.low)) / 2 / judge.t.ppf(0.975, d.blocks - 1)
        for d in (old, new)
    ]
    freedom = sum(e**2 for e in errors) ** 2 / sum(e**4 / (d.blocks - 1) for e, d in zip(errors, (old, new)))
    half = judge.t.ppf(0.975, freedom) * math.hypot(*errors)
    assert found.high == pytest.approx(100 * math.expm1(mean + half))


def test_a_change_is_found_where_it_is_and_nowhere_else() -> None:
    """3 µs more of const:1: this variant got dearer, in CPU, and no other did."""
    found = compare.compare(example.results(seed=1), example.results(seed=2, shift_us={"const:1": 3.0}), ["cpu_us"])
    assert found.status == PASSED
    assert [one.variant for one in found.changes if one.is_clear] == ["const:1"]
    change = of(found, "const:1")
    assert change.absolute.low < 3.0 < change.absolute.high and change.absolute.low > 0
    assert found.verdict == "1 clear change in 6 comparisons: 1 for the worse, 0 for the better"
    back = compare.compare(example.results(seed=2, shift_us={"const:1": 3.0}), example.results(seed=1), ["cpu_us"])
    assert back.verdict.endswith("0 for the worse, 1 for the better")


def test_more_throughput_is_for_the_better() -> None:
    """The one metric where more is good."""
    found = compare.compare(
        example.results(seed=1, shift_us={"const:1": 60.0}), example.results(seed=2), ["throughput"]
    )
    assert found.verdict.endswith("0 for the worse, 1 for the better")


def test_two_campaigns_of_the_same_seldom_differ() -> None:
    """Of 120 comparisons of nothing with nothing, each of six variants, at most one in ten raises any alarm (5 % are allowed)."""
    dice, model = random.Random(4), example.results(blocks=6)

    def another() -> Results:
        differences = [
            dataclasses.replace(one, series=series, absolute=stats.t_interval(series))
            for one in model.cells[0].differences
            if one.metric == "cpu_us"
            for series in [tuple(dice.gauss(5, 1 + dice.random()) for _ in range(6))]
        ]
        return dataclasses.replace(model, cells=(dataclasses.replace(model.cells[0], differences=tuple(differences)),))

    campaigns = [another() for _ in range(240)]
    alarms = sum(
        any(one.is_clear for one in compare.compare(before, after, ["cpu_us"]).changes)
        for before, after in zip(campaigns[::2], campaigns[1::2])
    )
    assert alarms <= 12


def test_of_different_machines_only_percentages_are_compared() -> None:
    """Microseconds of different processors beside each other are how myths begin."""
    found = compare.compare(
        on_other_machine(example.results(seed=1)), example.results(seed=2, shift_us={"const:1": 8.0})
    )
    assert found.is_other_machine and any("different machines: only the percentages" in one for one in found.warnings)
    assert all(one.absolute is None for one in found.changes)
    assert of(found, "const:1").is_clear and of(found, "const:1").percent.low > 0
    assert compare.compare(example.results(seed=1), example.results(seed=2)).warnings == ()


def test_noise_lost_spans_and_smoke_allow_no_comparison() -> None:
    """A tool that always answers is asked until it says what is wanted."""
    one, other = example.results(seed=1), example.results(seed=2)
    for spoilt in (example.noisy(other), example.invalid(other)):
        assert compare.compare(one, spoilt).status == INVALID
        assert compare.compare(spoilt, one).warnings
    smoke = compare.compare(one, example.results(seed=2, is_smoke=True))
    assert smoke.status == INCONCLUSIVE and "smoke" in smoke.verdict
    few = compare.compare(one, example.results(seed=2, blocks=1))
    assert few.status == INCONCLUSIVE and "too few" in few.verdict


def test_no_clear_change_says_how_large_one_could_be() -> None:
    """ "No change" from wide intervals is not the same as from narrow ones."""
    found = compare.compare(example.results(seed=1), example.results(seed=2))
    assert found.status == PASSED and found.verdict.startswith(
        "no clear change in 30 comparisons; CPU per request has changed by less than "
    )
    widest = max(max(-one.percent.low, one.percent.high) for one in found.changes if one.metric == "cpu_us")
    assert f"{widest:.2f}" in found.verdict


def test_what_only_one_campaign_has_is_named() -> None:
    """A variant that is gone is not a variant that has not changed."""
    found = compare.compare(example.results(names=("const:0", "const:1")), example.results(names=("const:1", "otel")))
    assert {one.variant for one in found.changes} == {"const:1"}
    assert found.unmatched == (
        f"only in the first: const:0 in {example.ONE_CELL[0]}",
        f"only in the second: otel in {example.ONE_CELL[0]}",
    )
    with pytest.raises(Refusal, match="in common"):
        compare.compare(example.results(), example.results((example.cell("hello fastapi c16 saturation"),)))
    assert AGAIN not in {one.variant for one in found.changes}


def test_text_fits_a_terminal_and_markdown_a_pull_request() -> None:
    """Aligned, at most 100 columns; clear changes in sight, the rest folded away; names are only text."""
    found = compare.compare(example.results(seed=1), example.results(seed=2, shift_us={"const:1": 8.0}))
    text = compare.text(found)
    assert max(map(len, text.splitlines())) <= 100
    assert "+8." in next(line for line in text.splitlines() if line.strip().startswith("const:1 ")) and "clear" in text
    hostile = dataclasses.replace(found, changes=(dataclasses.replace(of(found, "const:1"), variant="<img src=x>|a"),))
    markdown = compare.markdown(hostile)
    assert markdown.index("**Clear changes**") < markdown.index("<details>")
    assert "<img" not in markdown and "\\|a" in markdown


def test_the_command_compares_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real files and the real analysis, in all three forms."""
    before = str(written(tmp_path / "before", example.campaign(seed=1)))
    after = str(written(tmp_path / "after", example.campaign(seed=2, shift_us={"const:1": 8.0})))
    assert compare.main([before, after]) == PASSED
    assert "for the worse" in capsys.readouterr().out
    assert compare.main([before, after, "--json"]) == PASSED
    said = json.loads(capsys.readouterr().out)
    assert [one["variant"] for one in said["changes"] if one["is_clear"] and one["metric"] == "cpu_us"] == ["const:1"]
    assert compare.main([before, after, "--markdown"]) == PASSED
    assert capsys.readouterr().out.startswith("### What tracing costs")
    assert app.main(["compare", before, str(tmp_path / "nowhere")]) == USAGE
    assert "nowhere" in capsys.readouterr().err
