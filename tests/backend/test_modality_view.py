"""A network of several modalities is asked about one of them, by the same questions as a network of that one alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend.answering import Regional
from scvi_pp._backend.measured import MODALITIES
from scvi_pp._backend.models.multivi import Network
from scvi_pp._backend.query import Posterior, region_factors
from tests.backend import mosaic

every_modality = pytest.mark.parametrize("modality", MODALITIES)


@pytest.fixture(scope="module")
def inputs() -> Any:
    return mosaic.arrays()


@pytest.fixture(scope="module")
def network(inputs: Any) -> Network:
    network = mosaic.network(inputs)
    network.start_from(mosaic.cells(inputs), torch.arange(70))
    return network.eval()


def denoised(view: Any, inputs: Any, **options: Any) -> np.ndarray:
    out = np.empty((70, view.n_features), np.float32)
    defaults = {"columns": None, "library_size": 1.0, "batches": None, "n_samples": None}
    return Posterior(view, mosaic.cells(inputs)).denoised(out, **{**defaults, **options})


@every_modality
def test_the_joint_position_is_the_same_whatever_is_asked_about(network: Network, inputs: Any, modality):
    joint = Posterior(network, mosaic.cells(inputs)).latent_mean()
    np.testing.assert_array_equal(Posterior(network.about(modality), mosaic.cells(inputs)).latent_mean(), joint)


@every_modality
def test_a_modality_by_itself_says_what_its_encoder_says_and_the_prior_of_other_cells(
    network: Network, inputs: Any, modality
):
    mean, variance = Posterior(network.about(modality, modality), mosaic.cells(inputs)).latent_distribution()
    measured = inputs.present[:, MODALITIES.index(modality)]
    with torch.no_grad():
        alone = network.encode(mosaic.everything(inputs)).of_modality[modality]
    np.testing.assert_allclose(mean[measured], alone.loc[measured], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance[measured], alone.variance[measured], rtol=1e-5)
    assert (mean[~measured] == 0).all()
    assert (variance[~measured] == 1).all()


def test_shares_of_genes_sum_to_one_and_regions_are_open_by_chance(network: Network, inputs: Any):
    np.testing.assert_allclose(denoised(network.about("expression"), inputs).sum(1), 1, rtol=1e-5)
    is_open = denoised(network.about("accessibility"), inputs)
    assert ((is_open > 0) & (is_open < 1)).all()


@every_modality
def test_some_columns_are_those_of_all(network: Network, inputs: Any, modality):
    view, columns = network.about(modality), np.array([4, 1])
    out = np.empty((70, 2), np.float32)
    options = {"columns": columns, "library_size": 1.0, "batches": [0, 1], "n_samples": 2}
    some = Posterior(view, mosaic.cells(inputs)).denoised(out, **options)
    whole = denoised(view, inputs, batches=[0, 1], n_samples=2)
    np.testing.assert_allclose(some, whole[:, columns], rtol=1e-5)


@every_modality
def test_the_library_is_the_exposure_of_the_modality(network: Network, inputs: Any, modality):
    with torch.no_grad():
        exposure = network.encode(mosaic.everything(inputs)).exposures[modality].exp()[:, 0]
    size = Posterior(network.about(modality), mosaic.cells(inputs)).library_size()
    measured = inputs.present[:, MODALITIES.index(modality)]
    assert 0 < measured.sum() < len(measured)
    np.testing.assert_allclose(size[measured], exposure[measured], rtol=1e-5)
    assert np.isnan(size[~measured]).all()
    if modality == "protein":
        assert (size[measured] == 1).all()


def test_only_accessibility_has_regions(network: Network, inputs: Any):
    view = network.about("accessibility")
    assert isinstance(view, Regional)
    assert not isinstance(network.about("expression"), Regional)
    factors = region_factors(view)
    np.testing.assert_allclose(factors, 0.5)
    plain, with_factors = denoised(view, inputs), denoised(view, inputs, value="expression_with_regions")
    np.testing.assert_allclose(with_factors, plain * factors, rtol=1e-5)


def test_of_a_protein_the_foreground_is_what_is_above_its_background(network: Network, inputs: Any):
    part, cells = network.parts()["protein"], mosaic.everything(inputs)
    with torch.no_grad():
        z = network.encode(cells).q_z.loc
        p_x = part.decode(z, torch.zeros(70, 1), cells)
        probability = part.foreground_probability(z, cells)
        foreground, everything = part.expression(z, cells), part.expression_with_background(z, cells)
    torch.testing.assert_close(probability, torch.sigmoid(-p_x.background_logits))
    torch.testing.assert_close(everything - foreground, (1 - probability) * p_x.background)
    assert (p_x.foreground >= p_x.background).all()


@every_modality
def test_every_question_has_an_answer(network: Network, inputs: Any, modality):
    view = network.about(modality)
    ask = Posterior(view, mosaic.cells(inputs))
    parameters = ask.parameters(columns=None, n_samples=None)
    assert all(values.shape == (70, view.n_features) for values in parameters.values())
    draws = ask.predictive(1, columns=None, batches=[1])[0]
    assert draws.shape == (70, view.n_features)
    assert (draws.data == draws.data.round()).all()
    assert ask.denoised_draws(1, columns=None, batch=None, library_size=0.5).shape == (70, view.n_features)
    bound = Posterior(network, mosaic.cells(inputs)).elbo(1)["bound"]
    np.testing.assert_array_equal(ask.elbo(1)["bound"].shape, bound.shape)
    assert np.isfinite(ask.marginal_log_likelihood(2)).all()
