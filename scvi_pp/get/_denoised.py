"""Denoised expression, returned rather than written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scvi_pp import _docs
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_flag, checked_library_size, checked_samples, checked_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY,
    MOD=_docs.MOD,
    ADATA_NEW=_docs.ADATA_NEW,
    FEATURES=_docs.FEATURES,
    NORMALIZE=_docs.NORMALIZE,
    BACKGROUND=_docs.BACKGROUND,
    TRANSFORM_BATCH=_docs.TRANSFORM_BATCH,
    N_SAMPLES=_docs.N_SAMPLES,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def denoised(
    adata: AnnData,
    *,
    key: str | None = None,
    mod: str | None = None,
    adata_new: AnnData | None = None,
    genes: Sequence[str] | str | None = None,
    regions: Sequence[str] | str | None = None,
    library_size: float | Literal["latent"] = 1.0,
    normalize_cells: bool = False,
    normalize_regions: bool = False,
    include_background: bool = False,
    transform_batch: object = None,
    n_samples: int | None = None,
    threshold: float | None = None,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> pd.DataFrame | csr_matrix:
    """Return denoised expression, or accessibility, as a table; `tl.denoise` writes the same numbers into a layer.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {MOD}
    {ADATA_NEW}
    {FEATURES}
    library_size
        The total that each cell's expression is scaled to, or `"latent"` for the cell's own; see `tl.denoise`.
    {NORMALIZE}
    {BACKGROUND}
    {TRANSFORM_BATCH}
    {N_SAMPLES}
    threshold
        Values below become zero, and the result is a sparse matrix instead of a table.
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    float32 table, cells x genes or regions. With `threshold` a sparse matrix of the same, `(n_obs, n_features)`, columns
    as asked for or as in `get.model_info(adata)`.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.get.denoised(adata, genes=["CD2", "CD52"], library_size=1e4).shape
    (700, 2)
    """
    size, draws, least = checked_library_size(library_size), checked_samples(n_samples), checked_threshold(threshold)
    by_cell = checked_flag("normalize_cells", normalize_cells)
    by_region = checked_flag("normalize_regions", normalize_regions)
    with_background = checked_flag("include_background", include_background)
    seed = seed_from(rng, random_state)
    model = open_model(adata, key, verb="get.denoised", adata_new=adata_new, seed=seed, batch_size=batch_size, mod=mod)
    columns = model.columns(genes, regions)
    names = model.named(columns)
    options = model.denoising(
        library_size=size,
        normalize_cells=by_cell,
        normalize_regions=by_region,
        include_background=with_background,
        transform_batch=transform_batch,
        n_samples=draws,
    )
    if least is not None:
        return model.posterior.denoised_above(least, n_columns=len(names), columns=columns, **options)
    out = np.empty((len(model.obs_names), len(names)), dtype=np.float32)
    model.posterior.denoised(out, columns=columns, **options)
    return pd.DataFrame(out, index=model.obs_names, columns=names)
