"""Sampling strategies: Jaeger's file, and what is answered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from autoinstr.backend.sampling import Strategies, StrategiesError, StrategiesFile

from .conftest import Backend, poll, running

#: The example of Jaeger's documentation, in its parts.
DOCUMENT = {
    "default_strategy": {
        "type": "probabilistic",
        "param": 0.5,
        "operation_strategies": [
            {"operation": "/health", "type": "probabilistic", "param": 0.0},
            {"operation": "/metrics", "type": "probabilistic", "param": 0.1},
        ],
    },
    "service_strategies": [
        {
            "service": "foo",
            "type": "probabilistic",
            "param": 0.8,
            "operation_strategies": [
                {"operation": "op1", "type": "probabilistic", "param": 0.2},
                {"operation": "/metrics", "type": "probabilistic", "param": 0.9},
                {"operation": "op2", "type": "ratelimiting", "param": 2},
            ],
        },
        {"service": "bar", "type": "ratelimiting", "param": 5.9},
        {"service": "odd", "type": "whatever"},
    ],
}


def rates(answer: dict) -> dict[str, float]:
    rows = answer["operationSampling"]["perOperationStrategies"]
    return {row["operation"]: row["probabilisticSampling"]["samplingRate"] for row in rows}


def test_without_a_file_everything_is_kept() -> None:
    """A first trial must show all traces."""
    expected = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 1.0}}
    assert StrategiesFile(None).answer("any") == expected
    assert Strategies(None).answer("any") == expected


def test_a_services_own_strategy_wins_and_inherits_operations() -> None:
    """As in Jaeger: own operations win, the default's stay, rate-limited operations are skipped."""
    answer = Strategies(DOCUMENT).answer("foo")
    assert answer["strategyType"] == "PROBABILISTIC"
    assert answer["probabilisticSampling"] == {"samplingRate": 0.8}
    assert rates(answer) == {"/health": 0.0, "/metrics": 0.9, "op1": 0.2}
    assert answer["operationSampling"]["defaultSamplingProbability"] == 0.8
    assert answer["operationSampling"]["defaultLowerBoundTracesPerSecond"] == 0


def test_a_rate_limited_service() -> None:
    """The limit is an integer on the wire, and a client of Jaeger fails on anything else."""
    answer = Strategies(DOCUMENT).answer("bar")
    assert answer["strategyType"] == "RATE_LIMITING"
    assert answer["rateLimitingSampling"] == {"maxTracesPerSecond": 5}
    assert "probabilisticSampling" not in answer
    assert rates(answer) == {"/health": 0.0, "/metrics": 0.1}


def test_an_unknown_service_gets_the_default() -> None:
    """New services must follow the file's default without being listed."""
    answer = Strategies(DOCUMENT).answer("nobody knows it")
    assert answer["probabilisticSampling"] == {"samplingRate": 0.5}
    assert rates(answer) == {"/health": 0.0, "/metrics": 0.1}


def test_an_unknown_type_falls_back_to_the_default_rate() -> None:
    """As Jaeger does, instead of refusing the whole file."""
    assert Strategies(DOCUMENT).answer("odd")["probabilisticSampling"] == {"samplingRate": 1.0}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"default_strategy": []},
        {"service_strategies": {}},
        {"service_strategies": [{"type": "probabilistic", "param": 1}]},
        {"default_strategy": {"type": "probabilistic", "param": 1.5}},
        {"default_strategy": {"type": "probabilistic", "param": "0.5"}},
        {"default_strategy": {"type": "ratelimiting", "param": float("nan")}},
        {"default_strategy": {"type": "probabilistic", "param": True}},
        {"default_strategy": {"operation_strategies": [{"type": "probabilistic", "param": 1}]}},
    ],
)
def test_what_is_not_a_strategies_document_is_refused(document: object) -> None:
    """A slip in the file must be reported, not read as some other rate."""
    with pytest.raises(StrategiesError):
        Strategies(document)  # type: ignore[arg-type]


def write(path: Path, rate: float) -> None:
    """Replace the file, as editors and ConfigMaps do."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"default_strategy": {"type": "probabilistic", "param": rate}}))
    os.replace(new, path)


def test_the_file_is_followed_and_mistakes_do_not_replace_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates are tuned while everything runs; a typing error must not turn sampling off or on."""
    path = tmp_path / "strategies.json"
    write(path, 0.25)
    strategies = StrategiesFile(str(path))
    assert strategies.answer("a")["probabilisticSampling"] == {"samplingRate": 0.25}
    write(path, 0.75)
    assert strategies.answer("a")["probabilisticSampling"] == {"samplingRate": 0.75}
    path.write_text("{ typing error")
    for _ in range(3):
        assert strategies.answer("a")["probabilisticSampling"] == {"samplingRate": 0.75}
    path.unlink()
    assert strategies.answer("a")["probabilisticSampling"] == {"samplingRate": 0.75}
    assert capsys.readouterr().err.count("stay in force") == 1


def test_the_sampling_port_asks_for_exactly_one_service(backend: Backend) -> None:
    """Jaeger's clients and ours rely on this status and this content type."""
    status, body, headers = backend.request("sampling", "GET", "/sampling?service=shop")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["strategyType"] == "PROBABILISTIC"
    for query in ("", "?service=a&service=b"):
        status, body = backend.get("sampling", f"/sampling{query}")
        assert (status, body) == (400, b"'service' parameter must be provided once\n")


def test_the_running_backend_follows_its_file(tmp_path: Path) -> None:
    """The option reaches the port, and changes need no restart."""
    path = tmp_path / "strategies.json"
    write(path, 0.25)

    def rate() -> float:
        answer = json.loads(backend.get("sampling", "/sampling?service=a")[1])
        return answer["probabilisticSampling"]["samplingRate"]

    with running(tmp_path, "--strategies-file", str(path)) as backend:
        assert rate() == 0.25
        write(path, 0.75)
        assert poll(lambda: rate() == 0.75, "the new rate")
