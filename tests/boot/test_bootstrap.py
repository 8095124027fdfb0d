"""The bootstrap in the processes of a program: children, other Pythons, other people's start files, our own faults."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from interpreters import interpreters

from .conftest import Environment, Programs

SHOW = "import sys; print(sorted({'sitecustomize', 'usercustomize'} & set(sys.modules)), sys.path)"


def test_only_pythonpath(programs: Programs) -> None:
    """In a container image that sets PYTHONPATH and has no launcher, nothing is traced, or our folder is visible."""
    program = "import sys; print(sys.path, 'sitecustomize' in sys.modules)"
    bare, traced = programs.bare("-c", program), programs.bare("-c", program, PYTHONPATH=programs.boot)
    assert bare.outcome == traced.outcome
    assert [traced.pid] == programs.started


@pytest.mark.parametrize("value", ["{boot}/", "{boot}:{boot}", "lib:{boot}", "{boot}:lib::other"])
def test_pythonpath_in_other_spellings(programs: Programs, value: str) -> None:
    """A PYTHONPATH with our folder twice, later, or with a slash at its end leaves the folder on ``sys.path``."""
    others = [entry for entry in value.split(":") if "{boot}" not in entry]
    environ = {"PYTHONPATH": ":".join(others)} if others else {}
    program = "import sys; print(sys.path)"
    traced = programs.bare("-c", program, PYTHONPATH=value.format(boot=programs.boot))
    assert programs.bare("-c", program, **environ).outcome == traced.outcome
    assert [traced.pid] == programs.started


def test_users_pythonpath_is_kept(programs: Programs) -> None:
    """The program loses the folders of its own PYTHONPATH, or gets the current folder on it."""
    for value in ("lib", "a::b", "", ":a", "a:"):
        bare = programs.bare("-c", SHOW, PYTHONPATH=value)
        assert bare.outcome == programs.agent("-c", SHOW, PYTHONPATH=value).outcome
    folders = programs.agent("-c", "import os; print(os.environ['PYTHONPATH'])", PYTHONPATH="a").out.decode().strip()
    assert f"{programs.boot}:a" == folders


def test_nested_launchers(programs: Programs) -> None:
    """A traced program that starts a traced program makes PYTHONPATH longer each time."""
    show = "import os; print(os.environ['PYTHONPATH'])"
    outer = programs.agent("python", "-m", "autoinstr", "-c", show, PATH=str(Path(programs.python).parent))
    assert f"{programs.boot}\n".encode() == outer.out
    assert {outer.pid} == set(programs.started)


CHILDREN = {
    "subprocess": "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'], check=True)",
    "shell": "import os, sys; os.system(sys.executable + ' -c pass')",
    "spawn": (
        "import multiprocessing, os\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=os.getpid)\n"
        "    child.start(); child.join(); assert child.exitcode == 0\n"
    ),
    "posix_spawn": (
        "import os, sys\nos.waitpid(os.posix_spawn(sys.executable, [sys.executable, '-c', 'pass'], os.environ), 0)\n"
    ),
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_children_are_traced(programs: Programs, kind: str) -> None:
    """Workers and reloaders, which servers start as new processes, are not traced."""
    programs.file("parent.py", CHILDREN[kind])
    result = programs.agent("parent.py")
    assert (0, b"", b"") == result.outcome
    first, *others = programs.started
    assert result.pid == first
    # multiprocessing has a process of its own (the resource tracker) beside the child.
    assert 1 <= len(others) <= 2


def test_exec_is_traced(programs: Programs) -> None:
    """A server that replaces itself on reload is traced until the first reload only."""
    code = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'print(1)'])"
    result = programs.agent("-c", code)
    assert b"1\n" == result.out
    assert [result.pid] * 2 == programs.started


def test_child_of_python_that_ignores_the_environment(programs: Programs) -> None:
    """``python -I -m autoinstr`` traces the program but none of the commands that it starts."""
    result = programs.agent(
        "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'])", flags=("-I",)
    )
    assert (0, b"", b"") == result.outcome
    assert [result.pid, True] == [programs.started[0], len(programs.started) == 2]


USERS = {
    "quiet": "import sys; sys.flavour = 'own'",
    "error": "raise ValueError('of the user')",
    "missing": "import no_such_module",
    "exit": "raise SystemExit(5)",
    "absent": None,
}


@pytest.mark.parametrize("kind", USERS)
@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize"])
def test_users_start_files(programs: Programs, name: str, kind: str) -> None:
    """The user's own start file (coverage, Debian, corporate images) is not run, runs twice, or fails in other words."""
    text = USERS[kind]
    if text is not None:
        programs.file(f"lib/{name}.py", f"print({name!r}, __name__, __file__, __spec__.name, flush=True)\n{text}")
    end = f"import {name}; print({name}.__file__, {name}.__spec__.origin)" if kind == "quiet" else "pass"
    code = f"{SHOW}; print(getattr(sys, 'flavour', None)); {end}"
    bare = programs.bare("-c", code, PYTHONPATH="lib")
    traced = programs.bare("-c", code, PYTHONPATH=f"{programs.boot}:lib")
    if kind == "exit":  # Python itself then prints a traceback, in which our frames are seen.
        assert (bare.status, bare.out) == (traced.status, traced.out)
    else:
        assert bare.outcome == traced.outcome
    assert [traced.pid] == programs.started


def test_users_start_file_under_the_launcher(programs: Programs) -> None:
    """The user's start file is lost on the way through the launcher, which is a Python and runs it too."""
    programs.file("lib/sitecustomize.py", "import os; print('own', os.getpid(), flush=True)")
    result = programs.agent("-c", "print('program')", PYTHONPATH="lib")
    assert f"own {result.pid}\nown {result.pid}\nprogram\n".encode() == result.out


def test_another_agents_folder_is_chained(programs: Programs) -> None:
    """With two agents on PYTHONPATH only the first one starts."""
    programs.file("other/sitecustomize.py", "print('other')")
    for value in ("{boot}:{other}", "{other}:{boot}"):
        path = value.format(boot=programs.boot, other=programs.folder / "other")
        assert b"other\n" == programs.bare("-c", "pass", PYTHONPATH=path).out
    # The other one came first once, and does not chain: that is its right.
    assert 1 == len(programs.started)


@pytest.mark.parametrize("fault", ["error", "exit"])
@pytest.mark.parametrize("flag", ["-B", "-I"])
def test_fault_of_the_agent(programs: Programs, fault: str, flag: str) -> None:
    """An error in the agent keeps the program from running, or fills its log."""
    result = programs.agent("-c", "print(1)", flags=(flag,), FAULT=fault)
    assert (0, b"1\n") == (result.status, result.out)
    name = {"error": "RuntimeError", "exit": "SystemExit"}[fault]
    line = f"autoinstr: could not start ({name}: first line second line); the program runs without tracing\n"
    assert line.encode() == result.err


def test_fault_of_the_agent_without_stderr(programs: Programs) -> None:
    """A daemon with closed descriptors dies of the agent's one line."""
    result = programs.run("sh", "-c", f"exec {programs.python} -m autoinstr -c 'print(1)' 2>&-", FAULT="error")
    assert (0, b"1\n", b"") == result.outcome


def test_broken_installation(programs: Programs, environment: Environment, tmp_path: Path) -> None:
    """Half an installation (a full disk, a killed pip) keeps every program from running."""
    root = tmp_path / "half"
    shutil.copytree(environment.root, root)
    (root / "autoinstr" / "runtime.py").unlink()
    result = programs.bare("-c", "print(1)", PYTHONPATH=f"{root}/autoinstr/_boot:{root}")
    assert (0, b"1\n", 1) == (result.status, result.out, result.err.count(b"\n"))
    assert result.err.startswith(
        b"autoinstr: could not start (ModuleNotFoundError: No module named 'autoinstr.runtime')"
    )


def test_python_without_the_agent(programs: Programs) -> None:
    """A tool of another environment (ansible, gcloud), started by a traced program, prints or fails."""
    base = os.path.realpath(sys.executable)
    bare, traced = programs.run(base, "-c", SHOW), programs.run(base, "-c", SHOW, PYTHONPATH=programs.boot)
    assert bare.outcome == traced.outcome
    assert [] == programs.started


TOO_OLD = ["2.7", "3.6", "3.7", "3.8", "3.9"]


@pytest.mark.parametrize("version", list(interpreters()))
def test_other_pythons(programs: Programs, environment: Environment, version: str) -> None:
    """A tool in an old Python, started by a traced program, prints a syntax error at every start."""
    python = interpreters()[version]
    programs.file("lib/sitecustomize.py", "print('own')")
    cases = [({}, programs.boot), ({"PYTHONPATH": "lib"}, f"{programs.boot}:lib")]
    if version in TOO_OLD:  # Not even where they find the package.
        root = str(environment.root)
        cases.append(({"PYTHONPATH": root}, f"{programs.boot}:{root}"))
    for bare, path in cases:
        expected, actual = programs.run(python, "-c", SHOW, **bare), programs.run(python, "-c", SHOW, PYTHONPATH=path)
        assert expected.outcome == actual.outcome
    assert [] == programs.started


def test_sub_interpreter_is_left_alone(programs: Programs) -> None:
    """A program with sub-interpreters gets a traceback, or threads of ours, in each of them."""
    code = (
        "try:\n    import _interpreters as interpreters\n"
        "except ImportError:\n    import _xxsubinterpreters as interpreters\n"
        "interpreters.run_string(interpreters.create(), \"import sys; print('autoinstr' in sys.modules, sys.path)\")\n"
    )
    bare, traced = programs.bare("-c", code), programs.agent("-c", code)
    assert b"" == bare.err
    # The first lines of the path differ only if our folder was left in it.
    assert bare.outcome == traced.outcome
    assert [traced.pid] == programs.started


def test_reload_does_not_start_twice(programs: Programs) -> None:
    """``importlib.reload(site)`` or a second ``site.main()`` patches everything a second time, or raises."""
    code = f"import site, sys; sys.path.insert(0, {programs.boot!r}); site.execsitecustomize(); print(sys.path)"
    result = programs.agent("-c", code)
    assert (0, b"", False) == (result.status, result.err, programs.boot.encode() in result.out)
    assert [result.pid] == programs.started


def test_folder_offers_nothing_to_import(programs: Programs) -> None:
    """A file beside ``sitecustomize.py`` hides a module of the program, in every child of it."""
    assert {"sitecustomize.py"} == set(os.listdir(programs.boot)) - {"__pycache__"}


def test_start_imports_nothing_heavy(programs: Programs) -> None:
    """Every traced process starts later, and gevent, which must patch first, finds ``ssl`` or ``threading`` loaded."""
    code = "import sys, json; print(json.dumps(sorted(sys.modules)))"
    bare, traced = (json.loads(run("-c", code).out) for run in (programs.bare, programs.agent))
    assert {"autoinstr", "autoinstr.runtime"} == set(traced) - set(bare) - {"__future__"}
