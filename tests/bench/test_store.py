"""The folder of a campaign, and the schema of its files."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.bench import schema, store
from autoinstr.bench.parts import (
    SATURATION,
    Cell,
    Difference,
    Estimate,
    Fault,
    GeneratorFigures,
    LoadFigures,
    Manifest,
    NoiseFigures,
    Planned,
    Quantiles,
    Refusal,
    Run,
    Sampling,
    ServerFigures,
    SpanFigures,
    Timing,
    Variant,
    from_json,
    to_json,
)

CELL = Cell("hello", "flask", SATURATION, 16)
MANIFEST = Manifest(
    id="1",
    created_at="2026-01-01T00:00:00+00:00",
    seed=1,
    argv=("--quick",),
    blocks=2,
    timing=Timing(),
    variants=(Variant("none", "none"), Variant("prob:0.1", "autoinstr", sampling=Sampling("prob", 0.1), exports=True)),
    cells=(CELL,),
    machine={"cpu": "some", "cores": 2, "smt": None},
    versions={"": {"flask": "3.1"}},
    calibration={"hello flask c16": 1000.5},
)
DURATIONS = Quantiles(1000.0, 900.0, 1500.0, 3000.0, 5000.0, 9000.0, "HIST")


def run_at(position: int, **changes: Any) -> Run:
    run = Run(
        planned=Planned(CELL, 0, position, "none"),
        status="ok",
        started_at="2026-01-01T00:00:00+00:00",
        seconds=17.0,
        faults=(Fault("latency", "why"),),
        load=LoadFigures(8.0, 8000, 0, 0, 1000.0, None, DURATIONS, DURATIONS, None, ((1000, 900.0),) * 8),
        server=ServerFigures(4e6, 100.0, 499.0, 9000),
        spans=SpanFigures(received=3),
        generator=GeneratorFigures(0.5),
        noise=NoiseFigures(steal=0.001),
    )
    return dataclasses.replace(run, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> store.Folder:
    return store.Folder.create(tmp_path / "campaign", MANIFEST)


def test_round_trip(folder: store.Folder) -> None:
    """A report shows something else than what was measured."""
    runs = [run_at(0), run_at(1, load=None, server=None, spans=None, status="failed")]
    for run in runs:
        folder.append(run)
    read = store.read(folder.path)
    assert (read.manifest, read.runs) == (MANIFEST, tuple(runs))


def test_start_up_stays_with_its_campaign(folder: store.Folder) -> None:
    """The page would show another campaign's start-up, or fail on a file that somebody edited."""
    slower = Difference("off", "ms", 2, 10.0, 12.0, Estimate(2.0, 1.0, 3.0), None, None, None, None, None, (1.0, 3.0))
    assert store.read(folder.path).start_up == {}
    store.write_start_up(folder.path, {"python -c pass": [slower]})
    assert store.read(folder.path).start_up == {"python -c pass": (slower,)}
    for broken in ("[1]", '{"x": [{"variant": 1}]}', "{"):
        (folder.path / "start_up.json").write_text(broken)
        with pytest.raises(Refusal, match="start_up.json: "):
            store.read(folder.path)


def test_latest_attempt_counts(folder: store.Folder) -> None:
    """A run that was repeated because it was spoiled counts twice."""
    folder.append(run_at(0, status="invalid"))
    folder.append(run_at(0, attempt=1))
    read = store.read(folder.path)
    assert (len(read.runs), [run.attempt for run in read.latest()]) == (2, [1])


def test_cut_line(folder: store.Folder) -> None:
    """After a power cut nothing can be read, or the next run is glued to half a line."""
    folder.append(run_at(0))
    with (folder.path / "runs.jsonl").open("a") as file:
        file.write('{"planned": {"ce')
    assert len(store.read(folder.path).runs) == 1
    folder.append(run_at(1))
    assert [run.planned.position for run in store.read(folder.path).runs] == [0, 1]


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """What was measured before a kill is lost."""
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from autoinstr.bench import store; from bench.test_store import MANIFEST, run_at\n"
        "folder = store.Folder.create(Path(sys.argv[1]), MANIFEST); n = 0\n"
        "while True: folder.append(run_at(n)); print(n, flush=True); n += 1\n"
    )
    tests = str(Path(__file__).parent.parent)
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "c"), tests], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        said = [int(child.stdout.readline()) for _ in range(20)]
        child.send_signal(signal.SIGKILL)
        said += [int(line) for line in child.stdout.read().split()]
    read = [run.planned.position for run in store.read(tmp_path / "c").runs]
    assert read[: len(said)] == said
    assert len(read) - len(said) in (0, 1)


def test_full_disk(folder: store.Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk damages what is there already."""
    folder.append(run_at(0))
    size = (folder.path / "runs.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The kernel refuses to let the file grow, in the middle of the line.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
        with pytest.raises(OSError, match="File too large"):
            folder.append(run_at(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder.path / "runs.jsonl").stat().st_size == size
    folder.append(run_at(2))
    assert [run.planned.position for run in store.read(folder.path).runs] == [0, 2]


def test_folder_is_not_overwritten(folder: store.Folder) -> None:
    """Hours of measuring are gone by a command that was typed twice."""
    with pytest.raises(Refusal, match="--resume"):
        store.Folder.create(folder.path, MANIFEST)


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match="--out"):
        store.Folder.create(tmp_path / "file" / "campaign", MANIFEST)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("manifest.json", "{", "manifest.json"),
        ("manifest.json", "[]", "format unknown; this version reads 1.0"),
        ("manifest.json", '{"schema_version": "2.0"}', "format 2.0; this version reads 1.0"),
        ("manifest.json", '{"schema_version": "1.0"}', "id is missing"),
        ("runs.jsonl", '{"planned": 1}\n', "runs.jsonl, line 1: Run.planned: not an object"),
        ("runs.jsonl", "nonsense\n", "runs.jsonl, line 1"),
    ],
)
def test_damage_is_named(folder: store.Folder, file: str, content: str, words: str) -> None:
    """Somebody edits a file and gets a traceback."""
    (folder.path / file).write_text(content)
    with pytest.raises(Refusal, match=words):
        store.read(folder.path)


def test_no_campaign(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="not the folder of a campaign"):
        store.read(tmp_path)


def test_newer_keys_are_read(folder: store.Folder) -> None:
    """A campaign made by a newer version cannot be looked at."""
    value = to_json(run_at(0))
    value["planned"]["novelty"] = value["novelty"] = 1
    assert from_json(Run, value) == run_at(0)


@given(
    st.builds(
        SpanFigures,
        started=st.none() | st.integers(),
        received=st.integers(),
        requests=st.integers(),
    ),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
def test_any_value_returns(spans: SpanFigures, seconds: float, text: str) -> None:
    run = run_at(0, spans=spans, seconds=seconds, strategy=text)
    assert from_json(Run, json.loads(json.dumps(to_json(run)))) == run


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("seconds",), "17", "Run.seconds: '17' is not float"),
        (("status",), True, "Run.status: True is not str"),
        (("planned", "block"), True, "Run.planned.block: True is not int"),
        (("faults", 0, "text"), None, "Run.faults[0].text: None is not str"),
        (("faults",), {}, "Run.faults: not an array"),
        (("load", "slots", 0), [1], "1 values instead of 2"),
    ],
)
def test_wrong_types_are_named(path: tuple[Any, ...], value: object, words: str) -> None:
    whole = to_json(run_at(0))
    at = whole
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(ValueError) as caught:
        from_json(Run, whole)
    assert words in str(caught.value)


def test_schema() -> None:
    """The schema that is given out is not that of the files."""
    whole = schema.schema()
    jsonschema.Draft202012Validator.check_schema(whole)
    judge = jsonschema.Draft202012Validator(whole)
    for value in (MANIFEST, run_at(0), run_at(1, load=None)):
        judge.validate(json.loads(json.dumps(to_json(value))))
    broken = to_json(run_at(0))
    broken["server"]["cpu_us"] = "much"
    assert not judge.is_valid(broken)
    del broken["server"], broken["status"]
    assert not judge.is_valid(broken)


def test_output_of_runs_stays_in_the_folder(folder: store.Folder) -> None:
    """A variant that is called ``../../x`` writes elsewhere."""
    planned = Planned(CELL, 0, 1, "../../x=rm {app}")
    path = folder.log_of(planned, 0)
    assert path.parent == folder.path / "logs"
    assert os.sep not in path.name
