"""Denoised expression, returned rather than written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scvi_pp import _docs
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_library_size, checked_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY,
    ADATA_NEW=_docs.ADATA_NEW,
    GENES=_docs.GENES,
    TRANSFORM_BATCH=_docs.TRANSFORM_BATCH,
    N_SAMPLES=_docs.N_SAMPLES,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def denoised(
    adata: AnnData,
    *,
    key: str = "scvi",
    adata_new: AnnData | None = None,
    genes: Sequence[str] | str | None = None,
    library_size: float | Literal["latent"] = 1.0,
    transform_batch: object = None,
    n_samples: int | None = None,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> pd.DataFrame:
    """Return denoised expression as a table; `tl.denoise` writes the same numbers into a layer.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {ADATA_NEW}
    {GENES}
    library_size
        The total that each cell's expression is scaled to, or `"latent"` for the cell's own; see `tl.denoise`.
    {TRANSFORM_BATCH}
    {N_SAMPLES}
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    float32 table, cells x genes.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.get.denoised(adata, genes=["CD2", "CD52"], library_size=1e4).shape
    (700, 2)
    """
    size, draws = checked_library_size(library_size), checked_samples(n_samples)
    seed = seed_from(rng, random_state)
    model = open_model(adata, key, verb="get.denoised", adata_new=adata_new, seed=seed, batch_size=batch_size)
    columns = model.columns(genes)
    names = model.named(columns)
    out = np.empty((len(model.obs_names), len(names)), dtype=np.float32)
    model.posterior.denoised(
        out, columns=columns, library_size=size, batches=model.batches(transform_batch), n_samples=draws
    )
    return pd.DataFrame(out, index=model.obs_names, columns=names)
