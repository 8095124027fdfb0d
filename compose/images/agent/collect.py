"""Lays the agent and what it needs (wrapt) into one folder that any supported Python can have on its PYTHONPATH.

    python collect.py SOURCE TARGET

wrapt's C code is compiled for each Python and C library apart, under names that tell them apart, and each Python loads the one
that is named for it: so those of all wheels lie side by side. A Python for which there is none uses wrapt's Python code.
"""

import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: Of these a wheel's name may say several; pip takes the best that fits.
GLIBC, MUSL = ("manylinux_2_28", "manylinux_2_17", "manylinux2014"), ("musllinux_1_2", "musllinux_1_1")
#: Python 3.10 calls what is compiled for musl as what is compiled for glibc: there is room for one of them.
WANTED = [(python, GLIBC) for python in PYTHONS] + [(python, MUSL) for python in PYTHONS if python != "3.10"]
#: What a traced process never loads.
SUPERFLUOUS = ("*.pyi", "*.c", "*.h", "py.typed")


def main(source: str, target: str) -> None:
    root = Path(target)
    _pip("install", "--target", target, "--no-compile", "--no-deps", source)
    # The agent alone: the backend and the harness are other images' affair.
    for room in ("backend", "bench"):
        _remove(root / "autoinstr" / room)
    _collect_wrapt(root)
    for folder in ("bin", "wrapt-stubs"):
        _remove(root / folder)
    for pattern in SUPERFLUOUS:
        for file in root.rglob(pattern):
            file.unlink()
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def _collect_wrapt(root: Path) -> None:
    """All wheels of one version, one over the other: they differ in their compiled file alone."""
    with tempfile.TemporaryDirectory() as passing:
        _pip("download", "--dest", passing, "--no-deps", "--only-binary", ":all:", "wrapt>=1.14,<3")
        version = next(Path(passing).glob("wrapt-*.whl")).name.split("-")[1]
        for python, names in WANTED:
            _download(passing, f"wrapt=={version}", python, names)
        for wheel in Path(passing).glob("wrapt-*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root)


def _download(folder: str, wrapt: str, python: str, libraries: tuple[str, ...]) -> None:
    words = [word for name in libraries for word in ("--platform", f"{name}_{platform.machine()}")]
    abi = f"cp{python.replace('.', '')}"
    try:
        _pip("download", "--dest", folder, "--no-deps", "--only-binary", ":all:", *words,
             "--python-version", python, "--implementation", "cp", "--abi", abi, wrapt)  # fmt: skip
    except subprocess.CalledProcessError:
        print(f"no wheel of {wrapt} for Python {python} on {libraries[0]}: it will use wrapt's Python code")


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], check=True)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if folder.exists():
        folder.rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
