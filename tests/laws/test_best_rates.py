"""The rule by which a model's learning rate is chosen from its runs."""

from __future__ import annotations

import math

from seqjax.laws.best_rates import Choice, Trial, best_rate, choices


def test_rates_are_compared_on_the_seeds_that_all_have() -> None:
    searched = [Trial(1e-3, 0, 3.0), Trial(3e-3, 0, 2.9)]
    assert best_rate(searched) == 3e-3
    assert best_rate([*searched, Trial(3e-3, 1, 3.5)]) == 3e-3  # a further seed only at the chosen rate
    assert best_rate([*searched, Trial(3e-3, 1, 3.5), Trial(1e-3, 1, 3.0)]) == 1e-3  # the mean of both seeds
    assert best_rate([Trial(1e-3, 0, 3.0), Trial(3e-3, 1, 2.9)]) == 3e-3  # no seed in common: all of them


def test_fewer_than_two_rates_with_a_loss_have_no_best_one() -> None:
    assert best_rate([]) is None
    assert best_rate([Trial(1e-3, 0, 3.0), Trial(1e-3, 1, 3.1), Trial(3e-3, 0, None)]) is None
    assert best_rate([Trial(3e-3, 0, 3.0), Trial(1e-3, 0, 3.0)]) == 1e-3  # equal losses: the lower rate


def test_a_rate_with_a_diverged_run_is_not_the_best_by_those_that_are_left() -> None:
    trials = [Trial(1e-3, seed, 3.0) for seed in (0, 1)] + [Trial(3e-3, 0, 2.5), Trial(3e-3, 1, math.inf)]
    assert best_rate(trials) == 1e-3
    assert best_rate([*trials, Trial(1e-3, 2, math.inf)]) == 1e-3  # a further seed at the chosen rate alone
    assert best_rate([*trials, Trial(1e-3, 0, math.inf)]) is None
    assert best_rate([Trial(1e-3, 0, 3.0), Trial(3e-3, 0, math.inf)]) == 1e-3


def test_all_seeds_at_the_best_rate_are_kept_and_models_of_one_rate() -> None:
    trials = [Trial(1e-3, 0, 3.0), Trial(3e-3, 0, 2.9), Trial(3e-3, 1, 3.5), Trial(1e-2, 0, 9.0)]
    assert choices(["a", "a", "a", "b"], [1, 1, 1, 1], trials) == [
        Choice(3e-3, (1e-3, 3e-3), [1, 2], [0], []), Choice(None, (1e-2,), [3], [], [])
    ]  # fmt: skip
    one = [Trial(1e-2, 0, 9.0), Trial(1e-2, 1, math.inf)]  # nothing is chosen
    assert choices(["a", "a"], [1, 1], one) == [Choice(None, (1e-2,), [0], [], [1])]


def test_a_diverged_run_is_of_all_horizons_of_its_design() -> None:
    """It has seen fewer tokens than it was to see."""
    trials = [Trial(1e-3, 0, 3.0), Trial(3e-3, 0, 2.9), Trial(3e-3, 1, math.inf), Trial(1e-3, 1, 3.1)]
    first, second = choices(["a"] * 4, [8, 8, 3, 8], trials), choices(["a"] * 4, [8, 8, 3, 4], trials)
    assert first == [Choice(1e-3, (1e-3, 3e-3), [0, 3], [1], [2])] and first[0].at_edge
    assert [(model.rate, model.kept) for model in second] == [(3e-3, [1]), (1e-3, [3])]
    assert choices(["a"], [2], [trials[2]]) == [Choice(None, (3e-3,), [], [], [0])]
    (none,) = choices(["a"] * 4, [8] * 4, [*trials[:3], Trial(1e-3, 1, math.inf)])
    assert none == Choice(None, (1e-3, 3e-3), [], [0, 1], [2, 3])
    done = choices(["a"] * 4, [8, 8, 3, 8], [*trials[:3], Trial(3e-3, 1, 2.8)])  # that of another horizon diverged
    assert done == [Choice(3e-3, (1e-3, 3e-3), [1, 3], [0], [])]
