"""What is true of simulated chromatin is found again: types, depth of cells, factors of regions; not the batch.

Regions follow the types strongly (`region_effect_size=2.5`) and a cell has some 60 open ones of 400. Trained for longer than
by default and with a slow rise of the KL term, so that what is tested is the model and not how its training is tuned.
Judged in the mean over studies (tests/studies.py):
- Index of k-means with the types: 1.0 on the true positions; PoissonVI, which sees how many fragments there are of what
  is open, finds them less often and scatters more.
- Batch guessed from 15 neighbours: 0.5 by chance.
- Correlation of the log factor of each cell with its true depth. With a factor between 0 and 1 for each region, PeakVI can
  tell how well it is seen from how often it is open only where cells differ; the bias of PoissonVI is what all cells have
  in common.
- Change of log accessibility between types, in regions that change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import anndata as ad
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import scvi_pp as svp
from tests.studies import Judge, seeds

SEEDS = seeds(2)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("name", ("peakvi", "poissonvi")),
]


@cache
def study(name: str, seed: int) -> ad.AnnData:
    options = {"positive_rate": 0.15, "region_batch_effect": 0.5, "region_effect_size": 2.5, "differential": 0.5}
    adata = svp.datasets.simulate_multiome(800, 20, n_regions=400, rng=seed, **options)["atac"]
    how = {"learning_rate": 3e-3, "max_epochs": 60, "kl_warmup": 0.5, "early_stopping": False, "device": "cpu"}
    verb = svp.tl.peakvi if name == "peakvi" else svp.tl.poissonvi
    with svp.settings.override(verbosity=0):
        verb(adata, batch_key="batch", n_hidden=64, n_latent=8, weight_decay=1e-4, batch_size=128, rng=seed, **how)
    return adata


def of_all(figure: Callable[[str, ad.AnnData], float], name: str) -> list[float]:
    """The figure of each study."""
    return [figure(name, study(name, seed)) for seed in SEEDS]


def index_of_types(name: str, adata: ad.AnnData) -> float:
    types = adata.obs["cell_type"]
    clusters = KMeans(types.nunique(), n_init=10, random_state=0).fit_predict(adata.obsm[f"X_{name}"])
    return adjusted_rand_score(types, clusters)


def batch_guessed(name: str, adata: ad.AnnData) -> float:
    batch = adata.obs["batch"].cat.codes.to_numpy()
    neighbors = NearestNeighbors(n_neighbors=15).fit(adata.obsm[f"X_{name}"]).kneighbors(return_distance=False)
    return ((batch[neighbors] == batch[:, None]).mean(1) > 0.5).mean()


def correlation_of_depths(name: str, adata: ad.AnnData) -> float:
    return np.corrcoef(np.log(svp.get.library_size(adata)), np.log(adata.obs["accessibility_depth"]))[0, 1]


def correlation_of_region_factors(name: str, adata: ad.AnnData) -> float:
    return np.corrcoef(svp.get.region_factors(adata), np.log(adata.var["region_factor"]))[0, 1]


def correlation_of_changes(name: str, adata: ad.AnnData) -> float:
    differential = adata.var["differential"].to_numpy()
    of_types = svp.get.denoised(adata).groupby(adata.obs["cell_type"].to_numpy()).mean().loc[:, differential]
    truth = adata.varm["true_accessibility"][of_types.index].T.loc[:, differential]
    found, truth = (np.log(table.to_numpy()) - np.log(table.to_numpy()).mean(0) for table in (of_types, truth))
    return np.corrcoef(found.ravel(), truth.ravel())[0, 1]


def test_cell_types_are_found_again(name: str, judge: Judge):
    judge(f"tl.{name}: index of cell types", of_all(index_of_types, name), above=0.6 if name == "peakvi" else 0.2)


def test_batches_are_mixed(name: str, judge: Judge):
    judge(f"tl.{name}: batch guessed", of_all(batch_guessed, name), below=0.65)


def test_depth_of_cells_is_found_again(name: str, judge: Judge):
    judge(f"tl.{name}: correlation of factors of cells with depth", of_all(correlation_of_depths, name), above=0.85)


def test_factors_of_regions_are_found_again(name: str, judge: Judge):
    bound = 0.2 if name == "peakvi" else 0.6
    judge(f"tl.{name}: correlation of region factors", of_all(correlation_of_region_factors, name), above=bound)


def test_changes_between_types_are_found_again(name: str, judge: Judge):
    judge(f"tl.{name}: correlation of changes between types", of_all(correlation_of_changes, name), above=0.6)
