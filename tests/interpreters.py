"""The Python interpreters of this machine: those on PATH, and those that pyenv has installed.

As a program (``python -m interpreters``) it prints the paths of those that are supported, but for the running version.
"""

from __future__ import annotations

import glob
import shutil
import subprocess
import sys
from functools import cache

SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
VERSIONS = ("2.7", "3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")


@cache
def interpreters() -> dict[str, str]:
    """Version ("3.12") to the path of an interpreter that really starts (pyenv's shims may not)."""
    found = {}
    for version in VERSIONS:
        for path in [shutil.which(f"python{version}"), *_of_pyenv(version)]:
            if path and _starts(path):
                found[version] = path
                break
    return found


def _of_pyenv(version: str) -> list[str]:
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return []
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
    return sorted(glob.glob(f"{root}/versions/{version}.*/bin/python{version}")) if root else []


def _starts(path: str) -> bool:
    return subprocess.run([path, "-c", "pass"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    print("\n".join(path for version, path in interpreters().items() if version in SUPPORTED and version != running))
