"""The tables and the chart of docs/scale.md, from the results of `benchmarks/scale.py`; the sizing formulas are here, too.

Owns: how results are shown, what the sizing assumes. Must not know: how anything was measured, files.
Invariants: pure; the same record gives the same text.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fleet

SPANS_PER_REQUEST = 4
#: Services that a trace passes through.
SERVICES_PER_TRACE = 5
#: The wire that the sizing goes by.
MAIN_WIRE = "OTLP protobuf, HTTP"

# ---- Tables --------------------------------------------------------------------------------------------


def middle(record: Mapping[str, Any], part: str, name: str, key: str = "us") -> float:
    return statistics.median(record["measured"]["samples"][part][name][key])


def spread_text(record: Mapping[str, Any], part: str, name: str, key: str = "us", digits: int = 1) -> str:
    values = record["measured"]["samples"][part][name][key]
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def per_core(microseconds: float) -> str:
    """Per second of one core, to two digits: more is not known."""
    number = 1e6 / microseconds
    unit = 10 ** max(len(str(int(number))) - 2, 0)
    return f"{round(number / unit) * unit:,.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_line(record: Mapping[str, Any]) -> str:
    found = record["measured"]
    facts = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if name != "autoinstr")
    return (
        f"{found['date'][:10]}, {facts['cpu']}, {facts['cpus']} CPUs, {facts['kernel']}, Python {facts['python']}, {versions};\n"
        f"medians of {found['rounds']} rounds (what takes no server: {3 * found['rounds']}), least and most in brackets."
    )


def weight_table(record: Mapping[str, Any]) -> str:
    rows = []
    for name, found in record["measured"]["weights"].items():
        cost = middle(record, "encoding", name)
        rows.append(
            [
                name,
                f"{found['bytes']:.0f}",
                f"{found['gzip_bytes']:.0f}",
                spread_text(record, "encoding", name),
                spread_text(record, "encoding", name, "gzip_us"),
                per_core(cost),
            ]
        )
    return table(["Wire", "Bytes/span", "gzip", "Encoding, µs/span", "gzip, µs/span more", "Spans/s of a core"], rows)


def stage_table(record: Mapping[str, Any]) -> str:
    rows = []
    kept, unkept = middle(record, "making", "four spans, kept"), middle(record, "making", "server span, not kept")
    rows.append(
        [
            "Program's thread: start, describe, end, queue a span",
            spread_text(record, "making", "four spans, kept") + " for 4",
            per_core(kept / SPANS_PER_REQUEST),
        ]
    )
    rows.append(
        ["The same for a request that is not kept", spread_text(record, "making", "server span, not kept"), f"{per_core(unkept)} requests"]
    )
    rows += [
        [f"`autoinstr serve`, into SQLite: {name}", spread_text(record, "ingest", name), per_core(middle(record, "ingest", name))]
        for name in record["measured"]["samples"]["ingest"]
    ]
    for name in record["measured"]["samples"]["store"]:
        ours, server = middle(record, "store", name), middle(record, "store", name, "server_us")
        text = spread_text(record, "store", name)
        if server:
            text += f"; the database {spread_text(record, 'store', name, 'server_us')}"
        rows.append([f"Store alone: {name}", text, per_core(ours + server)])
    return table(["Stage", "CPU, µs per span", "Spans/s of a core"], rows)


def bytes_table(record: Mapping[str, Any]) -> str:
    names = record["measured"]["samples"]["store"]
    rows = [[name, f"{middle(record, 'store', name, 'bytes'):.0f}"] for name in names]
    return table(["Store", "Bytes/span kept"], rows)


def poll_table(record: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"{middle(record, 'polls', name, 'bytes'):,.0f}",
            spread_text(record, "polls", name, digits=0),
            per_core(middle(record, "polls", name)),
            f"{round(0.3 * 60e6 / middle(record, 'polls', name), -2):,.0f}",
        ]
        for name in record["measured"]["samples"]["polls"]
    ]
    head = ["Strategy of", "Bytes", "CPU, µs per poll", "Polls/s of a core", "Processes that 30 % of a core serves, each once a minute"]
    return table(head, rows)


def elsewhere_table(record: Mapping[str, Any]) -> str:
    found = record["measured"]["elsewhere"]
    files = found["files"]
    rows = [[f"Query: {name}, of a million spans in SQLite", f"{ms:.2f} ms", files["store"]] for name, ms in found["query_ms"].items()]
    rows += [
        [f"`autoinstr serve`, into SQLite: {name}", f"{number:,.0f} spans/s of a core", files["ingest"]]
        for name, number in found["ingest_per_cpu_s"].items()
    ]
    stored = found["store"]
    rows += [
        ["Store alone: SQLite, a million spans", f"{stored['spans_per_cpu_s']:,.0f} spans/s of a core", files["store"]],
        ["Kept by it", f"{stored['bytes_per_span']:.0f} bytes/span", files["store"]],
    ]
    titles = {"flask": "Flask `/`", "fastapi": "FastAPI `/`", "requests": "one `requests.get`"}
    for name, us in found["request_us"].items():
        scenario, _, rate = name.partition(" ")
        rows.append([f"Agent, {titles[scenario]}, {rate} of the traces kept", f"+{us:.1f} µs per request", files["overhead"]])
    return table(["What", "Measured", "Where and when"], rows)


#: What the sizing assumes of a service.
REQUESTS_PER_S = 50
#: One service in ten is asked from outside, for five operations.
ENTRY_OPERATIONS = 0.5
POLICIES: dict[str, Callable[[float], float]] = {
    "all": lambda traces_per_s: traces_per_s,
    "10 %": lambda traces_per_s: traces_per_s * 0.1,
    "1 %": lambda traces_per_s: traces_per_s * 0.01,
}
STEERED = "steered, 1/s"
SIZES = (10, 100, 1000, 10_000)
#: How far a core is loaded by plan.
LOAD = 0.6
#: Jaeger's ClickHouse, by its maintainers: 722 MiB for 10 million spans.
CLICKHOUSE_BYTES = 722 * 2**20 / 1e7


def sizes(record: Mapping[str, Any], services: int, policy: str) -> dict[str, float]:
    """The formulas of docs/scale.md."""
    requests_per_s = services * REQUESTS_PER_S
    traces_per_s = requests_per_s / SERVICES_PER_TRACE
    kept_per_s = services * ENTRY_OPERATIONS * fleet.TARGET_PER_S if policy == STEERED else POLICIES[policy](traces_per_s)
    spans_per_s = kept_per_s * SERVICES_PER_TRACE * SPANS_PER_REQUEST
    weight = record["measured"]["weights"][MAIN_WIRE]
    return {
        "requests_per_s": requests_per_s,
        "spans_per_s": spans_per_s,
        "mbit_per_s": spans_per_s * weight["bytes"] * 8 / 1e6,
        "gzip_mbit_per_s": spans_per_s * weight["gzip_bytes"] * 8 / 1e6,
        "cores": spans_per_s * middle(record, "ingest", MAIN_WIRE) / 1e6 / LOAD,
        "gb_per_day": spans_per_s * middle(record, "store", "SQLite", "bytes") * 86_400 / 1e9,
        "clickhouse_gb_per_day": spans_per_s * CLICKHOUSE_BYTES * 86_400 / 1e9,
    }


def short(number: float) -> str:
    """Two digits, as much as such a reckoning knows."""
    if number >= 10:
        unit = 10 ** (len(str(int(number))) - 2)
        return f"{round(number / unit) * unit:,.0f}"
    return f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def sizing_table(record: Mapping[str, Any]) -> str:
    rows = []
    for services in SIZES:
        for policy in (*POLICIES, STEERED):
            found = sizes(record, services, policy)
            fits = "one" if found["cores"] <= 1 else "Jaeger"
            rows.append(
                [
                    f"{services:,}",
                    policy,
                    short(found["requests_per_s"]),
                    short(found["spans_per_s"]),
                    f"{short(found['mbit_per_s'])} ({short(found['gzip_mbit_per_s'])})",
                    f"{short(found['cores'])}: {fits}",
                    short(found["gb_per_day"]),
                    short(found["clickhouse_gb_per_day"]),
                ]
            )
    head = ["Services", "Kept", "Requests/s", "Spans/s", "Mbit/s (gzip)", "Cores of `autoinstr serve`", "GB/day, SQLite", "GB/day, ClickHouse †"]
    return table(head, rows)


def story_table(record: Mapping[str, Any]) -> str:
    found = record["simulated"]["story"]["facts"]

    def percent(name: str) -> str:
        return f"{100 * found[name]:.0f} %"

    rows = [
        [
            f"Start: {found['instances']:.0f} processes begin within a minute",
            (f"{found['start_first_kept_per_s']:.0f} traces/s in the first minute, {found['start_kept_per_s']:.0f} in the 15th (goal:"
            f" {found['start_goal_per_s']:.0f}); {percent('start_share')} of the operations at their goals, 95 % after"
            f" {found['start_settled_min']:.0f} minutes"),
        ],
        [
            f"A day in 20 minutes: load 1 to 3 and back (×{found['day_swing']:.1f} by the minute)",
            (f"{percent('day_mean_share')} at their goals on average, {percent('day_least_share')} in the worst minute; in all"
            f" {found['day_least_excess']:.2f} to {found['day_most_excess']:.2f} times the goal"),
        ],
        [
            f"One operation has {fleet.BURST_FACTOR} times its traffic for 5 minutes",
            (f"{found['burst_before_per_s']:.1f} traces/s before; {found['burst_first_per_s']:.1f}, {found['burst_second_per_s']:.1f} in"
            f" its first minutes, {found['burst_last_per_s']:.1f} in its last; {found['burst_after_first_per_s']:.2f} right after it,"
            f" {found['burst_after_last_per_s']:.1f} four minutes later"),
        ],
        [
            f"Processes join ({found['crowd_from']:.0f} → {found['crowd_to']:.0f}), then half leave ({found['crowd_left']:.0f})",
            (f"{found['crowd_before_per_s']:.0f} traces/s before, at most {found['crowd_most_per_s']:.0f} and at least"
            f" {found['crowd_least_per_s']:.0f} meanwhile; never below {percent('crowd_share')} at their goals"),
        ],
        [
            f"A new operation with {found['new_per_s'] * 60:.0f} requests a minute, in a service of {found['new_instances']:.0f} processes",
            (f"{found['new_kept_in_first_minute']:.0f} of its requests kept in its first minute, {found['new_kept']:.0f} of"
            f" {found['new_requests']:.0f} in ten (chance alone, at the initial rate: {found['new_requests'] * fleet.DEFAULT_RATE:.2f})"),
        ],
        [
            "The backend is gone; nobody is told anything",
            (f"{found['gone_before_per_s']:.0f} traces/s before, {found['gone_quiet_per_s']:.0f} meanwhile, at most"
            f" {found['gone_busy_per_s']:.0f} when traffic is {fleet.GONE_FACTOR} times as much"),
        ],
        [
            f"A service restarts meanwhile ({found['gone_restarted']:.0f} processes)",
            f"keeps {found['gone_restarted_rate']:.4f} of its requests: the initial rate ({fleet.DEFAULT_RATE})",
        ],
        [
            "It is back as a new process that knows nothing",
            (f"{found['back_first_per_s']:.0f} traces/s in the first minute, {found['back_least_per_s']:.0f} at the least,"
            f" {found['back_last_per_s']:.0f} in the end; never more than {found['back_most_excess']:.2f} times the goal; 95 % at their"
            f" goals after {found['back_settled_min']:.0f} minutes; at most {found['back_most_polls_in_a_second']:.0f} polls in a second"),
        ],
    ]
    chapters = "; ".join(f"{number} {name}" for number, (name, _) in enumerate(record["simulated"]["story"]["chapters"], 1))
    return f"In the chart: {chapters}.\n\n" + table(["What happens", "What comes of it"], rows).replace("| ---: |", "| --- |")


def herd_table(record: Mapping[str, Any]) -> str:
    rows = []
    for start, spreads in record["simulated"]["herd"].items():
        for spread, found in spreads.items():
            cells = [f"{found[name]:,.0f}" for name in ("first", "next", "later")]
            rows.append([f"start {start}, polls {spread}", *cells, f"{found['mean']:.0f}"])
    return table(["1,000 processes", "First minute", "Minutes 2 to 5", "Minutes 21 to 30", "If even"], rows)


def limit_table(record: Mapping[str, Any]) -> str:
    found = record["simulated"]
    rows = [
        [f"{count} backends, the same" if count != "1" else "1 backend, one operation of 200 requests/s, target 1/s", f"{kept:.2f} traces/s"]
        for count, kept in found["replicas"].items()
    ]
    rows += [
        [
            f"{int(count):,} services steered by one backend, two operations of 10 requests/s each",
            f"{100 * each['share']:.0f} % of the operations at their goals, {each['per_operation_s']:.2f} traces/s of each",
        ]
        for count, each in found["many_services"].items()
    ]
    return table(["What", "What comes of it"], rows).replace("| ---: |", "| --- |")


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "machine": machine_line,
    "weights": weight_table,
    "stages": stage_table,
    "bytes": bytes_table,
    "polls": poll_table,
    "elsewhere": elsewhere_table,
    "sizing": sizing_table,
    "story": story_table,
    "herd": herd_table,
    "limits": limit_table,
}


def with_tables(text: str, record: Mapping[str, Any]) -> str:
    """The page with each table between its marks made anew. ``ValueError`` when a mark is missing."""
    for name, make in TABLES.items():
        begin, end = f"<!-- scale:{name} (written by benchmarks/scale.py; do not edit) -->\n", f"\n<!-- /scale:{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"the page has no place for {name}: it wants {begin.strip()} and {end.strip()}")
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{make(record)}\n{end}{rest.partition(end)[2]}"
    return text


def results_page(record: Mapping[str, Any]) -> str:
    """The same tables without the page."""
    parts = [f"# scale\n\nMade by `benchmarks/scale.py`; explained in docs/scale.md. Commit {record['measured']['commit']}.\n"]
    parts += [f"## {name}\n\n{make(record)}\n" for name, make in TABLES.items()]
    return "\n".join(parts)


# ---- The chart -----------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP = 900, 330, 55, 30


def chart(record: Mapping[str, Any]) -> str:
    """Traces kept and wanted over the story, and the share of operations at their goals, as SVG."""
    told = record["simulated"]["story"]
    series, chapters = told["series"], told["chapters"]
    minutes = len(series["kept_per_s"])
    most = 200.0 * math.ceil(max(*series["kept_per_s"], *series["goal_per_s"]) / 200)

    def across(minute: float) -> float:
        return LEFT + minute / minutes * (WIDTH - LEFT - 10)

    def line(values: Sequence[float], low: float, height: float, full: float, style: str) -> str:
        points = " ".join(f"{across(n + 0.5):.1f},{low - value / full * height:.1f}" for n, value in enumerate(values))
        return f'<polyline fill="none" {style} points="{points}"/>'

    upper, lower = 215, HEIGHT - 25
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        "<title>Traces kept per second, and operations at their goals, by the minute</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for number, (name, began) in enumerate(chapters):
        ends = chapters[number + 1][1] if number + 1 < len(chapters) else minutes
        colour = "#f6d5d5" if "gone" in name else ("#f4f4f4", "#ffffff")[number % 2]
        x, wide = across(began), across(ends) - across(began)
        parts.append(f'<rect x="{x:.1f}" y="{TOP}" width="{wide:.1f}" height="{lower - TOP}" fill="{colour}"/>')
        parts.append(f'<text x="{x + 3:.1f}" y="{TOP + 12 + 13 * (number % 3)}" fill="#555">{number + 1}</text>')
    for share in (0, 0.5, 1):
        y = upper - share * (upper - TOP - 45)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#333">{share * most:.0f}</text>')
        y = lower - share * 60
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#333">{100 * share:.0f} %</text>')
    tall = upper - TOP - 45
    parts.append(line(series["goal_per_s"], upper, tall, most, 'stroke="#888" stroke-dasharray="4 3"'))
    parts.append(line(series["kept_per_s"], upper, tall, most, 'stroke="#1560bd" stroke-width="1.8"'))
    parts.append(line(series["share_at_goal"], lower, 60, 1, 'stroke="#1c7c3c" stroke-width="1.8"'))
    parts += [
        (f'<text x="{LEFT}" y="18"><tspan fill="#1560bd">traces/s kept</tspan>, <tspan fill="#777">wanted (dashed)</tspan>;'
        ' below: <tspan fill="#1c7c3c">operations at their goals</tspan></text>'),
        *(
            f'<text x="{across(minute):.1f}" y="{HEIGHT - 8}" text-anchor="middle" fill="#333">{minute}</text>'
            for minute in range(0, minutes + 1, 10)
        ),
        f'<text x="{WIDTH - 10}" y="18" text-anchor="end" fill="#333">minutes</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
