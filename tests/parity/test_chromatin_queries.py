"""What fitted PeakVI and PoissonVI answer, against scvi-tools' PEAKVI and POISSONVI with the same weights and cells.

Both are asked at the posterior mean: a draw is the mean for as long as a test runs. So all numbers must be equal, not
only their averages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from scvi_pp._backend import encoders
from scvi_pp._backend.models import peakvi, poissonvi
from scvi_pp._backend.query import Posterior, region_factors
from scvi_pp._backend.streams import Cells
from tests.backend import small
from tests.parity.agreement import make_non_trivial
from tests.parity.weights import copy_weights, pairs_of_peakvi, pairs_of_poissonvi

scvi = pytest.importorskip("scvi")

pytestmark = pytest.mark.parity

N_CELLS, N_REGIONS, N_BATCHES = 120, 80, 2  # the peer's PoissonVI refuses fewer than 100 cells
COLUMNS = np.array([3, 11, 40])
RELATIVE = 1e-5


class Twins(NamedTuple):
    posterior: Posterior
    peer: Any


@pytest.fixture(autouse=True)
def asked_at_the_posterior_mean(monkeypatch: pytest.MonkeyPatch):
    small.draw_the_mean(monkeypatch)


@pytest.fixture
def peakvi_twins(monkeypatch: pytest.MonkeyPatch) -> Twins:
    """With the variance of the peer's, which has no smallest one."""
    monkeypatch.setattr(encoders, "SMALLEST_VARIANCE", 0.0)
    return _peakvi("normal")


@pytest.fixture
def poissonvi_twins() -> Twins:
    return _poissonvi("normal")


def _peakvi(latent_distribution: str) -> Twins:
    adata = _chromatin(binary=True)
    scvi.model.PEAKVI.setup_anndata(adata, batch_key="batch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = scvi.model.PEAKVI(adata, latent_distribution=latent_distribution)
        make_non_trivial(peer.module.eval())
        torch.nn.init.normal_(peer.module.region_factors)
    hp = peakvi.Hyperparameters(
        n_regions=N_REGIONS,
        n_batches=N_BATCHES,
        n_levels=(),
        n_numbers=0,
        has_size_factor=False,
        n_latent=peer.module.n_latent,
        n_hidden=peer.module.n_hidden,
        latent_distribution=latent_distribution,
    )
    network = peakvi.build(hp)
    copy_weights(network, peer.module, pairs_of_peakvi)
    arrays = peakvi.Inputs(**_arrays(adata))
    peer.is_trained_ = True
    return Twins(Posterior(network, Cells(arrays, torch.device("cpu"))), peer)


def _poissonvi(latent_distribution: str) -> Twins:
    adata = _chromatin(binary=False)
    scvi.external.POISSONVI.setup_anndata(adata, batch_key="batch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = scvi.external.POISSONVI(adata, latent_distribution=latent_distribution)
        make_non_trivial(peer.module.eval())
        torch.nn.init.normal_(peer.module.decoder.px_scale_decoder[0].bias)
    encoder = peer.module.z_encoder
    hp = poissonvi.Hyperparameters(
        n_regions=N_REGIONS,
        n_batches=N_BATCHES,
        n_levels=(),
        n_numbers=0,
        has_size_factor=False,
        n_latent=encoder.mean_encoder.out_features,
        n_hidden=encoder.mean_encoder.in_features,
        latent_distribution=latent_distribution,
    )
    network = poissonvi.build(hp)
    copy_weights(network, peer.module, pairs_of_poissonvi)
    arrays = poissonvi.Inputs(**_arrays(adata), labels=np.zeros(N_CELLS, np.int64))
    peer.is_trained_ = True
    return Twins(Posterior(network, Cells(arrays, torch.device("cpu"))), peer)


def _chromatin(*, binary: bool) -> ad.AnnData:
    rng = np.random.default_rng(0)
    groups = rng.gamma(0.4, 0.5, (3, N_REGIONS))[rng.integers(3, size=N_CELLS)]
    counts = rng.poisson(groups * rng.lognormal(0, 0.4, (N_CELLS, 1)) + 0.03)
    if binary:
        counts = counts > 0
    adata = ad.AnnData(
        csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame(index=[f"region{i}" for i in range(N_REGIONS)]),
    )
    adata.obs["batch"] = pd.Categorical.from_codes(rng.integers(N_BATCHES, size=N_CELLS), ["a", "b"])
    return adata


def _arrays(adata: ad.AnnData) -> dict[str, Any]:
    return {
        "counts": adata.X,
        "batch": adata.obs["batch"].cat.codes.to_numpy(dtype=np.int64),
        "categories": np.zeros((N_CELLS, 0), np.int64),
        "numbers": np.zeros((N_CELLS, 0), np.float32),
        "size_factor": None,
    }


def accessibility(
    posterior: Posterior, *, columns: np.ndarray | None = None, with_regions: bool = False, **options: Any
) -> np.ndarray:
    """At the posterior mean; the library size is one, or with None that of the cell."""
    options["value"] = "expression_with_regions" if with_regions else "expression"
    options = {"library_size": 1.0, "batches": None, "n_samples": None, **options}
    out = np.empty((N_CELLS, N_REGIONS if columns is None else len(columns)), np.float32)
    return posterior.denoised(out, columns=columns, **options)


def same(ours: np.ndarray, theirs: Any) -> None:
    np.testing.assert_allclose(ours, np.asarray(theirs), rtol=RELATIVE)


@pytest.mark.parametrize("with_regions", [False, True])
@pytest.mark.parametrize("with_cells", [False, True])
def test_accessibility_of_peakvi_is_the_peers(peakvi_twins: Twins, with_cells: bool, with_regions: bool):
    """What the peer calls to normalise puts a factor back in."""
    posterior, peer = peakvi_twins
    theirs = peer.get_normalized_accessibility(normalize_cells=with_cells, normalize_regions=with_regions)
    same(accessibility(posterior, library_size=None if with_cells else 1.0, with_regions=with_regions), theirs)


def test_accessibility_of_peakvi_in_some_regions_and_another_batch_is_the_peers(peakvi_twins: Twins):
    posterior, peer = peakvi_twins
    theirs = peer.get_normalized_accessibility(
        region_list=[f"region{i}" for i in COLUMNS], transform_batch="b", normalize_regions=True
    )
    same(accessibility(posterior, columns=COLUMNS, batches=[1], with_regions=True), theirs)


def test_factors_of_peakvi_are_the_peers(peakvi_twins: Twins):
    posterior, peer = peakvi_twins
    same(posterior.library_size(), peer.get_library_size_factors())
    same(region_factors(posterior.network), peer.get_region_factors())


def test_latent_position_of_peakvi_is_the_peers(peakvi_twins: Twins):
    posterior, peer = peakvi_twins
    theirs = peer.get_latent_representation()
    np.testing.assert_allclose(posterior.latent_mean(), theirs, rtol=RELATIVE, atol=RELATIVE * np.abs(theirs).max())
    same(posterior.latent_distribution()[1], peer.get_latent_representation(return_dist=True)[1])


@pytest.mark.parametrize("name", ["peakvi_twins", "poissonvi_twins"])
def test_bound_and_reconstruction_are_the_peers(name: str, request: pytest.FixtureRequest):
    posterior, peer = request.getfixturevalue(name)
    ours = posterior.elbo(1)
    same(ours["bound"].mean(), _number(peer.get_elbo()))
    same(-ours["reconstruction"].mean(), _number(peer.get_reconstruction_error()["reconstruction_loss"]))


@pytest.mark.parametrize("with_regions", [False, True])
@pytest.mark.parametrize("with_cells", [False, True])
def test_accessibility_of_poissonvi_is_the_peers(poissonvi_twins: Twins, with_cells: bool, with_regions: bool):
    posterior, peer = poissonvi_twins
    size = "latent" if with_cells else 1
    theirs = peer.get_normalized_accessibility(library_size=size, normalize_regions=with_regions)
    same(accessibility(posterior, library_size=None if with_cells else 1.0, with_regions=with_regions), theirs)


def test_accessibility_of_poissonvi_in_some_regions_and_another_batch_is_the_peers(poissonvi_twins: Twins):
    posterior, peer = poissonvi_twins
    theirs = peer.get_normalized_accessibility(region_list=[f"region{i}" for i in COLUMNS], transform_batch="b")
    same(accessibility(posterior, columns=COLUMNS, batches=[1]), theirs)


def test_region_factors_and_latent_position_of_poissonvi_are_the_peers(poissonvi_twins: Twins):
    posterior, peer = poissonvi_twins
    same(region_factors(posterior.network), peer.get_region_factors())
    theirs = peer.get_latent_representation()
    np.testing.assert_allclose(posterior.latent_mean(), theirs, rtol=RELATIVE, atol=RELATIVE * np.abs(theirs).max())


@pytest.mark.parametrize("make", [_peakvi, _poissonvi], ids=["peakvi", "poissonvi"])
def test_the_mean_on_the_simplex_is_the_peers(make: Callable[[str], Twins]):
    posterior, peer = make("ln")
    with torch.random.fork_rng():
        theirs = peer.get_latent_representation()  # the mean of 5,000 draws
    np.testing.assert_allclose(posterior.latent_mean(), theirs, atol=0.02)


def test_the_mean_that_the_peer_decodes_lies_off_the_simplex():
    """Its PeakVI hands the decoder the mean before the softmax, which no cell in training was ever at."""
    posterior, peer = _peakvi("ln")
    network, cells = posterior.network.eval(), posterior.cells.minibatch(torch.arange(N_CELLS))
    theirs = peer.get_normalized_accessibility(return_numpy=True)
    with torch.no_grad():
        before = network.encode(cells).q_z.loc
        same(network.expression(before, cells), theirs)
        ours = network.expression(torch.tensor(posterior.latent_mean()), cells)
    same(accessibility(posterior), ours)
    assert np.abs(np.log(accessibility(posterior) / theirs)).max() > 0.1


def _number(value: Any) -> float:
    return float(torch.as_tensor(value).squeeze())
