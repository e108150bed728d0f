"""New cells from a fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi_pp import _docs
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_count, checked_flag, is_number
from scvi_pp.tl._comparisons import rows_of_cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudata import MuData

    from scvi_pp._fitted_model import FittedModel
    from scvi_pp._seed import Seed


@_docs.documented(KEY=_docs.KEY, MOD=_docs.MOD, RANDOM=_docs.RANDOM)
def simulate(
    adata: AnnData | MuData,
    n_obs: int | None = None,
    *,
    key: str | None = None,
    mod: str | None = None,
    cells: object = None,
    batches: Mapping[Any, float] | str | None = None,
    from_prior: bool = False,
    rng: Seed = None,
    random_state: Seed = None,
) -> AnnData:
    """Simulate new cells with a fitted model, as it says that they are made.

    Every new cell has a template among the measured ones, from which it takes its depth and its covariates. Its latent
    position is drawn from the posterior of the template, so that types and their shares are kept, or from the prior.
    Counts are then drawn from the likelihood. Use it for data of known origin, to see what the model has understood,
    or to ask what an experiment would look like with other batches.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    n_obs
        How many cells; by default one for each template. Otherwise templates are drawn by chance, again and again.
    {KEY}
    {MOD}
    cells
        The templates: a mask, positions, names, or a query of `.obs`. All cells by default.
    batches
        The batch of all new cells, or the share of each: `{"batch1": 0.5, "batch2": 0.5}`. By default the template's.
    from_prior
        Draw latent positions from the prior, which has no types: cells as the model would expect them knowing nothing.
    {RANDOM}

    Returns
    -------
    A new `AnnData` (n_obs, modelled genes or regions), with

    `.X` : :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        The counts.
    `.obs`
        The columns of the templates, with the batch of the new cells; `'template'` names them.
    `.obsm['X_true']` : :class:`numpy.ndarray` (dtype `float32`)
        The latent position from which each was made.

    Raises
    ------
    InputError
        A batch is unknown, shares do not make sense, there are no templates.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.simulate(adata, 1000, cells="bulk_labels == 'CD34+'").shape
    (1000, 50)
    """
    prior = checked_flag("from_prior", from_prior)
    seed = seed_from(rng, random_state)
    model = open_model(adata, key, verb="tl.simulate", mod=mod, seed=seed)
    templates = np.arange(adata.n_obs) if cells is None else rows_of_cells(adata, cells, "cells")
    if not len(templates):
        raise InputError("cells names no cell. A simulation needs at least one template.")
    random = np.random.default_rng(seed)
    rows = templates if n_obs is None else random.choice(templates, checked_count("n_obs", n_obs))
    codes = _codes(model, batches, len(rows), random)

    from scvi_pp._backend.simulation import simulated

    counts, positions = simulated(model.posterior, rows, codes, from_prior=prior)
    obs = adata.obs.iloc[rows].copy()
    obs.insert(0, "template", adata.obs_names[rows].astype(str))
    obs.index = [f"cell{i}" for i in range(len(rows))]
    source: Any = model.stored.sources["batch"]
    if codes is not None:
        _put_batches(obs, source, codes)
    found = AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=list(model.features)))
    found.obsm["X_true"] = positions
    return found


def _codes(model: FittedModel, batches: object, n: int, random: np.random.Generator) -> np.ndarray | None:
    """The batch of each new cell; None is that of its template."""
    if batches is None:
        return None
    if not isinstance(batches, dict):
        batches = {batches: 1.0}
    levels = model.batches(list(batches))
    shares = np.array([share if is_number(share) else np.nan for share in batches.values()], dtype=float)
    if not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
        raise InputError(f"batches={batches!r}: shares are numbers of at least 0 that are not all 0.")
    assert levels is not None
    return random.choice(np.array(levels, dtype=np.int64), n, p=shares / shares.sum())


def _put_batches(obs: pd.DataFrame, source: Any, codes: np.ndarray) -> None:
    """Write the batches of the new cells into the column that the model reads them from; several stay the template's."""
    names = np.array(source.levels, dtype=object)[codes]
    if len(source.keys) == 1:
        obs[source.keys[0]] = pd.Categorical(names, categories=list(source.levels))
    else:
        obs["batch_of_model"] = pd.Categorical(names, categories=list(source.levels))
