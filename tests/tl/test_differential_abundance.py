"""tl.differential_abundance: densities of samples around every cell, and where conditions differ."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._backend.densities import log_densities
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_only_added, assert_same, contents, small_counts
from tests.studies import Judge, seeds

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]

OF_CONDITIONS = {"condition_key": "condition", "condition": "treated", "reference": "control"}


@cache
def _fitted() -> ad.AnnData:
    adata = small_counts(90, 20)
    sample = np.arange(90) % 6
    adata.obs["sample"] = sample
    adata.obs["condition"] = np.where(sample < 3, "control", "treated")
    tl.scvi(adata, batch_key="batch", denoise=False, **QUICK)
    return adata


def fitted() -> ad.AnnData:
    return _fitted().copy()


def test_densities_are_those_of_the_posteriors():
    adata = fitted()
    before = contents(adata)
    assert tl.differential_abundance(adata, "sample") is None
    assert_only_added(before, adata, {"obsm[scvi_da]", "uns[scvi_da]"})
    table = adata.obsm["scvi_da"]
    assert list(table.columns) == ["0", "1", "2", "3", "4", "5"] and table.index.equals(adata.obs_names)
    mean, variance = get.latent(adata, kind="distribution")
    samples = [np.flatnonzero(adata.obs["sample"] == s) for s in range(6)]
    np.testing.assert_allclose(table, log_densities(mean, mean, variance, samples, own_rows=np.arange(90)), rtol=1e-6)
    tl.differential_abundance(adata, "sample", leave_one_out=False, dof=3, key_added="smooth")
    np.testing.assert_allclose(adata.obsm["smooth"], log_densities(mean, mean, variance, samples, dof=3.0), rtol=1e-6)


def test_conditions_are_compared_cell_by_cell():
    adata = fitted()
    before = contents(adata)
    tl.differential_abundance(adata, "sample", **OF_CONDITIONS)
    new = {"obsm[scvi_da]", "uns[scvi_da]"}
    assert set(contents(adata)) == set(before) | new
    assert set(adata.obs) == set(before["obs"]) | {f"scvi_da_{name}" for name in ("log_ratio", "pval", "padj")}
    density = np.exp(adata.obsm["scvi_da"].to_numpy())
    expected = np.log(density[:, 3:].mean(1) / density[:, :3].mean(1))
    np.testing.assert_allclose(adata.obs["scvi_da_log_ratio"], expected, rtol=1e-6, atol=1e-9)
    assert adata.obs["scvi_da_pval"].between(0, 1).all()
    assert (adata.obs["scvi_da_padj"] >= adata.obs["scvi_da_pval"] - 1e-12).all()
    swapped = fitted()
    tl.differential_abundance(swapped, "sample", condition_key="condition", condition="control", reference="treated")
    np.testing.assert_allclose(swapped.obs["scvi_da_log_ratio"], -adata.obs["scvi_da_log_ratio"], atol=1e-9)


def test_two_conditions_need_no_names_and_the_second_is_held_against_the_first():
    adata, named = fitted(), fitted()
    tl.differential_abundance(adata, "sample", condition_key="condition")
    tl.differential_abundance(named, "sample", **OF_CONDITIONS)
    pd.testing.assert_frame_equal(adata.obs, named.obs)


def test_results_are_written_to_files(tmp_path):
    adata = tl.differential_abundance(fitted(), "sample", copy=True, **OF_CONDITIONS)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_allclose(again.obsm["scvi_da"], adata.obsm["scvi_da"])
    assert again.uns["scvi_da"]["params"]["condition"] == "treated"


def test_some_cells_of_each_sample_are_drawn_by_the_seed():
    tables = []
    for seed in (0, 0, 1):
        adata = fitted()
        tl.differential_abundance(adata, "sample", n_cells=5, rng=seed)
        tables.append(adata.obsm["scvi_da"].to_numpy())
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])


def test_a_mudata_holds_the_results_itself():
    mdata = svp.datasets.simulate_multiome(60, 20, n_regions=40)
    tl.multivi(mdata, denoise=False, **QUICK)
    mdata = copied(mdata)
    mdata.obs["sample"] = np.arange(60) % 4
    mdata.obs["condition"] = np.arange(60) % 2
    tl.differential_abundance(mdata, "sample", condition_key="condition")
    assert mdata.obsm["multivi_da"].shape == (60, 4)
    assert mdata.obs["multivi_da_log_ratio"].notna().all()


REFUSED = {
    "sample": (None, {"sample_key": "smaple"}, "obs has no column 'smaple'"),
    "condition": (
        None,
        {**OF_CONDITIONS, "condition": "treatd"},
        r"condition='treatd' is no group.*Did you mean 'treated'",
    ),
    "itself": (None, {**OF_CONDITIONS, "reference": "treated"}, "a condition does not differ from itself"),
    "both": ("group", {"condition_key": "group"}, r"Sample '0' is in several conditions|Condition"),
    "three": ("three", {"condition_key": "three"}, r"has 3 groups: 'a', 'b', 'c'\. Say which to compare"),
    "one sample": ("one", {"condition_key": "one"}, "has 1 samples, and a test between conditions needs two of each"),
    "one cell": ("lonely", {"sample_key": "lonely"}, "have one cell. Leave them out, or set leave_one_out=False"),
    "dof": (None, {"dof": -1}, "dof=-1 must be a positive number, or None"),
    "n_cells": (None, {"n_cells": 0}, "n_cells=0 must be a whole number"),
    "key": (None, {"key": "scvii"}, "scvii"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_changes(case: str):
    column, options, message = REFUSED[case]
    adata = fitted()
    if column == "three":
        adata.obs["three"] = np.array(list("aabbcc"))[adata.obs["sample"]]
    if column == "one":
        adata.obs["one"] = np.where(adata.obs["sample"] == 0, "a", "b")
    if column == "group":
        adata.obs["group"] = np.arange(90) % 4 < 2
    if column == "lonely":
        adata.obs["lonely"] = np.where(np.arange(90) == 0, "alone", "others")
    before = contents(adata)
    with pytest.raises((InputError, MissingKeyError), match=message):
        tl.differential_abundance(adata, **{"sample_key": "sample", **options})
    assert_same(contents(adata), before)


@pytest.mark.slow
def test_a_type_that_half_of_the_samples_lack_is_found_and_the_others_are_not(judge: Judge):
    """Of six samples three have no cell of one type."""
    of_lacking, of_others, called = [], [], []
    for seed in seeds(2):
        adata = svp.datasets.simulate_rna(1800, 300, n_types=3, n_batches=1, type_separation=5.0, rng=seed)
        adata.obs["sample"] = np.random.default_rng(seed).integers(0, 6, adata.n_obs)
        adata = adata[~((adata.obs["cell_type"] == "type1") & (adata.obs["sample"] >= 3))].copy()
        adata.obs["condition"] = np.where(adata.obs["sample"] < 3, "control", "treated")
        tl.scvi(adata, denoise=False, rng=seed)
        tl.differential_abundance(adata, "sample", **OF_CONDITIONS)
        lacking = (adata.obs["cell_type"] == "type1").to_numpy()
        ratio, p = adata.obs["scvi_da_log_ratio"].to_numpy(), adata.obs["scvi_da_padj"].to_numpy()
        of_lacking.append(np.median(ratio[lacking]))
        of_others.append(np.median(ratio[~lacking]))
        called.append((p[lacking] < 0.1).mean())
    judge("differential_abundance: log ratio of the lacking type", of_lacking, below=-1)
    judge("differential_abundance: log ratio of the others", of_others, above=0)
    judge("differential_abundance: share of lacking cells called", called, above=0.7)
