"""Where cells are in the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scvi_pp import _docs
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_count

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from scvi_pp._seed import Seed


@_docs.documented(KEY=_docs.KEY, ADATA_NEW=_docs.ADATA_NEW, BATCH_SIZE=_docs.BATCH_SIZE, RANDOM=_docs.RANDOM)
def latent(
    adata: AnnData,
    *,
    key: str | None = None,
    mod: str | None = None,
    adata_new: AnnData | None = None,
    kind: Literal["mean", "sample", "distribution"] = "mean",
    n_samples: int = 1,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Return the latent position of cells: its mean, draws, or the whole posterior.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    mod
        Of a model of a `MuData`: the position that this modality says by itself, of cells in which it was measured;
        others have the prior. By default the joint position.
    {ADATA_NEW}
    kind
        `"mean"`: the posterior mean, as the fit writes it to `.obsm`. `"sample"`: draws from the posterior.
        `"distribution"`: mean and variance of the Gaussian posterior (before the softmax of
        `latent_distribution="ln"`).
    n_samples
        Draws for `kind="sample"`.
    {BATCH_SIZE}
    {RANDOM}

    Returns
    -------
    float32 `(n_obs, n_latent)`; `(n_samples, n_obs, n_latent)` for more than one draw; a pair of mean and variance,
    `(n_obs, n_latent)` each, for `"distribution"`.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.get.latent(adata).shape
    (700, 10)
    """
    if kind not in ("mean", "sample", "distribution"):
        raise InputError(f"kind={kind!r} is unknown. Choose one of 'mean', 'sample', 'distribution'.")
    checked_count("n_samples", n_samples)
    seed = seed_from(rng, random_state)
    model = open_model(
        adata, key, verb="get.latent", adata_new=adata_new, seed=seed, batch_size=batch_size, mod=mod, alone=True
    )
    if kind == "distribution":
        return model.posterior.latent_distribution()
    if kind == "mean":
        return model.posterior.latent_mean()
    draws = model.posterior.latent_samples(n_samples)
    return draws[0] if n_samples == 1 else draws
