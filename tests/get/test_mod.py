"""What is asked of a model of several modalities: `mod=` says which one, and the answer is of all cells."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from mudata import MuData

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK
from tests.fits import fit

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]

MODALITIES = ("rna", "atac", "protein")
KINDS = {"rna": "genes", "atac": "regions", "protein": "proteins"}


def cells(rng: int = 0) -> MuData:
    return svp.datasets.simulate_multiome(
        60, 20, n_regions=40, n_proteins=4, rna_only=0.2, atac_only=0.3, positive_rate=0.2, rng=rng
    )


@cache
def fitted(weights: str = "equal") -> MuData:
    """Not to be written to."""
    mdata = cells()
    with svp.settings.override(verbosity=0):
        tl.multivi(mdata, **{**QUICK, "max_epochs": 3}, batch_key="batch", modality_weights=weights)
    return mdata


def has(name: str) -> np.ndarray:
    mdata = fitted()
    return np.asarray(mdata.obs_names.isin(mdata[name].obs_names))


# ---- where cells are


def test_joint_latent_is_what_the_fit_wrote():
    mdata = fitted()
    np.testing.assert_array_equal(get.latent(mdata), mdata.obsm["X_multivi"])
    mean, variance = get.latent(mdata, kind="distribution")
    np.testing.assert_array_equal(mean, mdata.obsm["X_multivi"])
    assert (variance > 0).all()


@pytest.mark.parametrize("mod", MODALITIES)
def test_what_a_modality_says_by_itself_is_the_prior_where_it_was_not_measured(mod: str):
    mean, variance = get.latent(fitted(), mod=mod, kind="distribution")
    np.testing.assert_array_equal(mean[~has(mod)], 0)
    np.testing.assert_array_equal(variance[~has(mod)], 1)
    assert (mean[has(mod)] != 0).any(1).all()


def test_joint_latent_is_the_mean_of_what_the_modalities_say():
    mdata = fitted()
    present = np.stack([has(name) for name in MODALITIES], axis=1)
    alone = [get.latent(mdata, mod=name, kind="distribution") for name in MODALITIES]
    weights = present / present.sum(1, keepdims=True)
    mean = sum(weights[:, [i]] * alone[i][0] for i in range(3))
    variance = sum(weights[:, [i]] ** 2 * alone[i][1] for i in range(3))
    joint_mean, joint_variance = get.latent(mdata, kind="distribution")
    np.testing.assert_allclose(joint_mean, mean, atol=1e-5)
    np.testing.assert_allclose(joint_variance, variance, rtol=1e-4)


def test_draws_are_about_the_mean():
    mdata = fitted()
    mean, variance = get.latent(mdata, kind="distribution")
    draws = get.latent(mdata, kind="sample", n_samples=200)
    assert draws.shape == (200, 60, 2)
    assert np.abs((draws.mean(0) - mean) / np.sqrt(variance / 200)).max() < 5


# ---- what they express


@pytest.mark.parametrize("mod", MODALITIES)
def test_denoised_values_are_of_all_cells_and_those_of_the_layer_on_its_own(mod: str):
    mdata = fitted()
    values = get.denoised(mdata, mod=mod)
    assert isinstance(values, pd.DataFrame)
    assert list(values.index) == list(mdata.obs_names)
    assert list(values.columns) == list(mdata[mod].var_names)
    assert np.isfinite(values.to_numpy()).all()
    own = values.loc[mdata[mod].obs_names].to_numpy()
    np.testing.assert_allclose(own, mdata[mod].layers["multivi_denoised"], rtol=1e-5)


def test_rna_is_meant_by_default_and_without_it_accessibility():
    mdata = fitted()
    pd.testing.assert_frame_equal(get.denoised(mdata), get.denoised(mdata, mod="rna"))
    alone = MuData({"atac": cells()["atac"].copy()})
    tl.multivi(alone, **QUICK)
    assert get.denoised(alone).shape == alone["atac"].shape


def test_average_over_batches_is_that_of_their_answers():
    mdata = fitted()
    for mod in MODALITIES:
        one, two = (get.denoised(mdata, mod=mod, transform_batch=batch) for batch in ("batch1", "batch2"))
        both = get.denoised(mdata, mod=mod, transform_batch=["batch1", "batch2"])
        np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4, atol=1e-7)
        assert not np.allclose(one, two, rtol=1e-3, atol=0)


def test_another_batch_is_asked_of_the_decoder_and_never_of_the_encoder():
    mdata = cells()
    tl.multivi(mdata, **QUICK, batch_key="batch", encode_covariates=True)
    is_one = (mdata.obs["batch"] == "batch1").to_numpy()
    as_one, as_it_is = get.denoised(mdata, transform_batch="batch1"), get.denoised(mdata)
    np.testing.assert_allclose(as_one[is_one], as_it_is[is_one], rtol=1e-5)


def test_draws_average_to_other_values_than_the_mean_position():
    mdata = fitted()
    draws = [get.denoised(mdata, mod="rna", n_samples=n) for n in (1, 1, 50)]
    pd.testing.assert_frame_equal(draws[0], draws[1])
    assert not np.allclose(draws[0], draws[2], rtol=1e-3)
    np.testing.assert_allclose(draws[2].sum(1), 1, rtol=1e-4)


def test_features_are_named_by_the_word_for_them():
    mdata = fitted()
    genes, regions = ["gene3", "gene1"], list(mdata["atac"].var_names[[5, 2]])
    some = get.denoised(mdata, genes=genes)
    np.testing.assert_allclose(some, get.denoised(mdata)[genes], rtol=1e-5)
    some = get.denoised(mdata, mod="atac", regions=regions)
    np.testing.assert_allclose(some, get.denoised(mdata, mod="atac")[regions], rtol=1e-5)
    with pytest.raises(InputError, match=r"regions is for models of chromatin: uns\['multivi'\] models genes"):
        get.denoised(mdata, regions=regions)
    with pytest.raises(InputError, match="genes names 'gene9999', which the model was not fitted to"):
        get.denoised(mdata, genes=["gene9999"])


def test_library_sizes_are_those_of_the_modality():
    mdata = fitted()
    depth, size = get.library_size(mdata, mod="atac"), get.library_size(mdata, mod="rna")
    assert depth[mdata["atac"].obs_names].between(0, 1).all()
    assert (size[mdata["rna"].obs_names] > 0).all()
    own, factor = get.denoised(mdata, library_size="latent"), get.denoised(mdata)
    measured = mdata["rna"].obs_names
    np.testing.assert_allclose(own.loc[measured], factor.mul(size, axis=0).loc[measured], rtol=1e-4)


def test_cells_without_the_modality_have_no_library_size():
    mdata = fitted()
    for name in ("rna", "atac"):
        unknown = get.library_size(mdata, mod=name).isna()
        assert set(unknown.index[unknown]) == set(mdata.obs_names.difference(mdata[name].obs_names)) != set()


def test_factors_of_cells_and_regions_come_back_if_asked_for():
    mdata = fitted()
    factors = get.region_factors(mdata)
    assert list(factors.index) == list(mdata["atac"].var_names)
    assert factors.between(0, 1).all()
    plain = get.denoised(mdata, mod="atac")
    with_regions = get.denoised(mdata, mod="atac", normalize_regions=True)
    np.testing.assert_allclose(with_regions, plain * factors.to_numpy(), rtol=1e-4)
    seen = get.denoised(mdata, mod="atac", normalize_cells=True, normalize_regions=True)
    np.testing.assert_allclose(seen, get.likelihood_parameters(mdata, mod="atac")["probability"], rtol=1e-4)
    with pytest.raises(InputError, match="normalize_cells is for models of chromatin"):
        get.denoised(mdata, normalize_cells=True)


def test_parameters_are_those_of_the_likelihood_of_the_modality():
    mdata = fitted()
    assert sorted(get.likelihood_parameters(mdata)) == ["dispersion", "dropout", "mean"]
    assert list(get.likelihood_parameters(mdata, mod="atac")) == ["probability"]
    for mod in MODALITIES:
        for values in get.likelihood_parameters(mdata, mod=mod).values():
            assert values.shape == (60, mdata[mod].n_vars)
            assert np.isfinite(values.to_numpy()).all()


@pytest.mark.parametrize("mod", MODALITIES)
def test_samples_are_counts_of_the_modality(mod: str):
    mdata = fitted()
    draw = get.samples(mdata, mod=mod)
    assert sp.issparse(draw)
    assert draw.shape == (60, mdata[mod].n_vars)
    np.testing.assert_array_equal(draw.data, np.rint(draw.data))
    if mod == "atac":
        assert set(np.unique(draw.data)) <= {1.0}
    assert len(get.samples(mdata, mod=mod, n_samples=2)) == 2


def test_correlations_are_those_of_the_features_of_the_modality():
    mdata = fitted()
    found = get.feature_correlation(mdata, mod="atac", regions=list(mdata["atac"].var_names[:3]), n_samples=3)
    assert found.shape == (3, 3)


# ---- how well the model explains cells


def test_bounds_are_of_all_modalities_together():
    mdata = fitted()
    per_cell = get.elbo(mdata, per_cell=True, n_samples=3)
    assert list(per_cell.index) == list(mdata.obs_names)
    assert np.isfinite(per_cell).all()
    assert get.elbo(mdata, n_samples=3) == pytest.approx(per_cell.mean(), rel=1e-4)
    assert get.reconstruction_error(mdata) > 0
    assert get.marginal_log_likelihood(mdata, n_samples=50) >= get.elbo(mdata, n_samples=20) - 0.5


def test_model_info_names_the_features_of_every_modality():
    mdata = fitted()
    info = get.model_info(mdata)
    for name, kind in KINDS.items():
        assert info[kind] == list(mdata[name].var_names)
    assert info["batches"] == ["batch1", "batch2"]
    assert info["reads"]["accessibility"]["modality"] == "atac"
    assert not get.history(mdata).isna().any().any()


# ---- new cells


def test_some_of_the_cells_get_the_answers_they_had():
    mdata = fitted()
    rows = np.random.default_rng(0).permutation(60)[:25]
    for part in (mdata[rows], mdata[rows].copy()):
        where = mdata.obs_names.get_indexer(part.obs_names)
        np.testing.assert_allclose(get.latent(mdata, adata_new=part), mdata.obsm["X_multivi"][where], atol=1e-5)
        found = get.denoised(mdata, mod="atac", adata_new=part)
        np.testing.assert_allclose(found, get.denoised(mdata, mod="atac").iloc[where], rtol=1e-4)


@pytest.mark.parametrize("kind", ["paired", "expression", "accessibility"])
@pytest.mark.parametrize("weights", ["equal", "universal", "cell"])
def test_new_cells_of_one_kind_alone_are_answered_for(weights: str, kind: str):
    mdata = fitted(weights)
    alone = mdata[(mdata.obs["modality"] == kind).to_numpy()]
    where = mdata.obs_names.get_indexer(alone.obs_names)
    np.testing.assert_allclose(get.latent(mdata, adata_new=alone), mdata.obsm["X_multivi"][where], atol=1e-5)
    for mod in MODALITIES:
        found = get.denoised(mdata, mod=mod, adata_new=alone)
        np.testing.assert_allclose(found, get.denoised(mdata, mod=mod).iloc[where], rtol=1e-4, atol=1e-7)


def test_new_cells_have_the_weights_that_all_have_in_common():
    mdata, new = fitted("cell"), cells()
    for name in MODALITIES:
        new[name].obs_names = [f"new_{cell}" for cell in new[name].obs_names]
    new = MuData(dict(new.mod))
    found = get.latent(mdata, adata_new=new)
    known = mdata.obsm["X_multivi"][mdata.obs_names.get_indexer([name.removeprefix("new_") for name in new.obs_names])]
    of_one = np.asarray(new.obsmap["rna"] == 0).ravel()  # one modality alone has all the weight
    np.testing.assert_allclose(found[of_one], known[of_one], atol=1e-5)
    assert np.isfinite(found).all()
    assert not np.allclose(found[~of_one], known[~of_one], atol=1e-5)


def test_what_the_model_does_not_read_need_not_be_there():
    mdata = fitted()
    bare = MuData({name: mdata[name].copy() for name in MODALITIES})
    for name in MODALITIES:
        bare[name].obs = bare[name].obs[["batch"]]
    where = mdata.obs_names.get_indexer(bare.obs_names)
    np.testing.assert_allclose(get.latent(mdata, adata_new=bare), mdata.obsm["X_multivi"][where], atol=1e-5)


def test_new_cells_that_lack_what_was_read_are_refused():
    mdata = fitted()
    unseen = copied(mdata)
    unseen.obs["batch"] = "batch9"
    with pytest.raises(InputError, match="'batch9', which the model has not seen"):
        get.latent(mdata, adata_new=unseen)
    with pytest.raises(MissingKeyError, match="mdata has no modality 'atac'"):
        get.latent(mdata, adata_new=MuData({"rna": mdata["rna"].copy()}))
    with pytest.raises(MissingKeyError, match=r"adata has no modality 'atac'\. Modalities: rna"):
        get.latent(mdata, adata_new=mdata["rna"])
    changed = copied(mdata)
    changed["rna"].X = changed["rna"].X.log1p()
    with pytest.raises(InputError, match=r"mdata\['rna'\].*X holds"):
        get.latent(mdata, adata_new=changed)


# ---- which modality


@pytest.mark.parametrize(
    "ask",
    [get.latent, get.denoised, get.samples, get.likelihood_parameters, get.library_size, get.feature_correlation],
    ids=lambda ask: ask.__name__,
)
def test_a_modality_that_is_not_there_is_refused_with_the_near_one(ask):
    with pytest.raises(InputError, match=r"mod='atacc' is no modality of uns\['multivi'\]\. Did you mean 'atac'"):
        ask(fitted(), mod="atacc")
    with pytest.raises(InputError, match=r"mod is for models of several modalities: uns\['scvi'\] is a scvi of one"):
        ask(fit("zinb"), mod="rna")


# ---- tl.denoise


def test_denoise_writes_a_sparse_layer_of_the_modality_alone():
    mdata = copied(fitted())
    before = {name: set(held.layers) for name, held in mdata.mod.items()}
    assert tl.denoise(mdata, mod="atac", threshold=0.3, key_added="open") is None
    layer = mdata["atac"].layers["open"]
    assert sp.issparse(layer)
    dense = mdata["atac"].layers["multivi_denoised"]
    np.testing.assert_allclose(layer.toarray(), np.where(dense >= 0.3, dense, 0), rtol=1e-5)
    assert {name: set(held.layers) for name, held in mdata.mod.items()} == {**before, "atac": before["atac"] | {"open"}}


def test_denoise_writes_what_get_denoised_returns():
    mdata = copied(fitted())
    tl.denoise(mdata, mod="rna", library_size=1e4, transform_batch="batch1", key_added="shared", genes=["gene1"])
    layer = pd.DataFrame(mdata["rna"].layers["shared"], mdata["rna"].obs_names, mdata["rna"].var_names)
    asked = get.denoised(mdata, genes=["gene1"], library_size=1e4, transform_batch="batch1")
    np.testing.assert_allclose(layer[["gene1"]], asked.loc[layer.index], rtol=1e-5)
    assert layer.drop(columns="gene1").isna().all().all()


def test_denoise_does_not_write_into_a_view():
    mdata = fitted()
    view = mdata[:30]
    with pytest.raises(InputError, match=r"mdata is a view .* mdata\.copy\(\)"):
        tl.denoise(mdata, adata_new=view)
    assert view.is_view


def test_a_model_without_chromatin_says_that_it_has_no_regions():
    mdata = svp.datasets.simulate_multiome(60, 20, n_regions=40, rna_only=0.2)
    tl.multivi(mdata, **{**QUICK, "denoise": False}, atac=False)
    with pytest.raises(InputError, match="needs a model of chromatin"):
        get.region_factors(mdata)


def test_a_denoised_copy_of_a_mudata_has_no_columns_of_its_own():
    mdata = copied(fitted())
    found = tl.denoise(mdata, mod="atac", copy=True, key_added="open")
    assert list(found.obs.columns) == list(mdata.obs.columns)
    assert "open" in found["atac"].layers
    assert "open" not in mdata["atac"].layers
