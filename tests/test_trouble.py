"""What the agent says: one line, seldom, and never at the price of the program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import autoinstr
from autoinstr import trouble

DEADLINE_S = 60


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nothing said before, and a clock that stands."""
    now = [1000.0]
    monkeypatch.setattr(trouble, "_last_said", {})
    monkeypatch.setattr(trouble, "_held_back", {})
    monkeypatch.setattr(trouble, "monotonic", lambda: now[0])
    monkeypatch.setattr(trouble, "_level", trouble.LEVELS["info"])
    return now


def test_same_trouble_is_told_once_a_minute(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    """A dead collector would fill the program's log."""
    said = []
    for second in range(130):
        clock[0] = 1000.0 + second
        said.append(trouble.say(f"down since {second}", about="export"))
    assert sum(said) == 3
    assert capfd.readouterr().err.splitlines() == [
        "autoinstr: down since 0",
        "autoinstr: down since 60 (59 more like this)",
        "autoinstr: down since 120 (59 more like this)",
    ]


def test_different_troubles_are_told_each(capfd: pytest.CaptureFixture[str]) -> None:
    """The second of two faults at start would be hidden by the first."""
    assert [trouble.say("one"), trouble.say("two"), trouble.say("one")] == [True, True, False]
    trouble.fault("the hook", ValueError("x"))
    assert capfd.readouterr().err.splitlines()[-1] == (
        "autoinstr: internal error in the hook: ValueError: x; the program is not affected"
    )


def test_many_troubles_do_not_fill_the_memory(capfd: pytest.CaptureFixture[str]) -> None:
    """Texts with an id in them would be remembered for ever."""
    for number in range(2000):
        trouble.say(f"trouble {number}")
    assert len(trouble._last_said) <= 256
    assert capfd.readouterr().err.count("\n") == 2000


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("first\nsecond\r\n third", "first second third"),
        ("a\x1b[2Jb\x00c", "a?[2Jb?c"),
        ("\ud800", "?"),
        ("x" * 100_000, "x" * trouble.LONGEST_LINE),
    ],
)
def test_one_harmless_line(text: str, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What a server answers would break the log's lines, or be obeyed by a terminal."""
    assert trouble.say(text)
    assert capfd.readouterr().err == f"autoinstr: {line}\n"


@pytest.mark.parametrize("stderr", ["closed", "full", "reader gone"])
def test_stderr_that_takes_nothing(stderr: str) -> None:
    """A daemon without stderr would be killed by us, or one whose supervisor does not read would hang in us."""
    code = (
        "import os, sys\nfrom autoinstr import trouble\n"
        "reading, writing = os.pipe()\n"
        "os.dup2(writing, 2)\n"
        "if sys.argv[1] == 'closed': os.close(2)\n"
        "if sys.argv[1] == 'reader gone': os.close(reading)\n"
        "if sys.argv[1] == 'full':\n"
        "    os.set_blocking(2, False)\n"
        "    try:\n"
        "        while os.write(2, b'x' * 4096): pass\n"
        "    except BlockingIOError: os.set_blocking(2, True)\n"
        "print(trouble.say('x'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, stderr], stdout=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=True
    )
    assert done.stdout == "False\n"


def test_programs_own_stderr_and_logging_are_not_used(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A replaced ``sys.stderr`` could trace, block or recurse."""
    monkeypatch.setattr(sys, "stderr", None)
    assert trouble.say("x")
    assert capfd.readouterr().err == "autoinstr: x\n"


# ---- OTEL_LOG_LEVEL ------------------------------------------------------------------------------


def failing(message: str) -> Exception:
    """An exception that was raised here, and so has a traceback."""
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("level", "said"),
    [("none", []), ("error", ["fault"]), *((level, ["note", "fault"]) for level in ("warn", "info", "debug"))],
)
def test_level_decides_what_is_said(level: str, said: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Who wants a quiet log gets our lines all the same, or one who wants to know of faults is not told."""
    trouble.set_level(level)
    assert trouble.say("a note") == ("note" in said)
    trouble.fault("the hook", ValueError("x"))
    lines = capfd.readouterr().err.splitlines()
    assert ("note" in said) == ("autoinstr: a note" in lines)
    assert ("fault" in said) == any("internal error" in line for line in lines)


def test_what_was_not_said_is_not_remembered(capfd: pytest.CaptureFixture[str]) -> None:
    """A line would begin with troubles that were not to be mentioned, or be held back because of them."""
    trouble.set_level("none")
    assert [trouble.say("down"), trouble.say("down")] == [False, False]
    trouble.set_level("warn")
    assert trouble.say("down")
    assert capfd.readouterr().err == "autoinstr: down\n"


def test_traceback_follows_a_fault_at_debug(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    """"ValueError: x" says nothing of where; but a fault in each request would fill the log with tracebacks."""
    trouble.fault("other", failing("before"))
    assert "Traceback" not in capfd.readouterr().err
    trouble.set_level("debug")
    for second in range(90):
        clock[0] = 1000.0 + second
        trouble.fault("the hook", failing("x"))
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["autoinstr"] * len(lines)
    assert 2 == lines.count("autoinstr: Traceback (most recent call last):")
    assert 2 == sum("test_trouble.py" in line and "in failing" in line for line in lines)
    assert "autoinstr: ValueError: x" in lines
    trouble.say("no fault of ours")
    assert capfd.readouterr().err == "autoinstr: no fault of ours\n"


def test_traceback_is_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    """A message with line breaks and escapes, or a recursion without end, in a log of somebody else's."""
    trouble.set_level("debug")

    def deeper() -> None:
        deeper()

    try:
        deeper()
    except RecursionError as error:
        trouble.fault("recursion", error)
    trouble.fault("escape", failing("\x1b[2J" + "y" * 100_000))
    lines = capfd.readouterr().err.splitlines()
    assert all(line.isprintable() and len(line) <= trouble.LONGEST_LINE + 100 for line in lines)
    assert len(lines) <= 2 * (1 + trouble.LONGEST_TRACEBACK)


def test_fault_whose_text_fails_too(capfd: pytest.CaptureFixture[str]) -> None:
    """The program's exceptions have the program's ``__str__``, and what that raises would reach the program."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise KeyError("nothing to say")

    trouble.set_level("debug")
    trouble.fault("the hook", Unspeakable())
    assert capfd.readouterr().err.startswith("autoinstr: internal error in the hook: Unspeakable; the program")


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("none", []),
        ("error", ["cannot instrument wave"]),
        ("info", ["JAEGER_AGENT_PORT", "cannot instrument wave"]),
        ("debug", ["JAEGER_AGENT_PORT", "cannot instrument wave", "Traceback", "in patch", 'raise ValueError("oh")']),
    ],
)
def test_level_of_a_traced_program(level: str, words: list[str], tmp_path: Path) -> None:
    """OTEL_LOG_LEVEL is documented, and nobody reads it."""
    folder = tmp_path / "loud-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: loud\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[autoinstr.instruments]\nwave = loud:patch\n")
    (tmp_path / "loud.py").write_text('def patch(patcher, tracing):\n    raise ValueError("oh")\n')
    done = subprocess.run(
        [sys.executable, "-c", "import http.client, wave"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(autoinstr.__file__).with_name("_boot")), str(tmp_path)]),
            "AUTOINSTR_EXPORTER": "none",
            "JAEGER_AGENT_PORT": "68x31",
            "OTEL_LOG_LEVEL": level,
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert bool(words) == bool(lines)
    every = ["JAEGER_AGENT_PORT", "cannot instrument wave", "Traceback", "in patch"]
    assert [word for word in every if word in done.stderr] == [word for word in words if word in every]
    assert all(word in done.stderr for word in words)
