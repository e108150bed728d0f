"""What the parts of a multimodal model are made of: proteins, tables of dispersion, and rows of counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend.decoders import DispersionTable, ProteinDecoder
from scvi_pp._backend.device import private_random
from scvi_pp._backend.layers import Norms
from scvi_pp._backend.likelihoods import (
    NegativeBinomial,
    NegativeBinomialMixture,
    Poisson,
    ZeroInflatedNegativeBinomial,
    likelihood_of_counts,
)
from scvi_pp._backend.measured import of_modality
from scvi_pp._backend.moments import log_moments
from scvi_pp._backend.sparse import SparseRows
from tests.backend import mosaic, small

BACKGROUND, FACTOR, DISPERSION, BACKGROUND_SHARE = 3.0, 8.0, 2.0, 0.7
N_DRAWS = 40_000


def mixture(n: int = 1, *, deviation: float | None = None) -> NegativeBinomialMixture:
    def filled(value: float) -> torch.Tensor:
        return torch.full((n, 1), value)

    return NegativeBinomialMixture(
        filled(math.log(BACKGROUND)),
        filled(math.log(FACTOR)),
        torch.tensor([math.log(DISPERSION)]),
        filled(math.log(BACKGROUND_SHARE / (1 - BACKGROUND_SHARE))),
        None if deviation is None else filled(deviation),
    )


# ---- counts of proteins


def test_a_count_is_background_or_foreground():
    counts = np.array([0.0, 1, 5, 40, 3000])

    def negative_binomial(mean: float) -> np.ndarray:
        return scipy.stats.nbinom.logpmf(counts, DISPERSION, DISPERSION / (DISPERSION + mean))

    parts = negative_binomial(BACKGROUND), negative_binomial(BACKGROUND * FACTOR)
    expected = np.logaddexp(parts[0] + math.log(BACKGROUND_SHARE), parts[1] + math.log(1 - BACKGROUND_SHARE))
    found = mixture(5).log_likelihood(torch.tensor(counts[:, None], dtype=torch.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    sparse = mixture(5).log_likelihood(SparseRows.of(torch.tensor(counts[:, None], dtype=torch.float32)))
    assert torch.equal(sparse, found)


def test_proteins_are_added_up():
    columns = [mixture(3), mixture(3)]
    joined = NegativeBinomialMixture(
        *(torch.cat([getattr(each, name) for each in columns], 1) for name in ("log_background", "log_factor")),
        columns[0].log_dispersion.repeat(2),
        torch.cat([each.background_logits for each in columns], 1),
    )
    counts = torch.tensor([[1.0], [4.0], [20.0]])
    torch.testing.assert_close(
        joined.log_likelihood(counts.expand(3, 2)), 2 * mixture(3).log_likelihood(counts), rtol=1e-5, atol=0.0
    )


@pytest.mark.parametrize("deviation", [None, 0.4])
def test_draws_have_the_mean_of_the_likelihood(deviation: float | None):
    with private_random(small.CPU, 0):
        draws = mixture(N_DRAWS, deviation=deviation).sample().double()
    expected = float(mixture(deviation=deviation).mean)
    spread = 1.0 if deviation is None else math.exp(deviation**2 / 2)
    assert expected == pytest.approx(spread * BACKGROUND * (BACKGROUND_SHARE + (1 - BACKGROUND_SHARE) * FACTOR))
    assert float(draws.mean()) == pytest.approx(expected, abs=4 * float(draws.std()) / math.sqrt(N_DRAWS))
    assert torch.equal(draws, draws.round())


def test_a_background_that_is_known_is_not_drawn():
    known, unknown = mixture(3), mixture(3, deviation=0.5)
    assert known.drawn() is known
    with private_random(small.CPU, 0):
        first, second = unknown.drawn(), unknown.drawn()
    assert first.deviation is None
    assert not torch.equal(first.log_background, second.log_background)


@pytest.mark.parametrize("count", [0.0, 7.0, 100_000.0])
@pytest.mark.parametrize("extreme", [-30.0, 30.0])
def test_gradients_are_finite_at_extremes(count: float, extreme: float):
    parameters = [torch.full((1, 1), extreme, requires_grad=True) for _ in range(4)]
    log_background, log_factor, log_dispersion, logits = parameters
    likelihood = NegativeBinomialMixture(
        log_background / 3, log_factor.abs() / 3, log_dispersion[0].clamp(-8, 8), logits
    ).log_likelihood(torch.tensor([[count]]))
    likelihood.sum().backward()
    assert torch.isfinite(likelihood).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters)


def test_the_likelihood_of_counts_is_the_one_that_has_the_parameters():
    log_mean, of_genes = torch.zeros(2, 3), torch.zeros(3)
    assert isinstance(likelihood_of_counts(log_mean, None, None), Poisson)
    assert isinstance(likelihood_of_counts(log_mean, of_genes, None), NegativeBinomial)
    assert isinstance(likelihood_of_counts(log_mean, of_genes, log_mean), ZeroInflatedNegativeBinomial)


# ---- their decoder


def decoder() -> ProteinDecoder:
    with private_random(small.CPU, 0):
        shape = {"n_hidden": 8, "n_layers": 2, "n_levels": (2,), "norms": Norms(False, True), "dropout_rate": 0.1}
        return ProteinDecoder(3, 5, **shape).eval()


def test_the_foreground_is_never_below_the_background_and_deviations_are_positive():
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    proteins = decoder()(z, torch.zeros(20, 1, dtype=torch.int64))
    assert (proteins.log_factor >= 0).all()
    assert (proteins.background_deviation > 0).all()
    assert proteins.log_background.shape == proteins.background_logits.shape == (20, 5)


def test_the_batch_moves_every_part_of_a_protein():
    network, z = decoder(), torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(20, 1, dtype=torch.int64)
    for here, there in zip(network(z, zero), network(z, zero + 1), strict=True):
        assert not torch.equal(here, there)


@pytest.mark.parametrize("n_groups", [1, 3])
def test_a_table_of_dispersion_has_a_row_for_each_group(n_groups: int):
    table, group = DispersionTable(n_groups, 4), torch.tensor([2, 0, 0]) % n_groups
    found = table(group)
    assert found.shape == ((4,) if n_groups == 1 else (3, 4))
    expected = table.log_dispersion[0] if n_groups == 1 else table.log_dispersion[group]
    assert torch.equal(found, expected)


# ---- where proteins begin


def test_moments_of_logs_are_those_of_the_dense_counts():
    inputs = mosaic.arrays()
    rows = np.flatnonzero(inputs.present[:, 2])
    mean, deviation = log_moments(of_modality(mosaic.cells(inputs), "protein"), torch.tensor(rows), block=7)
    logs = np.log1p(inputs.protein.toarray()[rows].astype(np.float64))
    np.testing.assert_allclose(mean, logs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation, logs.std(0), rtol=1e-4)


def test_background_and_foreground_begin_where_two_kinds_of_cells_are():
    rng = np.random.default_rng(0)
    n_cells = 4000
    is_foreground = rng.random((n_cells, 6)) < 0.25
    inputs = mosaic.arrays(n_cells, kinds=np.array([(1, 1, 1)], dtype=bool))
    counts = rng.poisson(np.where(is_foreground, 200.0, 10.0))
    inputs = inputs._replace(protein=csr_matrix(counts.astype(np.float32)))
    network = mosaic.network(inputs)
    network.start_from(mosaic.cells(inputs), torch.arange(n_cells))
    heads = network.protein_part.decoder
    background = heads.log_background.linear.bias.detach().exp()
    foreground = background * (1 + heads.excess.linear.bias.detach())
    np.testing.assert_allclose(background, 10, rtol=0.25)
    np.testing.assert_allclose(foreground, 200, rtol=0.4)
    share = torch.sigmoid(heads.background_logits.linear.bias.detach())
    np.testing.assert_allclose(share, 0.75, rtol=1e-5)
