"""How probable cells are under the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp import _docs
from scvi_pp._seed import seed_from
from scvi_pp.get._explained import PER_CELL, explained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY, ADATA_NEW=_docs.ADATA_NEW, PER_CELL=PER_CELL, BATCH_SIZE=_docs.BATCH_SIZE, RANDOM=_docs.RANDOM
)
def marginal_log_likelihood(
    adata: AnnData,
    *,
    key: str | None = None,
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
    {PER_CELL}
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
    return explained(
        adata,
        "marginal",
        verb="get.marginal_log_likelihood",
        key=key,
        adata_new=adata_new,
        per_cell=per_cell,
        n_samples=n_samples,
        batch_size=batch_size,
        seed=seed_from(rng, random_state),
    )
