"""Other agents' virtual environments: what is in each, where it is, how it is made.

Owns: the cache folder, the packages of each rival, the stamp that says that an environment is whole.
Must not know: settings and command lines of the agents (``variants`` has them), runs.
Invariants: an environment holds the same versions of the measured libraries as the one that runs the harness, and none that
is missing there (uvicorn is faster where uvloop is installed); it counts as installed when its stamp is written, which
is the last step; nothing is installed unless it is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoinstr.bench.parts import PASSED, Refusal, Variant

STAMP = "installed.json"
_EXTRA = re.compile(r";.*\bextra\s*==")

#: What is traced or serves, and what makes these faster where it is there.
LIBRARIES = (
    "django",
    "fastapi",
    "flask",
    "gunicorn",
    "httptools",
    "httpx",
    "orjson",
    "requests",
    "simplejson",
    "starlette",
    "urllib3",
    "uvicorn",
    "uvloop",
    "websockets",
    "werkzeug",
)


@dataclass(frozen=True)
class Rival:
    """An agent: its name among the variants, what is installed for it, and the distribution whose version stands for it."""

    name: str
    title: str
    distribution: str
    packages: tuple[str, ...]


_OTEL_INSTRUMENTATIONS = ("asgi", "django", "fastapi", "flask", "httpx", "requests", "starlette", "urllib", "wsgi")

RIVALS: Mapping[str, Rival] = {
    rival.name: rival
    for rival in (
        Rival(
            "otel",
            "OpenTelemetry",
            "opentelemetry-sdk",
            (
                "opentelemetry-distro",
                "opentelemetry-exporter-otlp-proto-http",
                *(f"opentelemetry-instrumentation-{name}" for name in _OTEL_INSTRUMENTATIONS),
            ),
        ),
        Rival("ddtrace", "Datadog", "ddtrace", ("ddtrace",)),
        Rival("elastic", "Elastic APM", "elastic-apm", ("elastic-apm",)),
    )
}


# ---- Where -----------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """AUTOINSTR_BENCH_CACHE, or ``autoinstr/bench`` in the user's cache folder."""
    own = os.environ.get("AUTOINSTR_BENCH_CACHE")
    if own:
        return Path(own).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache).absolute() / "autoinstr" / "bench"


def folder(name: str) -> Path:
    """Of a rival's environment: one for each kind of interpreter, for they cannot share."""
    kind = f"{sys.implementation.cache_tag or sys.implementation.name}-{sysconfig.get_platform()}"
    return cache_folder() / kind / name


def bin_folder(name: str) -> Path:
    return folder(name) / ("Scripts" if os.name == "nt" else "bin")


def _python(name: str) -> Path:
    return bin_folder(name) / ("python.exe" if os.name == "nt" else "python")


def is_installed(name: str) -> bool:
    return (folder(name) / STAMP).is_file() and _python(name).exists()


def missing(variants: Iterable[Variant]) -> str:
    """Why these variants cannot be measured, and what to do; nothing where all they need is there."""
    names = dict.fromkeys(one.environment for one in variants if one.environment and not is_installed(one.environment))
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are"
    return f"{' and '.join(names)} {verb} not installed: autoinstr bench rivals --install {','.join(names)}"


def versions(name: str) -> dict[str, str]:
    """Package -> version of an environment, in the order of the alphabet; "" is the one that runs the harness."""
    if not name:
        return _sorted({one.metadata["Name"]: one.version for one in importlib.metadata.distributions()})
    if not is_installed(name):
        return {}
    program = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({one.metadata['Name']: one.version for one in m.distributions()}))"
    )
    output = subprocess.run(
        [str(_python(name)), "-I", "-c", program], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, str] = json.loads(output)
    return _sorted(found)


def _sorted(found: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


# ---- Same libraries --------------------------------------------------------------------------------


def pinned() -> dict[str, str]:
    """Those of LIBRARIES that the running environment has, and all that they need there: distribution -> version.

    Without OpenTelemetry's, which are part of an agent: FastAPI needs its API, and an older one would hold the agent back.
    """
    found: dict[str, str] = {}
    ahead = list(LIBRARIES)
    while ahead:
        name = _normal(ahead.pop())
        if name in found or name.startswith("opentelemetry-"):
            continue
        try:
            one = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = one.version
        # What an extra would bring is in the list above where it matters.
        ahead += [_name_of(text) for text in one.requires or () if not _EXTRA.search(text)]
    return dict(sorted(found.items()))


def _name_of(requirement: str) -> str:
    """Source: PyPA, "Dependency specifiers": a requirement begins with its name."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match[0] if match else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---- Making ----------------------------------------------------------------------------------------


def install(name: str, say: Callable[[str], None], *, upgrade: bool = False) -> None:
    """Make the environment of a rival, at today's version of the agent; nothing to do where it is there, unless ``upgrade``.

    Raises Refusal with the installer's own last words. What was there before is gone then, and counts as not installed.
    """
    if name not in RIVALS:
        raise Refusal(f"{name!r} is not one of the agents that can be installed: {', '.join(RIVALS)}")
    rival = RIVALS[name]
    target = folder(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.with_suffix(".lock")):
        if is_installed(name) and not upgrade:
            say(f"{name}: installed already ({versions(name).get(rival.distribution, 'unknown version')})")
            return
        say(f"{name}: installing into {target}")
        shutil.rmtree(target, ignore_errors=True)
        libraries = pinned()
        try:
            venv.create(target, with_pip=not _pip_serves_others())
        except (OSError, subprocess.CalledProcessError) as error:
            raise Refusal(f"{name}: the virtual environment {target} cannot be made: {error}") from None
        _pip_install(name, rival.packages, libraries)
        _stamp(target, rival, libraries)
        say(f"{name}: {rival.distribution} {versions(name).get(rival.distribution, '')}")


def _pip_install(name: str, packages: Sequence[str], libraries: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text("".join(f"{one}=={version}\n" for one, version in libraries.items()))
        wanted = [one for one in map(_normal, LIBRARIES) if one in libraries]
        python = str(_python(name))
        pip = [sys.executable, "-I", "-m", "pip", "--python", python] if _pip_serves_others() else [python, "-I", "-m", "pip"]
        command = [*pip, "--disable-pip-version-check", "install", "--quiet", "--constraint", str(constraints)]
        run = subprocess.run([*command, *wanted, *packages], capture_output=True, text=True, check=False)
    if run.returncode:
        lines = (run.stderr or run.stdout).strip().splitlines()[-6:] or [f"(nothing; status {run.returncode})"]
        raise Refusal("\n  ".join([f"{name} cannot be installed; the installer says:", *lines]))


def _pip_serves_others() -> bool:
    """Whether the running environment's pip can install into another one (22.3): a pip of its own costs each ten seconds."""
    try:
        major, minor = importlib.metadata.version("pip").split(".")[:2]
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return (int(major), int(minor)) >= (22, 3)


def _stamp(target: Path, rival: Rival, libraries: Mapping[str, str]) -> None:
    draft = target / (STAMP + ".new")
    draft.write_text(json.dumps({"packages": rival.packages, "libraries": libraries}, indent=1) + "\n")
    draft.replace(target / STAMP)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two campaigns that start at once must not make the same environment."""
    with lock.open("w") as file:
        with contextlib.suppress(ImportError):  # Not there on Windows.
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def differing(name: str) -> dict[str, tuple[str, str]]:
    """Libraries that have another version here than in a rival's environment, as (here, there): they were upgraded since."""
    there = {_normal(one): version for one, version in versions(name).items()}
    here = pinned()
    return {one: (here[one], there[one]) for one in here if one in there and here[one] != there[one]}


# ---- The command line ------------------------------------------------------------------------------


def main(words: list[str]) -> int:
    """``autoinstr bench rivals``: list the other agents, or install them."""
    parser = argparse.ArgumentParser(
        prog="autoinstr bench rivals", description="List the agents that can be compared with this one, or install them."
    )
    parser.add_argument("--install", metavar="NAMES", help=f"of {', '.join(RIVALS)}, with commas between; or all")
    parser.add_argument("--upgrade", action="store_true", help="make installed ones anew, at today's versions")
    options = parser.parse_args(words)
    for name in _asked_for(options.install, upgrade=options.upgrade):
        install(name, _print, upgrade=options.upgrade)
    for line in _table():
        _print(line)
    return PASSED


def _asked_for(text: str | None, *, upgrade: bool) -> list[str]:
    if text is None:
        return [name for name in RIVALS if upgrade and is_installed(name)]
    names = list(RIVALS) if text == "all" else [one.strip() for one in text.split(",") if one.strip()]
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise Refusal(f"{', '.join(unknown)}: there is no such agent; there are {', '.join(RIVALS)}")
    return names


def _table() -> Iterator[str]:
    for name, rival in RIVALS.items():
        if not is_installed(name):
            yield f"{name:8} {rival.title:14} not installed: autoinstr bench rivals --install {name}"
            continue
        yield f"{name:8} {rival.title:14} {rival.distribution} {versions(name).get(rival.distribution, '?')}  {folder(name)}"
        for library, (here, there) in differing(name).items():
            yield f"{'':8} {library} is {there} there and {here} here: autoinstr bench rivals --install {name} --upgrade"


def _print(line: str) -> None:
    print(line, flush=True)
