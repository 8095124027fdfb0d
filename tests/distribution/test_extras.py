"""Extras: what is promised of them in the documentation, and what is said where one is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from autoinstr.bench.app import ROOMS
from interpreters import SUPPORTED, interpreters

from .conftest import ROOT, Dist, Once
from .venvs import INSTALL_S, Venv, succeed

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
NAMED = re.compile(r"autoinstr\[([a-z0-9,-]+)\]|'\.\[([a-z0-9,-]+)\]'")
#: For users; the others are for those who work on autoinstr.
FOR_USERS = {"backend", "grpc", "postgres", "parquet", "bench", "demo"}


def named_in(*files: Path) -> set[str]:
    """The extras that files tell somebody to install."""
    found = (match for file in files for match in NAMED.findall(file.read_text(encoding="utf-8")))
    return {name for match in found for names in match for name in names.split(",") if name}


def test_extras_that_are_named_exist(metadata: Metadata) -> None:
    """``pip install 'autoinstr[typo]'`` warns in passing and installs nothing."""
    extras = set(metadata.provides_extra or ())
    assert set() == named_in(*PAGES, *ROOT.glob("autoinstr/**/*.py")) - extras


def test_extras_that_exist_are_named(metadata: Metadata) -> None:
    """Nobody finds an extra that no page names."""
    extras = set(metadata.provides_extra or ())
    assert FOR_USERS <= extras
    assert FOR_USERS <= named_in(ROOT / "docs" / "install.md")
    assert extras - FOR_USERS <= named_in(ROOT / "CONTRIBUTING.md")


def test_extras_are_for_tracing_and_not_for_testing(metadata: Metadata) -> None:
    """A user's extra that drags test tools into production."""
    for extra in FOR_USERS:
        wanted = [each for each in metadata.requires_dist or () if _is_of(each, extra)]
        assert wanted, extra
        assert [] == [each.name for each in wanted if each.name in {"pytest", "mypy", "ruff", "build"}]


def _is_of(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


@pytest.mark.parametrize("extra", ["test", "docs"])
def test_extra_can_be_resolved(dist: Dist, venv: Venv, extra: str) -> None:
    """Two of its requirements exclude each other; what is needed to work on autoinstr cannot be installed."""
    venv.uv("pip", "install", "--dry-run", "--quiet", dist.extra(extra))


@pytest.fixture(scope="session")
def bare(dist: Dist, once: Once, index: None) -> Venv:
    """The agent alone."""
    return Venv(once("bare", lambda folder: Venv(folder).install(dist.wheel)))


@pytest.fixture(scope="session")
def with_backend(dist: Dist, once: Once, index: None) -> Venv:
    """The agent with its backend, and none of the backend's own extras."""
    return Venv(once("with_backend", lambda folder: Venv(folder).install(dist.extra("backend"))))


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("serve", "backend"),
        ("serve --help", "backend"),
        ("export --parquet spans.parquet", "parquet"),
        ("bench run --scenario hello:flask --quick", "bench"),
        ("bench run --app app.py --url http://127.0.0.1:9/ --quick", "bench"),
        ("bench worker --master 127.0.0.1:9", "bench"),
    ],
)
def test_command_without_its_extra(bare: Venv, command: str, extra: str) -> None:
    """A traceback about some module tells nobody what to install."""
    ended = bare.run("autoinstr", *command.split())
    assert (2, "") == (ended.returncode, ended.stdout), ended
    assert f"pip install 'autoinstr[{extra}]'" in ended.stderr
    assert 1 == ended.stderr.count("\n"), ended.stderr


@pytest.mark.parametrize(
    "command",
    ["schema", *(f"{name} --help" for name in ("run", "plan", "report", *sorted(ROOMS.keys() - {"schema"})))],
)
def test_no_command_of_the_harness_ends_in_a_traceback(bare: Venv, command: str) -> None:
    """Each of them has imports of its own, of which one may be missing."""
    ended = bare.run("autoinstr", "bench", *command.split())
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 0 or "pip install 'autoinstr[bench]'" in ended.stderr, ended


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("serve --storage postgres --postgres postgresql://127.0.0.1:9/traces", "postgres"),
        ("export --parquet spans.parquet", "parquet"),
    ],
)
def test_backend_without_an_extra_of_its_own(with_backend: Venv, command: str, extra: str) -> None:
    """The backend is installed, but not what one of its options needs."""
    ended = with_backend.run("autoinstr", *command.split(), "--data", str(with_backend.work / "data"))
    assert (2, "") == (ended.returncode, ended.stdout), ended
    assert f"pip install 'autoinstr[{extra}]'" in ended.stderr
    assert 1 == ended.stderr.count("\n"), ended.stderr


def test_grpc_is_left_out_where_it_is_not_installed(with_backend: Venv) -> None:
    """Without grpcio the backend serves everything else, and says what is missing."""
    with with_backend.serving("--storage", "memory") as ports:
        assert "otlp-grpc" not in ports
        assert "query" in ports
    assert "pip install 'autoinstr[grpc]'" in (with_backend.work / "serve.log").read_text(encoding="utf-8")


def test_web_interface_that_is_not_installed(bare: Venv) -> None:
    """``--ui`` without the backend: the program matters more, and runs."""
    program = bare.file("ui.py", "print('done')\n")
    ended = bare.run("python", "-m", "autoinstr", "--ui", program, AUTOINSTR_EXPORTER="none")
    assert "done\n" == succeed(ended)
    assert "pip install 'autoinstr[backend]'" in ended.stderr


def test_extras_of_the_backend(dist: Dist, venv: Venv, tmp_path: Path) -> None:
    """What the messages above tell people to install does not help."""
    venv.install(dist.extra("grpc", "postgres", "parquet", "demo"))
    data = ("--data", str(tmp_path / "data"))
    with venv.serving(*data) as ports:
        assert "otlp-grpc" in ports
    succeed(venv.run("autoinstr", "export", "--parquet", str(tmp_path / "spans.parquet"), *data))
    ended = venv.run("autoinstr", "serve", "--postgres", "postgresql://127.0.0.1:9/traces", *data)
    assert 1 == ended.returncode
    assert "psycopg" not in ended.stderr, "the driver is there; the server is not"
    assert "cannot open the store" in ended.stderr


def test_extra_of_the_harness(dist: Dist, venv: Venv) -> None:
    """``pip install 'autoinstr[bench]'`` does not bring all that the harness needs."""
    venv.install(dist.extra("bench"))
    found = venv.run("autoinstr", "bench", "doctor", "--help")
    assert "usage" in succeed(found)
    planned = succeed(venv.run("autoinstr", "bench", "plan", "--scenario", "hello:flask", timeout=INSTALL_S))
    assert "runs" in planned
    names = "import locust, psutil, hdrh, jinja2, flask, django, fastapi, requests, httpx, gunicorn, uvicorn"
    succeed(venv.run("python", "-W", "ignore", "-c", names))


@pytest.mark.parametrize("version", [version for version in SUPPORTED if version in interpreters()])
def test_extras_can_be_resolved_on_each_python(dist: Dist, tmp_path: Path, index: None, version: str) -> None:
    """An extra has a requirement that one of the promised Pythons cannot meet."""
    venv = Venv(tmp_path, interpreters()[version])
    venv.uv("pip", "install", "--dry-run", "--quiet", dist.extra(*sorted(FOR_USERS)))
