"""The launcher and the bootstrap with the real runtime behind them, in the environment that runs the tests."""

from __future__ import annotations

import json
import sys

import pytest

from .conftest import Programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compares /proc")

#: Slow to import, or not to be imported before gevent has patched.
HEAVY = {
    *("asyncio", "dataclasses", "enum", "http", "inspect", "json", "logging", "queue", "random", "re", "selectors"),
    *("signal", "socket", "ssl", "subprocess", "threading", "typing", "urllib", "wrapt"),
}


def test_program_cannot_tell(programs: Programs) -> None:
    """The agent itself (not the way it is started) changes what the program sees; SIGTERM's handler is told apart."""
    programs.python = sys.executable
    environ = {"AUTOINSTR_SIGTERM": "false"}
    assert programs.bare("app.py", "x", **environ).facts == programs.agent("app.py", "x", **environ).facts


def test_whole_agent_starts_without_heavy_imports(programs: Programs) -> None:
    """The agent does not start at all, makes ``python -c pass`` slow, or breaks gevent by importing before it."""
    programs.python = sys.executable
    code = "import sys; modules = list(sys.modules); import json; print(json.dumps(modules))"
    bare, traced = programs.bare("-c", code), programs.agent("-c", code)
    assert (b"", b"") == (bare.err, traced.err)
    added = set(json.loads(traced.out)) - set(json.loads(bare.out))
    assert "autoinstr.runtime" in added
    assert set() == {name.partition(".")[0] for name in added} & HEAVY


def test_wrong_setting(programs: Programs) -> None:
    """A variable with a typing error keeps the program from starting."""
    programs.python = sys.executable
    result = programs.agent(
        "-c", "print(1)", OTEL_BSP_MAX_QUEUE_SIZE="many", JAEGER_SAMPLER_PARAM="x", OTEL_TRACES_SAMPLER="?"
    )
    assert (0, b"1\n") == (result.status, result.out)
    assert all(line.startswith(b"autoinstr: ") for line in result.err.splitlines()), result
