"""Counts drawn from a fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp import _docs
from scvi_pp._fitted_model import columns_of_each, open_models
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY,
    MODS=_docs.MODS,
    ADATA_NEW=_docs.ADATA_NEW,
    FEATURES_OF_MODS=_docs.FEATURES_OF_MODS,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def samples(
    adata: AnnData,
    *,
    key: str | None = None,
    mod: str | Sequence[str] | None = None,
    adata_new: AnnData | None = None,
    genes: Sequence[str] | str | None = None,
    regions: Sequence[str] | str | None = None,
    proteins: Sequence[str] | str | None = None,
    transform_batch: object = None,
    n_samples: int = 1,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> csr_matrix | list[csr_matrix] | dict[str, csr_matrix | list[csr_matrix]]:
    """Return counts as the model would measure these cells again (posterior predictive draws).

    Compare them with the data to see what the model explains, or use them as replicates. A list of modalities,
    `mod=["rna", "protein"]`, draws them together: what the same cell would show of each.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {MODS}
    {ADATA_NEW}
    {FEATURES_OF_MODS}
    transform_batch
        Draw as if every cell had been measured in this batch; of a list, each cell takes one by chance, so that draws
        stay counts.
    n_samples
        Number of draws.
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    Sparse `(n_obs, n_features)`, or a list of them for more than one draw. Columns are as asked for, and by default as in
    `get.model_info(adata)["genes"]` or `["regions"]`. Of PeakVI, which models whether a region is open, zeros and ones.
    Of several modalities a dictionary: the same for each, by its name.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.get.samples(adata).shape
    (700, 50)
    """
    checked_count("n_samples", n_samples)
    seed = seed_from(rng, random_state)
    options = {"adata_new": adata_new, "seed": seed, "batch_size": batch_size}
    models = open_models(adata, key, verb="get.samples", mod=mod, **options)
    columns = columns_of_each(models, genes=genes, regions=regions, proteins=proteins)
    found = {}
    for name, model in models.items():
        draws = model.posterior.predictive(n_samples, columns=columns[name], batches=model.batches(transform_batch))
        found[name] = draws[0] if n_samples == 1 else draws
    return next(iter(found.values())) if mod is None or isinstance(mod, str) else found
