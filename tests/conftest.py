"""What every test may rely on: no variables of any tracing, and no agent left running by the test before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

with suppress(ImportError):
    # Its C library finds no room for what it keeps per thread once others (pyarrow's) have been loaded.
    import mysql.connector  # noqa: F401

PREFIXES = ("AUTOINSTR_", "_AUTOINSTR_", "JAEGER_", "OTEL_")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In continuous integration nothing is missing: what would be skipped there has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":  # type: ignore[attr-defined]
        report.outcome = "failed"  # type: ignore[attr-defined]
    return report  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own JAEGER_* and OTEL_* variables do not reach the tests, nor the processes that tests start."""
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """A test that starts the agent in this process takes it down again; otherwise the next ones are not alone."""
    yield
    runtime = sys.modules.get("autoinstr.runtime")
    if runtime is not None and runtime.running is not None:
        runtime.stop()
        pytest.fail("the test left the agent running in this process")
    for finder in list(sys.meta_path):
        if type(finder).__module__ == "autoinstr.instrument":
            finder.uninstall()  # type: ignore[attr-defined]
            pytest.fail("the test left the agent's import hook installed")
