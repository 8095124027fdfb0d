"""Zipkin's server as a file: which one, where it is kept, how it is fetched.

Owns: version and checksum; the place in the user's cache folder; the call of Maven.
Must not know: pytest, how the server is run.
Invariants: a file whose checksum differs is never used; nothing is fetched unless this file is run as a program, and then only
what is not there yet.

``python tests/e2e/backends/zipkin_jar.py`` fetches it by ``mvn`` (Debian: maven), from whatever repository that is set up for.
``AUTOINSTR_TEST_ZIPKIN`` names a file that somebody has already. Standard library alone: it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

VARIABLE = "AUTOINSTR_TEST_ZIPKIN"
VERSION = "3.6.1"
NAME = f"zipkin-server-{VERSION}-exec.jar"
SHA256 = "d8326e0ed4f43855dba81228f688554706e52578a7c782d9a90b73f8680654a1"
#: Read at import: the tests run without such variables.
_NAMED = os.environ.get(VARIABLE)


def path() -> Path:
    """Where the file is, or would be."""
    if _NAMED:
        return Path(_NAMED)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache).absolute() / "autoinstr" / "zipkin" / NAME


def trouble() -> str:
    """Why the file cannot be used, and what to do; empty if it can."""
    if not path().is_file():
        return f"no Zipkin server at {path()}: fetch it with `python {_shown()}`, or name one with {VARIABLE}"
    if not _NAMED and _checksum(path()) != SHA256:
        return f"{path()} is not the file that it should be (SHA-256): remove it, and fetch it with `python {_shown()}`"
    return ""


def fetch() -> None:
    """Have the file. ``OSError``, ``CalledProcessError``."""
    path().parent.mkdir(parents=True, exist_ok=True)
    coordinates = f"io.zipkin:zipkin-server:{VERSION}:jar:exec"
    maven = ["mvn", "--batch-mode", "--quiet"]
    # Without what it would need itself: the file holds all of it.
    subprocess.run([*maven, "dependency:get", f"-Dartifact={coordinates}", "-Dtransitive=false"], check=True)
    copy = [*maven, "dependency:copy", f"-Dartifact={coordinates}", f"-DoutputDirectory={path().parent}"]
    subprocess.run(copy, check=True)


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _shown() -> str:
    return os.path.relpath(__file__)


if __name__ == "__main__":
    if trouble() and not _NAMED:
        fetch()
    if problem := trouble():
        sys.exit(problem)
    print(path())
