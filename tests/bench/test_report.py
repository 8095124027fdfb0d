"""Reports: the page in a real browser, Markdown, and text for a terminal; and what they are drawn with."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from playwright.sync_api import Browser, Page

from autoinstr.bench import analysis, report
from autoinstr.bench.parts import AGAIN, BASE, Account, Difference, Estimate, Pace, Results
from autoinstr.bench.report import dapper, figures, layout, pull_request, quantities, scales, sections
from bench import example_results as example
from ui.colour import contrast
from ui.conftest import barriers, chromium, overflow  # noqa: F401 (a fixture)

HOSTILE = "<script>window.hacked=1</script>"
NAMES = (HOSTILE, "\"'><img src=x onerror=window.hacked=2>", "a|b](http://x)", "x" * 60)
Opener = Callable[..., Page]


@pytest.fixture(scope="module")
def small() -> Results:
    return example.results()


@pytest.fixture(scope="module")
def rates() -> Results:
    """Three concurrencies and three loads of one service, with a rival."""
    return example.noisy(example.results(example.FULL[:6], (*example.LADDER, "otel"), excluded=3), 1)


@pytest.fixture(scope="module")
def hostile() -> Results:
    """Everything that a user may name has a name that means something in HTML, in Markdown or to a terminal."""
    found = example.results(names=("const:0", "const:1"))
    cell = dataclasses.replace(found.cells[0].cell, scenario="<b>\x1b[31mhello")
    variants = [dataclasses.replace(found.manifest.variants[1], name=name) for name in NAMES]
    first = found.cells[0].differences[0]
    differences = [
        dataclasses.replace(one, variant=name)
        for name in NAMES
        for one in found.cells[0].differences
        if one.variant == first.variant
    ]
    curves = [dataclasses.replace(found.cells[0].curves[0], variant=name) for name in NAMES]
    accounts = [dataclasses.replace(found.cells[0].accounts[0], variant=name, trouble=name) for name in NAMES]
    changed = dataclasses.replace(
        found.cells[0], cell=cell, differences=tuple(differences), curves=tuple(curves), accounts=tuple(accounts),
        throughput={name: Estimate(900, 890, 910) for name in NAMES}, memory={name: ((0.0, 4e7), (9.0, 4.1e7)) for name in NAMES},
        sequence=tuple((number, name, 300.0, "ok") for number, name in enumerate(NAMES)), trouble=NAMES,
    )  # fmt: skip
    manifest = dataclasses.replace(
        found.manifest, variants=tuple(variants), argv=NAMES, machine={"cpu": {"model": HOSTILE}}, id=HOSTILE
    )
    return dataclasses.replace(found, manifest=manifest, cells=(changed,), verdict=f"{HOSTILE} costs")


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Opener]:  # noqa: F811
    """Opens a page as a file; whatever it loads, or says on the console, fails the test."""
    contexts, problems = [], []
    number = itertools.count()

    def opened(text: str, *, width: int = 1280, scheme: str = "light") -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        file = tmp_path / f"{next(number)}.html"
        file.write_text(text, encoding="utf-8")
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: problems.append(request.url) if request.url not in (file.as_uri(), "data:,") else None,
        )
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_found_and_loads_nothing(show: Opener, small: Results) -> None:
    """One file, to be attached to anything and read offline, with the verdict first."""
    page = show(report.html(small))
    assert page.locator("h1").inner_text() == small.verdict
    assert page.locator(".pill").inner_text() == "Measured"
    titles = page.locator("h2").all_inner_texts()
    assert titles[0] == "What a request costs more" and titles[-2:] == ["Method and machine", "Not shown"]
    row = page.locator("#cost tr", has=page.get_by_text("const:1", exact=True)).inner_text()
    cost = small.cells[0].difference("const:1")
    assert quantities.change(cost).replace(quantities.GLUE, " ") in re.sub(r"\s+", " ", row)
    assert (
        "seed 1" in page.locator("#method").inner_text()
        and "Pinned: the program to CPU 0" in page.locator("#method").inner_text()
    )
    assert page.evaluate("document.scripts.length") == 0
    assert not re.search(r"(src|href)=\"(?!#|data:,)|url\(|@import", report.html(small))


@pytest.mark.parametrize("width", [360, 1600])
def test_nothing_is_wider_than_the_window_and_no_label_lies_on_another(
    show: Opener, rates: Results, small: Results, width: int
) -> None:
    """On a telephone and on a large screen every label can be read."""
    for results in (rates, small):
        page = show(report.html(results), width=width)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert overflow(page) == 0
        assert overlapping(page) == []
        assert page.locator("svg.chart text").count() > 50


def overlapping(page: Page) -> list[str]:
    """Texts of one figure that cover one another by more than a hair."""
    found: list[str] = page.evaluate("""() => {
        const bad = [];
        for (const svg of document.querySelectorAll("svg.chart, svg.strip")) {
            const texts = [...svg.querySelectorAll("text")].filter((one) => one.getBoundingClientRect().width > 0);
            const boxes = texts.map((one) => one.getBoundingClientRect());
            for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
                const [a, b] = [boxes[i], boxes[j]];
                const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                if (wide > 1 && high > 3) bad.push(`${svg.getAttribute("aria-label")}: ${texts[i].textContent} / ${texts[j].textContent}`);
            }
            const limit = document.documentElement.clientWidth;
            boxes.forEach((box, i) => { if (box.left < 0 || box.right > limit) bad.push(`outside: ${texts[i].textContent}`); });
        }
        return bad; }""")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_people_can_read_it_in_light_and_in_dark(show: Opener, rates: Results, scheme: str) -> None:
    """Contrast of text (4.5 : 1) and of lines (3 : 1), names for figures, order of headings: as far as a program can tell."""
    page = show(report.html(rates), scheme=scheme)
    assert barriers(page) == []
    surface = page.evaluate("getComputedStyle(document.querySelector('.group')).backgroundColor")
    assert (contrast(surface, "#ffffff") < 1.5) == (scheme == "light")
    for number in range(layout.COLOURS):
        line = page.evaluate(
            "(name) => { const one = document.createElement('i'); one.className = name; document.body.append(one);"
            " return getComputedStyle(one).color; }",
            f"v{number}",
        )
        assert contrast(line, surface) >= 3, (number, line)
    for selector in (".x text", ".y text", ".lead text", ".title"):
        assert (
            contrast(
                page.evaluate("(one) => getComputedStyle(document.querySelector(one)).fill", f"svg.chart {selector}"),
                surface,
            )
            >= 4.5
        )


def test_paper_is_white_and_nothing_is_folded_away(show: Opener, rates: Results) -> None:
    """Whoever prints it at night, from a dark screen, gets all of it, in ink on paper."""
    page = show(report.html(rates), scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('h2')).color") == "rgb(23, 27, 33)"
    folded = page.locator("details:not([open]) table").first
    assert folded.evaluate(
        "(one) => one.checkVisibility() && one.closest('details').getBoundingClientRect().height > 150"
    )


def test_marks_stand_where_the_numbers_are(show: Opener, small: Results) -> None:
    """A dot at the wrong place is a wrong answer to whoever looks rather than reads."""
    page = show(report.html(small))
    places = page.evaluate("""() => {
        const middle = (one) => { const box = one.getBoundingClientRect(); return (box.left + box.right) / 2; };
        const rows = document.querySelector("#cost .rows");
        const ticks = [...rows.querySelectorAll("thead text")].map((one) => [one.textContent, middle(one)]);
        const marks = [...rows.querySelectorAll("tbody tr")].map((row) => [row.querySelector("th").textContent, middle(row.querySelector("circle")),
            row.querySelector("line").getBoundingClientRect().left, row.querySelector("line").getBoundingClientRect().right]);
        return [ticks, marks]; }""")
    ticks = [(float(text.replace(quantities.MINUS, "-")), at) for text, at in places[0]]
    (low, start), (high, end) = ticks[0], ticks[-1]
    one_us = (end - start) / (high - low)
    for name, middle, left, right in places[1]:
        known = small.cells[0].difference(name.split(" ")[0]).absolute
        assert (middle - start) / one_us + low == pytest.approx(known.mean, abs=1.5 / one_us)
        # Round ends of a line of 3 pixels.
        assert (left - start + 1.5) / one_us + low == pytest.approx(known.low, abs=3 / one_us)
        assert (right - start - 1.5) / one_us + low == pytest.approx(known.high, abs=3 / one_us)


def test_names_at_the_ends_of_lines_stand_in_the_lines_order(show: Opener, small: Results) -> None:
    """The slowest variant's name is at the top, or the reader takes one line for another."""
    page = show(report.html(small))
    names = (
        page.locator("#latency figure")
        .first.locator(".lead")
        .evaluate_all(
            "(all) => all.map((one) => [one.querySelector('text').getBoundingClientRect().top, one.textContent.split(' ')[0]]).sort((a, b) => a[0] - b[0])"
        )
    )
    last = {curve.variant: curve.response[-1][1] for curve in small.cells[0].curves}
    assert [name for _, name in names] == sorted(last, key=lambda name: -last[name])


def test_pointing_at_a_name_shows_its_line_alone(show: Opener, small: Results) -> None:
    """Lines that lie on one another are told apart without a script."""
    page = show(report.html(small))
    figure = page.locator("#latency figure").first
    figure.locator(".lead text", has_text="const:0").hover()
    shown = figure.locator("svg svg g.s:has(.l)").evaluate_all(
        "(all) => all.filter((one) => getComputedStyle(one).opacity === '1').length"
    )
    assert shown == 1


def test_names_from_outside_are_only_text(show: Opener, hostile: Results) -> None:
    """A report of somebody's branch must not run that somebody's script."""
    page = show(report.html(hostile), width=360)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("[window.hacked ?? null, document.scripts.length, document.images.length]") == [None, 0, 0]
    assert page.evaluate("document.querySelectorAll('[onerror], main b:not(.g b)').length") == 0
    assert page.locator("h1").inner_text() == f"{HOSTILE} costs"
    assert page.get_by_text(HOSTILE).count() > 5
    assert overflow(page) == 0
    assert overlapping(page) == []


# --- what is there, and what is not -----------------------------------------------------------------------------------


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)).replace(
        quantities.GLUE, " "
    )


def test_every_cell_and_variant_has_its_row(rates: Results) -> None:
    """Nothing that was measured is silently left out."""
    (cost,) = (one for one in sections.sections(rates)[0] if one.id == "cost")
    rows = {
        (group.title, row.name)
        for group in cost.blocks
        if group.kind == "group"
        for block in group.blocks
        if block.kind == "rows"
        for row in block.rows
    }
    assert len(rows) == sum(one.metric == "cpu_us" for cell in rates.cells for one in cell.differences) == 48


def test_sections_without_data_are_not_there_and_say_why() -> None:
    """An empty plot makes people think of an error; a missing one, of a forgotten one."""
    html = report.html(example.results(names=("const:1",), blocks=1))
    ids = re.findall(r'<section id="(\w+)"', html)
    assert "model" not in ids and "utilisation" not in ids and "order" not in ids and "spans" in ids
    text = text_of(html)
    assert "the model needs three variants" in text and "needs cells in rate mode" in text and "no interval" in text


def test_a_full_campaign_has_all_sections_and_stays_small() -> None:
    """12 cells of 13 variants in less than 300 kB, so that it can be mailed."""
    results = example.results(example.FULL[:12], example.EVERYTHING, excluded=4)
    html = report.html(results)
    ids = re.findall(r'<section id="(\w+)"', html)
    assert ids == [
        "cost", "model", "dapper", "latency", "throughput", "utilisation", "concurrency", "order", "spans", "memory", "invalid", "method",
    ]  # fmt: skip
    assert len(html.encode()) < 300_000
    assert "Of 3,124 runs 4 thrown out or repeated" in text_of(html)


def test_noise_is_stamped_on_its_cell_and_said_at_the_top(rates: Results) -> None:
    """Nobody quotes a figure of a cell in which bare differs from bare, without having seen the stamp."""
    html = report.html(rates)
    assert (
        html.count('<details class="group noisy"') >= 4 and "Noisy" in re.search(r'class="pill warning">(\w+)', html)[1]
    )
    assert "A/A excludes 0 here" in html
    assert "NOISY: bare differs from bare" in report.terminal(rates) and "**noisy**" in report.markdown(rates)


def test_a_smoke_campaign_says_so_everywhere_and_states_nothing() -> None:
    """Three short blocks are for seeing that it works."""
    results = example.results(names=("const:0", "const:1"), blocks=3, is_smoke=True)
    html = report.html(results)
    assert (
        "Smoke, no inference" in html and "unclear" not in re.sub(r"<p.*?</p>", "", html) and ">equivalent<" not in html
    )
    assert "smoke, no inference" in report.terminal(results) and "Smoke, no inference" in report.markdown(results)


def test_lost_spans_are_shown_before_any_table(small: Results) -> None:
    """A tracer that loses spans is faster; the reader must know first."""
    spoilt = example.invalid(small)
    html, markdown, text = report.html(spoilt), report.markdown(spoilt), report.terminal(spoilt)
    assert 'class="pill bad">Invalid data' in html and "Not all spans add up." in html
    assert all("412 spans were dropped" in one for one in (html, markdown, text))
    assert markdown.startswith("### ⚠️")


def test_start_up_is_shown_when_it_is_given(small: Results) -> None:
    """What `bench startup` found stands beside what requests cost."""
    slower = Difference(
        "const:1",
        "ms",
        10,
        68.2,
        91.4,
        Estimate(23.2, 22.1, 24.3),
        Estimate(34.0, 32.4, 35.6),
        0.002,
        0.002,
        False,
        4,
    )
    text = text_of(report.html(dataclasses.replace(small, start_up={"Flask under gunicorn": (slower,)})))
    assert "Flask under gunicorn: " in text
    assert "bench startup --add-to" in text_of(report.html(small)) and "bench startup --add-to" not in text
    assert "Start-up" in text and "+23.2 ms [+22.1, +24.3] (+34.0 %)" in text and "bare: 68.2 ms" in text


def test_the_pace_of_the_machine_is_told(small: Results) -> None:
    """Whoever sees steady figures of a machine that was not must know what was made of them."""
    pace = Pace(24.5, 22.0, 48.9, {"cpu_us": 0.84}, 17.3, 3.4)
    paced = dataclasses.replace(small, cells=(dataclasses.replace(small.cells[0], pace=pace), *small.cells[1:]))
    shown = text_of(report.html(paced))
    assert "The pace of the server" in shown
    assert "22.0 … 48.9" in shown and "0.84" in shown and "17.3 %" in shown and "3.4 %" in shown
    assert "scatter by 17.3 %, 3.4 % at the CPUs' usual pace" in " ".join(report.terminal(paced).split())


def test_what_the_real_analysis_finds_can_be_shown() -> None:
    """From records of runs to all three forms, by the modules that users run; two blocks, one block and none as well."""
    for blocks in (10, 2, 1):
        results = analysis.analyse(example.campaign(example.FULL[:6], blocks=blocks))
        assert results.verdict[:20] in text_of(report.html(results)).replace("&amp;", "&")
        assert report.markdown(results) and report.terminal(results)
    empty = analysis.analyse(dataclasses.replace(example.campaign(), runs=()))
    assert "Not shown" in report.html(empty) and report.markdown(empty) and report.terminal(empty)


# --- Dapper -----------------------------------------------------------------------------------------------------------


def test_dappers_table_is_the_papers_and_ours_says_what_was_measured(rates: Results) -> None:
    """Sigelman et al. 2010, Table 2; beside it what was measured at that share, and predictions marked as such."""
    assert [(round(1 / f), latency, throughput) for f, latency, throughput in dapper.PUBLISHED] == [
        (1, 16.3, -1.48), (2, 9.40, -0.73), (4, 6.38, -0.30), (8, 4.12, -0.23), (16, 2.12, -0.08), (1024, -0.20, -0.06),
    ]  # fmt: skip
    (found,) = dapper.beside(rates)
    assert [row.measured_as for row in found.rows] == ["const:1", "", "", "", "", ""]
    assert found.paced.cell.load == 0.3 and found.saturated.cell.concurrency == 128
    measured = found.saturated.difference("const:1")
    assert (
        found.rows[0].cpu_us == measured.absolute
        and found.rows[0].latency == found.paced.difference("const:1", "p50_us").percent
    )
    half = found.rows[1]
    model = found.saturated.model
    assert half.cpu_us.mean == pytest.approx(model.fixed_us.mean + model.per_span_us.mean / 2)
    assert half.throughput.mean == pytest.approx(-100 * half.cpu_us.mean / (model.base_us.mean + half.cpu_us.mean))
    table = dapper.table(found)
    assert [row[-1] for row in table.rows[:2]] == ["measured (const:1)", "predicted"]
    assert "dapper-2010-1, Table 2" in table.notes[0] and "±2.5" in table.notes[0] and "±0.15" in table.notes[0]


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_markdown_is_whole_tables_with_the_verdict_first(rates: Results) -> None:
    """A table with a cell too many is not a table any more; a `details` that is not closed swallows the discussion."""
    text = report.markdown(rates)
    assert text.splitlines()[0].endswith(pull_request.escaped(rates.verdict))
    assert text.count("<details>") == text.count("</details>") >= 3
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    one = rates.cells[0].difference("const:1")
    assert quantities.change(one).replace("[", "\\[").replace("]", "\\]") in text
    assert "every request pays" in text and len(text) < 60_000


def test_markdown_shows_hostile_names_as_text(hostile: Results) -> None:
    """No tag, link, table cell or mention comes from a name."""
    text = report.markdown(hostile)
    assert "<script" not in text and "<img" not in text and "\x1b" not in text
    assert not re.search(r"(?<!\\)\]\(http", text)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "@\N{ZERO WIDTH NON-JOINER}team" in pull_request.escaped("@team") and "\n" not in pull_request.escaped(
        "a\n# b"
    )


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_the_terminal_gets_aligned_tables_of_at_most_100_columns(rates: Results, hostile: Results) -> None:
    """Numbers under numbers, in any window; a long name is cut, a number never."""
    for results in (rates, hostile):
        text = report.terminal(results, is_colour=False)
        assert max(map(len, text.splitlines())) <= 100
        assert "\x1b" not in text and quantities.GLUE not in text
    lines = report.terminal(rates, is_colour=False).splitlines()
    head = next(line for line in lines if line.strip().startswith("variant"))
    table = lines[lines.index(head) + 1 :][:8]
    assert {line.index(" µs ") for line in table} == {head.index("added") + len("added") - len(" µs")}


def test_colour_is_only_for_terminals(
    small: Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log file full of escape codes is no log file."""
    assert "\x1b" not in report.terminal(small)
    assert "\x1b[32m" in report.terminal(small, is_colour=True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m" in report.terminal(small)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in report.terminal(small)


# --- numbers ----------------------------------------------------------------------------------------------------------


def a_difference(
    metric: str, absolute: Estimate | None, percent: Estimate | None, base: float = 190.0, value: float = 196.1
) -> Difference:
    return Difference("const:1", metric, 10, base, value, absolute, percent, 0.01, 0.01, False, 3)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (a_difference("cpu_us", Estimate(6.1, 5.4, 6.8), Estimate(3.2, 2.8, 3.6)), "+6.1 µs [+5.4, +6.8] (+3.2 %)"),
        (a_difference("cpu_us", Estimate(-0.02, -0.3, 0.4), Estimate(-0.01, -0.1, 0.2)), "0.0 µs [−0.3, +0.4] (0.0 %)"),
        (
            a_difference("cpu_us", Estimate(0.021, 0.012, 0.03), Estimate(0.1, 0.05, 0.2)),
            "+0.02 µs [+0.01, +0.03] (+0.1 %)",
        ),
        (
            a_difference("p99_us", Estimate(1058, 1000, 1116), Estimate(73.1, 70, 76)),
            "+1,058 µs [+1,000, +1,116] (+73.1 %)",
        ),
        (a_difference("throughput", Estimate(-55, -80, -30), Estimate(-1.9, -2.8, -1)), "−55/s [−80, −30] (−1.9 %)"),
        (a_difference("rss_bytes", Estimate(3.8e6, 3.7e6, 3.9e6), Estimate(9, 8, 10)), "+3.8 MB [+3.7, +3.9] (+9.0 %)"),
        (a_difference("cpu_us", None, None), "+6.1 µs (no interval)"),
    ],
)
def test_a_change_is_written_with_its_interval_microseconds_first(one: Difference, text: str) -> None:
    """As documented, in HTML, Markdown and the terminal alike."""
    assert quantities.change(one).replace(quantities.GLUE, " ") == text


def test_amounts_have_the_unit_that_they_are_read_best_in() -> None:
    """Nobody reads 12900.0 µs."""
    texts = [quantities.duration(one).replace(quantities.GLUE, " ") for one in (5.04, 309.5, 1454, 12_900, 2_000_000)]
    assert texts == ["5.0 µs", "309.5 µs", "1,454 µs", "12.9 ms", "2.00 s"]
    assert [quantities.fraction(one).replace(quantities.GLUE, " ") for one in (1, 0.5, 1 / 1024, 0.01, 0)] == [
        "all",
        "1/2",
        "1/1024",
        "1 %",
        "none",
    ]


# --- scales and drawing -----------------------------------------------------------------------------------------------

SIZES = some.floats(-1e6, 1e6).filter(lambda one: one == 0 or abs(one) > 1e-3)


@given(some.lists(SIZES, min_size=1, max_size=12), some.floats(0.01, 10))
def test_a_scale_keeps_the_order_and_its_ticks_within(values: list[float], finest: float) -> None:
    """Whatever is measured, larger is further right, everything is inside, and ticks say so at their places."""
    positive = [abs(one) + 0.1 for one in values]
    for scale, known in (
        (scales.linear(values), values), (scales.linear(values, with_zero=True, is_tight=True), values), (scales.around_zero(values, finest), values),
        (scales.logarithmic(positive), positive), (scales.doublings(positive), positive),
    ):  # fmt: skip
        places = [scale.place(one) for one in sorted(known)]
        assert places == sorted(places) and 0 <= places[0] and places[-1] <= 1
        slack = 1e-6 * (abs(scale.low) + abs(scale.high))
        assert all(scale.low - slack <= tick.value <= scale.high + slack for tick in scale.ticks)
        assert len([tick for tick in scale.ticks if not tick.is_minor]) <= 14
        low, high = scale.place(min(known)), scale.place(max(known))
        assert low == high or max(known) > min(known)


def test_percentiles_are_stretched_by_nines() -> None:
    """From 90 to 99 is as far as from 99 to 99.9: the tail can be seen."""
    scale = scales.percentiles(99.99)
    places = [scale.place(one) for one in (90, 99, 99.9, 99.99)]
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert steps == [pytest.approx(0.25)] * 3 and places[-1] == 1
    assert [tick.label for tick in scale.ticks if not tick.is_minor] == ["90", "99", "99.9", "99.99"]


@given(some.lists(some.floats(0, 240), min_size=1, max_size=16))
def test_labels_are_spread_apart_in_order(wanted: list[float]) -> None:
    """However close the lines end, no name covers another, and none changes place with another."""
    height = max(240, figures.LINE * len(wanted) + 10)
    places = figures.spread(wanted, figures.LINE, 4, height - 4)
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    assert all(places[b] - places[a] >= figures.LINE - 1e-6 for a, b in itertools.pairwise(order))
    assert all(4 - 1e-6 <= one <= height - 4 + 1e-6 for one in places)
    if (
        all(b - a >= figures.LINE for a, b in itertools.pairwise(sorted(wanted)))
        and 4 <= min(wanted)
        and max(wanted) <= height - 4
    ):
        assert places == pytest.approx(wanted)


@given(some.lists(some.tuples(some.floats(0, 1000), some.floats(0, 1000)), min_size=2, max_size=40))
def test_a_thinned_curve_stays_where_it_was(points: list[tuple[float, float]]) -> None:
    """What is left out for the sake of size is less than half a pixel away."""
    points = sorted(points)
    kept = figures.thinned(points)
    assert kept[0] == points[0] and kept[-1] == points[-1]
    for point in points:
        assert min(to_segment(point, a, b) for a, b in itertools.pairwise(kept)) <= figures.TOLERANCE + 1e-6


def to_segment(point: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> float:
    across, down = end[0] - start[0], end[1] - start[1]
    length = across**2 + down**2
    along = ((point[0] - start[0]) * across + (point[1] - start[1]) * down) / length if length else 0.0
    along = min(max(along, 0.0), 1.0)
    return ((point[0] - start[0] - along * across) ** 2 + (point[1] - start[1] - along * down) ** 2) ** 0.5


def test_variants_keep_their_colours_in_all_figures(rates: Results) -> None:
    """Bare is bare and a variant is itself, in every section."""
    shown = layout.page(rates)
    assert (shown.colour(BASE), shown.colour(AGAIN)) == (0, 1)
    others = [one.name for one in rates.manifest.variants if one.name not in (BASE, AGAIN)]
    assert len({shown.colour(name) for name in others}) == len(others)


def test_what_nobody_tells_is_no_column(small: Results) -> None:
    """Of an agent that tells nothing, the table of spans is what the sink saw."""
    silent: tuple[Any, ...] = tuple(
        Account(one.variant, 20, 1000, None, None, None, None, None, None, None, 0, None, None)
        for one in small.cells[0].accounts
    )
    found = report.tables.accounts(dataclasses.replace(small.cells[0], accounts=silent))
    assert [column.title for column in found.columns] == ["variant", "runs", "requests", "received"]


def test_what_was_not_measured_is_a_dash() -> None:
    """A latency that no usable run has is shown as 0 µs, or bare's whole latency as what a variant spares."""
    known = Difference("otel", "p99_us", 1, 300.0, 400.0, None, None, None, None, None, None, (100.0,))
    assert quantities.change(known).replace("\N{NO-BREAK SPACE}", " ") == "+100.0 µs (no interval)"
    for unknown in (dataclasses.replace(known, base=0.0), dataclasses.replace(known, value=0.0)):
        assert quantities.change(unknown) == quantities.NOTHING
