"""What the agent says: one line, seldom, and never at the price of the program."""

from __future__ import annotations

import subprocess
import sys

import pytest

from autoinstr import trouble

DEADLINE_S = 60


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nothing said before, and a clock that stands."""
    now = [1000.0]
    monkeypatch.setattr(trouble, "_last_said", {})
    monkeypatch.setattr(trouble, "_held_back", {})
    monkeypatch.setattr(trouble, "monotonic", lambda: now[0])
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
