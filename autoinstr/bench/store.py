"""The folder of a campaign: written run by run, read back whole.

Owns: ``manifest.json``, ``runs.jsonl``, ``start_up.json`` (where it was measured), ``logs/``.
Must not know: how runs are made, what they mean.
Invariants: a line is appended and synced before the next run starts, so whatever ends the process keeps what was measured;
a last line that was cut off (power, disk full) is left out when reading and cut away before the next is appended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoinstr.bench.parts import (
    SCHEMA_VERSION,
    Campaign,
    Difference,
    Manifest,
    Planned,
    Refusal,
    Run,
    from_json,
    to_json,
)

#: A line is some 20 kB; this bounds what reading a foreign file costs.
MAX_LINE = 4 << 20


class Folder:
    """A campaign's folder that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> Folder:
        """A new folder. Raises Refusal where it exists with something in it, or cannot be written."""
        try:
            (path / "logs").mkdir(parents=True)
        except FileExistsError:
            raise Refusal(f"{path} holds a campaign already: go on with it by --resume {path}, or name another folder") from None
        except OSError as error:
            raise Refusal(f"{path}: {error.strerror}; name another folder with --out") from None
        folder = cls(path)
        folder.write_manifest(manifest)
        (path / "runs.jsonl").touch()
        return folder

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest, at once or not at all."""
        temporary = self.path / "manifest.json.new"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(to_json(manifest), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / "manifest.json")

    def append(self, run: Run) -> None:
        """Add a run, and have it on the disk when this returns. Raises OSError (disk full) with the file as it was."""
        line = json.dumps(to_json(run), separators=(",", ":")).encode() + b"\n"
        runs = self.path / "runs.jsonl"
        _cut_unfinished_line(runs)
        start = runs.stat().st_size
        try:
            with runs.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(runs, start)
            raise

    def log_of(self, planned: Planned, attempt: int) -> Path:
        """Where the output of a run's program goes; it is kept only when the run fails."""
        name = f"{planned.cell}-{planned.block}-{planned.position}-{planned.variant}-{attempt}"
        return self.path / "logs" / ("".join(c if c.isalnum() or c in ".-" else "_" for c in name) + ".log")


def _cut_unfinished_line(file: Path) -> None:
    with file.open("rb") as opened:
        if file.stat().st_size:
            opened.seek(-1, os.SEEK_END)
        if opened.read(1) in (b"\n", b""):
            return
    os.truncate(file, _end_of_last_line(file.read_bytes()))


def _end_of_last_line(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def read(path: Path) -> Campaign:
    """A campaign from its folder. Raises Refusal that names the file, the line and what is wrong."""
    manifest = read_manifest(path)
    try:
        content = (path / "runs.jsonl").read_bytes()
    except OSError as error:
        raise Refusal(f"{path / 'runs.jsonl'}: {error.strerror}") from None
    runs = []
    for number, line in enumerate(content[: _end_of_last_line(content)].splitlines(), 1):
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"longer than {MAX_LINE} bytes")
            runs.append(from_json(Run, json.loads(line)))
        except ValueError as error:
            raise Refusal(f"{path / 'runs.jsonl'}, line {number}: {error}") from None
    return Campaign(manifest, tuple(runs), _read_start_up(path))


def write_start_up(path: Path, found: Mapping[str, Sequence[Difference]]) -> None:
    """Put what a start costs beside a campaign; it replaces what was there. Raises Refusal."""
    file = path / "start_up.json"
    try:
        file.write_text(json.dumps(to_json(found), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise Refusal(f"{file}: {error.strerror}") from None


def _read_start_up(path: Path) -> Mapping[str, tuple[Difference, ...]]:
    file = path / "start_up.json"
    try:
        read = json.loads(file.read_bytes())
        return {title: tuple(from_json(Difference, one) for one in found) for title, found in read.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Refusal(f"{file}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise Refusal(f"{file}: {error}") from None


def read_manifest(path: Path) -> Manifest:
    """The manifest alone. Raises Refusal."""
    file = path / "manifest.json"
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise Refusal(f"{file}: {error.strerror}: not the folder of a campaign") from None
    except ValueError as error:
        raise Refusal(f"{file}: {error}") from None
    version = str(value.get("schema_version", "")) if isinstance(value, dict) else ""
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise Refusal(f"{file}: format {version or 'unknown'}; this version reads {SCHEMA_VERSION}")
    try:
        return from_json(Manifest, value)
    except ValueError as error:
        raise Refusal(f"{file}: {error}") from None
