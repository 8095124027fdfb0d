"""How patches get in and out of a library, by the agent's own instruments and by those of other packages."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from autoinstr.instrument import GROUP, TABLE, Patcher, Watcher, find_others, full_name, load

from .conftest import build_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autoinstr.instrument import Tracing
    from autoinstr.report import InMemoryReporter


@pytest.fixture
def library() -> ModuleType:
    """Something to patch."""
    module = ModuleType("library")

    class Base:
        def inherited(self) -> str:
            """Its docstring."""
            return "inherited"

        def method(self, value: int = 1) -> str:
            return f"method {value}"

        @staticmethod
        def static(value: int) -> str:
            return f"static {value}"

        @classmethod
        def of_class(cls, value: int) -> str:
            return f"{cls.__name__} {value}"

    class Child(Base):
        pass

    def function(value: int) -> str:
        return f"function {value}"

    for thing in (Base, Child, function):
        setattr(module, thing.__name__, thing)
    return module


def loudly(wrapped: Any) -> Any:
    """Make what it returns recognizable."""

    def louder(*arguments: Any, **keywords: Any) -> str:
        return str(wrapped(*arguments, **keywords)) + "!"

    return louder


def twice_as_loudly(wrapped: Any) -> Any:
    """Another instrument, of another package."""

    def louder(*arguments: Any, **keywords: Any) -> str:
        return str(wrapped(*arguments, **keywords)) + "!!"

    return louder


PATHS = ["Base.method", "Base.static", "Base.of_class", "Child.inherited", "function"]


def dictionaries(library: ModuleType) -> list[dict[str, object]]:
    return [dict(vars(owner)) for owner in (library.Base, library.Child, library)]


def test_wrap(library: ModuleType) -> None:
    """A patched method is called with other arguments, or is no longer static, of the class, or itself to look at."""
    signatures = [inspect.signature(getattr(library.Base, name)) for name in ("method", "static", "of_class")]
    patcher = Patcher(library)
    for path in PATHS:
        patcher.wrap(path, loudly)
    child = library.Child()
    assert (child.method(value=2), child.static(3), library.Base.static(4)) == ("method 2!", "static 3!", "static 4!")
    assert (library.Child.of_class(5), library.Base.of_class(6)) == ("Child 5!", "Base 6!")
    assert (child.inherited(), library.Base().inherited()) == ("inherited!", "inherited")
    assert library.function(7) == "function 7!"
    assert isinstance(vars(library.Base)["static"], staticmethod)
    assert isinstance(vars(library.Base)["of_class"], classmethod)
    assert [inspect.signature(getattr(library.Base, name)) for name in ("method", "static", "of_class")] == signatures
    assert library.Child.inherited.__doc__ == "Its docstring."


def test_undo(library: ModuleType) -> None:
    """Something of the agent stays behind: a wrapper, or an attribute that was inherited before."""
    before = dictionaries(library)
    patcher = Patcher(library)
    for path in PATHS:
        patcher.wrap(path, loudly)
        patcher.wrap(path, twice_as_loudly)
    patcher.set(library.Child, "method", "what was inherited before")
    patcher.set(library, "function", "what was its own")
    assert dictionaries(library) != before
    patcher.undo()
    assert dictionaries(library) == before
    patcher.undo()
    assert dictionaries(library) == before


def test_same_patch_twice(library: ModuleType) -> None:
    """A library that is seen twice gets two spans for everything; two instruments keep each other out."""
    for make in (loudly, loudly, twice_as_loudly, loudly, twice_as_loudly):
        patcher = Patcher(library)
        patcher.wrap("Base.method", make)
        patcher.wrap("function", make)
    assert library.Base().method() == "method 1!!!"
    assert library.function(1) == "function 1!!!"


def test_undo_of_what_cannot_be_patched(library: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """A type that is written in C fails in the middle, and what was patched before it stays."""
    library.Native = dict  # type: ignore[attr-defined]
    before = dictionaries(library)
    patcher = Patcher(library)
    patcher.wrap("Base.method", loudly)
    with pytest.raises(TypeError):
        patcher.wrap("Native.get", loudly)
    patcher.undo()
    assert dictionaries(library) == before
    assert capfd.readouterr().err == ""


def test_undo_goes_on(library: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """One attribute that cannot be put back leaves all the others patched, and raises into the program's import."""
    patcher = Patcher(library)
    patcher.wrap("Base.method", loudly)
    patcher.wrap("Child.inherited", loudly)
    del library.Child.inherited
    patcher.undo()
    assert library.Base().method() == "method 1"
    assert capfd.readouterr().err.count("\n") == 1


def test_table() -> None:
    """A library is left alone because its row names a function that is not there."""
    for _, name, target in TABLE:
        assert callable(load(full_name(target)))
        assert name == name.lower()


# Instruments of other packages

INSTRUMENT = """
def patch(patcher, tracing):
    def make(wrapped):
        def answer(*arguments):
            return "patched " + wrapped(*arguments)
        return answer
    patcher.wrap("answer", make)

def broken(patcher, tracing):
    patch(patcher, tracing)
    raise LookupError("own trouble")
"""


class Package:
    """Packages as pip would install them, in a folder on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def library(self, name: str) -> None:
        (self.folder / f"{name}.py").write_text("def answer():\n    return 'bare'\n")

    def distribution(self, name: str, entry_points: str) -> None:
        (self.folder / f"{name}.py").write_text(INSTRUMENT)
        metadata = self.folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """An empty folder on the path, in a process that has imported one of our libraries: others are asked for then."""
    importlib.import_module("wsgiref.handlers")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Package(tmp_path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_foreign_instrument(packages: Package, watch: Callable[..., Watcher]) -> None:
    """A package that instruments a library by an entry point is not asked."""
    packages.library("some_library")
    packages.distribution("some_instrument", f"[{GROUP}]\nsome_library = some_instrument:patch\n")
    watcher = watch()
    library = importlib.import_module("some_library")
    assert library.answer() == "patched bare"
    assert watcher.patched["some_library"] == "patched"
    watcher.uninstall()
    assert library.answer() == "bare"


def test_foreign_instrument_of_a_library_that_is_there(packages: Package, watch: Callable[..., Watcher]) -> None:
    """A library that was imported before the first of ours stays as it is."""
    packages.library("early_library")
    packages.distribution("early_instrument", f"[{GROUP}]\nearly_library = early_instrument:patch\n")
    library = importlib.import_module("early_library")
    watch()
    assert library.answer() == "patched bare"


@pytest.mark.parametrize("name", ["dotted", "dotted.inner", "*"])
def test_foreign_instrument_switched_off(packages: Package, watch: Callable[..., Watcher], name: str) -> None:
    """An instrument that makes trouble cannot be switched off."""
    (packages.folder / "dotted").mkdir()
    (packages.folder / "dotted" / "__init__.py").touch()
    packages.library("dotted/inner")
    packages.distribution("dotted_instrument", f"[{GROUP}]\ndotted.inner = dotted_instrument:patch\n")
    watch(AUTOINSTR_DISABLED_INSTRUMENTS=name)
    assert importlib.import_module("dotted.inner").answer() == "bare"


@pytest.mark.parametrize("target", ["bad_instrument:broken", "bad_instrument:absent", "absent_module:patch"])
def test_foreign_instrument_that_fails(
    packages: Package, watch: Callable[..., Watcher], capfd: pytest.CaptureFixture[str], target: str
) -> None:
    """A broken instrument breaks the import of the library, the other instruments, or is not mentioned."""
    packages.library("library_of_two")
    packages.library("other_library")
    packages.distribution("bad_instrument", f"[{GROUP}]\nlibrary_of_two = {target}\nnot_there = {target}\n")
    packages.distribution("good_instrument", f"[{GROUP}]\nother_library = good_instrument:patch\n")
    watcher = watch()
    assert importlib.import_module("library_of_two").answer() == "bare"
    assert importlib.import_module("other_library").answer() == "patched bare"
    assert watcher.patched["library_of_two"].startswith("failed: ")
    assert watcher.patched["other_library"] == "patched"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("autoinstr: cannot instrument library_of_two: ")


def test_entry_points_that_cannot_be_read(packages: Package, watch: Callable[..., Watcher]) -> None:
    """One damaged package stops the program, or the agent."""
    packages.library("plain_library")
    packages.distribution("odd_instrument", f"[{GROUP}]\nthis is not\n= an entry point\n")
    watch()
    assert importlib.import_module("plain_library").answer() == "bare"


def test_nobody_has_instruments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program pays for a search through all packages with a slow library."""
    (tmp_path / "some-1.0.dist-info").mkdir()
    (tmp_path / "some-1.0.dist-info" / "entry_points.txt").write_text("[console_scripts]\na = b:c\n")
    (tmp_path / "other-1.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "absent.zip"), ""])
    monkeypatch.setitem(sys.modules, "importlib.metadata", None)
    monkeypatch.chdir(tmp_path)
    assert find_others() == []


def test_failure_of_one_row_is_not_forgotten(reporter: InMemoryReporter, library: ModuleType) -> None:
    """The self-check says that a library is patched, though one of its two instruments failed."""
    watcher = Watcher(build_tracing(reporter))
    watcher._targets = {"library": [f"{__name__}:fails", f"{__name__}:works"]}  # noqa: SLF001
    watcher._on_import(library)  # noqa: SLF001
    assert watcher.patched["library"] == "failed: LookupError: no"
    assert library.function(1) == "function 1!"
    watcher.uninstall()
    assert library.function(1) == "function 1"


def fails(patcher: Patcher, tracing: Tracing) -> None:
    patcher.wrap("function", twice_as_loudly)
    raise LookupError("no")


def works(patcher: Patcher, tracing: Tracing) -> None:
    patcher.wrap("function", loudly)


def test_nothing_is_searched_before_the_first_library(tmp_path: Path) -> None:
    """``python -c pass`` gets slower with every package that is installed."""
    code = (
        "import sys; opened = []; sys.addaudithook(lambda event, words: opened.append(str(words[0])) if event == 'open'"
        " else None)\n"
        "from autoinstr import runtime; runtime.start({'AUTOINSTR_EXPORTER': 'none'})\n"
        "print(any(name.endswith('entry_points.txt') for name in opened))\n"
        "import wsgiref.handlers\n"
        "print(any(name.endswith('entry_points.txt') for name in opened))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "False\nTrue\n"


def test_libraries_that_are_there_are_patched_once(watch: Callable[..., Watcher]) -> None:
    """What an instrument puts in place of a class would be put in place of itself, when an agent is started late."""
    importlib.import_module("http.client")
    importlib.import_module("urllib.request")
    modules = [patcher.module.__name__ for patcher in watch().patchers]
    rows = [module for module, _, _ in TABLE]
    assert {"http.client", "urllib.request", "threading"} <= set(modules)
    assert [module for module in modules if modules.count(module) != rows.count(module)] == []
