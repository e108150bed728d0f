"""Correlations between genes that counting noise does not dilute."""

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


@_docs.documented(
    KEY=_docs.KEY, ADATA_NEW=_docs.ADATA_NEW, GENES=_docs.GENES, BATCH_SIZE=_docs.BATCH_SIZE, RANDOM=_docs.RANDOM
)
def feature_correlation(
    adata: AnnData,
    *,
    key: str = "scvi",
    adata_new: AnnData | None = None,
    genes: Sequence[str] | str | None = None,
    method: Literal["spearman", "pearson"] = "spearman",
    library_size: float = 1000.0,
    transform_batch: object = None,
    n_samples: int = 10,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> pd.DataFrame:
    """Return gene-gene correlations of denoised draws, all cells at the same library size.

    Draws keep the biological spread that the model sees (its dispersion) and drop the noise of counting. For `poisson`
    there is no such spread, and the draws differ by latent position alone.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {ADATA_NEW}
    {GENES}
    method
        Rank or linear correlation.
    library_size
        The total to which every cell is scaled.
    transform_batch
        Ask in this batch; for a list the correlations are averaged over its batches. By default each cell stays in its
        own.
    n_samples
        Draws per cell. Memory: `n_samples * n_obs * n_genes` float32; choose `genes` to keep it small.
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    Table, genes x genes. A gene that does not vary has correlation NaN with the others.

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
    size = checked_library_size(library_size)
    if size is None:
        raise InputError("library_size='latent' makes no sense here: correlations are taken at one library size.")
    seed = seed_from(rng, random_state)
    model = open_model(
        adata, key, verb="get.feature_correlation", adata_new=adata_new, seed=seed, batch_size=batch_size
    )
    columns = model.columns(genes)
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
