"""How well the model explains cells: the bound it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp import _docs
from scvi_pp._seed import seed_from
from scvi_pp.get._explained import N_DRAWS, PER_CELL, explained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY,
    ADATA_NEW=_docs.ADATA_NEW,
    PER_CELL=PER_CELL,
    N_DRAWS=N_DRAWS,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def elbo(
    adata: AnnData,
    *,
    key: str | None = None,
    adata_new: AnnData | None = None,
    per_cell: bool = False,
    n_samples: int = 1,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> float | pd.Series:
    """Return the evidence lower bound per cell, in nats: higher is better.

    Compare it between models on the same cells and genes, best on cells that none of them was trained on.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {ADATA_NEW}
    {PER_CELL}
    {N_DRAWS}
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
    >>> svp.get.elbo(adata) < 0
    True
    """
    return explained(
        adata,
        "bound",
        verb="get.elbo",
        key=key,
        adata_new=adata_new,
        per_cell=per_cell,
        n_samples=n_samples,
        batch_size=batch_size,
        seed=seed_from(rng, random_state),
    )
