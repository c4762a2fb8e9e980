"""The engine ray's scheduling under simulated failures, without Ray."""

from __future__ import annotations

import pytest
import simulate_replicas as simulation


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen replicas on four nodes, and completions of seconds."""
    sizes: dict[str, float] = {
        "REPLICAS": 16,
        "PER_NODE": 4,
        "SLOTS": 4,
        "PROBLEMS": 40,
        "SAMPLES": 8,
        "MEAN_TOKENS": 400,
    }
    sizes |= {"LOAD_S": 1.0, "REPAIR_S": 10.0, "SIGMA": 0.3}
    for name, value in sizes.items():
        monkeypatch.setattr(simulation, name, value)


FAILURES = simulation.Rates("many", per_replica=20.0, per_node=10.0)


@pytest.mark.parametrize("seed", range(1, 7))
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_no_completion_is_lost_or_counted_twice_whatever_dies(small: None, chunk: int, seed: int) -> None:
    result = simulation.simulate(FAILURES, chunk, seed)  # it counts them
    assert result["deaths"] > 0


def test_time_of_one_replica_without_failures_is_the_sum_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"REPLICAS": 1, "SLOTS": 1, "PROBLEMS": 3, "SAMPLES": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(simulation, name, value)
    tokens = sum(simulation.length_of(request) for request in simulation.requests())
    expected_s = simulation.LOAD_S + tokens * (simulation.STEP_S + simulation.STEP_EACH_S)
    result = simulation.simulate(simulation.RATES[0], 1024, 1)
    assert result["hours"] == pytest.approx(expected_s / 3600, rel=1e-9)
    assert result["over_full_slots"] == pytest.approx(0, abs=1e-9)


def test_failures_cost_time_and_tokens(small: None) -> None:
    calm, wild = (simulation.simulate(rates, 1024, 1) for rates in (simulation.RATES[0], FAILURES))
    assert wild["hours"] > calm["hours"] and wild["lost_tokens"] > calm["lost_tokens"] == 0
