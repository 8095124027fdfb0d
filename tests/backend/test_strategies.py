"""How sampling strategies are written: Jaeger's file, its answers, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.backend.sampling.strategies import StrategiesDocument, StrategiesError, edited_answer
from autoinstr.sampling import from_strategy

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
        {"service": "plain", "type": "probabilistic", "param": 0.3},
        {
            "service": "limited",
            "type": "ratelimiting",
            "param": 7,
            "operation_strategies": [{"operation": "op3", "type": "probabilistic", "param": 0.7}],
        },
        {"service": "odd", "type": "whatever"},
    ],
}


def answer(service: str, document: object = DOCUMENT) -> dict[str, Any]:
    found = StrategiesDocument(document).answer(service)
    assert found is not None
    return found


def rates(found: dict[str, Any]) -> dict[str, float]:
    rows = found["operationSampling"]["perOperationStrategies"]
    return {row["operation"]: row["probabilisticSampling"]["samplingRate"] for row in rows}


@pytest.mark.parametrize("document", [None, {}, {"service_strategies": None, "default_strategy": None}])
def test_a_file_that_says_nothing_leaves_the_word_to_others(document: object) -> None:
    """A file of one service would switch the adaptive mode off for all the others."""
    assert StrategiesDocument(document).answer("any") is None
    only_one = {"service_strategies": [{"service": "a", "type": "probabilistic", "param": 0.1}]}
    assert StrategiesDocument(only_one).answer("b") is None


def test_a_services_own_strategy_wins_and_inherits_operations() -> None:
    """As in Jaeger: own operations win, the default's stay, rate-limited operations are skipped and named."""
    document = StrategiesDocument(DOCUMENT)
    found = document.answer("foo")
    assert found == {
        "strategyType": "PROBABILISTIC",
        "probabilisticSampling": {"samplingRate": 0.8},
        "operationSampling": {
            "defaultSamplingProbability": 0.8,
            "defaultLowerBoundTracesPerSecond": 0,
            "perOperationStrategies": [
                {"operation": "op1", "probabilisticSampling": {"samplingRate": 0.2}},
                {"operation": "/metrics", "probabilisticSampling": {"samplingRate": 0.9}},
                {"operation": "/health", "probabilisticSampling": {"samplingRate": 0.0}},
            ],
            "defaultUpperBoundTracesPerSecond": 0,
        },
    }
    assert any("op2" in warning for warning in document.warnings)


def test_a_service_without_operations_keeps_its_own_rate_for_the_rest() -> None:
    """It would fall back to the default's rate for every operation that is not listed."""
    found = answer("plain")
    assert found["operationSampling"]["defaultSamplingProbability"] == 0.3
    assert rates(found) == {"/health": 0.0, "/metrics": 0.1}


def test_a_rate_limited_service() -> None:
    """The limit is an integer on the wire, and a client of Jaeger fails on anything else; it inherits as a whole."""
    found = answer("bar")
    assert found["strategyType"] == "RATE_LIMITING"
    assert found["rateLimitingSampling"] == {"maxTracesPerSecond": 5}
    assert "probabilisticSampling" not in found
    assert rates(found) == {"/health": 0.0, "/metrics": 0.1}
    assert found["operationSampling"]["defaultSamplingProbability"] == 0.5
    own = answer("limited")
    assert rates(own) == {"op3": 0.7, "/health": 0.0, "/metrics": 0.1}
    assert own["operationSampling"]["defaultSamplingProbability"] == 1.0


def test_an_unknown_service_gets_the_default() -> None:
    """New services must follow the file's default without being listed."""
    found = answer("nobody knows it")
    assert found["probabilisticSampling"] == {"samplingRate": 0.5}
    assert rates(found) == {"/health": 0.0, "/metrics": 0.1}


def test_an_unknown_type_falls_back_to_the_default_rate() -> None:
    """As Jaeger does, instead of refusing the whole file; but it is said."""
    document = StrategiesDocument(DOCUMENT)
    found = document.answer("odd")
    assert found is not None
    assert found["probabilisticSampling"] == {"samplingRate": 1.0}
    assert any("odd" in warning and "whatever" in warning for warning in document.warnings)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"default_strategy": []},
        {"service_strategies": {}},
        {"service_strategies": [None]},
        {"service_strategies": [{"type": "probabilistic", "param": 1}]},
        {"service_strategies": [{"service": "half a pair: \ud800", "type": "probabilistic", "param": 1}]},
        {"default_strategy": {"type": "probabilistic", "param": 1.5}},
        {"default_strategy": {"type": "probabilistic", "param": "0.5"}},
        {"default_strategy": {"type": "ratelimiting", "param": float("nan")}},
        {"default_strategy": {"type": "ratelimiting", "param": -1}},
        {"default_strategy": {"type": "ratelimiting", "param": 1e9}},
        {"default_strategy": {"type": "probabilistic", "param": True}},
        {"default_strategy": {"operation_strategies": [{"type": "probabilistic", "param": 1}]}},
        {"default_strategy": {"operation_strategies": [{"operation": "o" * 2000, "type": "probabilistic"}]}},
        {"default_strategy": {"operation_strategies": [{"operation": "o", "type": "probabilistic"}] * 2001}},
    ],
)
def test_what_is_not_a_strategies_document_is_refused(document: object) -> None:
    """A slip in the file must be reported, not read as some other rate."""
    with pytest.raises(StrategiesError):
        StrategiesDocument(document)


EDITS = [
    ({"type": "probabilistic", "param": 0.25}, {"probabilisticSampling": {"samplingRate": 0.25}}),
    ({"type": "ratelimiting", "param": 3}, {"rateLimitingSampling": {"maxTracesPerSecond": 3}}),
    ({"probabilisticSampling": {"samplingRate": 1}}, {"probabilisticSampling": {"samplingRate": 1}}),
    (
        {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 2}},
        {"rateLimitingSampling": {"maxTracesPerSecond": 2}},
    ),
    # Jaeger up to 2.15 writes numbers and nulls.
    (
        {"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": 2}, "probabilisticSampling": None},
        {"rateLimitingSampling": {"maxTracesPerSecond": 2}},
    ),
]


@pytest.mark.parametrize(("strategy", "expected"), EDITS)
def test_an_edit_may_have_either_form(strategy: object, expected: dict[str, Any]) -> None:
    """What is copied out of a strategies file or out of Jaeger's answer can be pasted."""
    kind = "RATE_LIMITING" if "rateLimitingSampling" in expected else "PROBABILISTIC"
    assert edited_answer("a", strategy) == {"strategyType": kind, **expected}


def test_an_edit_with_operations_comes_out_as_it_went_in() -> None:
    """The interface shows what was saved, and saves what it shows."""
    row = {
        "type": "probabilistic",
        "param": 0.5,
        "operation_strategies": [{"operation": "GET /", "type": "probabilistic", "param": 0.1}],
    }
    first = edited_answer("a", row)
    assert rates(first) == {"GET /": 0.1}
    assert edited_answer("a", first) == first


@pytest.mark.parametrize(
    ("strategy", "named"),
    [
        (None, "object"),
        ([], "object"),
        ({}, "type"),
        ({"type": "probabilistic"}, "param"),
        ({"type": "const", "param": 1}, "const"),
        ({"type": ["probabilistic"], "param": 1}, "type"),
        ({"type": "probabilistic", "param": 1.01}, "between 0 and 1"),
        ({"type": "ratelimiting", "param": 40_000}, "32767"),
        ({"type": "probabilistic", "param": 1, "operation_strategies": [{"operation": "o"}]}, "param"),
        (
            {
                "type": "probabilistic",
                "param": 1,
                "operation_strategies": [{"operation": "o", "type": "ratelimiting", "param": 1}],
            },
            "only probabilistic",
        ),
        ({"strategyType": "CONST"}, "CONST"),
        ({"strategyType": True, "probabilisticSampling": {"samplingRate": 1}}, "strategyType"),
        ({"strategyType": {}, "probabilisticSampling": {"samplingRate": 1}}, "strategyType"),
        ({"strategyType": "RATE_LIMITING", "probabilisticSampling": {"samplingRate": 1}}, "rateLimitingSampling"),
        ({"probabilisticSampling": {}}, "samplingRate"),
        ({"probabilisticSampling": 1}, "probabilisticSampling"),
        ({"rateLimitingSampling": {"maxTracesPerSecond": 0.5}}, "whole"),
        ({"operationSampling": {"perOperationStrategies": []}}, "defaultSamplingProbability"),
        (
            {"operationSampling": {"defaultSamplingProbability": 1, "perOperationStrategies": [{"operation": "o"}]}},
            "probabilisticSampling",
        ),
    ],
)
def test_an_edit_that_makes_no_sense_says_why(strategy: object, named: str) -> None:
    """Whoever types a strategy is told which part is wrong; a service is never told something that it cannot use."""
    with pytest.raises(StrategiesError, match=named):
        edited_answer("a", strategy)


@pytest.mark.parametrize("service", ["", None, 5, "\ud800", "s" * 1001])
def test_an_edit_needs_the_name_of_a_service(service: object) -> None:
    """A name that no service can have would sit in the list for ever."""
    with pytest.raises(StrategiesError):
        edited_answer(service, {"type": "probabilistic", "param": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "param", "operation", "service", "operation_strategies", "service_strategies"),
                    *("default_strategy", "strategyType", "probabilisticSampling", "rateLimitingSampling"),
                    *("operationSampling", "perOperationStrategies", "samplingRate", "maxTracesPerSecond"),
                    *("defaultSamplingProbability", "defaultLowerBoundTracesPerSecond"),
                ]
            ),
            inner | st.sampled_from(["probabilistic", "ratelimiting", "PROBABILISTIC", "RATE_LIMITING", 0.5]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_is_taken_can_be_used_by_clients(content: Any) -> None:
    """A strategy that the backend accepts and a client refuses would leave that client on its old one, silently."""
    for make in (lambda: edited_answer("a", content), lambda: StrategiesDocument(content).answer("a")):
        try:
            found = make()
        except StrategiesError:
            continue
        if found is not None:
            json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
            from_strategy(found)
