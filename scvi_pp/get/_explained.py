"""How well cells are explained, by parts of the bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd

from scvi_pp._fitted_model import open_model
from scvi_pp.get._options import checked_count

if TYPE_CHECKING:
    from anndata import AnnData

PER_CELL = """\
per_cell
    Return the value of each cell rather than the mean."""

N_DRAWS = """\
n_samples
    Draws of the latent position to average over."""


def explained(
    adata: AnnData,
    part: Literal["bound", "reconstruction", "marginal"],
    *,
    verb: str,
    key: str | None,
    adata_new: AnnData | None,
    per_cell: bool,
    n_samples: int,
    batch_size: int | None,
    seed: int,
) -> float | pd.Series:
    """One part of the bound, or what it bounds, in nats: the mean over cells, or a value for each."""
    checked_count("n_samples", n_samples)
    model = open_model(adata, key, verb=verb, adata_new=adata_new, seed=seed, batch_size=batch_size)
    ask = model.posterior
    values = ask.marginal_log_likelihood(n_samples) if part == "marginal" else ask.elbo(n_samples)[part]
    if per_cell:
        return pd.Series(values, index=model.obs_names, name=verb.removeprefix("get."))
    return float(values.mean())
