from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from scvi_pp import get, tl
from tests.fits import MODELS, OPTIONS, cells, fit, genes_of

pytestmark = pytest.mark.usefixtures("quiet")
HIDDEN = {"size factor", "latent library"}


@pytest.mark.parametrize("name", [name for name in MODELS if name not in HIDDEN])
def test_observed_library_is_the_total_over_modelled_genes(name: str):
    adata = fit(name)
    found = get.library_size(adata)
    assert isinstance(found, pd.Series)
    assert found.name == "library_size"
    pd.testing.assert_index_equal(found.index, adata.obs_names)
    layer = adata.layers["lognorm"] if name == "normal" else adata.X
    total = np.asarray(layer[:, adata.var_names.get_indexer(genes_of(name))].sum(1)).ravel()
    np.testing.assert_allclose(found, total, rtol=1e-4)


def test_size_factor_is_what_was_given():
    adata = fit("size factor")
    np.testing.assert_allclose(get.library_size(adata), adata.obs["size"], rtol=1e-5)


def test_inferred_library_is_near_the_totals():
    adata = cells(120)
    tl.scvi(adata, **{**OPTIONS, "max_epochs": 60, "use_observed_lib_size": False})
    found = get.library_size(adata)
    total = np.asarray(adata.X.sum(1)).ravel()
    assert (found > 0).all()
    assert 2 / 3 < found.median() / np.median(total) < 3 / 2
    assert spearmanr(found, total).statistic > 0.7


def test_empty_cell_has_a_library_of_one():
    adata = fit("zinb")
    empty = adata.copy()
    empty.X = empty.X * 0
    np.testing.assert_array_equal(get.library_size(adata, adata_new=empty), 1)
