"""How much was measured of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp import _docs
from scvi_pp._fitted_model import open_model

if TYPE_CHECKING:
    from anndata import AnnData


@_docs.documented(KEY=_docs.KEY, MOD=_docs.MOD, ADATA_NEW=_docs.ADATA_NEW, BATCH_SIZE=_docs.BATCH_SIZE)
def library_size(
    adata: AnnData,
    *,
    key: str | None = None,
    mod: str | None = None,
    adata_new: AnnData | None = None,
    batch_size: int | None = None,
) -> pd.Series:
    """Return the library size of each cell as the model takes it, or the factor of the cell.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {MOD}
    {ADATA_NEW}
    {BATCH_SIZE}

    Returns
    -------
    By cell: the total count of the modelled genes or regions (1 for an empty cell); the size factor, if the fit was given
    one; or with `use_observed_lib_size=False` the mean of the inferred library size. Of PeakVI the factor of the cell,
    above 0 and at most 1: how deeply it was sequenced (1 in all cells after a fit with `cell_factors=False`). NaN in
    cells in which the modality was not measured.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.get.library_size(adata).name
    'library_size'
    """
    model = open_model(adata, key, verb="get.library_size", adata_new=adata_new, batch_size=batch_size, mod=mod)
    return pd.Series(model.posterior.library_size(), index=model.obs_names, name="library_size")
