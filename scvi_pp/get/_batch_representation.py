"""The learned vector of each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp import _docs
from scvi_pp._data.fitted import from_record
from scvi_pp._data.read import check_anndata
from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


@_docs.documented(KEY=_docs.KEY)
def batch_representation(adata: AnnData, *, key: str = "scvi") -> pd.DataFrame:
    """Return the learned vector of each batch, after a fit with `batch_representation="embedding"`.

    Near vectors are batches with like effects.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}

    Returns
    -------
    Table, batches x `n_batch_embedding`.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, batch_key="phase", batch_representation="embedding", max_epochs=1, denoise=False)
    >>> svp.get.batch_representation(adata).shape
    (3, 5)
    """
    check_anndata(adata, verb="get.batch_representation")
    stored = from_record(adata.uns, key)
    vectors = stored.weights.get("batch_embedding.weight")
    if vectors is None:
        msg = f"uns['{key}'] has no batch vectors: it was not fitted with batch_representation='embedding'."
        raise InputError(msg)
    levels = stored.sources["batch"].levels  # type: ignore[attr-defined]
    return pd.DataFrame(vectors, index=pd.Index(levels, name="batch"))
