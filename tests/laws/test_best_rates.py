"""The rule by which a model's learning rate is chosen from its runs."""

from __future__ import annotations

from seqjax.laws.best_rates import Trial, at_best, best_rate


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


def test_all_seeds_at_the_best_rate_are_kept_and_models_of_one_rate() -> None:
    trials = [Trial(1e-3, 0, 3.0), Trial(3e-3, 0, 2.9), Trial(3e-3, 1, 3.5), Trial(1e-2, 0, 9.0)]
    assert at_best(["a", "a", "a", "b"], trials) == [1, 2, 3]
