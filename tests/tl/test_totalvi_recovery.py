"""tl.totalvi finds which cells have which protein, also in a batch that has RNA alone.

Simulated: 900 cells of two batches, judged in the mean over studies (tests/studies.py). Chance decides in the simulation
which cells of one position have a protein, so that the area under the curve of foreground probability against the truth
differs from study to study: 0.92 to 0.96.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from sklearn.metrics import roc_auc_score

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.modalities import multimodal
from tests.studies import Judge, seeds

SEEDS = seeds(2)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]


@cache
def study(seed: int) -> tuple[MuData, MuData]:
    """A fit where the second batch has RNA alone, and the same cells whole."""
    strong = {"effect_size": 1.2, "differential": 0.6, "type_separation": 3.0, "library_size": 1000.0}
    whole = svp.datasets.simulate_multiome(900, 120, n_regions=10, n_proteins=12, **strong, rng=seed)
    kept = (whole["protein"].obs["batch"] == "batch1").to_numpy()
    parts = {"rna": whole["rna"].copy(), "protein": whole["protein"][kept].copy()}
    mdata = multimodal(parts, whole.obs)
    with svp.settings.override(verbosity=0):
        tl.totalvi(
            mdata, batch_key="batch", denoise=False, device="cpu", n_hidden=64, n_latent=8, max_epochs=40, rng=seed
        )
    return mdata, whole


def areas(found: pd.DataFrame, truth: np.ndarray) -> np.ndarray:
    """Under the curve, of each protein that some of the cells have and others lack."""
    columns = [i for i in range(truth.shape[1]) if 0.02 < truth[:, i].mean() < 0.98]
    return np.array([roc_auc_score(truth[:, i], found.iloc[:, i]) for i in columns])


def test_which_cells_have_a_protein_is_found_also_where_it_was_not_measured(judge: Judge):
    found: dict[str, list[float]] = {"measured": [], "imputed": []}
    for seed in SEEDS:
        mdata, whole = study(seed)
        truth = whole["protein"].layers["true_foreground"]
        chance = get.foreground_probability(mdata).loc[whole["protein"].obs_names]
        measured = (whole["protein"].obs["batch"] == "batch1").to_numpy()
        found["measured"].append(np.median(areas(chance[measured], truth[measured])))
        found["imputed"].append(np.median(areas(chance[~measured], truth[~measured])))
    judge("totalvi: area under the curve of foreground, measured", found["measured"], above=0.8)
    judge("totalvi: area under the curve of foreground, imputed", found["imputed"], above=0.8)


def test_counts_that_were_not_measured_are_foretold(judge: Judge):
    of_cells, of_means = [], []
    for seed in SEEDS:
        mdata, whole = study(seed)
        hidden = (whole["protein"].obs["batch"] == "batch2").to_numpy()
        found = get.denoised(mdata, mod="protein", include_background=True).loc[whole["protein"].obs_names]
        found, counts = found.to_numpy()[hidden], whole["protein"].X.toarray()[hidden]
        correlations = [np.corrcoef(np.log1p(found[:, i]), np.log1p(counts[:, i]))[0, 1] for i in range(found.shape[1])]
        of_cells.append(np.median(correlations))
        of_means.append(np.corrcoef(np.log(found.mean(0)), np.log(counts.mean(0)))[0, 1])
    judge("totalvi: correlation of imputed proteins over cells", of_cells, above=0.4)
    judge("totalvi: correlation of mean imputed proteins", of_means, above=0.6)
