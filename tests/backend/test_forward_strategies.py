"""Sampling strategies through the agent on a host, while the backend behind it answers, is away, or talks nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from autoinstr.backend import forward
from autoinstr.backend.forward import ForwardError, strategies_app

from .conftest import poll
from .recorder import Recorder


@pytest.fixture
def collector() -> Iterator[Recorder]:
    recorder = Recorder()
    recorder.start()
    yield recorder
    recorder.stop()


STRATEGY = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 0.5}}


class Asker:
    """A program on the host."""

    def __init__(self, url: str) -> None:
        self._app = strategies_app(url)

    def get(self, path: str, **parameters: str) -> httpx.Response:
        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
                return await client.get(path, **({"params": parameters} if parameters else {}))

        return asyncio.run(exchange())


def ask(asker: Asker, service: str = "shop", path: str = "/sampling") -> httpx.Response:
    return asker.get(path, service=service)


def strategy_answer(strategy: object = STRATEGY) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(strategy).encode()


@pytest.fixture
def strategies(collector: Recorder, monkeypatch: pytest.MonkeyPatch) -> Asker:
    monkeypatch.setattr(forward, "ASK_AGAIN_S", 0.2)
    collector.otherwise = strategy_answer()
    return Asker(f"http://127.0.0.1:{collector.port}/sampling")


def test_strategies_are_passed_on(strategies: Asker, collector: Recorder) -> None:
    """Programs on the host get what the collector's side wants, whatever their service is called."""
    answer = ask(strategies, "my shop & co")
    assert (answer.status_code, answer.json()) == (200, STRATEGY)
    assert answer.headers["content-type"] == "application/json"
    assert "warning" not in answer.headers
    assert collector.requests[0][0] == "/sampling?service=my%20shop%20%26%20co"
    ask(strategies, path="/")
    assert collector.requests[1][0] == "/?service=shop"


def test_strategies_are_remembered_while_the_backend_is_away(strategies: Asker, collector: Recorder) -> None:
    """Programs that start during an outage are sampled as before; the mark tells who looks that this is old."""
    ask(strategies)
    collector.stop()
    for _ in range(3):
        answer = ask(strategies)
        assert (answer.status_code, answer.json()) == (200, STRATEGY)
        assert answer.headers["warning"] == '110 - "Response is Stale"'
        assert int(answer.headers["age"]) >= 1
    unknown = ask(strategies, "never asked")
    assert unknown.status_code == 500
    assert unknown.text.startswith("collector error: ")
    collector.otherwise = strategy_answer({"strategyType": "RATE_LIMITING"})
    collector.start()
    poll(lambda: ask(strategies).json() == {"strategyType": "RATE_LIMITING"}, "the new strategy")
    assert "warning" not in ask(strategies).headers


def test_a_backend_that_is_away_is_not_waited_for_by_everybody(
    strategies: Asker, collector: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred processes poll; each waiting for the timeout would hold up all of them."""
    monkeypatch.setattr(forward, "ASK_AGAIN_S", 60)
    ask(strategies)
    collector.otherwise = (503, {}, b"")
    before = len(collector.requests)
    for _ in range(20):
        assert ask(strategies).status_code == 200
    assert len(collector.requests) == before + 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b"[" * 100_000])
def test_an_answer_that_is_no_strategy_is_not_passed_on(strategies: Asker, collector: Recorder, body: bytes) -> None:
    """A proxy's error page must not reach the clients, nor replace what is remembered."""
    ask(strategies)
    collector.otherwise = (200, {}, body)
    assert ask(strategies).json() == STRATEGY
    assert ask(strategies, "other").status_code == 500


@pytest.mark.parametrize("query", ["", "?service=a&service=b"])
def test_a_question_without_one_service(strategies: Asker, query: str) -> None:
    """The words of Jaeger's agent."""
    answer = strategies.get(f"/sampling{query}")
    assert (answer.status_code, answer.text) == (400, "'service' parameter must be provided once\n")


def test_what_is_remembered_is_bounded(strategies: Asker, collector: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Service names come from strangers: the newest answers stay, in so many bytes."""
    monkeypatch.setattr(forward, "MAX_KNOWN", 5)
    for number in range(20):
        ask(strategies, f"service {number}")
    assert ask(strategies, "x" * 2000).status_code == 400
    collector.stop()
    known = [number for number in range(20) if ask(strategies, f"service {number}").status_code == 200]
    assert known == [15, 16, 17, 18, 19]


@pytest.mark.parametrize("url", ["there:5778", "", "ftp://there"])
def test_an_address_of_strategies_that_is_none(url: str) -> None:
    """The error comes at the start, and shows what an address looks like."""
    with pytest.raises(ForwardError, match="http://HOST:5778"):
        strategies_app(url)
