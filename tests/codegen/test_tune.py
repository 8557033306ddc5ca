"""How costs are measured: the fit, and one short measurement of everything."""

import numpy as np
import pytest

from sdcomp.codegen import tune
from sdcomp.codegen.convolution import Convolution
from sdcomp.codegen.costs import ALGORITHMS, PARTS, total_work
from sdcomp.codegen.targets import TARGETS, resolve
from sdcomp.codegen.tune import fit, measure_costs, solve_non_negative


def test_fit_finds_the_times_that_made_the_measurements() -> None:
    runs = tune._runs(TARGETS["x86-64-v4"])
    assert set(runs) == set(ALGORITHMS)
    rng = np.random.default_rng(0)
    times = {name: {"multiply": 0.02, **{part: rng.uniform(0.1, 0.9) for part in PARTS[1:]}} for name in runs}
    measured = {
        name: {
            stages: sum(times[name][part] * n for part, n in total_work(stages).items()) for stages in found
        }
        for name, found in runs.items()
    }
    for name, found in fit(measured).items():
        present = {part for stages in runs[name] for part, n in total_work(stages).items() if n}
        for part in PARTS:
            if part == "multiply" or part in present:
                assert found[part] == pytest.approx(times[name][part], rel=1e-6)
            else:
                assert found[part] == 0


@pytest.mark.parametrize("seed", range(20))
def test_solution_is_the_best_that_is_not_negative(seed: int) -> None:
    """By the conditions of Karush, Kuhn and Tucker, which hold nowhere else."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((12, 6)), rng.standard_normal(12)
    x = solve_non_negative(a, b)
    gradient = a.T @ (a @ x - b)
    assert (x >= 0).all()
    assert (gradient >= -1e-9).all()
    assert abs(gradient @ x) < 1e-9


def test_measures_every_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = tuple(Convolution(1, side, side, 16, 16) for side in (4, 8))
    monkeypatch.setattr(tune, "SHAPES", shapes)
    monkeypatch.setattr(tune, "_ROUNDS", 2)
    steps: list[tuple[int, int]] = []
    costs = measure_costs(resolve("native"), lambda done, total: steps.append((done, total)))
    assert set(costs.nanoseconds) == set(ALGORITHMS)
    assert all(sum(times.values()) > 0 for times in costs.nanoseconds.values())
    assert steps[-1][0] == steps[-1][1]
