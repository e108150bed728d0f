from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scvi_pp import get, tl
from scvi_pp._data.fitted import from_record
from scvi_pp._errors import InputError
from tests.fits import CHROMATIN, MODELS, OPTIONS, PEAKVI, POISSONVI, fit, fragments, genes_of, model_of

pytestmark = pytest.mark.usefixtures("quiet")
WITHOUT = "peakvi without factors"


@pytest.mark.parametrize("name", [name for name in CHROMATIN if name != WITHOUT])
def test_each_modelled_region_has_a_factor(name: str):
    factors = get.region_factors(fit(name))
    assert isinstance(factors, pd.Series)
    assert (factors.name, factors.dtype) == ("region_factor", np.float32)
    assert list(factors.index) == genes_of(name)
    assert factors.nunique() == len(factors)


@pytest.mark.parametrize("name", [name for name in PEAKVI if name != WITHOUT])
def test_factors_of_peakvi_are_the_sigmoid_of_its_parameter(name: str):
    parameter = from_record(fit(name).uns, "peakvi").weights["region_factors"]
    np.testing.assert_allclose(get.region_factors(fit(name)), 1 / (1 + np.exp(-parameter)), rtol=1e-6)


@pytest.mark.parametrize("name", POISSONVI)
def test_factors_of_poissonvi_are_the_bias_of_its_last_layer(name: str):
    bias = from_record(fit(name).uns, "poissonvi").weights["scvi.decoder.scale.bias"]
    np.testing.assert_array_equal(get.region_factors(fit(name)), bias)


@pytest.mark.parametrize("verb", [tl.peakvi, tl.poissonvi], ids=lambda verb: verb.__name__)
def test_regions_that_are_seen_more_often_have_larger_factors(verb):
    """Of regions that differ in nothing else."""
    rng = np.random.default_rng(0)
    adata = fragments(400, 40)
    chance = np.linspace(0.05, 0.6, 40)
    adata.X = (rng.uniform(size=adata.shape) < chance).astype(np.float32)
    verb(adata, **{**OPTIONS, "max_epochs": 30, "learning_rate": 0.03, "early_stopping": False})
    assert np.corrcoef(np.log(chance), get.region_factors(adata))[0, 1] > (0.9 if verb is tl.poissonvi else 0.6)


def test_no_counts_are_needed():
    adata = fit("peakvi").copy()
    expected = get.region_factors(adata)
    adata.X = adata.layers["lognorm"]
    pd.testing.assert_series_equal(get.region_factors(adata), expected)
    pd.testing.assert_series_equal(get.region_factors(adata[:3]), expected)


def test_a_model_that_was_fitted_without_them_says_so():
    with pytest.raises(InputError, match=r"uns\['peakvi'\] was fitted with region_factors=False and has none"):
        get.region_factors(fit(WITHOUT))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_genes_has_none(name: str):
    model = model_of(name)
    with pytest.raises(InputError, match=rf"needs a model of chromatin: uns\['{model}'\] is a {model} of genes"):
        get.region_factors(fit(name))
