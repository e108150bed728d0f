"""A short run and a long one pass through the same phases."""

from __future__ import annotations

import numpy as np
import pytest

from scvi_pp._backend.schedule import FEWEST_STEPS, RISE, START_FACTOR, Schedule, default_epochs
from scvi_pp._backend.streams import n_minibatches

PROGRESS = np.linspace(0, 1, 101)


def test_learning_rate_rises_to_its_peak_and_ends_at_zero():
    schedule = Schedule(4e-3, 0.25, 1.0)
    rates = np.array([schedule.learning_rate_at(progress) for progress in PROGRESS])
    top = int(rates.argmax())
    assert rates[0] == pytest.approx(4e-3 * START_FACTOR)
    assert PROGRESS[top] == pytest.approx(RISE)
    assert rates[top] == pytest.approx(4e-3)
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert schedule.learning_rate_at(1.5) == pytest.approx(0, abs=1e-12)


def test_learning_rate_has_no_jump_where_the_fall_begins():
    schedule = Schedule(1.0, 0.25, 1.0)
    assert schedule.learning_rate_at(RISE - 1e-9) == pytest.approx(schedule.learning_rate_at(RISE), abs=1e-6)


@pytest.mark.parametrize("kl_warmup", [0.1, 0.25, 1.0])
def test_kl_weight_rises_from_zero_over_its_share_of_the_run(kl_warmup: float):
    schedule = Schedule(1e-3, kl_warmup, 0.8)
    assert schedule.kl_weight_at(0.0) == 0
    assert schedule.kl_weight_at(kl_warmup / 2) == pytest.approx(0.4)
    assert schedule.kl_weight_at(kl_warmup) == 0.8
    assert schedule.kl_weight_at(1.0) == 0.8


def test_without_warm_up_the_kl_weight_is_whole_from_the_first_step():
    assert Schedule(1e-3, 0.0, 0.8).kl_weight_at(0.0) == 0.8


def test_larger_data_take_fewer_epochs_and_never_none():
    epochs = [default_epochs(n, 128) for n in (2, 100, 1_000, 10_000, 100_000, 10_000_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert all(isinstance(n, int) for n in epochs)
    assert epochs[-1] >= 1


@pytest.mark.parametrize("n_cells", [2, 50, 127, 128, 700])
def test_small_data_do_not_take_more_steps_than_the_fewest(n_cells: int):
    """An epoch is a step even where all cells fit into one minibatch."""
    steps = default_epochs(n_cells, 128) * n_minibatches(n_cells, 128)
    assert steps <= FEWEST_STEPS * 1.2
