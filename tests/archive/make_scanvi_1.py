"""Made scanvi_1.h5ad, with scvi_pp 0.1.0. Never to be run again: it stands for what users have.

A fit of a few cells of which a third has no label, that began with a fitted scVI.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import scvi_pp as svp
from tests.archive.make_query_1 import QUICK, answered, cells

if __name__ == "__main__":
    here = Path(__file__).parent
    adata = cells(0, ("a", "b"))
    adata.obs["known"] = adata.obs["type"].where(np.arange(adata.n_obs) % 3 > 0, "?")
    svp.tl.scvi(adata, **QUICK)
    short = {"max_epochs": 3, "device": "cpu", "denoise": False}
    svp.tl.scanvi(adata, "known", unlabeled_category="?", from_key="scvi", **short)
    del adata.uns["scvi"]
    answered(adata).write_h5ad(here / "scanvi_1.h5ad")
