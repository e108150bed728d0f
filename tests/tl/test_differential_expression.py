"""tl.differential_expression and tl.differential_accessibility: what they write, of whom, and what they refuse."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_only_added, assert_same, contents, small_counts
from tests.fits import fit
from tests.studies import Judge, seeds

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]

FEW = {"n_samples": 200}
WRITTEN = "uns[rank_genes_groups]"


@cache
def _fitted() -> ad.AnnData:
    adata = small_counts(90, 20)
    adata.obs["type"] = pd.Categorical(np.array(["a", "b", "c"])[np.arange(90) % 3], categories=["c", "b", "a"])
    adata.obs["condition"] = np.where(np.arange(90) < 50, "control", "treated")
    adata.obs["age"] = np.arange(90)
    tl.scvi(adata, batch_key="batch", denoise=False, **QUICK)
    return adata


def fitted() -> ad.AnnData:
    return _fitted().copy()


def compared(adata: ad.AnnData | None = None, groupby: str | None = "type", **options) -> ad.AnnData:
    adata = fitted() if adata is None else adata
    tl.differential_expression(adata, groupby, **{**FEW, **options})
    return adata


# ---- what is written


def test_nothing_but_the_results_is_written():
    adata = fitted()
    before = contents(adata)
    assert tl.differential_expression(adata, "type", **FEW) is None
    assert_only_added(before, adata, {WRITTEN})
    done = tl.differential_expression(fitted(), "type", copy=True, key_added="de", **FEW)
    assert "de" in done.uns


@pytest.mark.filterwarnings("ignore:set_ticklabels:UserWarning")  # of scanpy's violins
def test_scanpy_reads_and_draws_the_results():
    import matplotlib.pyplot as plt
    import scanpy as sc

    adata = compared()
    assert list(adata.uns["rank_genes_groups"]["names"].dtype.names) == ["c", "b", "a"]
    frame = sc.get.rank_genes_groups_df(adata, group="a")
    ours = get.differential_expression(adata, group="a")
    assert list(frame["names"]) == list(ours.index)
    np.testing.assert_allclose(frame["logfoldchanges"], ours["lfc_mean"], rtol=1e-6)
    np.testing.assert_allclose(frame["pvals_adj"], ours["expected_fdr"], rtol=1e-6)
    assert len(sc.get.rank_genes_groups_df(adata, group=None)) == 60
    sc.pl.rank_genes_groups(adata, n_genes=3, show=False)
    sc.pl.rank_genes_groups_dotplot(adata, n_genes=2, show=False, dendrogram=False)
    sc.pl.rank_genes_groups_violin(adata, groups="a", n_genes=2, show=False)
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_results_are_written_to_files_and_read_again(kind: str, tmp_path):
    adata = compared(mode="change", credible_intervals=[0.9])
    path = tmp_path / f"cells.{kind}"
    getattr(adata, f"write_{kind}")(path)
    again = getattr(ad, f"read_{kind}")(path)
    pd.testing.assert_frame_equal(
        get.differential_expression(again),
        get.differential_expression(adata),
        check_categorical=False,
        check_dtype=False,
    )
    assert list(again.uns["rank_genes_groups"]["names"]["a"]) == list(adata.uns["rank_genes_groups"]["names"]["a"])


def test_the_table_has_the_columns_of_the_field():
    table = get.differential_expression(compared(credible_intervals=[0.9]))
    assert {
        "group", "feature", "comparison", "group1", "group2", "proba_de", "proba_not_de", "bayes_factor", "scale1",
        "scale2", "pseudocounts", "delta", "lfc_mean", "lfc_median", "lfc_std", "lfc_min", "lfc_max", "raw_mean1",
        "raw_mean2", "non_zeros_proportion1", "raw_normalized_mean2", "is_de_fdr_0.05", "expected_fdr", "score",
        "lfc_confidence_interval_0.9_min",
    } <= set(table)  # fmt: skip
    assert len(table) == 60
    np.testing.assert_allclose(table["proba_de"] + table["proba_not_de"], 1, rtol=1e-6)
    assert (table["lfc_min"] <= table["lfc_median"]).all() and (table["lfc_median"] <= table["lfc_max"]).all()
    small = get.differential_expression(compared(all_stats=False))
    assert "lfc_mean" in small and not {"lfc_median", "raw_mean1"} & set(small)


def test_counted_columns_are_what_was_counted():
    adata = fitted()
    table = get.differential_expression(compared(adata), group="b")
    x, first = adata.X.toarray(), (adata.obs["type"] == "b").to_numpy()
    genes = adata.var_names.get_indexer(table.index)
    share = 1e4 * x / np.maximum(x.sum(1, keepdims=True), 1)
    for number, cells in ((1, first), (2, ~first)):
        np.testing.assert_allclose(table[f"raw_mean{number}"], x[cells].mean(0)[genes], rtol=1e-5)
        np.testing.assert_allclose(table[f"non_zeros_proportion{number}"], (x[cells] > 0).mean(0)[genes], rtol=1e-5)
        np.testing.assert_allclose(table[f"raw_normalized_mean{number}"], share[cells].mean(0)[genes], rtol=1e-5)


def test_scales_are_the_mean_denoised_expression_of_the_groups(judge: Judge):
    adata = fitted()
    table = get.differential_expression(compared(adata, n_samples=20_000), group="b").loc[adata.var_names]
    expression = get.denoised(adata, n_samples=200, rng=seeds(1)[0])
    is_b = (adata.obs["type"] == "b").to_numpy()
    for scale, mean in (("scale1", expression[is_b].mean()), ("scale2", expression[~is_b].mean())):
        off = np.log(table[scale] / mean)  # of genes, over 20,000 and some 6,000 draws of shares
        judge(f"differential_expression: log ratio of {scale} to denoised expression", off, above=-0.05, below=0.05)
        assert np.abs(off).max() < 0.3


# ---- who is compared with whom


def test_swapping_the_groups_turns_the_sign():
    adata = fitted()
    ab = get.differential_expression(compared(adata, groups=["a"], reference="b", n_samples=20_000), group="a")
    ba = get.differential_expression(compared(adata, groups=["b"], reference="a", n_samples=20_000), group="b")
    ba = ba.loc[ab.index]
    spread = (ab["lfc_std"] + ba["lfc_std"]) / np.sqrt(20_000)
    assert (abs(ab["lfc_mean"] + ba["lfc_mean"]) < 5 * spread + 1e-5).all()
    np.testing.assert_allclose(ab["raw_mean1"], ba["raw_mean2"])
    assert set(ab["comparison"]) == {"a vs b"}


def test_a_group_of_all_is_the_group_by_itself():
    adata = fitted()
    same = {"n_samples": 20_000, "delta": 0.25, "pseudocount": 1e-4}  # else they are found by the draws of the call
    every = get.differential_expression(compared(adata, **same), group="b")
    alone = get.differential_expression(compared(adata, groups="b", **same), group="b").loc[every.index]
    np.testing.assert_allclose(every["raw_mean2"], alone["raw_mean2"], rtol=1e-6)
    # the difference of two shares of 20,000 draws: five standard deviations
    np.testing.assert_allclose(every["proba_de"], alone["proba_de"], atol=5 * np.sqrt(2) * 0.5 / np.sqrt(20_000))


def test_cells_may_be_pointed_out_in_any_way():
    adata = fitted()
    mask = (adata.obs["type"] == "a").to_numpy()
    results = [
        get.differential_expression(compared(adata, None, cells1=cells))
        for cells in (mask, np.flatnonzero(mask), list(adata.obs_names[mask]), "type == 'a'", pd.Series(mask))
    ]
    for other in results[1:]:
        pd.testing.assert_frame_equal(other, results[0])
    assert set(results[0]["comparison"]) == {"cells1 vs rest"}
    both = get.differential_expression(compared(adata, None, cells1="age < 30", cells2="age >= 60"))
    assert set(both["comparison"]) == {"cells1 vs cells2"}


def test_within_tests_inside_each_group_of_another_column():
    adata = fitted()
    table = get.differential_expression(compared(adata, "condition", within="type", groups=["treated"]))
    assert list(table["group"].cat.categories) == ["treated (c)", "treated (b)", "treated (a)"]
    x = adata.X.toarray()
    for level in "abc":
        of_level = table[table["within"] == level].set_index("feature")
        cells = ((adata.obs["type"] == level) & (adata.obs["condition"] == "treated")).to_numpy()
        expected = x[cells].mean(0)[adata.var_names.get_indexer(of_level.index)]
        np.testing.assert_allclose(of_level["raw_mean1"], expected, rtol=1e-5)


def test_levels_without_enough_cells_are_left_out_and_named(capfd):
    adata = fitted()
    adata.obs.loc[(adata.obs["type"] == "a") & (adata.obs["condition"] == "treated"), "condition"] = "control"
    with svp.settings.override(verbosity=1):
        table = get.differential_expression(compared(adata, "condition", within="type", groups=["treated"]))
    assert set(table["within"]) == {"b", "c"}
    assert "Not compared, for want of cells: a." in capfd.readouterr().err


# ---- options


def test_the_seed_decides_and_the_global_state_is_left_alone():
    adata = fitted()
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, three = (get.differential_expression(compared(adata, rng=seed)) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert not one["lfc_mean"].equals(three["lfc_mean"])
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_blocks_of_genes_make_no_difference(monkeypatch):
    from scvi_pp._backend import comparisons

    adata = fitted()
    for options in ({}, {"delta": None}, {"pseudocount": 1e-4}):
        whole = get.differential_expression(compared(adata, **options))
        monkeypatch.setattr(comparisons, "MOST_ENTRIES", 7 * 600)
        parts = get.differential_expression(compared(adata, **options))
        monkeypatch.undo()
        numbers = whole.select_dtypes("number").columns
        order = ["group", "feature"]
        left, right = whole.sort_values(order), parts.sort_values(order)
        np.testing.assert_allclose(left[numbers], right[numbers], rtol=2e-3, atol=2e-3)


def test_vanilla_says_which_is_higher():
    table = get.differential_expression(compared(mode="vanilla"))
    np.testing.assert_allclose(table["proba_m1"] + table["proba_m2"], 1, rtol=1e-6)
    assert "is_de_fdr_0.05" not in table
    with pytest.raises(InputError, match="nothing is called"):
        get.differential_expression(compared(mode="vanilla"), only_called=True)


def test_delta_and_pseudocount_are_recorded():
    params = compared(delta=0.4, pseudocount=1e-5).uns["rank_genes_groups"]["params"]
    assert (params["delta"], params["pseudocount"], params["reference"], params["groupby"]) == (
        0.4,
        1e-5,
        "rest",
        "type",
    )
    from_data = compared(delta=None).uns["rank_genes_groups"]["params"]
    assert (np.asarray(from_data["delta"]) >= 0.1).all() and from_data["pseudocount"] > 0


def test_batches_are_brought_to_the_same(judge: Judge):
    adata = fitted()
    every = compared(adata, batch_correction=True)
    assert np.isfinite(get.differential_expression(every)["lfc_mean"]).all()
    one = get.differential_expression(
        compared(adata, batch_correction=True, batches=["b0"], n_samples=20_000), group="a"
    )
    in_b0 = get.denoised(adata, transform_batch="b0", n_samples=200, rng=seeds(1)[0])
    is_a = (adata.obs["type"] == "a").to_numpy()
    off = np.log(one.loc[adata.var_names, "scale1"] / in_b0[is_a].mean())
    judge("differential_expression: log ratio of scale1 to expression in a batch", off, above=-0.05, below=0.05)
    assert np.abs(off).max() < 0.3


def test_weights_and_outliers_give_other_draws_of_the_same(judge: Judge):
    """After one epoch the posterior is wide, and importance weights may leave a few draws of 2,000, each with other shares.

    So genes are not compared one by one, but by the mean over genes of the logs of their shares, whose scatter is some
    0.1: a wrong scale or the other group would be far off.
    """
    adata = fitted()
    plain = get.differential_expression(compared(adata, n_samples=2000, rng=seeds(1)[0]), group="a")
    for options in ({"weights": "importance"}, {"filter_outlier_cells": True}):
        other = compared(adata, n_samples=2000, rng=seeds(1)[0], **options)
        other = get.differential_expression(other, group="a").loc[plain.index]
        apart = np.log(other["scale1"] / plain["scale1"]).abs().mean()
        judge(f"differential_expression: shares with {next(iter(options))}, apart from plain ones", apart, below=0.5)
        np.testing.assert_allclose(other["raw_mean1"], plain["raw_mean1"])  # of all cells of the group


def test_weights_and_outliers_reach_the_draws(monkeypatch):
    """The tenth that lies farthest out is left out wherever cells do not lie on top of each other."""
    apart = np.random.default_rng(0).normal(size=(90, QUICK["n_latent"]))
    monkeypatch.setattr("scvi_pp._backend.query.Posterior.latent_mean", lambda *_: apart)
    adata = fitted()
    plain = get.differential_expression(compared(adata))
    for options in ({"weights": "importance"}, {"filter_outlier_cells": True}):
        other = get.differential_expression(compared(adata, **options))
        assert not np.array_equal(other["lfc_mean"], plain["lfc_mean"].loc[other.index])


@pytest.mark.parametrize("name", ["zinb", "nb", "poisson", "simplex", "latent library", "size factor", "covariates"])
def test_every_kind_of_scvi_is_asked(name: str):
    adata = fit(name).copy()
    tl.differential_expression(adata, "batch", key="scvi", **FEW)
    assert np.isfinite(get.differential_expression(adata)["lfc_mean"]).all()


# ---- what is refused


def _one_cell(adata):
    adata.obs["type"] = adata.obs["type"].cat.add_categories("rare")
    adata.obs.iloc[0, adata.obs.columns.get_loc("type")] = "rare"


def _missing(adata):
    adata.obs["type"] = adata.obs["type"].astype(object)
    adata.obs.iloc[:3, adata.obs.columns.get_loc("type")] = np.nan


def _one_group(adata):
    adata.obs["type"] = "a"


REFUSED = {
    "column": (None, {"groupby": "typo"}, "obs has no column 'typo'"),
    "nothing": (None, {"groupby": None}, "Name a column of obs"),
    "both": (None, {"cells1": [0, 1]}, "Give groupby, or cells1 and cells2, not both"),
    "group": (None, {"groups": ["aa"]}, r"groups names 'aa', which is no group of obs\['type'\]\. Did you mean"),
    "no groups": (None, {"groups": []}, "groups is empty"),
    "reference": (None, {"reference": "d"}, r"reference='d' is no group of obs\['type'\]"),
    "itself": (None, {"groups": ["a"], "reference": "a"}, "a group does not differ from itself"),
    "one cell": (_one_cell, {}, r"Group 'rare' of obs\['type'\] has 1 cells, too few to compare\. Leave it out"),
    "missing": (_missing, {}, r"obs\['type'\] is missing \(NaN\) in 3 of 90 cells"),
    "one group": (_one_group, {}, r"has one group, 'a'"),
    "within itself": (None, {"within": "type"}, "is the column of the groups themselves"),
    "mask": (None, {"groupby": None, "cells1": [True]}, "a mask of 1 cells, and there are 90"),
    "query": (None, {"groupby": None, "cells1": "agee > 3"}, "cannot be asked of obs"),
    "no query": (None, {"groupby": None, "cells1": "age + 1"}, "says nothing of each cell that is true or false"),
    "names": (None, {"groupby": None, "cells1": ["celll1"]}, "'celll1', which are no cells"),
    "overlap": (None, {"groupby": None, "cells1": [0, 1, 2], "cells2": [2, 3]}, "1 cells are in cells1 and in cells2"),
    "mode": (None, {"mode": "t-test"}, "mode='t-test' cannot be. Choose 'change' or 'vanilla'"),
    "delta": (None, {"delta": -1}, "delta=-1 must be a number of at least 0, or None"),
    "target": (None, {"fdr_target": 5}, "fdr_target=5 must be between 0 and 1"),
    "batches": (None, {"batches": ["b0"]}, "needs batch_correction=True"),
    "unknown batch": (
        None,
        {"batch_correction": True, "batches": ["b7"]},
        r"obs\['batch'\] has no level 'b7'\. Known: b0, b1",
    ),
    "interval": (None, {"credible_intervals": [90]}, "a level is between 0 and 1"),
    "samples": (None, {"n_samples": 0}, "n_samples=0 must be a whole number"),
    "key": (None, {"key": "scvii"}, "scvii"),
    "key_added": (None, {"key_added": "a/b"}, "cannot be a key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_changes(case: str):
    spoil, options, message = REFUSED[case]
    adata = fitted()
    if spoil is not None:
        spoil(adata)
    before = contents(adata)
    with pytest.raises((InputError, MissingKeyError), match=message):
        tl.differential_expression(adata, **{"groupby": "type", **FEW, **options})
    assert_same(contents(adata), before)


def test_results_that_are_not_there_are_named():
    adata = compared(key_added="mine")
    with pytest.raises(MissingKeyError, match=r"under 'rank_genes_groups'\. Results: 'mine'"):
        get.differential_expression(adata)
    with pytest.raises(InputError, match="group='d' was not tested"):
        get.differential_expression(adata, key="mine", group="d")
    with pytest.raises(MissingKeyError, match=r"Call tl\.differential_expression first"):
        get.differential_expression(fitted())
