"""Correlations between genes or regions that counting noise does not dilute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from scvi_pp import _docs
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_count, checked_library_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scvi_pp._seed import Seed

GENES_RANKED_AT_ONCE = 64
USUAL_LIBRARY_SIZE = 1000.0


@_docs.documented(
    KEY=_docs.KEY,
    MOD=_docs.MOD,
    ADATA_NEW=_docs.ADATA_NEW,
    FEATURES=_docs.FEATURES,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def feature_correlation(
    adata: AnnData,
    *,
    key: str | None = None,
    mod: str | None = None,
    adata_new: AnnData | None = None,
    genes: Sequence[str] | str | None = None,
    regions: Sequence[str] | str | None = None,
    method: Literal["spearman", "pearson"] = "spearman",
    library_size: float | None = None,
    transform_batch: object = None,
    n_samples: int = 10,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> pd.DataFrame:
    """Return correlations of denoised draws, gene by gene or region by region, all cells at the same library size.

    Draws keep the biological spread that the model sees (its dispersion) and drop the noise of counting. For `poisson`,
    PoissonVI and PeakVI there is no such spread, and the draws differ by latent position alone.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {MOD}
    {ADATA_NEW}
    {FEATURES}
    method
        Rank or linear correlation.
    library_size
        The total to which every cell is scaled, 1000 by default. Of PeakVI, whose values are probabilities, none can be
        given: correlated is accessibility itself.
    transform_batch
        Ask in this batch; for a list the correlations are averaged over its batches. By default each cell stays in its
        own.
    n_samples
        Draws per cell. Memory: `n_samples * n_obs` float32 for each gene or region; name some to keep it small.
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    Table, genes x genes or regions x regions. One that does not vary has correlation NaN with the others.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.get.feature_correlation(adata, genes=["CD2", "CD52"], n_samples=2).shape
    (2, 2)
    """
    if method not in ("spearman", "pearson"):
        raise InputError(f"method={method!r} is unknown. Choose 'spearman' or 'pearson'.")
    checked_count("n_samples", n_samples)
    size = checked_library_size(1.0 if library_size is None else library_size)
    if size is None:
        raise InputError("library_size='latent' makes no sense here: correlations are taken at one library size.")
    seed = seed_from(rng, random_state)
    model = open_model(
        adata, key, verb="get.feature_correlation", adata_new=adata_new, seed=seed, batch_size=batch_size, mod=mod
    )
    if model.has_shares and library_size is not None:
        raise InputError(
            f"library_size={size:g} has no meaning for {model.stored.model}: it has probabilities. Leave it out."
        )
    if library_size is None and not model.has_shares:
        size = USUAL_LIBRARY_SIZE
    columns = model.columns(genes, regions)
    names = model.named(columns)
    batches = model.batches(transform_batch)
    total = np.zeros((len(names), len(names)))
    for batch in [None] if batches is None else batches:
        draws = model.posterior.denoised_draws(n_samples, columns=columns, batch=batch, library_size=size)
        total += _correlation(draws, ranks=method == "spearman")
    return pd.DataFrame(total / (1 if batches is None else len(batches)), index=names, columns=names)


def _correlation(values: np.ndarray, *, ranks: bool) -> np.ndarray:
    """Correlate columns, overwriting `values`."""
    if ranks:
        for start in range(0, values.shape[1], GENES_RANKED_AT_ONCE):
            some = slice(start, start + GENES_RANKED_AT_ONCE)
            values[:, some] = rankdata(values[:, some], axis=0)
    values -= values.mean(0, dtype=np.float64).astype(np.float32)
    norms = np.sqrt(np.einsum("ij,ij->j", values, values, dtype=np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (values.T @ values) / np.outer(norms, norms)
    return np.clip(correlation, -1, 1)
