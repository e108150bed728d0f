"""What is called differs, and what does not is not called: simulated truth, and labels that mean nothing.

Judged over two studies (tests/studies.py), in which some 1,500 genes are called. From one pair of studies to the next the
share of false ones scatters by 0.016 to 0.053, that of different genes that are called by 0.06; bounds are four of these
from what was found in the mean.
"""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pytest

import scvi_pp as svp
from tests.studies import Judge, seeds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet")]

SEEDS = seeds(2)
LEAST = {0.05: 0.05, 0.1: 0.2, 0.2: 0.45}  # share of different genes that is to be found at each target
ALLOWANCE = {0.05: 0.06, 0.1: 0.08, 0.2: 0.13}  # for chance


@cache
def fitted(seed: int) -> ad.AnnData:
    adata = svp.datasets.simulate_rna(2000, 1000, n_types=4, library_size=1500, true_rate=True, rng=seed)
    svp.tl.scvi(adata, batch_key="batch", denoise=False, rng=seed)
    return adata


def truth(adata: ad.AnnData, group: str) -> np.ndarray:
    """log2 fold change of the mean shares."""
    share = adata.layers["true_rate"] / adata.layers["true_rate"].sum(1, keepdims=True)
    inside = (adata.obs["cell_type"] == group).to_numpy()
    return np.log2(share[inside].mean(0) / share[~inside].mean(0))


@cache
def called_and_true() -> dict[float, tuple[int, int, int]]:
    """At each target: genes called, false ones among them, and different ones in all; over seeds and types."""
    counts = dict.fromkeys(LEAST, (0, 0, 0))
    for seed in SEEDS:
        adata = fitted(seed)
        svp.tl.differential_expression(adata, "cell_type", rng=seed)
        for group in adata.obs["cell_type"].cat.categories:
            table = svp.get.differential_expression(adata, group=group).loc[adata.var_names]
            differs = abs(truth(adata, group)) >= 0.25
            for target in LEAST:
                called = (table["expected_fdr"] <= target).to_numpy()
                found = (called.sum(), (called & ~differs).sum(), differs.sum())
                counts[target] = tuple(a + int(b) for a, b in zip(counts[target], found, strict=True))
    return counts


@pytest.mark.parametrize("target", LEAST)
def test_no_more_genes_are_false_than_the_target_allows(target: float, judge: Judge):
    n_called, n_false, n_different = called_and_true()[target]
    bound = target + ALLOWANCE[target]
    judge(f"differential_expression: share of false genes at {target}", n_false / n_called, below=bound)
    judge(f"differential_expression: power at {target}", (n_called - n_false) / n_different, above=LEAST[target])


def test_fold_changes_are_the_true_ones(judge: Judge):
    worst = []
    for seed in SEEDS:
        adata = fitted(seed)
        svp.tl.differential_expression(adata, "cell_type", rng=seed)
        correlations = []
        for group in adata.obs["cell_type"].cat.categories:
            table = svp.get.differential_expression(adata, group=group).loc[adata.var_names]
            modelled = np.log2(table["scale1"] / table["scale2"])
            correlations.append(np.corrcoef(modelled, truth(adata, group))[0, 1])
        worst.append(min(correlations))
    judge("differential_expression: correlation of fold changes, worst type", worst, above=0.75)


def test_labels_by_chance_call_nothing(judge: Judge):
    called = []
    for seed in SEEDS:
        adata = fitted(seed)
        adata = adata[adata.obs["cell_type"] == "type1"].copy()
        adata.obs["coin"] = np.random.default_rng(seed).choice(["heads", "tails"], adata.n_obs)
        svp.tl.differential_expression(adata, "coin", fdr_target=0.2, rng=seed)
        called.append(svp.get.differential_expression(adata)["is_de_fdr_0.2"].sum())
    judge("differential_expression: genes called by a coin", called, below=1)


def test_batches_are_not_called_where_they_are_corrected_for(judge: Judge):
    called = {True: [], False: []}
    for seed in SEEDS:
        adata = fitted(seed)
        for correction, found in called.items():
            svp.tl.differential_expression(adata, "batch", batch_correction=correction, fdr_target=0.2, rng=seed)
            found.append(svp.get.differential_expression(adata)["is_de_fdr_0.2"].sum())
    judge("differential_expression: genes called between corrected batches", called[True], below=1)
    judge("differential_expression: genes called between batches", called[False], above=10)


def test_importance_weights_give_the_same_picture(judge: Judge):
    correlations = []
    for seed in SEEDS[:1]:
        adata = fitted(seed)
        tables = []
        for weights in ("uniform", "importance"):
            options = {"groups": ["type1"], "weights": weights, "n_samples": 1000, "rng": seed}
            svp.tl.differential_expression(adata, "cell_type", **options)
            tables.append(svp.get.differential_expression(adata, group="type1").loc[adata.var_names])
        correlations.append(np.corrcoef(tables[0]["lfc_mean"], tables[1]["lfc_mean"])[0, 1])
    judge("differential_expression: correlation of fold changes with importance weights", correlations, above=0.9)
