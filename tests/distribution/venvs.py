"""Virtual environments as users have them: nothing of the checkout is on their path.

Owns: how an environment is made and filled, what its programs see of ours, where uv finds packages.
Must not know: what is tested in it.
Invariants: no variable of the tests reaches a program; the package index is the one that pip is configured with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakes import until

#: The first download of a large package on a slow line takes its time.
INSTALL_S = 400
RUN_S = 60
HOST = "127.0.0.1"
LISTENERS = ("query", "sampling", "collector", "otlp", "otlp-grpc", "zipkin", "agent", "agent-binary")


def tool(name: str) -> str:
    """The path of a program that the extra ``test`` installs beside this Python."""
    return str(Path(sys.executable).with_name(name))


def kept_environ() -> dict[str, str]:
    """What of our environment a program may see; none of it leads to the checkout."""
    kept = ("HOME", "LANG", "TMPDIR", "SYSTEMROOT")
    folders = [str(Path(sys.executable).parent), os.environ.get("VIRTUAL_ENV", "")]
    path = [entry for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry not in folders]
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "PATH": os.pathsep.join(path)}


def pip_environ() -> dict[str, str]:
    """pip's own variables, which lead it to the index."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def uv_environ() -> dict[str, str]:
    """uv does not read pip's configuration: the index and the certificates, by uv's variables."""
    index, cert = _of_pip("index-url"), _of_pip("cert")
    ours = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_", "XDG_CACHE"))}
    return {
        **({"UV_DEFAULT_INDEX": index} if index else {}),
        **({"SSL_CERT_FILE": cert} if cert else {}),
        **ours,
        # The interpreters that are tried are those of the machine.
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "UV_NO_CONFIG": "1",
    }


def _of_pip(name: str) -> str:
    """One setting of pip, from its variables or its files."""
    variable = f"PIP_{name.upper().replace('-', '_')}"
    if os.environ.get(variable):
        return os.environ[variable]
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def call(
    *words: str | Path, cwd: Path, environ: Mapping[str, str], timeout: float = RUN_S
) -> subprocess.CompletedProcess[str]:
    """A program to its end."""
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=dict(environ), capture_output=True, text=True, timeout=timeout
    )


def succeed(ended: subprocess.CompletedProcess[str]) -> str:
    """What it printed; it must not have failed."""
    assert ended.returncode == 0, f"{ended.args}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


class Venv:
    """An environment of one Python; ``work`` is an empty folder beside it, from which its programs run."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder / "venv"
        self.work = folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.bin = self.folder / "bin"
        self.python = self.bin / "python"
        if not self.python.exists():
            self.uv("venv", "--quiet", "--python", python, self.folder)

    def uv(self, *words: str | Path, timeout: float = INSTALL_S) -> str:
        """uv, for this environment."""
        environ = {**kept_environ(), **uv_environ(), "VIRTUAL_ENV": str(self.folder)}
        return succeed(call(tool("uv"), *words, cwd=self.work, environ=environ, timeout=timeout))

    def install(self, *requirements: str | Path, options: tuple[str, ...] = ()) -> None:
        self.uv("pip", "install", "--quiet", *options, *requirements)

    def freeze(self) -> dict[str, str]:
        """Version by name of what is installed."""
        listed = json.loads(self.uv("pip", "list", "--format", "json"))
        return {each["name"]: each["version"] for each in listed}

    @property
    def environ(self) -> dict[str, str]:
        """As after ``activate``."""
        kept = kept_environ()
        return {**kept, "PATH": f"{self.bin}{os.pathsep}{kept['PATH']}", "VIRTUAL_ENV": str(self.folder)}

    def run(self, *words: str | Path, timeout: float = RUN_S, **environ: str) -> subprocess.CompletedProcess[str]:
        """A program of this environment, by its name."""
        first, *rest = words
        return call(self.bin / first, *rest, cwd=self.work, environ={**self.environ, **environ}, timeout=timeout)

    def file(self, name: str, text: str) -> Path:
        path = self.work / name
        path.write_text(text, encoding="utf-8")
        return path

    def spans(self, program: str, **environ: str) -> list[dict[str, Any]]:
        """The spans of a program, as the exporter ``file`` writes them: OTLP in JSON."""
        lines = self.work / f"{program}.jsonl"
        lines.unlink(missing_ok=True)
        settings = {"AUTOINSTR_EXPORTER": "file", "AUTOINSTR_FILE": str(lines), "JAEGER_SAMPLER_TYPE": "const"}
        settings |= {"JAEGER_SAMPLER_PARAM": "1", **environ}
        succeed(self.run("python", "-m", "autoinstr", program, **settings))
        batches = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        groups = [group for batch in batches for each in batch["resourceSpans"] for group in each["scopeSpans"]]
        return [span for group in groups for span in group["spans"]]

    @contextmanager
    def serving(self, *options: str) -> Iterator[dict[str, int]]:
        """A running ``autoinstr serve``: its ports by name."""
        ports_file = self.work / "ports.json"
        ports_file.unlink(missing_ok=True)
        ports = [word for name in LISTENERS for word in (f"--{name}-port", "0")]
        command = [str(self.bin / "autoinstr"), "serve", *ports, "--ports-file", str(ports_file), *options]
        log = self.work / "serve.log"
        with (
            log.open("w", encoding="utf-8") as output,
            subprocess.Popen(command, cwd=self.work, env=self.environ, stdout=output, stderr=output) as process,
        ):
            try:
                until(lambda: ports_file.exists() or process.poll() is not None, "the start of autoinstr serve")
                assert process.poll() is None, log.read_text(encoding="utf-8")
                yield json.loads(ports_file.read_text(encoding="utf-8"))
            finally:
                process.terminate()
                process.wait(RUN_S)
