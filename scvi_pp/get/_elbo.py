"""How well the model explains cells: the bound it was trained on."""

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

PER_CELL = """\
per_cell
    Return the value of each cell rather than the mean."""

N_DRAWS = """\
n_samples
    Draws of the latent position to average over."""


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
    key: str = "scvi",
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
    return _asked("elbo", "bound", adata, key, adata_new, per_cell, n_samples, batch_size, seed_from(rng, random_state))


@_docs.documented(
    KEY=_docs.KEY,
    ADATA_NEW=_docs.ADATA_NEW,
    PER_CELL=PER_CELL,
    N_DRAWS=N_DRAWS,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def reconstruction_error(
    adata: AnnData,
    *,
    key: str = "scvi",
    adata_new: AnnData | None = None,
    per_cell: bool = False,
    n_samples: int = 1,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> float | pd.Series:
    """Return how badly counts are reconstructed, -log p(x | z) per cell, in nats: lower is better.

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
    >>> svp.get.reconstruction_error(adata) > 0
    True
    """
    seed = seed_from(rng, random_state)
    error = _asked(
        "reconstruction_error", "reconstruction", adata, key, adata_new, per_cell, n_samples, batch_size, seed
    )
    return -error


def _asked(
    name: str,
    part: str,
    adata: AnnData,
    key: str,
    adata_new: AnnData | None,
    per_cell: bool,
    n_samples: int,
    batch_size: int | None,
    seed: int,
) -> float | pd.Series:
    checked_count("n_samples", n_samples)
    model = open_model(adata, key, verb=f"get.{name}", adata_new=adata_new, seed=seed, batch_size=batch_size)
    values = model.posterior.elbo(n_samples)[part]
    return pd.Series(values, index=model.obs_names, name=name) if per_cell else float(values.mean())
