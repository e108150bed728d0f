"""How probable cells are under the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp import _docs
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_count

if TYPE_CHECKING:
    from anndata import AnnData

    from scvi_pp._seed import Seed


@_docs.documented(KEY=_docs.KEY, ADATA_NEW=_docs.ADATA_NEW, BATCH_SIZE=_docs.BATCH_SIZE, RANDOM=_docs.RANDOM)
def marginal_log_likelihood(
    adata: AnnData,
    *,
    key: str = "scvi",
    adata_new: AnnData | None = None,
    per_cell: bool = False,
    n_samples: int = 1000,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> float | pd.Series:
    """Return log p(x) per cell by importance sampling, in nats: higher is better.

    A tighter answer than `get.elbo`, at `n_samples` times the cost; it approaches log p(x) from below.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {ADATA_NEW}
    per_cell
        Return the value of each cell rather than the mean.
    n_samples
        Draws from the posterior, the proposal.
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    The mean over cells, or one value for each cell.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.get.marginal_log_likelihood(adata, n_samples=20) >= svp.get.elbo(adata, n_samples=20)
    True
    """
    checked_count("n_samples", n_samples)
    seed = seed_from(rng, random_state)
    model = open_model(
        adata, key, verb="get.marginal_log_likelihood", adata_new=adata_new, seed=seed, batch_size=batch_size
    )
    values = model.posterior.marginal_log_likelihood(n_samples)
    return (
        pd.Series(values, index=model.obs_names, name="marginal_log_likelihood") if per_cell else float(values.mean())
    )
