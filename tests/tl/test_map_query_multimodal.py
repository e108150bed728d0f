"""tl.map_query onto a model of several modalities."""

from __future__ import annotations

from functools import cache
from typing import Any

import anndata as ad
import numpy as np
import pytest
from mudata import MuData

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError
from scvi_pp.tl._neighborhood import mapping_confidence
from tests.contract import QUICK

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]


@cache
def _multiome() -> tuple[Any, Any]:
    """Fitted cells, and others."""
    mdata = svp.datasets.simulate_multiome(140, 20, n_regions=40, rna_only=0.2, atac_only=0.2)
    is_new = np.arange(140) % 3 == 0
    reference = copied(mdata[~is_new])
    tl.multivi(reference, denoise=False, **QUICK)
    return reference, copied(mdata[is_new])


@pytest.mark.parametrize("lacking", ["", "atac", "rna"])
def test_a_query_of_several_modalities_may_lack_some(lacking: str):
    reference, other = _multiome()
    query = MuData({name: other[name].copy() for name in ("rna", "atac") if name != lacking})
    tl.map_query(query, reference, max_epochs=1)
    assert query.obsm["X_multivi"].shape == (query.n_obs, QUICK["n_latent"])
    assert query.obs["multivi_mapping_confidence"].notna().all()
    np.testing.assert_array_equal(get.latent(query, adata_new=reference), reference.obsm["X_multivi"])
    assert f"shared features of mdata['{lacking}'].X" not in query.uns["multivi"]["params"]
    if lacking:
        kind = "regions" if lacking == "atac" else "genes"
        name = next(iter(other[lacking].var_names))
        assert get.denoised(query, mod=lacking, **{kind: [name]}).shape == (query.n_obs, 1)
        with pytest.raises(InputError, match=f"has no modality '{lacking}'.*mod_added"):
            tl.denoise(query, mod=lacking)
        tl.denoise(query, mod=lacking, mod_added="imputed")
        assert query["imputed"].n_obs == query.n_obs


def test_cells_that_lack_a_modality_are_held_against_the_reference_without_it():
    """Where a cell is placed by its RNA alone says something about others that are placed by theirs."""
    reference, other = _multiome()
    query = MuData({"rna": other["rna"].copy()})
    tl.map_query(query, reference, max_epochs=0)
    alone = MuData({"rna": reference["rna"].copy()})
    expected = mapping_confidence(get.latent(query, adata_new=alone), query.obsm["X_multivi"])
    np.testing.assert_allclose(query.obs["multivi_mapping_confidence"], expected)


def test_a_query_that_holds_all_features_in_one_table():
    """Of an AnnData, as Cell Ranger writes it."""
    reference, other = _multiome()
    both = sorted(set(other["rna"].obs_names) & set(other["atac"].obs_names))
    parts = [other[name][both].copy() for name in ("rna", "atac")]
    for part, kind in zip(parts, ("Gene Expression", "Peaks"), strict=True):
        part.var["feature_types"] = kind
    query = ad.concat(parts, axis="var", merge="first")
    query.var["feature_types"] = [kind for part in parts for kind in part.var["feature_types"]]
    tl.map_query(query, reference, max_epochs=0)
    assert query.obsm["X_multivi"].shape == (len(both), QUICK["n_latent"])
