"""Tests between groups over several modalities, and over panels of antibodies that differ between batches."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mudata import MuData

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError
from tests.contract import QUICK, small_fragments
from tests.fits import fit

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
    pytest.mark.filterwarnings("ignore:The inplace keyword:FutureWarning"),
]

BOTH = ["rna", "protein"]
FEW = {"n_samples": 200}
N_CELLS, N_GENES, N_PROTEINS = 120, 20, 5
STATISTICS = ["score", "proba_de", "lfc_mean", "scale1", "scale2", "pseudocounts", "raw_mean1", "delta"]


@cache
def fitted(panels: bool = False) -> MuData:
    """Not to be written to; with panels, batch2 measured neither protein2 nor protein4, whatever their counts are."""
    mdata = svp.datasets.simulate_multiome(N_CELLS, N_GENES, n_regions=15, n_proteins=N_PROTEINS, rng=0)
    missing = {"batch2": ["protein2", "protein4"]} if panels else None
    with svp.settings.override(verbosity=0):
        options = {**QUICK, "max_epochs": 3, "batch_key": "batch", "missing_proteins": missing}
        tl.totalvi(mdata, **options)
    return mdata


def compared(mdata: MuData, **options: Any) -> pd.DataFrame:
    mine = copied(mdata)
    tl.differential_expression(mine, **{"groupby": "cell_type", "n_samples": 200, **options})
    return get.differential_expression(mine).set_index(["group", "feature"])


def test_one_table_has_what_each_modality_says_by_itself():
    both = compared(fitted(), mod=BOTH)
    for mod in BOTH:
        alone, here = compared(fitted(), mod=mod), both[both["modality"] == mod]
        for group, name in alone.index:
            np.testing.assert_array_equal(here.loc[(group, name), STATISTICS], alone.loc[(group, name), STATISTICS])
    assert len(both) == both.index.get_level_values("group").nunique() * (N_GENES + N_PROTEINS)


def test_one_false_discovery_rate_is_over_all_of_them():
    both = compared(fitted(), mod=BOTH)
    for _, group in both.groupby("group", observed=True):
        ranked = group["proba_de"].sort_values(ascending=False).to_numpy(dtype=float)
        expected = np.cumsum(1 - ranked) / np.arange(1, len(ranked) + 1)
        np.testing.assert_allclose(np.sort(group["expected_fdr"]), np.sort(expected), atol=1e-6)


def test_scanpy_reads_the_ranking_of_both():
    import scanpy as sc

    mdata = copied(fitted())
    tl.differential_expression(mdata, "cell_type", mod=BOTH, n_samples=100)
    mdata["rna"].uns["rank_genes_groups"] = mdata.uns["rank_genes_groups"]
    group = mdata.obs["cell_type"].cat.categories[0]
    names = sc.get.rank_genes_groups_df(mdata["rna"], group=group)["names"]
    assert set(names) == {*mdata["rna"].var_names, *mdata["protein"].var_names}
    params = mdata.uns["rank_genes_groups"]["params"]
    assert params["mod"] == "rna, protein"
    assert set(params["pseudocount"]) == set(params["delta"]) == set(BOTH)


@pytest.mark.parametrize("fit", ["h5mu", "zarr"])
def test_the_table_of_both_is_kept_in_a_file(fit: str, tmp_path: Any):
    import mudata

    mdata = copied(fitted())
    tl.differential_expression(mdata, "cell_type", mod=BOTH, n_samples=50)
    before, path = get.differential_expression(mdata), tmp_path / f"cells.{fit}"
    mdata.write(path) if fit == "h5mu" else mdata.write_zarr(path)
    again = mudata.read(path) if fit == "h5mu" else mudata.read_zarr(path)
    pd.testing.assert_frame_equal(get.differential_expression(again), before)


def test_a_batch_without_the_protein_is_no_evidence():
    """What batch2 says of the others does not matter for these two, and the others have all cells."""
    mdata = fitted(panels=True)
    of_both = compared(mdata, mod="protein")
    batch = mdata.obs["batch"].astype(str)
    first = {"cells1": (batch == "batch1") & (mdata.obs["cell_type"] == "type1")}
    rest = {"cells2": (batch == "batch1") & (mdata.obs["cell_type"] != "type1")}
    alone = compared(mdata, groupby=None, mod="protein", **first, **rest)
    for name in ("protein2", "protein4"):
        here, there = of_both.loc[("type1", name)], alone.loc[("cells1", name)]
        assert here["raw_mean1"] == pytest.approx(there["raw_mean1"])
        counts = mdata["protein"].to_df()[name].to_numpy()[first["cells1"].to_numpy()]
        assert here["raw_mean1"] == pytest.approx(counts.mean(), rel=1e-6)
    whole = mdata["protein"].to_df()["protein1"].to_numpy()[(mdata.obs["cell_type"] == "type1").to_numpy()]
    assert of_both.loc[("type1", "protein1"), "raw_mean1"] == pytest.approx(whole.mean(), rel=1e-6)
    assert np.isfinite(of_both[STATISTICS].astype(float)).all(axis=None)


def test_between_batches_of_which_one_lacks_it_there_is_no_answer(caplog: pytest.LogCaptureFixture):
    with svp.settings.override(verbosity=1):
        found = compared(fitted(panels=True), groupby="batch", mod=BOTH)
    lacking = found.index.get_level_values("feature").isin(["protein2", "protein4"])
    assert found.loc[lacking, STATISTICS].isna().all(axis=None)
    assert not found.loc[lacking, "is_de_fdr_0.05"].any()
    assert found.loc[~lacking, STATISTICS].notna().all(axis=None)
    for _, group in found.groupby("group", observed=True):
        assert group.index.get_level_values("feature")[-2:].isin(["protein2", "protein4"]).all()
    assert "protein2, protein4 (batch1, batch2)" in caplog.text


def test_a_check_looks_at_what_was_measured():
    mdata = copied(fitted(panels=True))
    tl.posterior_predictive_check(mdata, mod="protein", n_samples=3, groupby="cell_type")
    genes = mdata.uns["posterior_predictive_check"]["genes"]
    in_first = (mdata.obs["batch"] == "batch1").to_numpy()
    counts = mdata["protein"].to_df()
    assert genes.loc["protein2", "mean_measured"] == pytest.approx(counts.loc[in_first, "protein2"].mean(), rel=1e-6)
    assert genes.loc["protein1", "mean_measured"] == pytest.approx(counts["protein1"].mean(), rel=1e-6)
    cells = mdata.uns["posterior_predictive_check"]["cells"]["mean_measured"]
    measured = counts.where(in_first[:, None] | ~counts.columns.isin(["protein2", "protein4"])[None, :])
    np.testing.assert_allclose(cells, measured.mean(axis=1), rtol=1e-6)


def test_regions_are_not_mixed_with_genes():
    mdata = svp.datasets.simulate_multiome(N_CELLS, N_GENES, n_regions=15, rng=0)
    tl.multivi(mdata, **QUICK)
    for mod in (["rna", "atac"], ["atac", "rna"]):
        with pytest.raises(InputError, match="mod lists regions beside genes"):
            tl.differential_expression(mdata, "cell_type", mod=mod)


# ---- chromatin, and one modality of several


@pytest.mark.parametrize("verb", [tl.peakvi, tl.poissonvi], ids=lambda verb: verb.__name__)
def test_chromatin(verb):
    adata = small_fragments(60, 20)
    verb(adata, batch_key="batch", denoise=False, **QUICK)
    tl.differential_accessibility(adata, "group", **FEW)
    table = get.differential_accessibility(adata, group="True").loc[adata.var_names]
    is_open, first = adata.X.toarray() > 0, adata.obs["group"].to_numpy()
    np.testing.assert_allclose(table["emp_prob1"], is_open[first].mean(0), rtol=1e-5)
    np.testing.assert_allclose(table["emp_effect"], is_open[first].mean(0) - is_open[~first].mean(0), atol=1e-6)
    assert {"prob_da", "bayes_factor", "is_da_fdr_0.05"} <= set(table)
    if verb is tl.peakvi:
        assert table[["est_prob1", "est_prob2"]].stack().between(0, 1).all()
        np.testing.assert_allclose(table["effect_size"], table["est_prob1"] - table["est_prob2"], atol=1e-3)
    else:
        assert "lfc_mean" in table


def test_accessibility_is_asked_of_models_of_chromatin():
    with pytest.raises(InputError, match=r"models of chromatin: uns\['scvi'\] models genes\. Use tl.differential_expr"):
        tl.differential_accessibility(fit("zinb").copy(), "type")


@cache
def _multiome() -> MuData:
    mdata = svp.datasets.simulate_multiome(80, 20, n_regions=40, rna_only=0.2, atac_only=0.3)
    tl.multivi(mdata, batch_key="batch", denoise=False, **QUICK)
    return mdata


def test_each_modality_of_a_mudata():
    mdata = copied(_multiome())
    tl.differential_expression(mdata, "cell_type", groups=["type1"], **FEW)
    tl.differential_accessibility(mdata, "cell_type", groups=["type1"], key_added="da", **FEW)
    genes, regions = get.differential_expression(mdata), get.differential_accessibility(mdata, key="da")
    assert set(genes["feature"]) == set(mdata["rna"].var_names)
    assert set(regions["feature"]) == set(mdata["atac"].var_names)
    rna = mdata["rna"]
    cells = (rna.obs["cell_type"] == "type1").to_numpy()  # of those that were measured
    expected = rna.X.toarray()[cells].mean(0)[rna.var_names.get_indexer(genes["feature"])]
    np.testing.assert_allclose(genes["raw_mean1"], expected, rtol=1e-5)


def test_cells_in_which_the_modality_was_not_measured_are_no_evidence():
    mdata = copied(_multiome())
    tl.differential_expression(mdata, "cell_type", key_added="of_all", **FEW)
    measured = mdata[mdata.obs["modality"] != "accessibility"].copy()
    tl.differential_expression(measured, "cell_type", key_added="of_some", **FEW)
    one, other = get.differential_expression(mdata, key="of_all"), get.differential_expression(measured, key="of_some")
    columns = ["raw_mean1", "raw_mean2", "non_zeros_proportion1"]
    order = ["group", "feature"]
    np.testing.assert_allclose(one.sort_values(order)[columns], other.sort_values(order)[columns], rtol=1e-5)
    with pytest.raises(InputError, match=r"Of 'accessibility' 0 cells have genes that were measured"):
        tl.differential_expression(mdata, "modality", groups=["accessibility"], **FEW)
    tl.differential_expression(mdata, "modality", groups=["paired"], reference="rest", **FEW)  # of whom some were
    table = get.differential_expression(mdata, group="paired")
    assert np.isfinite(table[["lfc_mean", "raw_mean2"]]).all().all()
