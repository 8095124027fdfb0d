"""What the tests of all instruments share: an agent put together by hand, whose spans stay in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autoinstr.config import from_env
from autoinstr.instrument import Tracing, Watcher, dbapi
from autoinstr.propagate import Propagator, asgi_key, environ_key, plain
from autoinstr.report import InMemoryReporter
from autoinstr.sampling import ConstSampler
from autoinstr.trace import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.register_assert_rewrite(
    *(f"{__package__}.contract_{name}" for name in ("server", "framework", "client", "sql"))
)


def build_tracing(sink: InMemoryReporter, *, keep: bool = True, **environ: str) -> Tracing:
    """What instruments are given in a process with these variables."""
    config = from_env(environ, ())
    tracer = Tracer(ConstSampler(keep, ignores_parent=False), sink)
    propagators = (Propagator(config.propagators, key) for key in (plain, environ_key, asgi_key))
    return Tracing(tracer, config, *propagators)


@pytest.fixture(autouse=True)
def no_commit_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine any may be, and would have a span; tests of that say what is slow."""
    monkeypatch.setattr(dbapi, "SLOW_NS", 10**12)


@pytest.fixture
def reporter() -> InMemoryReporter:
    """Where the finished spans are: ``reporter.spans``."""
    return InMemoryReporter()


@pytest.fixture
def tracing(reporter: InMemoryReporter) -> Tracing:
    """Keeps every trace."""
    return build_tracing(reporter)


@pytest.fixture
def watch(reporter: InMemoryReporter) -> Iterator[Callable[..., Watcher]]:
    """``watch(**environ)`` instruments the libraries in this process; all patches are taken out after the test."""
    watchers = []

    def start(*, keep: bool = True, **environ: str) -> Watcher:
        watcher = Watcher(build_tracing(reporter, keep=keep, **environ))
        watchers.append(watcher)
        watcher.install()
        return watcher

    yield start
    for watcher in reversed(watchers):
        watcher.uninstall()
