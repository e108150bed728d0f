"""The parameters of the likelihood of every count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp import _docs
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY,
    MOD=_docs.MOD,
    ADATA_NEW=_docs.ADATA_NEW,
    FEATURES=_docs.FEATURES,
    N_SAMPLES=_docs.N_SAMPLES,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def likelihood_parameters(
    adata: AnnData,
    *,
    key: str | None = None,
    mod: str | None = None,
    adata_new: AnnData | None = None,
    genes: Sequence[str] | str | None = None,
    regions: Sequence[str] | str | None = None,
    n_samples: int | None = None,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> dict[str, pd.DataFrame]:
    """Return the parameters of the distribution of every count.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {MOD}
    {ADATA_NEW}
    {FEATURES}
    {N_SAMPLES}
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    Tables, cells x genes or regions, by name. Of a model of counts `"mean"`, at the cell's own library size;
    `"dispersion"` (variance = mean + mean² / dispersion) for `nb` and `zinb`; `"dropout"` (the chance that a count is
    lost; the mean is before loss) for `zinb`; `"standard_deviation"` for `normal`. Of PeakVI `"probability"`: that a
    fragment is seen, with the factors of cell and region.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> sorted(svp.get.likelihood_parameters(adata))
    ['dispersion', 'dropout', 'mean']
    """
    draws, seed = checked_samples(n_samples), seed_from(rng, random_state)
    model = open_model(
        adata, key, verb="get.likelihood_parameters", adata_new=adata_new, seed=seed, batch_size=batch_size, mod=mod
    )
    columns = model.columns(genes, regions)
    names = model.named(columns)
    parameters = model.posterior.parameters(columns=columns, n_samples=draws)
    return {name: pd.DataFrame(values, index=model.obs_names, columns=names) for name, values in parameters.items()}
