"""pl.abundance draws where conditions differ in how many cells they have."""

from __future__ import annotations

from functools import cache

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest

from scvi_pp import pl, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_same, contents, small_counts

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


@cache
def _compared() -> ad.AnnData:
    adata = small_counts(90, 20)
    adata.obs["sample"] = np.arange(90) % 6
    adata.obs["condition"] = np.where(adata.obs["sample"] < 3, "control", "treated")
    tl.scvi(adata, denoise=False, **QUICK)
    tl.differential_abundance(adata, "sample", condition_key="condition")
    tl.differential_abundance(adata, "sample", key_added="densities")
    adata.obs["scvi_da_padj"] = np.linspace(0, 1, 90)
    return adata


def test_cells_that_are_told_apart_have_colours_and_the_others_none():
    adata = _compared().copy()
    before = contents(adata)
    ax = pl.abundance(adata, "scvi", max_padj=0.5, show=False)
    assert_same(contents(adata), before)
    grey, colored = ax.collections
    called = (adata.obs["scvi_da_padj"] <= 0.5).to_numpy()
    np.testing.assert_allclose(grey.get_offsets(), adata.obsm["X_scvi"][~called])
    ratio = adata.obs["scvi_da_log_ratio"].to_numpy()[called] / np.log(2)
    np.testing.assert_allclose(colored.get_array(), ratio[np.argsort(np.abs(ratio))])
    low, high = colored.get_clim()
    assert low == -high and high >= np.abs(ratio).max()
    assert ax.get_title() == "treated against control"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("scvi1", "scvi2")


def test_all_cells_are_coloured_on_request():
    grey, colored = pl.abundance(_compared(), "X_scvi", max_padj=1, show=False).collections
    assert (len(grey.get_offsets()), len(colored.get_offsets())) == (0, 90)


def test_nothing_to_colour_is_no_error():
    adata = _compared().copy()
    adata.obs["scvi_da_padj"] = 1.0
    assert len(pl.abundance(adata, "scvi", show=False).collections[1].get_offsets()) == 0


def test_it_draws_into_axes_that_are_given_and_shows_by_itself_otherwise():
    _, ax = plt.subplots()
    assert pl.abundance(_compared(), "scvi", ax=ax) is ax
    assert pl.abundance(_compared(), "scvi") is None


def test_what_is_not_there_is_refused():
    with pytest.raises(MissingKeyError, match=r"obsm has no entry 'umap'.* sc\.tl\.umap makes one"):
        pl.abundance(_compared())
    with pytest.raises(MissingKeyError, match=r"compares no conditions: call .* condition_key="):
        pl.abundance(_compared(), "scvi", key="densities")
    with pytest.raises(MissingKeyError, match="no test of abundance under 'other'"):
        pl.abundance(_compared(), "scvi", key="other")
    with pytest.raises(InputError, match="max_padj=0 must be"):
        pl.abundance(_compared(), "scvi", max_padj=0)
    narrow = _compared().copy()
    narrow.obsm["one"] = np.zeros((90, 1))
    with pytest.raises(InputError, match=r"obsm\['one'\] has shape \(90, 1\), and two columns are drawn"):
        pl.abundance(narrow, "one")
