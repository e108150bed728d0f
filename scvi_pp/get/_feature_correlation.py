"""Correlations between genes or regions that counting noise does not dilute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from scvi_pp import _docs
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import columns_of_each, names_in_one_table, open_models
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
    MODS=_docs.MODS,
    ADATA_NEW=_docs.ADATA_NEW,
    FEATURES_OF_MODS=_docs.FEATURES_OF_MODS,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def feature_correlation(
    adata: AnnData,
    *,
    key: str | None = None,
    mod: str | Sequence[str] | None = None,
    adata_new: AnnData | None = None,
    genes: Sequence[str] | str | None = None,
    regions: Sequence[str] | str | None = None,
    proteins: Sequence[str] | str | None = None,
    method: Literal["spearman", "pearson"] = "spearman",
    library_size: float | None = None,
    transform_batch: object = None,
    n_samples: int = 10,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> pd.DataFrame:
    """Return correlations of denoised draws, feature by feature, all cells at the same library size.

    Draws keep the biological spread that the model sees (its dispersion) and drop the noise of counting. For `poisson`,
    PoissonVI and PeakVI there is no such spread, and the draws differ by latent position alone. A list of modalities,
    `mod=["rna", "protein"]`, puts genes beside proteins: how what a cell transcribes goes with what is on its surface.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {MODS}
    {ADATA_NEW}
    {FEATURES_OF_MODS}
    method
        Rank or linear correlation.
    library_size
        The total to which the RNA of every cell is scaled, 1000 by default. Of PeakVI, whose values are probabilities,
        none can be given: correlated is accessibility itself. Proteins are taken as they would be counted.
    transform_batch
        Ask in this batch; for a list the correlations are averaged over its batches. By default each cell stays in its
        own.
    n_samples
        Draws per cell. Memory: `n_samples * n_obs` float32 for each gene or region; name some to keep it small.
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    Table, features x features; of several modalities those of the first come first, and if two of them share a name,
    all are called `modality:name`. One that does not vary has correlation NaN with the others.

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
    options = {"adata_new": adata_new, "seed": seed, "batch_size": batch_size}
    models = open_models(adata, key, verb="get.feature_correlation", mod=mod, **options)
    for model in models.values():
        if model.has_shares and library_size is not None:
            msg = f"library_size={size:g} has no meaning for {model.stored.model}: it has probabilities. Leave it out."
            raise InputError(msg)
    sizes = {
        name: USUAL_LIBRARY_SIZE if library_size is None and not model.has_shares else size
        for name, model in models.items()
    }
    columns = columns_of_each(models, genes=genes, regions=regions, proteins=proteins)
    names = names_in_one_table({name: model.named(columns[name]) for name, model in models.items()})
    batches = next(iter(models.values())).batches(transform_batch)
    total = np.zeros((len(names), len(names)))
    for batch in [None] if batches is None else batches:
        draws = [
            model.posterior.denoised_draws(n_samples, columns=columns[name], batch=batch, library_size=sizes[name])
            for name, model in models.items()
        ]
        total += _correlation(draws[0] if len(draws) == 1 else np.hstack(draws), ranks=method == "spearman")
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
