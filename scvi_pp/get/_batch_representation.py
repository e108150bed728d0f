"""The learned vector of each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp import _docs
from scvi_pp._data.fitted import from_record, model_key
from scvi_pp._data.read import check_annotated
from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


@_docs.documented(KEY=_docs.KEY)
def batch_representation(adata: AnnData, *, key: str | None = None) -> pd.DataFrame:
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
    check_annotated(adata, verb="get.batch_representation")
    key = model_key(adata.uns, key)
    stored = from_record(adata.uns, key)
    if "batch_representation" not in stored.hyperparameters:
        msg = f"uns['{key}'] has no batch vectors: a {stored.model} knows batches by their number alone."
        raise InputError(msg)
    vectors = [stored.weights[name] for name in stored.weights if name.endswith("batch_embedding.weight")]
    if not vectors:
        msg = f"uns['{key}'] has no batch vectors: it was not fitted with batch_representation='embedding'."
        raise InputError(msg)
    levels = stored.sources["batch"].levels  # type: ignore[attr-defined]
    return pd.DataFrame(vectors[0], index=pd.Index(levels, name="batch"))
