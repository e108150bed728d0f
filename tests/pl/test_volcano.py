from __future__ import annotations

from functools import cache

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest

import scvi_pp as svp
from scvi_pp import get, pl, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_same, contents, small_counts, small_fragments

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@cache
def _tested() -> ad.AnnData:
    """Two groups of which one has a gene that the other lacks, so that something is called."""
    adata = small_counts(120, 20)
    counts = adata.X.toarray()
    counts[:, 3] = np.where(adata.obs["group"], 60, 0)
    adata.X = counts
    tl.scvi(adata, n_hidden=16, n_latent=2, max_epochs=60, denoise=False)
    tl.differential_expression(adata, "group", n_samples=1000, fdr_target=0.2)
    return adata


def compared() -> ad.AnnData:
    return _tested().copy()


def test_every_gene_is_a_point_and_the_called_ones_are_named():
    adata = compared()
    before = contents(adata)
    ax = pl.volcano(adata, "True", n_names=20, show=False)
    table = get.differential_expression(adata, group="True")
    called = table["is_de_fdr_0.2"]
    assert called["gene3"]
    points = [collection.get_offsets() for collection in ax.collections]
    assert [len(each) for each in points] == [(~called).sum(), called.sum()]
    np.testing.assert_allclose(sorted(points[1][:, 0]), sorted(table["lfc_mean"][called]), rtol=1e-6)
    assert np.isfinite(np.concatenate(points)).all()
    assert {text.get_text() for text in ax.texts} == set(table.index[called])
    assert (ax.get_xlabel(), ax.get_title()) == ("log2 fold change", "True")
    assert_same(contents(adata), before)
    assert not pl.volcano(adata, "True", n_names=0, show=False).texts


def test_it_draws_into_axes_that_are_given_and_shows_by_itself_otherwise():
    _, ax = plt.subplots()
    assert pl.volcano(compared(), "True", ax=ax) is ax
    assert pl.volcano(compared(), "True") is None


def test_regions_by_their_difference():
    adata = small_fragments(60, 20)
    tl.peakvi(adata, denoise=False, **QUICK)
    tl.differential_accessibility(adata, "group", groups=["True"], n_samples=200)
    assert pl.volcano(adata, show=False).get_xlabel() == "difference of accessibility"


def test_what_cannot_be_drawn_is_refused():
    adata = compared()
    with pytest.raises(InputError, match=r"uns\['rank_genes_groups'\] has several groups\. Name one: group='False'"):
        pl.volcano(adata)
    with pytest.raises(InputError, match="group='x' was not tested"):
        pl.volcano(adata, "x")
    with pytest.raises(MissingKeyError, match="no results of a test by a model under 'other'"):
        pl.volcano(adata, key="other")
    with pytest.raises(InputError, match="n_names=-1"):
        pl.volcano(adata, "True", n_names=-1)
    tl.differential_expression(adata, "group", mode="vanilla", n_samples=100)
    with pytest.raises(InputError, match="in mode 'change'"):
        svp.pl.volcano(adata, "True")
