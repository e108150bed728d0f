"""tl.simulate: new cells like those that were measured, or like nothing in particular, in any batches."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pytest

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_same, contents, small_counts
from tests.fits import CHROMATIN, MODELS, fit

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]


@cache
def _fitted() -> ad.AnnData:
    adata = small_counts(120, 20)
    tl.scvi(adata, batch_key="batch", n_hidden=16, n_latent=3, max_epochs=60, denoise=False)
    return adata


def fitted() -> ad.AnnData:
    return _fitted().copy()


def test_a_cell_for_each_template_and_the_object_is_left_alone():
    adata = fitted()
    before = contents(adata)
    new = tl.simulate(adata)
    assert_same(contents(adata), before)
    assert new.shape == adata.shape
    assert list(new.obs["template"]) == list(adata.obs_names)
    assert list(new.var_names) == list(adata.var_names)
    x = new.X.toarray()
    assert new.X.dtype == np.float32 and (x >= 0).all() and (x == np.round(x)).all()
    assert new.obsm["X_true"].shape == (120, 3)
    assert new.obs["batch"].equals(new.obs["batch"]) and list(new.obs["group"]) == list(adata.obs["group"])


def test_counts_have_the_mean_that_the_model_expects():
    adata = fitted()
    new = tl.simulate(adata, 20_000)
    expected = get.likelihood_parameters(adata, n_samples=50)
    mean = (expected["mean"] * (1 - expected["dropout"])).mean().to_numpy()
    # the scatter of 20,000 counts, and of what is expected of 120 cells over 50 draws
    error = new.X.toarray().std(0) / np.sqrt(20_000) + mean / np.sqrt(50 * adata.n_obs)
    assert (np.abs(np.asarray(new.X.mean(0)).ravel() - mean) < 5 * error).all()


def test_templates_may_be_some_cells():
    adata = fitted()
    new = tl.simulate(adata, 50, cells="batch == 'b1'")
    assert set(new.obs["batch"]) == {"b1"}
    assert set(new.obs["template"]) <= set(adata.obs_names[adata.obs["batch"] == "b1"])
    assert tl.simulate(adata, cells=[3, 1]).obs["template"].tolist() == [adata.obs_names[i] for i in (1, 3)]


def test_batches_are_those_that_are_asked_for():
    adata = fitted()
    assert set(tl.simulate(adata, batches="b0").obs["batch"]) == {"b0"}
    mixed = tl.simulate(adata, 4000, batches={"b0": 1, "b1": 3}).obs["batch"]
    assert (mixed == "b1").mean() == pytest.approx(0.75, abs=0.03)
    in_b0, in_b1 = (tl.simulate(adata, 20_000, batches=batch) for batch in ("b0", "b1"))
    for new, batch in ((in_b0, "b0"), (in_b1, "b1")):
        expected = get.denoised(adata, transform_batch=batch, n_samples=50).mul(get.library_size(adata), axis=0).mean()
        share = np.asarray(new.X.mean(0)).ravel()
        np.testing.assert_allclose(share / share.sum(), expected / expected.sum(), rtol=0.15, atol=0.005)


def test_positions_are_of_the_posterior_or_of_the_prior():
    adata = fitted()
    near = tl.simulate(adata)
    mean, variance = get.latent(adata, kind="distribution")
    z = (near.obsm["X_true"] - mean) / np.sqrt(variance)
    assert abs(z.mean()) < 0.3 and z.std() == pytest.approx(1, abs=0.2)
    prior = tl.simulate(adata, 5000, from_prior=True).obsm["X_true"]
    assert prior.std() == pytest.approx(1, abs=0.05)


def test_the_seed_decides():
    adata = fitted()
    one, two, other = (tl.simulate(adata, 50, rng=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.X.toarray(), two.X.toarray())
    assert not np.array_equal(one.X.toarray(), other.X.toarray())


def test_new_cells_can_be_fitted_and_asked_about():
    adata = fitted()
    new = tl.simulate(adata, 80)
    assert get.latent(adata, adata_new=new).shape == (80, 3)
    tl.scvi(new, batch_key="batch", denoise=False, **QUICK)


@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_every_kind_of_model_simulates(name: str):
    new = tl.simulate(fit(name), 30)
    assert new.n_obs == 30 and np.isfinite(new.X.toarray()).all()


def test_each_modality_of_a_mudata():
    mdata = svp.datasets.simulate_multiome(60, 20, n_regions=40)
    tl.multivi(mdata, batch_key="batch", denoise=False, **QUICK)
    assert tl.simulate(mdata, 30).shape == (30, 20)
    regions = tl.simulate(mdata, 30, mod="atac")
    assert regions.shape == (30, 40) and set(np.unique(regions.X.toarray())) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_obs": 0}, "n_obs=0 must be a whole number"),
        ({"cells": "age > 3"}, "cannot be asked of obs"),
        ({"cells": "batch == 'b7'"}, "cells names no cell"),
        ({"batches": "b7"}, r"no level 'b7'"),
        ({"batches": {"b0": -1, "b1": 2}}, "shares are numbers of at least 0"),
        ({"batches": {"b0": 0}}, "that are not all 0"),
        ({"batches": {"b0": "half"}}, "shares are numbers"),
        ({"from_prior": "yes"}, "from_prior='yes' must be True or False"),
        ({"key": "other"}, "other"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str):
    with pytest.raises((InputError, MissingKeyError), match=message):
        tl.simulate(fitted(), **options)
