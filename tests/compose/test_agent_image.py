"""The folder that the agent's image hands out, under Pythons other than the one that it was made with."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import docker
import pytest

from interpreters import SUPPORTED, interpreters

pytestmark = pytest.mark.alone
PROGRAM = """
import http.server, threading, urllib.request
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=10).close()
server.shutdown(); server.server_close()
import wrapt, sys
print(wrapt.__file__, "compiled" if "wrapt._wrappers" in sys.modules else "python")
"""


@pytest.fixture(scope="module")
def folder(
    engine: docker.DockerClient, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """/autoinstr, as it is in the image."""
    container = engine.containers.create(images["IMAGE_AGENT"])
    try:
        chunks, _ = container.get_archive("/autoinstr")
        data = b"".join(chunks)
    finally:
        container.remove()
    path = tmp_path_factory.mktemp("agent")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(path, filter="data")
    return path / "autoinstr"


def traced(python: str, folder: Path, tmp_path: Path) -> str:
    """What the program prints; it has made one span."""
    environment = {
        "PYTHONPATH": f"{folder}/autoinstr/_boot:{folder}",
        "AUTOINSTR_EXPORTER": "file",
        "AUTOINSTR_FILE": str(tmp_path / "spans.jsonl"),
        "JAEGER_SAMPLER_TYPE": "const",
        "JAEGER_SAMPLER_PARAM": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = [python, "-s", "-c", PROGRAM]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert "autoinstr" not in done.stderr
    spans = [json.loads(line) for line in (tmp_path / "spans.jsonl").read_text().splitlines()]
    assert 1 == len(spans), spans
    return done.stdout


@pytest.mark.parametrize("version", SUPPORTED)
def test_folder_works_under(version: str, folder: Path, tmp_path: Path) -> None:
    """One image of the agent is for services of all Pythons; each has wrapt's code that was compiled for it."""
    python = interpreters().get(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    assert f"{folder}/wrapt/__init__.py compiled" == traced(python, folder, tmp_path).strip()


def test_folder_works_without_compiled_code(folder: Path, tmp_path: Path) -> None:
    """A Python for which there is no wheel (a new one, another processor) is traced all the same."""
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.so"))
    assert f"{bare}/wrapt/__init__.py python" == traced(sys.executable, bare, tmp_path).strip()


def test_folder_has_code_for_each_python_and_c_library(folder: Path) -> None:
    """Where a file is missing services become slower, and nobody is told why."""
    names = {file.name for file in (folder / "wrapt").glob("*.so")}
    for version in SUPPORTED:
        for library in ("gnu", "musl") if version != "3.10" else ("gnu",):  # Of 3.10 both have one name.
            tag = f"cpython-{version.replace('.', '')}"
            assert any(tag in name and name.endswith(f"{library}.so") for name in names), (version, library, names)


def test_folder_is_small_and_readable_by_all(folder: Path) -> None:
    """It is copied at each start of a service, whose user is anybody."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6 * 2**20
    assert {"autoinstr", "wrapt"} == {path.name for path in folder.iterdir() if not path.name.endswith(".dist-info")}
    assert [] == [path for path in folder.rglob("*") if path.stat().st_mode & 0o444 != 0o444]
