"""Does the harness find what is known to be there?

`burn:50` burns 50 µs of CPU in every request, `burn:200@0.1` burns 200 µs in every tenth, chosen at random: 20 µs on the average.
Twenty campaigns, each with a seed of its own, measure both as they would measure an agent. Their 95 % intervals must hold the truth in at
least 18 of 20, and bare against bare must be told apart in at most 2.

    python benchmarks/calibration.py
    python benchmarks/calibration.py --repeats 5 --blocks 6 --work calibration      goes on with what is there
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from autoinstr.bench import analysis, store
from autoinstr.bench.parts import AGAIN, Difference, Refusal, to_json

HERE = Path(__file__).resolve().parent
TRUTHS = {"burn:50": 50.0, "burn:200@0.1": 20.0, AGAIN: 0.0}


def campaign(folder: Path, seed: int, options: argparse.Namespace) -> None:
    """Run one campaign, or go on with it."""
    command = [sys.executable, "-m", "autoinstr", "bench", "run"]
    if folder.exists():
        command += ["--resume", str(folder)]
    else:
        variants = ",".join(name for name in TRUTHS if name != AGAIN)
        command += ["--scenario", "hello", "--framework", options.framework, "--concurrency", str(options.concurrency)]
        command += ["--variants", variants, "--blocks", str(options.blocks), "--seed", str(seed)]
        command += ["--window", str(options.window), "--warm-up", "1.5", "--extensions", "0", "--out", str(folder)]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 3, 4):
        sys.exit(f"campaign {seed} ended with exit code {done.returncode}; go on with the same command")


def found(folder: Path) -> dict[str, Difference]:
    """What the campaign says of the CPU per request, by variant."""
    (cell,) = analysis.analyse(store.read(folder)).cells
    return {one.variant: one for one in cell.differences if one.metric == "cpu_us"}


def row(variant: str, truth: float, repeats: list[dict[str, Difference]]) -> dict[str, object]:
    """How one variant came out over all repeats."""
    estimates = [one[variant].absolute for one in repeats if one[variant].absolute is not None]
    held = sum(not estimate.excludes(truth) for estimate in estimates)
    means = sorted(estimate.mean for estimate in estimates)
    widths = sorted((estimate.high - estimate.low) / 2 for estimate in estimates)
    return {
        "variant": variant,
        "truth_us": truth,
        "held": held,
        "of": len(repeats),
        "mean_us": sum(means) / len(means) if means else None,
        "lowest_us": means[0] if means else None,
        "highest_us": means[-1] if means else None,
        "half_width_us": widths[len(widths) // 2] if widths else None,
    }


def markdown(rows: list[dict[str, object]], record: dict[str, object]) -> str:
    cpu = record["machine"]["cpu"]
    setting = f"{cpu['model']}; {record['cell']}; {record['blocks']} blocks of {record['window_s']} s windows"
    lines = [
        f"# calibration, {record['date']}",
        "",
        f"{setting}, {len(record['repeats'])} campaigns.",
        "",
        "| variant | truth, µs | interval holds it | mean of the estimates | lowest, highest | half-width (median) |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['variant']} | {one['truth_us']:.0f} | {one['held']} of {one['of']} | {one['mean_us']:.2f} | "
        f"{one['lowest_us']:.2f}, {one['highest_us']:.2f} | {one['half_width_us']:.2f} |"
        for one in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--window", type=int, default=2, help="seconds")
    parser.add_argument("--framework", default="starlette")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--work", type=Path, help="folder of the campaigns (default: a temporary one)")
    parser.add_argument("--read", action="store_true", help="measure nothing: read the campaigns that are in --work")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if options.read and not options.work:
        parser.error("--read needs --work, the folder of the campaigns")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for folder in (work, options.results):
            folder.mkdir(parents=True, exist_ok=True)
        repeats = []
        for number in range(options.repeats):
            folder = work / f"{number:02d}"
            if not options.read:
                campaign(folder, number, options)
            repeats.append(found(folder))
            print({name: str(one.absolute) for name, one in repeats[-1].items()}, flush=True)
        try:
            manifest = store.read_manifest(work / "00")
        except Refusal as refusal:
            sys.exit(str(refusal))
    record = {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="minutes"),
        "machine": dict(manifest.machine),
        "versions": to_json(manifest.versions),
        "cell": str(manifest.cells[0]),
        "blocks": manifest.blocks,
        "window_s": manifest.timing.window_s,
        "repeats": to_json(repeats),
    }
    rows = [row(variant, truth, repeats) for variant, truth in TRUTHS.items()]
    record["summary"] = rows
    stem = options.results / f"calibration-{record['date'][:16].replace(':', '').replace('+', '')}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    text = markdown(rows, record)
    stem.with_suffix(".md").write_text(text)
    print(text)
    enough = 0.9 * options.repeats
    return 0 if all(one["held"] >= enough for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
