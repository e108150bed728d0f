"""What getters say of models of chromatin: accessibility, and the factors that were taken out of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scvi_pp import get, tl
from scvi_pp._errors import InputError
from tests.contract import assert_same, contents
from tests.fits import CHROMATIN, MODELS, PEAKVI, POISSONVI, fit, genes_of

pytestmark = pytest.mark.usefixtures("quiet")

WITHOUT = "peakvi without factors"
OF_REGIONS = {
    "denoised": get.denoised,
    "samples": lambda adata, **options: get.samples(adata, rng=1, **options).toarray(),
    "likelihood_parameters": lambda adata, **options: next(iter(get.likelihood_parameters(adata, **options).values())),
}


# ---- accessibility


@pytest.mark.parametrize("name", CHROMATIN)
def test_table_is_cells_by_modelled_regions(name: str):
    table = get.denoised(fit(name))
    pd.testing.assert_index_equal(table.index, fit(name).obs_names)
    assert list(table.columns) == genes_of(name)
    assert set(table.dtypes) == {np.dtype("float32")}
    assert (table.to_numpy() > 0).all()
    if name in PEAKVI:
        assert (table.to_numpy() < 1).all()
    elif name != "poissonvi size factor":
        np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"n_samples": 2}, {"transform_batch": ["b0", "b1"]}], ids=str)
@pytest.mark.parametrize("name", [name for name in PEAKVI if name != WITHOUT])
def test_factors_of_cells_and_regions_are_multiplied_back_in(name: str, options: dict):
    adata = fit(name)
    plain, of_cell, of_region = get.denoised(adata, **options), get.library_size(adata), get.region_factors(adata)
    for cells, regions in ((True, False), (False, True), (True, True)):
        found = get.denoised(adata, normalize_cells=cells, normalize_regions=regions, **options)
        expected = plain.mul(of_cell if cells else 1, axis=0).mul(of_region if regions else 1, axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", POISSONVI)
def test_factors_of_regions_are_added_back_on_the_log_scale(name: str):
    adata = fit(name)
    plain, whole = get.denoised(adata), get.denoised(adata, normalize_regions=True)
    if name == "poissonvi size factor":  # its expression is a softplus of logits
        added = inverse_softplus(whole) - inverse_softplus(plain)
    else:
        np.testing.assert_allclose(whole.sum(axis=1), 1, rtol=1e-4)
        added = np.log(whole) - np.log(plain)
        constant = (added - get.region_factors(adata)).mean(axis=1)  # makes the row sum to one
        added = added.sub(constant, axis=0)
    np.testing.assert_allclose(added, np.tile(get.region_factors(adata), (adata.n_obs, 1)), atol=1e-4)


def inverse_softplus(y: pd.DataFrame) -> pd.DataFrame:
    return np.log(np.expm1(y.astype(float)))


@pytest.mark.parametrize("name", CHROMATIN)
def test_all_factors_together_are_what_is_expected_to_be_measured(name: str):
    adata = fit(name)
    regions = name != WITHOUT
    whole = get.denoised(adata, normalize_cells=True, normalize_regions=regions)
    (expected,) = get.likelihood_parameters(adata).values()
    np.testing.assert_allclose(whole, expected, rtol=1e-4)
    np.testing.assert_array_equal(whole, get.denoised(adata, library_size="latent", normalize_regions=regions))


@pytest.mark.parametrize("name", PEAKVI)
def test_a_factor_may_be_given_to_all_cells(name: str):
    adata = fit(name)
    np.testing.assert_allclose(get.denoised(adata, library_size=0.3), 0.3 * get.denoised(adata), rtol=1e-6)
    with pytest.raises(InputError, match=r"library_size=10000: cells of uns\['peakvi'\] have a factor of at most 1"):
        get.denoised(adata, library_size=1e4)


@pytest.mark.parametrize("name", [name for name in CHROMATIN if "size factor" not in name])
def test_own_batch_is_the_default_and_another_may_be_asked_for(name: str):
    adata = fit(name)
    own = get.denoised(adata)
    for batch in ("b0", "b1"):
        moved, there = get.denoised(adata, transform_batch=batch), adata.obs["batch"] == batch
        np.testing.assert_allclose(moved[there], own[there], rtol=1e-4)
        assert not np.allclose(moved[~there], own[~there], rtol=1e-3)


def test_layer_of_the_fit_is_accessibility():
    for verb in (tl.peakvi, tl.poissonvi):
        name = verb.__name__
        adata = fit(name).copy()
        verb(adata, batch_key="batch", max_epochs=1, n_hidden=4, n_latent=2)
        layer = adata.layers[f"{name}_denoised"].copy()
        np.testing.assert_array_equal(layer, get.denoised(adata))
        tl.denoise(adata)
        np.testing.assert_array_equal(adata.layers[f"{name}_denoised"], layer)


# ---- factors of cells


@pytest.mark.parametrize("name", PEAKVI)
def test_library_size_of_peakvi_is_the_factor_of_the_cell(name: str):
    factors = get.library_size(fit(name))
    assert factors.name == "library_size"
    assert (factors > 0).all()
    if name == WITHOUT:
        assert (factors == 1).all()
    elif name == "peakvi size factor":
        np.testing.assert_allclose(factors, fit(name).obs["depth"], rtol=1e-6)
    else:
        assert (factors < 1).all()
        assert factors.nunique() > 10


@pytest.mark.parametrize("name", ["poissonvi", "poissonvi embedding", "poissonvi some regions"])
def test_library_size_of_poissonvi_is_the_number_of_fragments(name: str):
    adata = fit(name)
    total = np.asarray(adata[:, genes_of(name)].X.sum(1)).ravel()
    np.testing.assert_allclose(get.library_size(adata), total, rtol=1e-4)


# ---- other answers


@pytest.mark.parametrize("name", CHROMATIN)
def test_parameters_of_the_likelihood_are_named_after_what_they_are(name: str):
    found = get.likelihood_parameters(fit(name))
    assert list(found) == ["probability" if name in PEAKVI else "mean"]
    if name in PEAKVI:
        assert found["probability"].max(axis=None) < 1


@pytest.mark.parametrize("name", ["peakvi", WITHOUT, "poissonvi"])
def test_draws_have_the_expected_mean(name: str):
    adata, n_draws = fit(name), 150
    drawn = np.stack([matrix.toarray() for matrix in get.samples(adata, n_samples=n_draws, rng=1)])
    if name in PEAKVI:
        assert set(np.unique(drawn)) == {0, 1}
    (mean,) = get.likelihood_parameters(adata, n_samples=n_draws, rng=2).values()
    tolerance = 5 * np.sqrt(drawn.var(0).sum(0) / n_draws) + 0.02 * mean.sum(axis=0)
    assert (np.abs(drawn.mean(0).sum(0) - mean.sum(axis=0)) < tolerance).all()


def test_correlations_of_peakvi_are_those_of_accessibility():
    """Factors of regions do not change a correlation, and cells are all asked about at the same factor."""
    adata = fit("peakvi")
    draw = get.denoised(adata, n_samples=1, rng=3).to_numpy(dtype=float)
    found = get.feature_correlation(adata, n_samples=1, rng=3, method="pearson")
    np.testing.assert_allclose(found, np.corrcoef(draw.T), atol=2e-3)
    with pytest.raises(InputError, match="library_size=1000 has no meaning for peakvi: it has probabilities"):
        get.feature_correlation(adata, library_size=1000)


@pytest.mark.parametrize("name", CHROMATIN)
def test_everything_about_the_fit_can_be_read(name: str):
    info = get.model_info(fit(name))
    assert list(info) == ["model", "regions", "batches", "hyperparameters", "training", "reads", "n_parameters"]
    assert info["model"] == ("peakvi" if name in PEAKVI else "poissonvi")
    assert info["regions"] == genes_of(name)
    assert info["reads"]["size_factor"] == {"key": CHROMATIN[name].get("size_factor_key")}
    json.dumps(info)


def test_vectors_of_batches_are_there_where_the_model_has_them():
    table = get.batch_representation(fit("poissonvi embedding"))
    assert (table.shape, list(table.index)) == ((2, 3), ["b0", "b1"])
    with pytest.raises(InputError, match=r"it was not fitted with batch_representation='embedding'"):
        get.batch_representation(fit("poissonvi"))
    with pytest.raises(
        InputError, match=r"uns\['peakvi'\] has no batch vectors: a peakvi knows batches by their number"
    ):
        get.batch_representation(fit("peakvi"))


# ---- genes and regions


@pytest.mark.parametrize("ask", OF_REGIONS)
@pytest.mark.parametrize("name", ["peakvi", "poissonvi"])
def test_regions_are_columns_of_the_whole_by_either_word(name: str, ask: str):
    adata, chosen = fit(name), ["region7", "region0", "region19"]
    whole = np.asarray(OF_REGIONS[ask](adata))[:, [7, 0, 19]]
    for word in ("regions", "genes"):
        np.testing.assert_allclose(OF_REGIONS[ask](adata, **{word: chosen}), whole, rtol=1e-5)
    np.testing.assert_allclose(OF_REGIONS[ask](adata, regions="region7"), whole[:, :1], rtol=1e-5)


def test_correlations_may_be_asked_of_some_regions():
    chosen = ["region3", "region1"]
    found = get.feature_correlation(fit("peakvi"), regions=chosen)
    assert list(found.index) == list(found.columns) == chosen


FEATURES = [*OF_REGIONS, "feature_correlation"]
REFUSED = [
    ("peakvi", {"regions": ["region1"], "genes": ["region1"]}, "Give genes or regions, not both"),
    (
        "peakvi",
        {"regions": ["region3", "chr1"]},
        "regions names 'chr1', which the model was not fitted to.* 20 regions",
    ),
    ("poissonvi", {"regions": "regoin3"}, "regions names 'regoin3', .* Did you mean 'region3'"),
    ("peakvi", {"regions": []}, "regions is empty. Name at least one region"),
    ("peakvi", {"regions": [True, False]}, "regions takes names, not a mask: use regions=adata.var_names"),
    ("peakvi", {"regions": 3}, "regions=3 must be the name of a region or a list"),
    ("zinb", {"regions": ["gene1"]}, r"regions is for models of chromatin: uns\['scvi'\] models genes. Give genes="),
]


@pytest.mark.parametrize("verb", ["tl.denoise", *(f"get.{name}" for name in FEATURES)])
@pytest.mark.parametrize(("name", "options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_features_that_cannot_be_are_refused(verb: str, name: str, options: dict, message: str):
    adata = fit(name)
    before = contents(adata)
    ask = tl.denoise if verb == "tl.denoise" else getattr(get, verb.removeprefix("get."))
    with pytest.raises(InputError, match=message):
        ask(adata, **options)
    assert_same(contents(adata), before)


@pytest.mark.parametrize("ask", [get.denoised, tl.denoise], ids=["get", "tl"])
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "zinb",
            {"normalize_cells": True},
            r"uns\['scvi'\] models genes\. library_size='latent' takes each cell's own",
        ),
        ("zinb", {"normalize_regions": True}, r"normalize_regions=True needs a model of chromatin: uns\['scvi'\] is"),
        (WITHOUT, {"normalize_regions": True}, "normalize_regions=True: .* was fitted with region_factors=False"),
        ("peakvi", {"normalize_cells": 1}, "normalize_cells=1 must be True or False"),
        ("peakvi", {"normalize_regions": "yes"}, "normalize_regions='yes' must be True or False"),
        ("poissonvi", {"normalize_cells": True, "library_size": 1e4}, "library_size=10000 and normalize_cells=True"),
        ("peakvi", {"library_size": 1.5}, r"have a factor of at most 1 and no library size\. Leave it out"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_scales_that_cannot_be_are_refused(ask, name: str, options: dict, message: str):
    adata = fit(name)
    before = contents(adata)
    with pytest.raises(InputError, match=message):
        ask(adata, **options)
    assert_same(contents(adata), before)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_genes_take_neither_word_for_their_factors(name: str):
    with pytest.raises(InputError, match="needs a model of chromatin"):
        get.denoised(fit(name), normalize_regions=True)
