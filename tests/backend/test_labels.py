"""Labels by a network, and their calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from scvi_pp._backend.labels import calibrate, label_logits, label_probabilities, temperature
from scvi_pp._backend.query import Posterior
from tests.backend import small


def posterior(batch_size: int | None = None) -> Posterior:
    inputs = small.labelled()
    return Posterior(small.scanvi_network(inputs), small.cells(inputs), seed=3, batch_size=batch_size)


def test_probabilities_are_those_at_the_mean_or_the_mean_over_draws():
    asked = posterior()
    at_mean, of_draws = label_probabilities(asked), label_probabilities(asked, 400)
    np.testing.assert_allclose(at_mean, softmax(label_logits(asked)[0], axis=1), rtol=1e-6)
    drawn = torch.tensor(asked.latent_samples(400))
    with torch.no_grad():
        expected = asked.network.label_logits(drawn.reshape(-1, 3)).softmax(1).view(400, 60, 3).mean(0)  # type: ignore[attr-defined]
    np.testing.assert_allclose(of_draws, expected, rtol=1e-4)
    np.testing.assert_allclose(of_draws.sum(1), 1, rtol=1e-5)
    assert not np.allclose(at_mean, of_draws, atol=1e-4)


def test_draws_do_not_depend_on_the_size_of_blocks():
    np.testing.assert_allclose(label_probabilities(posterior(), 3), label_probabilities(posterior(7), 3), rtol=1e-4)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_from_many_labels(true_temperature: float):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    chances = softmax(logits / true_temperature, axis=1)
    labels = (chances.cumsum(1) < rng.uniform(size=(20_000, 1))).sum(1)
    assert temperature(logits, labels) == pytest.approx(true_temperature, rel=0.05)


def test_few_labels_leave_it_near_one():
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert 0.4 < temperature(logits, np.array([0, 1])) < 1  # both right: surer, a little
    assert 1 < temperature(logits, np.array([1, 1])) < 3
    assert temperature(np.empty((0, 2)), np.empty(0, dtype=int)) == pytest.approx(1, abs=1e-4)


def test_calibration_is_of_the_classifier_whatever_the_temperature_was():
    asked = posterior()
    rows, labels = np.arange(30), np.arange(30) % 3
    calibrate(asked, rows, labels)
    first = float(asked.network.get_buffer("temperature"))  # type: ignore[attr-defined]
    calibrate(asked, rows, labels)
    assert float(asked.network.get_buffer("temperature")) == pytest.approx(first, rel=1e-4)  # type: ignore[attr-defined]
    assert first != 1
