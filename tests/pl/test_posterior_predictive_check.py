"""pl.posterior_predictive_check draws the tables of the check."""

from __future__ import annotations

from functools import cache

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest

from scvi_pp import get, pl, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_same, contents, small_counts

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


@cache
def _checked() -> ad.AnnData:
    adata = small_counts(100, 20)
    tl.scvi(adata, denoise=False, **QUICK)
    tl.scvi(adata, gene_likelihood="poisson", key_added="poisson", denoise=False, **QUICK)
    tl.posterior_predictive_check(adata, groupby="group", n_samples=5)
    tl.posterior_predictive_check(adata, "scvi", n_samples=5, key_added="plain")
    return adata


def points(ax) -> list[np.ndarray]:
    return [np.asarray(collection.get_offsets()) for collection in ax.collections]


def test_every_panel_is_drawn_and_nothing_is_written():
    adata = _checked().copy()
    before = contents(adata)
    axes = pl.posterior_predictive_check(adata, show=False)
    assert_same(contents(adata), before)
    assert len(axes) == 6
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["scvi", "poisson", "measured"]
    assert all(ax.get_xlabel() and ax.get_title() for ax in axes)
    assert len(pl.posterior_predictive_check(adata, key="plain", show=False)) == 5  # no groups


def test_points_are_those_of_the_tables():
    adata, genes = _checked(), get.posterior_predictive_check(_checked(), "genes")
    axes = pl.posterior_predictive_check(adata, show=False)
    seen = (genes["mean_measured"] > 0) & (genes["variance_measured"] > 0)
    np.testing.assert_allclose(points(axes[0])[2], genes.loc[seen, ["mean_measured", "variance_measured"]])
    np.testing.assert_allclose(points(axes[1])[1], genes[["zero_fraction_measured", "zero_fraction_poisson"]])
    cells = get.posterior_predictive_check(adata, "cells")
    assert len(points(axes[3])[0]) == len(cells)
    coverage = get.posterior_predictive_check(adata, "coverage")
    line = axes[4].get_lines()[1]
    np.testing.assert_allclose(line.get_ydata(), coverage["scvi"] - np.arange(1, 10) / 10)
    groups = get.posterior_predictive_check(adata, "groups")
    of_poisson = axes[5].get_lines()[1]
    np.testing.assert_allclose(of_poisson.get_xdata(), groups.loc[groups["model"] == "poisson", "lfc_pearson"])


def test_panels_can_be_chosen_and_are_shown_by_default():
    adata = _checked()
    (ax,) = pl.posterior_predictive_check(adata, "coverage", show=False)
    assert ax.get_title() == "coverage"
    assert len(pl.posterior_predictive_check(adata, ["cv_genes", "cv_cells"], show=False)) == 2
    assert pl.posterior_predictive_check(adata, "coverage") is None


def test_what_is_not_there_is_refused():
    with pytest.raises(InputError, match="panels='coverge' is unknown. Did you mean 'coverage'"):
        pl.posterior_predictive_check(_checked(), "coverge")
    with pytest.raises(InputError, match="panels is empty"):
        pl.posterior_predictive_check(_checked(), [])
    with pytest.raises(MissingKeyError, match="compares no groups"):
        pl.posterior_predictive_check(_checked(), "groups", key="plain")
    with pytest.raises(MissingKeyError, match="no check under 'other'"):
        pl.posterior_predictive_check(_checked(), key="other")
