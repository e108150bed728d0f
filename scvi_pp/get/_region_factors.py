"""What is peculiar to each region of chromatin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp import _docs
from scvi_pp._data.fitted import from_record, model_key
from scvi_pp._data.read import check_annotated
from scvi_pp._fitted_model import MULTIMODAL, check_region_factors, rebuilt

if TYPE_CHECKING:
    from anndata import AnnData


@_docs.documented(KEY=_docs.KEY)
def region_factors(adata: AnnData, *, key: str | None = None) -> pd.Series:
    """Return the factor of each region of chromatin: how well it can be seen, whatever the cell.

    Wide regions, and those that the transposase prefers, have large ones. Accessibility (`tl.denoise`, `get.denoised`)
    is without them, which makes it comparable between regions; `normalize_regions=True` brings them back in.

    Parameters
    ----------
    adata
        The object a model of chromatin was fitted to.
    {KEY}

    Returns
    -------
    By region. Of PeakVI a factor between 0 and 1, with which the chance that the region is open is multiplied; of
    PoissonVI what is added to its accessibility before shares are taken of it, on a log scale.

    Raises
    ------
    InputError
        The model has genes and no regions, or was fitted with `region_factors=False`.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.simulate_multiome(200, 20, n_regions=400)["atac"]
    >>> svp.tl.peakvi(adata, max_epochs=1, denoise=False)
    >>> bool(svp.get.region_factors(adata).between(0, 1).all())
    True
    """
    check_annotated(adata, verb="get.region_factors")
    key = model_key(adata.uns, key)
    stored = from_record(adata.uns, key)
    check_region_factors(stored, key, "get.region_factors")

    from scvi_pp._backend import query

    network, sources, _ = rebuilt(stored, key)
    counts = sources.accessibility if stored.model in MULTIMODAL else sources.counts
    network = network.about("accessibility") if stored.model in MULTIMODAL else network
    return pd.Series(query.region_factors(network), index=pd.Index(counts.var_names), name="region_factor")
