"""How training went."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp import _docs
from scvi_pp._data.fitted import history_from_record, model_key
from scvi_pp._data.read import check_annotated

if TYPE_CHECKING:
    from anndata import AnnData

# files return the curves by name; a table is read in this order
FIRST = (
    "elbo_train",
    "elbo_validation",
    "reconstruction_train",
    "reconstruction_validation",
    "learning_rate",
    "kl_weight",
)


@_docs.documented(KEY=_docs.KEY)
def history(adata: AnnData, *, key: str | None = None) -> pd.DataFrame:
    """Return the curves of training by epoch; `pl.history` draws them.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}

    Returns
    -------
    Table with a row per epoch, counted from 1: `elbo_train` and `elbo_validation` (per cell, higher is better; on
    training cells with dropout on), `reconstruction_train` and `reconstruction_validation` (log p(x | z) per cell),
    `learning_rate` and `kl_weight` at the end of the epoch.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> len(svp.get.history(adata))
    1
    """
    check_annotated(adata, verb="get.history")
    curves = history_from_record(adata.uns, model_key(adata.uns, key))
    n_epochs = max(map(len, curves.values()), default=0)
    names = [name for name in FIRST if name in curves] + sorted(set(curves) - set(FIRST))
    return pd.DataFrame({name: curves[name] for name in names}, index=pd.RangeIndex(1, n_epochs + 1, name="epoch"))
