"""Searching the store on disk: whichever way a search goes, over however many files, the answer is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoinstr.backend.store import sqlite_search
from autoinstr.backend.store.sqlite import SqliteStore
from autoinstr.model import Resource

from .contract_search import SearchContract
from .spans import NOW_NS, a_span, found, write


class TestSearchingManyFiles(SearchContract):
    """The same when nearly each write goes into a file of its own, and without FTS5, which not every build has."""

    @pytest.fixture(params=[True, False], ids=["words", "no words"])
    def store(self, request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
        for module in ("sqlite_partition", "sqlite"):
            monkeypatch.setattr(f"autoinstr.backend.store.{module}.has_word_index", lambda: request.param)
        # Otherwise each of the small files would be asked by its word index alone.
        monkeypatch.setattr(sqlite_search, "FEW", 0)
        with closing(SqliteStore(str(tmp_path / "spans"), max_bytes=2**30, partition_bytes=200_000)) as store:
            yield store


def test_rare_and_common_tags_are_found_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word index is asked for rare tags, a walk finds common ones; nobody should see the difference."""
    with closing(SqliteStore(str(tmp_path))) as store:
        for n in range(1, 201):
            attributes = {"all": "x", "tenth": n % 10, "rare": n}
            write(store, a_span(f"op{n % 3}", n, start_ns=NOW_NS + n * 10**6, attributes=attributes))
        for few, common in ((64, 20_000), (0, 20_000), (0, 5), (64, 5)):
            monkeypatch.setattr(sqlite_search, "FEW", few)
            monkeypatch.setattr(sqlite_search, "COMMON", common)
            assert found(store, service="shop", tags={"all": "x"}, limit=2) == [200, 199]
            assert found(store, service="shop", tags={"tenth": "3"}, limit=2) == [193, 183]
            assert found(store, service="shop", operation="op1", tags={"rare": "100"}) == [100]
            assert found(store, tags={"rare": "100", "tenth": "0"}) == [100]


def test_many_services_and_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that puts ids into its span names has thousands of operations; its newest traces are found all the same."""
    monkeypatch.setattr(sqlite_search, "MANY_NAMES", 3)
    with closing(SqliteStore(str(tmp_path))) as store:
        for n in range(1, 31):
            resource = Resource(f"service-{n % 5}")
            span = a_span(f"op{n}", n, start_ns=NOW_NS + n * 10**6, attributes={"key": "x"}, lasts_ns=n * 10**6)
            write(store, span, resource=resource)
        assert found(store, service="service-2", limit=3) == [27, 22, 17]
        assert found(store, tags={"key": "x"}, limit=2) == [30, 29]
        assert found(store, service="service-2", min_duration_ns=20 * 10**6) == [27, 22]
        assert found(store, min_duration_ns=29 * 10**6) == [30, 29]


def test_files_of_a_build_without_a_word_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python on the same machine may have a SQLite without FTS5; each reads what the other one wrote."""
    for number, has_words in enumerate((True, False, True)):
        for module in ("sqlite_partition", "sqlite"):
            monkeypatch.setattr(f"autoinstr.backend.store.{module}.has_word_index", lambda has_words=has_words: has_words)
        with closing(SqliteStore(str(tmp_path))) as store:
            write(store, a_span(trace_id=number + 1, start_ns=NOW_NS + number, attributes={"key": "x"}))
            assert found(store, tags={"key": "x"}) == list(range(number + 1, 0, -1))
    assert len(list(tmp_path.glob("spans-*.db"))) == 3
