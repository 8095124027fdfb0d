"""What the words before the program mean, and what the command line answers by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoinstr.__main__ import boot_folder, interpreter_flags, traced_environment

from .conftest import Environment, Programs

SHOW = "import os, sys; print(os.environ.get('OTEL_SERVICE_NAME'), sys.argv)"


@pytest.mark.parametrize(
    ("head", "as_module", "flags"),
    [
        (["-m", "autoinstr"], True, []),
        (["-mautoinstr"], True, []),
        (["-um", "autoinstr"], True, ["-u"]),
        (["-Oumautoinstr"], True, ["-Ou"]),
        (["-X", "dev", "-W", "ignore", "-m", "autoinstr"], True, ["-X", "dev", "-W", "ignore"]),
        (["-Xm", "-Wm", "-mautoinstr"], True, ["-Xm", "-Wm"]),
        (["-B", "/bin/autoinstr"], False, ["-B"]),
        ([], True, []),
    ],
)
def test_flags_of_the_interpreter(head: list[str], as_module: bool, flags: list[str]) -> None:
    """An option of Python is lost, or one of ours is taken for Python's."""
    words = ["-m", "autoinstr", ""]
    assert flags == interpreter_flags(["python", *head, *words], len(words), as_module=as_module)


def test_environment_of_the_program() -> None:
    """PYTHONPATH gets our folder twice, behind the user's, or with an empty entry, which means the current folder."""
    folder = boot_folder()
    assert ["sitecustomize.py"] == [file.name for file in Path(folder).glob("*.py")]
    cases = {None: "", "": "", "a": ":a", folder: "", f"a:{folder}:b": ":a:b", f"{folder}:a": ":a", "a::b": ":a::b"}
    for before, after in cases.items():
        environ = {} if before is None else {"PYTHONPATH": before}
        assert {"PYTHONPATH": folder + after} == traced_environment(environ)


def test_environment_is_a_copy() -> None:
    """Another thing than the program's process is changed."""
    environ = {"A": "\udcff"}
    assert {"A", "PYTHONPATH", "OTEL_SERVICE_NAME"} == set(traced_environment(environ, "shop"))
    assert {"A": "\udcff"} == environ


@pytest.mark.parametrize("words", [["--service", "shop"], ["--service=shop"], ["run", "--service", "shop", "--"]])
def test_service_name(programs: Programs, words: list[str]) -> None:
    """``--service`` is not taken, or also goes to the program."""
    result = programs.agent(*words, "-c", SHOW, "--service", "mine")
    assert (0, b"shop ['-c', '--service', 'mine']\n", b"") == result.outcome


def test_run_is_optional_and_ends_options(programs: Programs) -> None:
    """A program called ``doctor`` cannot be run at all, or ``run`` hides a command of that name."""
    programs.file("doctor", "#!/bin/sh\necho a program $@\n", executable=True)
    for words in (["run", "doctor"], ["run", "--", "doctor"], ["--", "doctor"], ["./doctor"]):
        assert b"a program -x\n" == programs.agent(*words, "-x", PATH=f".:{programs.environ['PATH']}").out
    programs.file("run", "#!/bin/sh\necho run $@\n", executable=True)
    assert b"run x\n" == programs.agent("run", "run", "x", PATH=f".:{programs.environ['PATH']}").out


def test_subcommand_before_program(programs: Programs) -> None:
    """A file ``bench`` in the current folder is run by ``autoinstr bench``."""
    programs.file("bench/__main__.py", "print('program')")
    programs.file("serve", "#!/bin/sh\necho program\n", executable=True)
    for command in ("bench", "serve", "doctor"):  # The environment of these tests has none of the three.
        result = programs.agent(command, PATH=f".:{programs.environ['PATH']}")
        line = f"autoinstr: {command} is not part of this version yet\n"
        assert (2, b"", line.encode()) == result.outcome


def test_missing_extra(programs: Programs, tmp_path: Path) -> None:
    """``autoinstr serve`` without its extra ends in a traceback."""
    room = tmp_path / "autoinstr" / "backend" / "app.py"
    room.parent.mkdir(parents=True)
    room.write_text("import starlette_is_not_here")
    extend = f"import autoinstr; autoinstr.__path__.append({str(room.parents[1])!r})"
    code = f"{extend}; import sys; sys.argv = ['', 'serve']; from autoinstr.__main__ import main; sys.exit(main())"
    line = b"autoinstr: serve needs starlette_is_not_here: pip install 'autoinstr[backend]'\n"
    assert (2, b"", line) == programs.bare("-c", code).outcome


def test_subcommand_gets_its_words(programs: Programs, tmp_path: Path) -> None:
    """``autoinstr doctor --path`` runs without its option, or its status is lost."""
    room = tmp_path / "autoinstr" / "doctor.py"
    room.parent.mkdir(parents=True)
    room.write_text("def main(argv):\n    print(argv)\n    return 4\n")
    extend = f"import autoinstr; autoinstr.__path__.append({str(room.parent)!r})"
    code = (
        f"{extend}; import sys; sys.argv = ['', 'doctor', '--path']; import autoinstr.__main__ as m; sys.exit(m.main())"
    )
    assert (4, b"['--path']\n", b"") == programs.bare("-c", code).outcome


def test_answers_without_a_program(programs: Programs) -> None:
    """``--help`` and ``--version`` do not answer, or a wrong command line looks like success to a script."""
    for words in (["-h"], ["--help"], ["run", "--help"]):
        result = programs.agent(*words)
        assert (0, b"", True) == (result.status, result.err, result.out.startswith(b"usage: python -m autoinstr"))
    assert programs.agent("--version").out.startswith(b"autoinstr 0.")
    for words in ([], ["run"], ["--service", "x"], ["--"]):
        result = programs.agent(*words)
        assert (2, b"", True) == (result.status, result.out, result.err.startswith(b"usage: ")), words
    for words in (["-u", "app.py"], ["--service"], ["--service="], ["--servic", "x", "app.py"]):
        result = programs.agent(*words)
        assert (2, b"", 1) == (result.status, result.out, result.err.count(b"\n")), words


def test_console_script(programs: Programs) -> None:
    """``autoinstr run app.py`` and ``python -m autoinstr app.py`` are two different things."""
    script = str(Path(programs.python).with_name("autoinstr"))
    bare, traced = programs.bare("app.py", "x"), programs.run(script, "run", "app.py", "x")
    assert bare.facts | {"orig_argv": None} == traced.facts | {"orig_argv": None}
    assert [traced.pid] == programs.started


def test_found_in_the_current_folder_only(programs: Programs, environment: Environment) -> None:
    """In a checkout that is not installed the program runs untraced, and nobody says so."""
    base = os.path.realpath(programs.python)
    result = programs.run("sh", "-c", f"cd {environment.root} && exec {base} -m autoinstr -c 'print(1)'")
    assert (0, b"1\n") == (result.status, result.out)
    assert result.err.startswith(b"autoinstr: is not installed in this Python"), result
