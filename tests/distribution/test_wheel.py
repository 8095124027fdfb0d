"""What a user gets from ``pip install autoinstr``, on each Python."""

from __future__ import annotations

import http.client
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from interpreters import SUPPORTED, interpreters

from .conftest import ROOT, Dist
from .venvs import HOST, INSTALL_S, RUN_S, Venv, call, kept_environ, pip_environ, succeed, tool

PROGRAM = """\
import threading, urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server

import autoinstr

def shop(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [autoinstr.__file__.encode()]

WSGIRequestHandler.log_message = lambda *words: None
with make_server("127.0.0.1", 0, shop) as server:
    serving = threading.Thread(target=server.handle_request)
    serving.start()
    with autoinstr.span("ask"):
        with urllib.request.urlopen("http://127.0.0.1:%d/teapot" % server.server_port) as answer:
            print(answer.read().decode())
    serving.join()
"""

#: All of the API, as a user with a strict type checker writes it.
USER = """\
from collections.abc import Iterable
from typing import Any

import autoinstr
from autoinstr import Kind, Link, SpanContext, Status


@autoinstr.span("price")
def price(item: str) -> int:
    autoinstr.current_span().set_attribute("item", item)
    return 20


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    return [b""]


async def asynchronous(scope: Any, receive: Any, send: Any) -> None:
    pass


def pay(headers: dict[str, str]) -> str:
    parent: SpanContext | None = autoinstr.extract(headers)
    links = [Link(parent)] if parent is not None else []
    with autoinstr.span("checkout", kind=Kind.CLIENT, parent=parent, links=links, attributes={"paid": True}) as span:
        total: int = price("teapot")
        span.add_event("paid")
        span.set_status(Status.ERROR, "refused")
        carrier: dict[str, str] = {}
        autoinstr.inject(carrier)
    autoinstr.flush()
    reveal_type(price("teapot"))
    return f"{total} {autoinstr.metrics()} {autoinstr.wrap_wsgi(application)} {autoinstr.wrap_asgi(asynchronous)}"
"""


def files_below(folder: str, name: str = "") -> set[str]:
    """The files of a folder of the checkout, without what Python leaves there, under another name of the folder."""
    root = ROOT / folder
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {f"{name or folder}/{path.as_posix()}" for path in files if "__pycache__" not in path.parts}


def test_pure_python(dist: Dist) -> None:
    """A wheel for one platform or one Python cannot be installed on others."""
    assert f"autoinstr-{dist.version}-py3-none-any.whl" == dist.wheel.name
    assert f"autoinstr-{dist.version}.tar.gz" == dist.sdist.name
    with zipfile.ZipFile(dist.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/WHEEL")]
        assert "Root-Is-Purelib: true" in wheel.read(name).decode()
        assert [] == [name for name in wheel.namelist() if name.endswith((".so", ".pyd", ".pyc"))]


def test_files_of_the_wheel(dist: Dist) -> None:
    """A style sheet, a template, the bootstrap or a locustfile is missing for all but those who have a checkout."""
    with zipfile.ZipFile(dist.wheel) as wheel:
        held = {name for name in wheel.namelist() if not name.endswith("/")}
    info = f"autoinstr-{dist.version}.dist-info"
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert files_below("autoinstr") | files_below("scenarios", "autoinstr/bench/_scenarios") == held - about
    assert about <= held
    assert {"autoinstr/py.typed", "autoinstr/_boot/sitecustomize.py", "autoinstr/backend/ui/index.html"} <= held


def test_files_of_the_source_distribution(dist: Dist) -> None:
    """Distributors build, test and document from it; environments and reports of whoever built it are not for them."""
    top = f"autoinstr-{dist.version}/"
    with tarfile.open(dist.sdist) as sdist:
        held = {member.name.removeprefix(top) for member in sdist.getmembers() if member.isfile()}
    needed = {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "mkdocs.yml", "docs/index.md", "tests/conftest.py"}
    assert set() == needed - held
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=ROOT,
        input="\n".join(held - {"PKG-INFO"}),
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert (1, "") == (ignored.returncode, ignored.stdout), ignored.stderr
    assert dist.sdist.stat().st_size < 8_000_000


def test_types_reach_the_user(dist: Dist, venv: Venv) -> None:
    """``mypy --strict`` of a program that uses the API fails, or sees only ``Any``."""
    venv.install(dist.wheel, options=("--no-deps",))
    program = venv.file("user.py", USER)
    # Without its cache, which holds a file of the same second and the same size for unchanged.
    options = ("--strict", "--no-incremental", "--python-version", "3.10")
    command = (tool("mypy"), *options, "--python-executable", venv.python, program)
    checked = succeed(call(*command, cwd=venv.work, environ=kept_environ(), timeout=INSTALL_S))
    assert 'Revealed type is "builtins.int"' in checked or 'Revealed type is "int"' in checked
    venv.file("user.py", USER.replace("total: int", "total: str"))
    assert "Incompatible types" in call(*command, cwd=venv.work, environ=kept_environ(), timeout=INSTALL_S).stdout


@pytest.mark.parametrize("version", [version for version in SUPPORTED if version in interpreters()])
def test_runs_when_installed(dist: Dist, tmp_path: Path, index: None, version: str) -> None:
    """On one of the Pythons that are promised the package cannot be installed, or does not trace."""
    venv = Venv(tmp_path, interpreters()[version])
    venv.install(dist.wheel)
    assert {"autoinstr", "wrapt"} == set(venv.freeze())
    assert succeed(venv.run("autoinstr", "--help")).startswith("usage: python -m autoinstr")
    assert f"autoinstr {dist.version}\n" == succeed(venv.run("autoinstr", "--version"))
    venv.file("app.py", PROGRAM)
    shown = {"AUTOINSTR_EXPORTER": "console", "JAEGER_SAMPLER_TYPE": "const", "JAEGER_SAMPLER_PARAM": "1"}
    traced = venv.run("autoinstr", "run", "app.py", **shown)
    assert str(venv.folder) in succeed(traced), "the program has another autoinstr than the installed one"
    spans = venv.spans("app.py")
    assert ["GET", "GET", "ask"] == sorted(span["name"] for span in spans)
    assert 1 == len({span["traceId"] for span in spans})


@pytest.mark.parametrize("version", [version for version in SUPPORTED if version in interpreters()])
def test_backend_when_installed(dist: Dist, tmp_path: Path, index: None, version: str) -> None:
    """The backend that pip installs has no web interface, or does not start on one of the Pythons."""
    venv = Venv(tmp_path, interpreters()[version])
    venv.install(dist.extra("backend"))
    with venv.serving("--data", str(tmp_path / "data")) as ports:
        for path in ("/", "/api/services", *_assets(ports["query"])):
            assert 200 == _status(ports["query"], path), path


def _assets(port: int) -> list[str]:
    """What the first page links to."""
    page = _get(port, "/", "text/html")[1]
    found = re.findall(r'(?:src|href)="([^"#:]+)"', page)
    assert len(found) >= 2, page
    return [f"/{path.lstrip('./')}" for path in found]


def _status(port: int, path: str) -> int:
    return _get(port, path)[0]


def _get(port: int, path: str, accept: str = "*/*") -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=RUN_S)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_pip_installs_it(dist: Dist, tmp_path: Path, index: None) -> None:
    """uv and pip do not agree about everything; most users have pip."""
    environ = {**kept_environ(), **pip_environ()}
    folder = tmp_path / "venv"
    succeed(call(interpreters()[SUPPORTED[-1]], "-m", "venv", folder, cwd=tmp_path, environ=environ, timeout=INSTALL_S))
    pip = (folder / "bin" / "python", "-m", "pip")
    succeed(call(*pip, "install", "--quiet", dist.wheel, cwd=tmp_path, environ=environ, timeout=INSTALL_S))
    assert "No broken requirements found." in succeed(call(*pip, "check", cwd=tmp_path, environ=environ))
    succeed(call(folder / "bin" / "autoinstr", "--version", cwd=tmp_path, environ=environ))
    succeed(call(*pip, "uninstall", "--quiet", "--yes", "autoinstr", cwd=tmp_path, environ=environ))
    left = [str(path) for path in folder.rglob("*") if "autoinstr" in path.name]
    assert [] == left
