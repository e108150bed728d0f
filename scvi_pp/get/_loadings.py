"""How much each latent dimension of a linear model weighs on each gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp import _docs
from scvi_pp._data.fitted import from_record, model_key
from scvi_pp._data.read import check_annotated
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import features_of, rebuilt

if TYPE_CHECKING:
    from anndata import AnnData


@_docs.documented(KEY=_docs.KEY)
def loadings(adata: AnnData, *, key: str | None = None) -> pd.DataFrame:
    """Return the loadings of a linear model: genes that make up each latent dimension.

    A loading is by how much the natural log of the share of a gene rises with a step of one along the dimension, beside
    the mean of all genes: of two genes the difference of loadings is how much the log of their ratio changes. The
    prior has cells about one such step from the middle.

    Parameters
    ----------
    adata
        The object a model was fitted to with `tl.linear_scvi`.
    {KEY}

    Returns
    -------
    Table, genes x dimensions, with columns `Z_0`, `Z_1`, ...

    Raises
    ------
    InputError
        The model is not linear.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.linear_scvi(adata, max_epochs=1, n_latent=3, denoise=False)
    >>> svp.get.loadings(adata).columns.to_list()
    ['Z_0', 'Z_1', 'Z_2']
    """
    from scvi_pp._backend.answering import Loaded

    check_annotated(adata, verb="get.loadings")
    key = model_key(adata.uns, key, model="linear_scvi")
    stored = from_record(adata.uns, key)
    network, _, _ = rebuilt(stored, key)
    if not isinstance(network, Loaded):
        msg = f"uns['{key}'] is a {stored.model}, whose decoder is not linear: it has no loadings. Fit tl.linear_scvi."
        raise InputError(msg)
    values = network.loadings().detach().numpy()
    columns = [f"Z_{number}" for number in range(values.shape[1])]
    return pd.DataFrame(values, index=pd.Index(next(iter(features_of(stored).values()))), columns=columns)
