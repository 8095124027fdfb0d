"""Other agents' environments: made whole or not at all, with the same libraries as here."""

from __future__ import annotations

import importlib
import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from autoinstr.bench import rivals, variants
from autoinstr.bench.parts import Refusal, Variant
from autoinstr.bench.rivals import Rival


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing to fetch from but ``tmp_path / "wheels"``."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("AUTOINSTR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(rivals, "RIVALS", {"fake": Rival("fake", "Fake Agent", "fake-agent", ("fake-agent",))})
    monkeypatch.setattr(rivals, "LIBRARIES", ("Fake.Library", "not-installed-here"))
    return tmp_path / "cache"


def metadata(name: str, version: str, requires: Sequence[str] = ()) -> str:
    return "\n".join(
        ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires), ""]
    )


def make_wheel(folder: Path, name: str, version: str, code: str = "", script: str = "") -> None:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", code)
        wheel.writestr(f"{info}/METADATA", metadata(name, version))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        if script:
            wheel.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{script} = {module}:main\n")
        wheel.writestr(f"{info}/RECORD", "")


def put_here(folder: Path, name: str, version: str, requires: Sequence[str] = ()) -> None:
    """As if it were installed in the environment of the tests, once ``folder`` is on ``sys.path``."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(metadata(name, version, requires))


def test_made_whole_or_not_at_all(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rival would be measured with other versions of the libraries; or half of one, after an installation that failed."""
    said: list[str] = []
    put_here(tmp_path / "here", "fake-library", "1.0")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    make_wheel(tmp_path / "wheels", "fake-library", "1.0")
    make_wheel(tmp_path / "wheels", "fake-library", "2.0")
    with pytest.raises(Refusal, match=r"(?s)fake cannot be installed; the installer says:.*fake-agent"):
        rivals.install("fake", said.append)
    assert not rivals.is_installed("fake")
    assert rivals.versions("fake") == {}

    code = "import os, sys\ndef main(): os.execve(sys.argv[1], sys.argv[1:], {**os.environ, 'TRACED': 'y'})"
    make_wheel(tmp_path / "wheels", "fake-agent", "3.0", code, script="fake-run")
    rivals.install("fake", said.append)
    assert rivals.is_installed("fake")
    found = rivals.versions("fake")
    assert (found["fake-agent"], found["fake-library"]) == ("3.0", "1.0")
    assert said[-1] == "fake: fake-agent 3.0"

    rivals.install("fake", said.append)
    assert said[-1] == "fake: installed already (3.0)"

    one = Variant("fake", "command", ("fake-run",), environment="fake")
    assert rivals.missing([one]) == ""
    program = "import os, fake_library; print('traced:', os.environ['TRACED'])"
    command = variants.command(one, ["python", "-c", program])
    run = subprocess.run(command, env=variants.environment(one, {}), capture_output=True, text=True, timeout=60)
    assert run.stdout == "traced: y\n", run.stderr

    (tmp_path / "here" / "fake_library-1.0.dist-info").rename(tmp_path / "here" / "fake_library-2.0.dist-info")
    (tmp_path / "here" / "fake_library-2.0.dist-info" / "METADATA").write_text(metadata("fake-library", "2.0"))
    importlib.invalidate_caches()
    assert rivals.differing("fake") == {"fake-library": ("2.0", "1.0")}


def test_missing_ones_are_named_with_what_to_do(cache: Path) -> None:
    """A campaign would begin, and fail at the first run of the rival."""
    chosen = [variants.parse(name) for name in ("none", "otel", "const:1", "otel:0.1", "elastic")]
    assert rivals.missing(chosen) == "otel and elastic are not installed: autoinstr bench rivals --install otel,elastic"
    assert rivals.missing(chosen[:2]) == "otel is not installed: autoinstr bench rivals --install otel"
    assert rivals.missing(chosen[:1]) == ""


def test_half_an_environment_is_none(cache: Path) -> None:
    """An installation that was interrupted would pass for a whole one."""
    rivals.bin_folder("fake").mkdir(parents=True)
    (rivals.bin_folder("fake") / "python").touch()
    assert not rivals.is_installed("fake")


def test_libraries_with_all_they_need(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of a library would differ between the environments, and its speed be taken for a cost of the agent."""
    here = tmp_path / "here"
    put_here(here, "fake-library", "1.0", ["Fake_Below>=1; python_version>'3'", "fake-optional; extra == 'all'", "absent"])
    put_here(here, "fake-below", "2.0", ["fake-library", "opentelemetry-api>=1"])
    put_here(here, "fake-optional", "3.0")
    put_here(here, "opentelemetry-api", "4.0")
    monkeypatch.syspath_prepend(str(here))
    assert rivals.pinned() == {"fake-below": "2.0", "fake-library": "1.0"}


def test_this_environment_knows_its_versions() -> None:
    """Reports would not say what was measured."""
    found = rivals.versions("")
    assert found["pytest"] == pytest.__version__
    assert list(found) == sorted(found, key=str.lower)


@pytest.mark.parametrize("words", [["--install", "otle"], ["--install", "otle", "--upgrade"]])
def test_unknown_agents_are_refused(cache: Path, words: list[str]) -> None:
    """A misspelt name would install nothing, and look as if it had."""
    with pytest.raises(Refusal, match="otle: there is no such agent; there are fake"):
        rivals.main(words)
    with pytest.raises(Refusal, match="'otle' is not one of the agents"):
        rivals.install("otle", print)


def test_list(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody would know what there is, and how to get it."""
    assert rivals.main([]) == 0
    assert capsys.readouterr().out == "fake     Fake Agent     not installed: autoinstr bench rivals --install fake\n"


def test_every_rival_has_an_environment_and_settings() -> None:
    """A variant would be offered that cannot be installed, or the other way round."""
    assert {variants.parse(name).environment for name in rivals.RIVALS} == set(rivals.RIVALS)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Gigabytes would land where nobody looks for them."""
    monkeypatch.delenv("AUTOINSTR_BENCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert rivals.cache_folder() == tmp_path / "autoinstr" / "bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert rivals.cache_folder() == Path("/home/me/.cache/autoinstr/bench")
    monkeypatch.setenv("AUTOINSTR_BENCH_CACHE", "here")
    assert rivals.cache_folder() == Path(os.getcwd(), "here")
