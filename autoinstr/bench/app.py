"""``autoinstr bench``: the command line of the harness.

Owns: its subcommands, the options of ``run``, ``plan`` and ``report``, exit codes.
Must not know: how anything is measured.
Invariants: ``plan`` writes nothing; a Refusal is one line on stderr; each subcommand imports only what it needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from autoinstr.bench.parts import INVALID, RATE, SATURATION, USAGE, Cell, Manifest, Refusal, Timing, Variant, to_json

#: Subcommands with a module of their own: each has ``main(words) -> exit code``.
ROOMS = {
    "doctor": "autoinstr.bench.doctor",
    "micro": "autoinstr.bench.micro",
    "startup": "autoinstr.bench.startup",
    "soak": "autoinstr.bench.soak",
    "compare": "autoinstr.bench.compare",
    "gate": "autoinstr.bench.gate",
    "sink": "autoinstr.bench.sink",
    "worker": "autoinstr.bench.worker",
    "rivals": "autoinstr.bench.rivals",
    "schema": "autoinstr.bench.schema",
}

USAGE_TEXT = """\
usage: autoinstr bench <command> [options]      (each has --help)

measure
  run       a campaign: variants x scenarios x concurrency, in mirrored blocks; resumable
  plan      what `run` with the same options would do, and how long it would take
  startup   what a process start costs
  soak      whether memory grows under load
  micro     single operations of the agent, in nanoseconds

look at campaigns
  report    as text, Markdown, HTML or JSON
  compare   two campaigns
  gate      rules such as 'cpu_us(const:0) < 5'; for CI: 0 passed, 1 broken, 2 usage, 3 inconclusive, 4 invalid data

the machine
  doctor    is this machine fit to measure, and what can it tell apart
  rivals    other agents' environments: list, install
  worker    makes load for a campaign that runs on another host
  sink      the counting collector alone
  schema    of a campaign's files, as JSON Schema
"""

#: As shells report an end by Ctrl-C.
INTERRUPTED = 130

#: When ``--blocks`` is not given. Quick: to see that it works, no inference.
BLOCKS, QUICK_BLOCKS = 10, 3
QUICK = Timing(warm_up_s=1.0, warm_up_requests=200, window_s=2, idle_s=0.3, extensions=0)
QUICK_VARIANTS = ("const:1",)


def main(words: list[str]) -> int:
    """Run a subcommand; returns the exit code."""
    if not words or words[0] in ("-h", "--help"):
        (sys.stdout if words else sys.stderr).write(USAGE_TEXT)
        return 0 if words else USAGE
    command, rest = words[0], words[1:]
    try:
        if command in ROOMS:
            return int(import_module(ROOMS[command]).main(rest) or 0)
        own = {"run": _run, "plan": _plan, "report": _report}.get(command)
        if own is None:
            known = ", ".join(("run", "plan", "report", *ROOMS))
            raise Refusal(f"bench has no command {command!r}; it has: {known}")
        return own(rest)
    except Refusal as refusal:
        sys.stderr.write(f"autoinstr bench: {refusal}\n")
        return refusal.status
    except ModuleNotFoundError as error:
        sys.stderr.write(f"autoinstr bench: {command} needs {error.name}: pip install 'autoinstr[bench]'\n")
        return USAGE
    except BrokenPipeError:
        # The reader of the output has gone (`| head`); nothing more can be said to it.
        sys.stderr.close()
        return 0


# run and plan


def _run(words: list[str]) -> int:
    from autoinstr.bench import analysis, campaign, store

    options = _parser("run").parse_args(words)
    if options.resume:
        folder, manifest, done = _resumed(options)
        campaign.check(manifest)
    else:
        manifest, done = _manifest(options, words), ()
        campaign.check(manifest)
        folder = store.Folder.create(_folder(options), manifest)
    progress = campaign.Progress(quiet=options.quiet)
    status = 0
    try:
        with campaign.Campaign(
            folder,
            manifest,
            repetitions=options.repeat,
            until_ci=options.until_ci,
            budget_s=options.budget,
            say=progress,
            done=done,
        ) as running:
            running.calibrate()
            running.measure()
    except campaign.Stopped as stopped:
        sys.stderr.write(f"\nautoinstr bench: {stopped}\n")
        status = INVALID
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; go on with: autoinstr bench run --resume {folder.path}\n")
        status = INTERRUPTED
    read = store.read(folder.path)
    if not any(run.load for run in read.runs):
        return status
    results = analysis.analyse(read)
    _write_reports(folder.path, results)
    from autoinstr.bench import report

    print(report.terminal(results))
    print(f"report: {folder.path / 'report.html'}")
    return status or results.status


def _plan(words: list[str]) -> int:
    from autoinstr.bench import plan

    options = _parser("plan").parse_args(words)
    manifest = _manifest(options, words)
    names = [one.name for one in manifest.variants]
    runs = 2 * len(names) * len(manifest.cells) * manifest.blocks
    print(f"{len(manifest.cells)} cells x {len(names)} variants, mirrored, x {manifest.blocks} blocks = {runs} runs")
    for cell in manifest.cells:
        print(f"  {cell}")
    print("variants: " + ", ".join(names))
    print(f"first block: {' '.join(one.variant for one in plan.block(manifest.cells[0], 0, names, manifest.seed))}")
    print(f"a run takes about {plan.seconds_of_run(manifest.timing):.0f} s, all of them {plan.in_words(runs * plan.seconds_of_run(manifest.timing))}")
    return 0


def _parser(command: str) -> argparse.ArgumentParser:
    from autoinstr.bench import variants

    parser = argparse.ArgumentParser(
        f"autoinstr bench {command}",
        description="Measure what tracing costs.",
        epilog=_catalogue(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("-m", "--matrix", type=Path, metavar="FILE", help="options from a TOML file; those given here win")
    what.add_argument("--scenario", type=_names, metavar="A,B", help="default: hello; hello:fastapi is this one only")
    what.add_argument("--framework", type=_names, metavar="A,B", help="default: flask, or what the scenario runs on")
    what.add_argument("--mode", type=_names, metavar="A,B", help="saturation (closed; the default), rate (open)")
    what.add_argument("--variants", type=_names, metavar="A,B", help=f"default: {','.join(variants.DEFAULT)}; the bare ones are always there")
    what.add_argument("--variant", action="append", metavar="NAME=COMMAND", help="a launcher of your own; {app} is the program")
    what.add_argument("--concurrency", type=_integers, metavar="1,16", help="users, or most requests at once; default: 16")
    what.add_argument("--load", type=_shares, metavar="SHARES", help="rate mode: of what the bare program can do; default: 30%%,60%%,80%%")
    own = parser.add_argument_group("a service of your own")
    own.add_argument("--app", metavar="COMMAND", help='how it is started: "python my.py" (an agent before it is left out)')
    own.add_argument("--url", help="where it then answers")
    own.add_argument("--locustfile", type=Path, help="what is asked of it; default: --url again and again")
    how = parser.add_argument_group("how")
    how.add_argument("--blocks", type=_positive, help=f"default: {BLOCKS}")
    how.add_argument("--until-ci", type=_percent, metavar="PERCENT", help="stop when every interval is so narrow (half-width, of bare)")
    how.add_argument("--budget", type=_duration, metavar="45m", help="stop when no whole block fits any more")
    how.add_argument("--window", type=_positive, metavar="SECONDS", help="what is measured of a run; default: 8")
    how.add_argument("--warm-up", type=_duration, metavar="SECONDS", help="default: 5, and 2,000 requests")
    how.add_argument("--extensions", type=_natural, metavar="N", help="how often a window that is not steady moves on; default: 1")
    how.add_argument("--start-timeout", type=_duration, metavar="SECONDS", help="for the service to answer; default: 30")
    how.add_argument("--seed", type=int, help="of orders and schedules; default: 1")
    how.add_argument("--processes", type=_positive, help="generator processes; default: 1")
    how.add_argument("--workers", type=_positive, metavar="N", help="generators on other hosts: `autoinstr bench worker` there")
    how.add_argument("--master", metavar="HOST:PORT", help="where they find this one; default: 127.0.0.1:5557")
    how.add_argument("--server-cpus", metavar="0", help="default: the first one")
    how.add_argument("--generator-cpus", metavar="1", help="default: all others")
    how.add_argument("--quick", action="store_true", help="three short blocks to see that it works: no inference")
    if command == "run":
        how.add_argument("--out", type=Path, metavar="FOLDER", help="default: bench-DATE")
        how.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with a campaign")
        how.add_argument("--repeat", type=int, default=2, metavar="N", help="how often a spoiled run is tried again; default: 2")
        how.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _catalogue() -> str:
    """What can be chosen, for the end of the help."""
    from autoinstr.bench import scenarios, variants

    measurable = {one.name: one.text for one in scenarios.CATALOGUE.values() if one.is_measurable}
    width = max(map(len, (*measurable, *variants.FORMS))) + 2
    lines = ["scenarios:", *(f"  {name:{width}}{text}" for name, text in measurable.items())]
    lines += ["", f"frameworks: {', '.join(scenarios.FRAMEWORKS)}", "", "variants:"]
    lines += [f"  {form:{width}}{text}" for form, text in variants.FORMS.items()]
    return "\n".join([*lines, variants.WIRES_TEXT])


def _repeatable(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a command without the folder of its results, which says something of a machine and nothing of a campaign."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--out":
            next(rest, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return tuple(kept)


def _manifest(options: argparse.Namespace, words: Sequence[str]) -> Manifest:
    """What the options ask for. Raises Refusal."""
    from autoinstr.bench import machine, rivals

    _fill_from_matrix(options)
    variants = _variants(options)
    cores = machine.cores(options.server_cpus, options.generator_cpus)
    facts = machine.machine()
    now = dt.datetime.now(dt.timezone.utc)
    timing = QUICK if options.quick else Timing()
    if options.window:
        timing = dataclasses.replace(timing, window_s=options.window)
    if options.warm_up is not None:
        timing = dataclasses.replace(timing, warm_up_s=options.warm_up)
    if options.extensions is not None:
        timing = dataclasses.replace(timing, extensions=options.extensions)
    if options.start_timeout is not None:
        timing = dataclasses.replace(timing, start_timeout_s=options.start_timeout)
    return Manifest(
        id=now.strftime("%Y%m%dT%H%M%SZ"),
        created_at=now.isoformat(timespec="seconds"),
        seed=1 if options.seed is None else options.seed,
        argv=_repeatable(words),
        blocks=options.blocks or (QUICK_BLOCKS if options.quick else BLOCKS),
        timing=timing,
        variants=variants,
        cells=_own_cells(options) if options.app or options.url else _cells(options),
        machine=facts,
        versions={one: rivals.versions(one) for one in sorted({variant.environment for variant in variants})},
        program=_bare_program(options),
        url=options.url or "",
        locustfile=str(options.locustfile.resolve()) if options.locustfile else "",
        processes=options.processes or 1,
        workers=options.workers or 0,
        master=options.master or "127.0.0.1:5557",
        server_cpus=tuple(sorted(cores.server)),
        generator_cpus=tuple(sorted(cores.generator)),
        is_smoke=options.quick,
    )


def _variants(options: argparse.Namespace) -> tuple[Variant, ...]:
    from autoinstr.bench import plan, variants

    names = options.variants or (QUICK_VARIANTS if options.quick else variants.DEFAULT)
    by_name = {one.name: one for one in map(variants.parse, [*names, *(options.variant or ())])}
    for base in plan.with_bases(()):
        by_name.setdefault(base, variants.parse(base))
    return tuple(by_name[name] for name in plan.with_bases(list(by_name)))


def _cells(options: argparse.Namespace) -> tuple[Cell, ...]:
    from autoinstr.bench import plan, scenarios

    frameworks = options.framework or []
    for name in frameworks:
        scenarios.find_framework(name)
    found: list[Cell] = []
    for text in options.scenario or ["hello"]:
        name, _, only = text.partition(":")
        scenario = scenarios.find(name)
        if not scenario.is_measurable:
            raise Refusal(f"scenario {name} sets its load itself, or is a check: use it with locust -f {scenario.locustfile}")
        able = scenario.frameworks
        if only:
            able = (scenarios.find_framework(only, scenario).name,)
        elif not frameworks:
            able = ("flask",) if "flask" in able else able[:1]
        chosen = [] if only else frameworks
        found += plan.cells({name: able}, chosen, _modes(options), options.concurrency or [16], _loads(options))
    return tuple(dict.fromkeys(found))


def _own_cells(options: argparse.Namespace) -> tuple[Cell, ...]:
    from autoinstr.bench import campaign, plan

    if not (options.app and options.url):
        raise Refusal("a service of your own needs --app (how it is started) and --url (where it then answers)")
    if options.scenario or options.framework:
        raise Refusal("--scenario and --framework are for the sample services; with --app, --locustfile says what is asked")
    if options.locustfile and not options.locustfile.is_file():
        raise Refusal(f"--locustfile {options.locustfile}: no such file")
    return plan.cells(
        {campaign.OWN: (campaign.OWN,)}, [], _modes(options), options.concurrency or [16], _loads(options)
    )


def _bare_program(options: argparse.Namespace) -> str:
    import shlex

    from autoinstr.bench import variants

    return shlex.join(variants.strip_agent(shlex.split(options.app))) if options.app else ""


def _modes(options: argparse.Namespace) -> list[str]:
    modes: list[str] = options.mode or [SATURATION]
    for mode in modes:
        if mode not in (SATURATION, RATE):
            raise Refusal(f"no mode {mode!r}; there are: {SATURATION}, {RATE}")
    return modes


def _loads(options: argparse.Namespace) -> list[float]:
    return options.load or [0.3, 0.6, 0.8]


def _fill_from_matrix(options: argparse.Namespace) -> None:
    """Options that were not given, from the file. Its keys are the options' names; lists are arrays."""
    if options.matrix is None:
        return
    if sys.version_info < (3, 11):
        raise Refusal("--matrix needs Python 3.11 or later, which can read TOML: give the options themselves")
    import tomllib  # type: ignore[import-not-found,unused-ignore]

    try:
        values = tomllib.loads(options.matrix.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(f"{options.matrix}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise Refusal(f"{options.matrix}: {error}") from None
    words = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if not hasattr(options, key.replace("-", "_")):
            raise Refusal(f"{options.matrix}: no option {key!r}")
        if isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    from_file = _parser("run").parse_args(words)
    for key, value in vars(from_file).items():
        if getattr(options, key, None) in (None, False):
            setattr(options, key, value)


def _folder(options: argparse.Namespace) -> Path:
    return options.out or Path(f"bench-{dt.datetime.now().astimezone():%Y%m%d-%H%M%S}")


def _resumed(options: argparse.Namespace) -> tuple[Any, Manifest, Sequence[Any]]:
    """The campaign to go on with. Raises Refusal where this is not the machine it began on."""
    from autoinstr.bench import machine, store

    read = store.read(options.resume)
    now, then = machine.machine(), read.manifest.machine
    if machine.fingerprint(now) != machine.fingerprint(dict(then)):
        changed = [key for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
        raise Refusal(
            f"{options.resume} was begun on another machine, or this one has changed ({', '.join(changed)}): "
            "figures of both must not be mixed; begin a new campaign"
        )
    manifest = read.manifest
    if options.blocks and options.blocks != manifest.blocks:
        manifest = dataclasses.replace(manifest, blocks=options.blocks)
    folder = store.Folder(options.resume)
    folder.write_manifest(manifest)
    return folder, manifest, read.runs


# report


def _report(words: list[str]) -> int:
    from autoinstr.bench import analysis, report, store

    parser = argparse.ArgumentParser("autoinstr bench report", description="What a campaign has shown.")
    parser.add_argument("run", type=Path, help="folder of the campaign")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    parser.add_argument("--md", type=Path, metavar="FILE", help="write Markdown (- is the terminal)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(words)
    read = store.read(options.run)
    if not read.runs:
        raise Refusal(f"{options.run} has no runs yet", 3)
    results = analysis.analyse(read)
    if options.html:
        _write(options.html, report.html(results))
    if options.md:
        _write(options.md, report.markdown(results))
    if options.json:
        print(json.dumps(to_json(results), indent=1))
    if not (options.html or options.md or options.json):
        print(report.terminal(results))
    return results.status


def _write_reports(folder: Path, results: Any) -> None:
    from autoinstr.bench import report

    _write(folder / "report.html", report.html(results))
    _write(folder / "report.md", report.markdown(results))


def _write(path: Path, text: str) -> None:
    if str(path) == "-":
        print(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from None


# Forms of values


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _natural(text: str) -> int:
    return 0 if text.strip() == "0" else _positive(text)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _integers(text: str) -> list[int]:
    return [_positive(one) for one in _names(text)]


def _percent(text: str) -> float:
    number = float(text.rstrip("%"))
    if not 0 < number < 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 %")
    return number


def _shares(text: str) -> list[float]:
    return [_percent(one) / 100 if "%" in one else float(one) for one in _names(text)]


def _duration(text: str) -> float:
    """Seconds: 90, 90s, 45m, 2h."""
    units: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}
    number = text[:-1] if text[-1:] in units else text
    seconds = float(number) * units.get(text[-1:], 1)
    if seconds < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return seconds


