"""What a fitted scVI answers, against scvi-tools' SCVI with the same weights on the same cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend.models.scvi import Hyperparameters, Inputs, build
from scvi_pp._backend.query import Posterior
from scvi_pp._backend.streams import Cells
from tests.parity.weights import copy_weights

scvi = pytest.importorskip("scvi")

pytestmark = pytest.mark.parity

N_CELLS, N_GENES, N_BATCHES = 60, 25, 2
N_DRAWS = 40
STANDARD_ERRORS = 4


class Twins(NamedTuple):
    posterior: Posterior
    peer: Any


MODELS = ("zinb", "nb", "poisson", "latent library", "ln")


@pytest.fixture(scope="module", params=MODELS)
def twins(request: pytest.FixtureRequest) -> Twins:
    """A model trained by the peer for a few epochs, and its twin."""
    return _twins(request.param)


def _twins(name: str) -> Twins:
    likelihood = name if name in ("zinb", "nb", "poisson") else "zinb"
    rng = np.random.default_rng(0)
    groups = rng.gamma(0.7, 2, (3, N_GENES))[rng.integers(3, size=N_CELLS)]
    counts = rng.poisson(groups * rng.lognormal(0, 0.4, (N_CELLS, 1)) + 0.1).astype(np.float32)
    adata = ad.AnnData(csr_matrix(counts), obs=pd.DataFrame(index=[f"cell{i}" for i in range(N_CELLS)]))
    adata.obs["batch"] = pd.Categorical.from_codes(rng.integers(N_BATCHES, size=N_CELLS), ["a", "b"])
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    shape = {"n_latent": 3, "n_hidden": 16, "gene_likelihood": likelihood}
    how = {"use_observed_lib_size": name != "latent library", "latent_distribution": "ln" if name == "ln" else "normal"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = scvi.model.SCVI(adata, **shape, **how)
        _train(peer, torch.tensor(counts), torch.tensor(adata.obs["batch"].cat.codes.to_numpy(dtype=np.int64))[:, None])
    peer.is_trained_ = True
    hp = Hyperparameters(
        n_genes=N_GENES,
        n_batches=N_BATCHES,
        n_labels=1,
        n_levels=(),
        n_numbers=0,
        has_size_factor=False,
        **shape,
        **how,
    )
    network = build(hp)
    copy_weights(network, peer.module)
    arrays = Inputs(
        counts=csr_matrix(counts),
        batch=adata.obs["batch"].cat.codes.to_numpy(dtype=np.int64),
        labels=np.zeros(N_CELLS, np.int64),
        categories=np.zeros((N_CELLS, 0), np.int64),
        numbers=np.zeros((N_CELLS, 0), np.float32),
        size_factor=None,
    )
    return Twins(Posterior(network, Cells(arrays, torch.device("cpu"))), peer)


def _train(peer: Any, counts: torch.Tensor, batch: torch.Tensor) -> None:
    """A little, so that the posterior is informative; without lightning, which takes longer than all else here."""
    optimizer = torch.optim.Adam(peer.module.parameters(), 0.01)
    peer.module.train()
    for _ in range(60):
        tensors = {"X": counts, "batch": batch, "labels": torch.zeros_like(batch)}
        loss = peer.module(tensors)[2].loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    peer.module.eval()


def test_latent_distribution_is_the_peers(twins: Twins):
    mean, variance = twins.posterior.latent_distribution()
    their_mean, their_variance = twins.peer.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(mean, their_mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variance, their_variance, rtol=1e-5)


def test_latent_mean_is_the_peers(twins: Twins):
    is_exact = twins.posterior.network.hyperparameters.latent_distribution == "normal"
    with torch.random.fork_rng():
        theirs = twins.peer.get_latent_representation()  # for "ln" the mean of 5,000 draws
    np.testing.assert_allclose(twins.posterior.latent_mean(), theirs, atol=1e-5 if is_exact else 0.02)


def test_denoised_expression_is_the_peers_on_average(twins: Twins):
    ours = np.stack([_denoised(twins.posterior, seed) for seed in range(N_DRAWS)])
    theirs = _peers_draws(lambda: twins.peer.get_normalized_expression(return_numpy=True))
    _statistically_equal(np.log(ours)[:, ::7, ::5], np.log(theirs)[:, ::7, ::5])


def _denoised(posterior: Posterior, seed: int) -> np.ndarray:
    asked = Posterior(posterior.network, posterior.cells, seed=seed)
    out = np.empty((N_CELLS, N_GENES), np.float32)
    return asked.denoised(out, columns=None, library_size=1.0, batches=None, n_samples=1)


def test_elbo_is_the_peers_on_average(twins: Twins):
    ours = np.stack([_asked(twins, seed).elbo(1)["bound"].mean() for seed in range(N_DRAWS)])
    _statistically_equal(ours, _peers_draws(lambda: _number(twins.peer.get_elbo())))


def test_reconstruction_error_is_the_peers_on_average(twins: Twins):
    ours = np.stack([_asked(twins, seed).elbo(1)["reconstruction"].mean() for seed in range(N_DRAWS)])
    theirs = _peers_draws(lambda: _number(twins.peer.get_reconstruction_error()["reconstruction_loss"]))
    _statistically_equal(ours, -theirs)


# not for "ln": the peer takes normal densities of a position on the simplex; tests/backend/test_query.py integrates it
@pytest.mark.parametrize("twins", MODELS[:-1], indirect=True)
def test_marginal_log_likelihood_is_the_peers_on_average(twins: Twins):
    ours = np.stack([_asked(twins, seed).marginal_log_likelihood(50).mean() for seed in range(10)])
    theirs = _peers_draws(lambda: _number(twins.peer.get_marginal_ll(n_mc_samples=50, n_mc_samples_per_pass=50)), 10)
    _statistically_equal(ours, theirs)


def _peers_draws(ask: Callable[[], Any], n: int = N_DRAWS) -> np.ndarray:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return np.stack([ask() for _ in range(n)])


def _statistically_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Means of independent draws along the first axis."""
    error = np.sqrt(ours.var(0, ddof=1) / len(ours) + theirs.var(0, ddof=1) / len(theirs))
    distance = np.abs(ours.mean(0) - theirs.mean(0)) / error
    assert distance.max() < STANDARD_ERRORS


def _asked(twins: Twins, seed: int) -> Posterior:
    return Posterior(twins.posterior.network, twins.posterior.cells, seed=seed)


def _number(value: Any) -> float:
    return float(torch.as_tensor(value).squeeze())
