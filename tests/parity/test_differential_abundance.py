"""Log densities of samples, as scvi-tools has them of the same posteriors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, StudentT

from scvi_pp._backend.densities import log_densities

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("dof", [None, 3.0])
def test_log_densities(dof):
    """scvi-tools builds this mixture in `get_aggregated_posterior`, and takes its log density at the posterior means."""
    random = np.random.default_rng(0)
    mean = random.normal(size=(60, 4)).astype(np.float32)
    variance = random.gamma(2.0, 0.1, size=(60, 4)).astype(np.float32)
    location, scale = torch.tensor(mean), torch.tensor(variance).sqrt()
    kernel = Normal(location, scale) if dof is None else StudentT(dof, location, scale)
    mixture = MixtureSameFamily(Categorical(logits=torch.ones(60)), Independent(kernel, 1))
    expected = mixture.log_prob(location).numpy()
    found = log_densities(mean, mean, variance, [np.arange(60)], dof=dof)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_a_whole_call_of_scvi_tools():
    import scvi
    from scvi.data import synthetic_iid

    adata = synthetic_iid(batch_size=40)
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, n_latent=3)
    model.is_trained_ = True
    model.module.eval()  # or its encoder drops units by chance
    model.differential_abundance(adata, sample_key="labels")
    mean, variance = model.get_latent_representation(return_dist=True)
    theirs = adata.obsm["da_log_probs"]
    samples = [np.flatnonzero((adata.obs["labels"] == name).to_numpy()) for name in theirs.columns]
    found = log_densities(mean, mean, variance, samples)
    np.testing.assert_allclose(found, theirs.to_numpy(), rtol=1e-4, atol=1e-4)
