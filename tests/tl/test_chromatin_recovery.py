"""What is true of simulated chromatin is found again: types, depth of cells, factors of regions; not the batch.

Regions follow the types strongly (`region_effect_size=2.5`) and a cell has some 60 open ones of 400. Trained for longer than
by default and with a slow rise of the KL term, so that what is tested is the model and not how its training is tuned.
Measured over seeds 0 to 2:
- Index of k-means with the types: PeakVI 0.81 to 0.83, PoissonVI 0.41 to 0.70; 1.0 on the true positions.
- Batch guessed from 15 neighbours: 0.50 to 0.56, and 0.5 by chance.
- Correlation of the log factor of each cell with its true depth: 0.89 to 0.91. With a factor between 0 and 1 for each
  region, PeakVI can tell how well it is seen from how often it is open only where cells differ: 0.35 to 0.41; the bias
  of PoissonVI, which is what all cells have in common: 0.79 to 0.80.
- Change of log accessibility between types, in regions that change: 0.69 to 0.82.
"""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import scvi_pp as svp

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("seed", (0, 1, 2)),
    pytest.mark.parametrize("name", ("peakvi", "poissonvi")),
]


@cache
def study(name: str, seed: int) -> ad.AnnData:
    options = {"positive_rate": 0.15, "region_batch_effect": 0.5, "region_effect_size": 2.5, "differential": 0.5}
    adata = svp.datasets.simulate_multiome(800, 20, n_regions=400, rng=seed, **options)["atac"]
    how = {"learning_rate": 3e-3, "max_epochs": 60, "kl_warmup": 0.5, "early_stopping": False, "device": "cpu"}
    verb = svp.tl.peakvi if name == "peakvi" else svp.tl.poissonvi
    with svp.settings.override(verbosity=0):
        verb(adata, batch_key="batch", n_hidden=64, n_latent=8, weight_decay=1e-4, batch_size=128, **how)
    return adata


def test_cell_types_are_found_again(name: str, seed: int):
    adata = study(name, seed)
    types = adata.obs["cell_type"]
    clusters = KMeans(types.nunique(), n_init=10, random_state=0).fit_predict(adata.obsm[f"X_{name}"])
    assert adjusted_rand_score(types, clusters) > (0.7 if name == "peakvi" else 0.3)


def test_batches_are_mixed(name: str, seed: int):
    adata = study(name, seed)
    batch = adata.obs["batch"].cat.codes.to_numpy()
    neighbors = NearestNeighbors(n_neighbors=15).fit(adata.obsm[f"X_{name}"]).kneighbors(return_distance=False)
    assert ((batch[neighbors] == batch[:, None]).mean(1) > 0.5).mean() < 0.65


def test_depth_of_cells_is_found_again(name: str, seed: int):
    adata = study(name, seed)
    found = np.log(svp.get.library_size(adata))
    assert np.corrcoef(found, np.log(adata.obs["accessibility_depth"]))[0, 1] > 0.85


def test_factors_of_regions_are_found_again(name: str, seed: int):
    adata = study(name, seed)
    found = svp.get.region_factors(adata)
    assert np.corrcoef(found, np.log(adata.var["region_factor"]))[0, 1] > (0.2 if name == "peakvi" else 0.7)


def test_changes_between_types_are_found_again(name: str, seed: int):
    adata = study(name, seed)
    differential = adata.var["differential"].to_numpy()
    of_types = svp.get.denoised(adata).groupby(adata.obs["cell_type"].to_numpy()).mean().loc[:, differential]
    truth = adata.varm["true_accessibility"][of_types.index].T.loc[:, differential]
    found, truth = (np.log(table.to_numpy()) - np.log(table.to_numpy()).mean(0) for table in (of_types, truth))
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.6
