"""Which cells have a surface protein."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scvi_pp import _docs
from scvi_pp._data.fitted import model_key
from scvi_pp._data.read import check_annotated
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import modality_of, open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY,
    ADATA_NEW=_docs.ADATA_NEW,
    TRANSFORM_BATCH=_docs.TRANSFORM_BATCH,
    N_SAMPLES=_docs.N_SAMPLES,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def foreground_probability(
    adata: AnnData | MuData,
    *,
    key: str | None = None,
    adata_new: AnnData | MuData | None = None,
    proteins: Sequence[str] | str | None = None,
    transform_batch: object = None,
    n_samples: int | None = None,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> pd.DataFrame:
    """Return the chance that a cell has each surface protein, rather than nothing but its background.

    Use it to say which cells are positive for a marker, whatever its background is. All cells are answered for, also
    those in which the protein was not measured.

    Parameters
    ----------
    adata
        The object a model of proteins was fitted to (`tl.totalvi`, or `tl.multivi` with proteins).
    {KEY}
    {ADATA_NEW}
    proteins
        Names of proteins to return, in this order. All that were modelled by default.
    {TRANSFORM_BATCH}
    {N_SAMPLES}
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    float32 table, cells x proteins, of values between 0 and 1.

    Raises
    ------
    InputError
        The model has no proteins, or not those that are named.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> mdata = svp.datasets.simulate_multiome(200, 30, n_regions=10, n_proteins=4)
    >>> svp.tl.totalvi(mdata, n_latent=2, n_hidden=8, max_epochs=1, denoise=False)
    >>> svp.get.foreground_probability(mdata, proteins=["protein1", "protein3"]).shape
    (200, 2)
    """
    draws, seed = checked_samples(n_samples), seed_from(rng, random_state)
    check_annotated(adata, verb="get.foreground_probability")
    mod = modality_of(adata.uns, key, "protein")
    if mod is None:
        name = model_key(adata.uns, key)
        raise InputError(f"get.foreground_probability is for models of proteins, and uns['{name}'] has none.")
    options = {"adata_new": adata_new, "mod": mod, "seed": seed, "batch_size": batch_size}
    model = open_model(adata, key, verb="get.foreground_probability", **options)
    columns = model.columns(None, None, proteins)
    names = model.named(columns)
    out = np.empty((len(model.obs_names), len(names)), dtype=np.float32)
    model.posterior.denoised(
        out,
        columns=columns,
        library_size=1.0,
        batches=model.batches(transform_batch),
        n_samples=draws,
        value="foreground_probability",
    )
    return pd.DataFrame(out, index=model.obs_names, columns=names)
