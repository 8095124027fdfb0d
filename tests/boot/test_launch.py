"""The launcher against the bare run: the same program, started both ways, must see and do the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile

import pytest

from .conftest import DEADLINE_S, PROBE, Environment, Programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compares /proc")

PROBE_TEXT = PROBE.read_text()


def _same(programs: Programs, *words: str | bytes, flags: tuple[str, ...] = (), **run: object) -> None:
    """The program is traced and cannot tell."""
    bare = programs.bare(*words, flags=flags, **run)  # type: ignore[arg-type]
    traced = programs.agent(*words, flags=flags, **run)  # type: ignore[arg-type]
    assert bare.facts == traced.facts
    assert [traced.pid] == programs.started


def test_script_with_arguments_of_all_kinds(programs: Programs) -> None:
    """An option, an empty string or a byte that is not UTF-8 is lost or read by us on its way to the program."""
    words = ["app.py", "--service", "x", "--", "", "-h", "run", "--config=x", "--c", "a b", "-m", b"caf\xe9", "-b"]
    _same(programs, *words, stdin=b"for the program")


def test_python_by_its_name(programs: Programs) -> None:
    """A program that shows its command line (``sys.orig_argv``) or starts itself anew finds another Python in it."""
    environ = {"PATH": f"{programs.python.rpartition('/')[0]}:{os.environ['PATH']}"}
    traced = programs.run("python", "-m", "autoinstr", "app.py", **environ)
    assert programs.run("python", "app.py", **environ).facts == traced.facts


@pytest.mark.parametrize("words", [("-m", "app", "-x"), ("-mapp",), ("-m", "package"), ("-m", "package.module", "a")])
def test_module(programs: Programs, words: tuple[str, ...]) -> None:
    """``python -m`` of a module or a package finds another module, or another ``__spec__`` or ``sys.path[0]``."""
    programs.file("package/__init__.py", "")
    programs.file("package/__main__.py", PROBE_TEXT)
    programs.file("package/module.py", PROBE_TEXT)
    _same(programs, *words)


def test_code(programs: Programs) -> None:
    """``-c`` sees other arguments, or a ``sys.path[0]`` that is not empty."""
    _same(programs, "-c", PROBE_TEXT, "-c", "x")
    assert programs.bare("-cprint(1)", "2").outcome == programs.agent("-cprint(1)", "2").outcome


def test_standard_input(programs: Programs) -> None:
    """A program given on standard input is not run, or runs with other arguments."""
    _same(programs, "-", "x", stdin=PROBE_TEXT.encode())


def test_folder(programs: Programs) -> None:
    """A folder with ``__main__.py`` is looked up as a command."""
    programs.file("folder/__main__.py", PROBE_TEXT)
    _same(programs, "folder", "x")


@pytest.mark.parametrize("name", ["app.pyz", "app.zip"])
def test_archive(programs: Programs, name: str) -> None:
    """A zip application is looked up as a command."""
    with zipfile.ZipFile(programs.folder / name, "w") as archive:
        archive.writestr("__main__.py", PROBE_TEXT)
    _same(programs, name, "x")


@pytest.mark.parametrize("word", ["./tool", "tool"])
def test_command(programs: Programs, word: str) -> None:
    """A console script, by its path or on PATH, runs with other arguments, or in a process of its own."""
    programs.file("tool", f"#!{programs.python} -u\n{PROBE_TEXT}", executable=True)
    environ = {"PATH": f"{programs.folder}:{os.environ['PATH']}"}
    bare, traced = programs.run(word, "-x", "", **environ), programs.agent(word, "-x", "", **environ)
    assert bare.facts == traced.facts
    assert [traced.pid] == programs.started


def test_command_before_folder_of_the_same_name(programs: Programs) -> None:
    """In a checkout of ``gunicorn`` the command ``gunicorn`` runs the folder."""
    programs.file("bin/tool", "#!/bin/sh\necho command\n", executable=True)
    programs.file("tool/__main__.py", "print('folder')")
    assert b"folder\n" == programs.agent("tool").out
    assert b"command\n" == programs.agent("tool", PATH=f"bin:{os.environ['PATH']}").out


def test_command_beside_this_python(programs: Programs) -> None:
    """``/venv/bin/python -m autoinstr gunicorn`` does not find gunicorn, as the environment is not activated."""
    assert (0, b"beside\n", b"") == programs.agent("beside", PATH="/nowhere").outcome


def test_script_without_interpreter_line(programs: Programs) -> None:
    """A start script without ``#!``, which every shell runs, is refused."""
    programs.file("start", "echo $0 $1\n", executable=True)
    assert b"./start x\n" == programs.agent("./start", "x").out


def test_signals_of_a_command_that_is_not_python(programs: Programs) -> None:
    """In a traced start script ``yes | head`` never ends or complains, since SIGPIPE is still ignored."""
    words = ("sh", "-c", "grep Sig /proc/self/status")
    assert programs.run(*words).out == programs.agent(*words).out


FLAGS = [("-X", "dev", "-W", "error"), ("-O", "-u"), ("-bb", "-q"), ("-Wignore", "-s", "-Xutf8=1"), ("-E",), ("-I",)]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize(
    "words", [("app.py", "x"), ("-m", "app"), ("-c", PROBE_TEXT), ("-",)], ids=lambda words: words[0]
)
def test_options_of_python(programs: Programs, words: tuple[str, ...], flags: tuple[str, ...]) -> None:
    """Options given to Python do not reach the program, or (-E, -I) take the agent away."""
    if (words[0], flags) == ("-m", ("-I",)):  # -I keeps the current folder off the path: the module is not found.
        assert programs.bare(*words, flags=flags).outcome == programs.agent(*words, flags=flags).outcome
    else:
        _same(programs, *words, flags=flags, stdin=PROBE_TEXT.encode() if words == ("-",) else b"")


def test_python_without_site(programs: Programs, environment: Environment) -> None:
    """Under ``python -S``, which reads no sitecustomize, nothing is traced."""
    _same(programs, "app.py", flags=("-S",), PYTHONPATH=str(environment.root))


@pytest.mark.parametrize("option", ["-um", "-Om", "-bum"])
def test_options_of_python_in_one_word(programs: Programs, option: str) -> None:
    """``python -um autoinstr`` loses the ``-u``, so that a container's log comes late."""
    traced = programs.run(programs.python, option, "autoinstr", "app.py")
    assert programs.bare("app.py", flags=(option[:-1],)).facts == traced.facts
    assert programs.run(programs.python, f"{option}autoinstr", "app.py").facts == traced.facts


def test_c_locale(programs: Programs) -> None:
    """In a container without LANG the program is not in UTF-8 mode, as it is bare, and cannot print a name."""
    _same(programs, "app.py", LANG="C")


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(3)",
        "raise SystemExit('text')",
        "def f():\n    1 / 0\nf()",
        "this is no code",
        "import os; os._exit(7)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import sys; sys.excepthook = lambda *error: print('own', len(error)); 1 / 0",
        "import no_such_module_at_all",
        "import sys; sys.stdout.write('out'); sys.stderr.write('err')",
        "import atexit; atexit.register(print, 'bye'); raise KeyError(1)",
    ],
)
@pytest.mark.parametrize("flag", ["-B", "-E"])
def test_end_of_the_program(programs: Programs, code: str, flag: str) -> None:
    """The exit status, the traceback or the output changes (-E: where the program runs in the launcher's process)."""
    programs.file("end.py", code)
    for words in (("end.py",), ("-m", "end")):
        bare = programs.bare(*words, flags=(flag,))
        assert bare.outcome == programs.agent(*words, flags=(flag,)).outcome


def test_signal_from_outside_reaches_the_program(programs: Programs) -> None:
    """``docker stop`` signals a wrapper, and the program is killed after the grace period."""
    programs.file("wait.py", f"import signal\nsignal.alarm({DEADLINE_S})\nprint('ready', flush=True)\nsignal.pause()\n")
    argv = [programs.python, "-m", "autoinstr", "wait.py"]
    with subprocess.Popen(argv, cwd=programs.folder, env=programs.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert -signal.SIGTERM == process.wait(DEADLINE_S)


def test_missing_file_is_reported_by_python(programs: Programs) -> None:
    """A typing error in the name of the script gives another message or status than Python's."""
    assert programs.bare("no.py").outcome == programs.agent("no.py").outcome
    assert programs.bare("-m", "no_such").outcome == programs.agent("-m", "no_such").outcome


def test_command_that_cannot_run(programs: Programs) -> None:
    """A wrong command ends in a traceback, or in a status that start scripts do not know."""
    programs.file("plain", "text")
    programs.file("lost", "#!/no/such/interpreter\n", executable=True)
    cases = [("no-such-command", 127), ("./no-such", 127), ("", 127), ("./plain", 126), ("./lost", 126), ("./", 126)]
    for word, status in cases:
        result = programs.agent(word)
        assert (status, b"", 1) == (result.status, result.out, result.err.count(b"\n")), result
        assert result.err.startswith(b"autoinstr: "), result


def test_words_of_the_current_folder_are_not_ours(programs: Programs) -> None:
    """A program with a ``platform.py`` or ``subprocess.py`` beside it breaks the launcher."""
    for name in ("wrapt", "errno", "runpy_", "subprocess", "enum", "signal"):
        programs.file(f"{name}.py", "raise SystemExit('shadowed')")
    assert (0, b"1\n", b"") == programs.agent("-c", "print(1)").outcome
    assert 127 == programs.agent("no-such-command").status
