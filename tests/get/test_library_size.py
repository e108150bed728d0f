from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from scvi_pp import get, tl
from tests.fits import MODELS, OPTIONS, cells, fit, genes_of
from tests.studies import Judge, seeds

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


def test_inferred_library_is_near_the_totals(judge: Judge):
    ratios, ranks = [], []
    for seed in seeds(3):
        adata = cells(120, seed=seed)
        tl.scvi(adata, **{**OPTIONS, "max_epochs": 60, "use_observed_lib_size": False}, rng=seed)
        found, total = get.library_size(adata), np.asarray(adata.X.sum(1)).ravel()
        assert (found > 0).all()
        ratios.append(np.log(found.median() / np.median(total)))
        ranks.append(spearmanr(found, total).statistic)
    judge("scvi: log ratio of inferred library sizes to totals", ratios, above=np.log(2 / 3), below=np.log(3 / 2))
    judge("scvi: rank correlation of inferred library sizes with totals", ranks, above=0.6)


def test_empty_cell_has_a_library_of_one():
    adata = fit("zinb")
    empty = adata.copy()
    empty.X = empty.X * 0
    np.testing.assert_array_equal(get.library_size(adata, adata_new=empty), 1)
