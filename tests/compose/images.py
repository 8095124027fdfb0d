"""Images for the stacks, made on this machine alone: nothing is pulled, unless STACKS_BASE names a Python image.

Owns: a base system (debootstrap, from where this machine's apt gets its packages, or STACKS_BASE), wheels, and the images built of
both; all are kept, and made again when what they are made of changes.
Must not know: the stacks.
Invariants: builds have no network; nothing is made twice, by however many processes (a lock on the folder); an image that is
out of date is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.utils.build import exclude_paths

from interpreters import interpreters

from .engine import Missing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoinstr"
LABEL = "autoinstr.test.image"

#: What the base has beyond Debian's smallest system. One base for all, so that there is one to make.
PACKAGES = "python3,python3-venv,nginx-light,postgresql,wget,ca-certificates"
#: Of the base, what no container needs.
SUPERFLUOUS = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")
EXTRAS = ("backend", "grpc", "postgres", "bench")
#: What the images' builds ask for beside the package and its extras.
BUILD_NEEDS = ("hatchling", "flask", "gunicorn", "requests", "fastapi", "uvicorn")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
WRAPT_PLATFORMS = (("manylinux_2_28", "manylinux_2_17", "manylinux2014"), ("musllinux_1_2", "musllinux_1_1"))


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Of all processes on this machine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "compose.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def images(engine: docker.DockerClient) -> dict[str, str]:
    """The variables of the compose files that name images, with the images. Raises Missing.

    With STACKS_BASE those of other people are the ones that the files name: Compose pulls them.
    """
    pulled = os.environ.get("STACKS_BASE", "")
    with one_at_a_time():
        base = _pulled(engine, pulled) if pulled else _base(engine)
        wheels = _wheels(engine, base)
        carrier = {} if pulled else {"CARRIER": base}
        found = {
            "BASE": base,
            "IMAGE_AGENT": _built(engine, "agent", {"BASE": base, **carrier}, wheels),
            "IMAGE_AUTOINSTR": _built(engine, "autoinstr", {"BASE": base}, wheels),
            "IMAGE_SERVICE": _built(engine, "service", {"BASE": base}, wheels),
        }
        if not pulled:
            found |= {"IMAGE_NGINX": base, "IMAGE_BUSYBOX": base, "IMAGE_POSTGRES": _stand_in(engine, "postgres", {"BASE": base})}
        # What the builds' first stages have left.
        engine.images.prune({"dangling": True, "label": "autoinstr.stage=build"})
    return found


def _pulled(engine: docker.DockerClient, name: str) -> str:
    try:
        engine.images.get(name)
    except docker.errors.ImageNotFound:
        engine.images.pull(name)
    return name


def _base(engine: docker.DockerClient) -> str:
    suite, mirror = _debian()
    mark = _hash(suite, PACKAGES, *SUPERFLUOUS)
    if found := _existing(engine, "base", mark):
        return found
    tarball = CACHE / f"base-{mark}.tar"
    if not tarball.exists():
        _bootstrap(suite, mirror, tarball)
    name = f"autoinstr-test/base:{mark}"
    with open(tarball, "rb") as data:
        repository, tag = name.split(":")
        engine.api.import_image_from_data(data, repository=repository, tag=tag, changes=[f"LABEL {LABEL}=base"])
    _forget_others(engine, "base", mark)
    for old in CACHE.glob("base-*.tar"):
        if old != tarball:
            old.unlink()
    return name


def _debian() -> tuple[str, str]:
    """This machine's release, and where its apt gets packages of it."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    if release.get("ID") != "debian" or not shutil.which("debootstrap") or os.geteuid():
        raise Missing("images are made with debootstrap, as root on Debian: apt-get install debootstrap")
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    words = ["apt-get", "indextargets", "--format", form, "Identifier: Packages"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")
    mirrors = [uri for row in listed if row for release, component, uri in [row.split()] if (release, component) == (suite, "main")]
    if not mirrors:
        raise Missing(f"apt has no source of {suite} main: apt-get update")
    return suite, mirrors[0]


def _bootstrap(suite: str, mirror: str, tarball: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        root = Path(folder) / "root"
        words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(root), mirror]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"debootstrap failed: {done.stdout[-1500:]}{done.stderr[-500:]}")
        for path in SUPERFLUOUS:
            for entry in (root / path).iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (root / "var/log/nginx").mkdir()
        unfinished = tarball.with_suffix(".unfinished")
        subprocess.run(["tar", "--numeric-owner", "--create", "--file", unfinished, "--directory", root, "."], check=True)
        unfinished.rename(tarball)


def _wheels(engine: docker.DockerClient, base: str) -> Path:
    """All that the builds install, for the Python of the base."""
    words = ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = engine.containers.run(base, words, remove=True).decode().strip()
    python = sys.executable if version == "{}.{}".format(*sys.version_info) else interpreters().get(version)
    if python is None:
        raise Missing(f"wheels for the base's Python {version} are fetched with such a Python, and there is none here")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [project["project"]["optional-dependencies"][extra] for extra in EXTRAS]
    mark = _hash(version, *map(str, (project["build-system"], project["project"]["dependencies"], extras, BUILD_NEEDS)))
    folder = CACHE / f"wheels-{mark}"
    if not folder.exists():
        for old in CACHE.glob("wheels-*"):
            shutil.rmtree(old)
        unfinished = CACHE / "unfinished-wheels"
        shutil.rmtree(unfinished, ignore_errors=True)
        _fetch_wheels(python, unfinished)
        unfinished.rename(folder)
    return folder


def _fetch_wheels(python: str, folder: Path) -> None:
    def pip(*words: str) -> None:
        done = subprocess.run([python, "-m", "pip", "--quiet", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"pip {words[0]} failed: {done.stderr[-1500:]}")

    pip("wheel", "--wheel-dir", str(folder), f"{ROOT}[{','.join(EXTRAS)}]", *BUILD_NEEDS)
    for wheel in folder.glob("autoinstr-*.whl"):
        wheel.unlink()
    wrapt = next(folder.glob("wrapt-*.whl")).name.split("-")[1]
    for version in PYTHONS:
        for names in WRAPT_PLATFORMS:
            platforms = [word for name in names for word in ("--platform", f"{name}_{os.uname().machine}")]
            abi = f"cp{version.replace('.', '')}"
            which = ["--python-version", version, "--implementation", "cp", "--abi", abi, "--only-binary", ":all:"]
            pip("download", "--no-deps", "--dest", str(folder), *platforms, *which, f"wrapt=={wrapt}")


def _built(engine: docker.DockerClient, name: str, arguments: Mapping[str, str], wheels: Path) -> str:
    """An image of compose/images, with wheels where users may lay some, and without network."""
    dockerfile = f"compose/images/{name}/Dockerfile"
    patterns = (ROOT / f"{dockerfile}.dockerignore").read_text().split()
    files = {path: (ROOT / path).read_bytes() for path in exclude_paths(str(ROOT), patterns, dockerfile) if (ROOT / path).is_file()}
    files |= {f"compose/images/wheels/{wheel.name}": wheel for wheel in sorted(wheels.iterdir())}
    return _build(engine, name, files, dockerfile, {**arguments, "PIP_NO_INDEX": "1"})


def _stand_in(engine: docker.DockerClient, name: str, arguments: Mapping[str, str]) -> str:
    folder = Path(__file__).parent / name
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return _build(engine, name, files, "Dockerfile", arguments)


def _build(
    engine: docker.DockerClient, name: str, files: Mapping[str, bytes | Path], dockerfile: str, arguments: Mapping[str, str]
) -> str:
    contents = (f"{path} {hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else ''}" for path, data in sorted(files.items()))
    mark = _hash(*contents, *map(str, sorted(arguments.items())))
    if found := _existing(engine, name, mark):
        return found
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            for path, data in files.items():
                _add(tar, path, data)
        context.seek(0)
        engine.images.build(
            fileobj=context,
            custom_context=True,
            dockerfile=dockerfile,
            buildargs=dict(arguments),
            network_mode="none",
            tag=f"autoinstr-test/{name}:{mark}",
            labels={LABEL: name},
            forcerm=True,
        )
    _forget_others(engine, name, mark)
    return f"autoinstr-test/{name}:{mark}"


def _add(tar: tarfile.TarFile, path: str, data: bytes | Path) -> None:
    if isinstance(data, Path):
        tar.add(data, path)
        return
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), 0o755 if path.endswith(".sh") else 0o644
    tar.addfile(entry, io.BytesIO(data))


def _existing(engine: docker.DockerClient, name: str, mark: str) -> str:
    try:
        engine.images.get(f"autoinstr-test/{name}:{mark}")
    except docker.errors.ImageNotFound:
        return ""
    return f"autoinstr-test/{name}:{mark}"


def _forget_others(engine: docker.DockerClient, name: str, mark: str) -> None:
    """Images of this name that are out of date, unless something still runs from them."""
    for image in engine.images.list(f"autoinstr-test/{name}"):
        for tag in image.tags:
            if not tag.endswith(f":{mark}"):
                try:
                    engine.images.remove(tag)
                except docker.errors.APIError:
                    continue


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
