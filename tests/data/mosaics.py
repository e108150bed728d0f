"""Small MuData whose modalities hold some cells each."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData

from scvi_pp._data.modalities import multimodal

FULL, PART, OTHERS = range(6), range(3, 9), range(6, 10)


def modality(cells, kind: str, n_vars: int = 3, **obs) -> ad.AnnData:
    """A cell's counts are those of its number, so that rows can be told."""
    x = np.array([[10 * cell + column + (kind == "rna") for column in range(n_vars)] for cell in cells], np.float32)
    names = [f"cell{cell}" for cell in cells]
    return ad.AnnData(
        sp.csr_matrix(x.reshape(-1, n_vars)),
        obs=pd.DataFrame(obs, index=names),
        var=pd.DataFrame(index=[f"{kind}{column}" for column in range(n_vars)]),
    )


def mosaic(rna=FULL, atac=PART, **obs) -> MuData:
    cells = dict.fromkeys([*rna, *atac])
    table = pd.DataFrame(obs, index=[f"cell{cell}" for cell in cells])
    return multimodal({"rna": modality(rna, "rna"), "atac": modality(atac, "atac")}, table)
