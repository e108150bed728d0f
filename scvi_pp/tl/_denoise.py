"""Denoised expression of a fitted model, as a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scvi_pp import _docs
from scvi_pp._data.read import check_anndata
from scvi_pp._data.write import check_key, check_writable, write
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_library_size, checked_samples
from scvi_pp.tl._fitting import denoised_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scvi_pp._seed import Seed


@_docs.documented(
    KEY=_docs.KEY,
    ADATA_NEW=_docs.ADATA_NEW.replace("Ask about", "Denoise, and write to,"),
    TRANSFORM_BATCH=_docs.TRANSFORM_BATCH,
    N_SAMPLES=_docs.N_SAMPLES,
    BATCH_SIZE=_docs.BATCH_SIZE,
    RANDOM=_docs.RANDOM,
)
def denoise(
    adata: AnnData,
    *,
    key: str = "scvi",
    adata_new: AnnData | None = None,
    genes: Sequence[str] | str | None = None,
    library_size: float | Literal["latent"] = 1.0,
    transform_batch: object = None,
    n_samples: int | None = None,
    batch_size: int | None = None,
    key_added: str | None = None,
    rng: Seed = None,
    random_state: Seed = None,
    copy: bool = False,
) -> AnnData | None:
    """Write denoised expression of a fitted model into a layer.

    What the model expects of each cell, freed from sampling noise and, with `transform_batch`, from batch effects. Use
    it for plots and correlations of genes; for tests between groups use the model itself, since denoised values are
    smoother than data and make tests too sure. Memory is the layer and a constant.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    {ADATA_NEW}
    genes
        Denoise these genes only; the others are NaN in the layer. For a small table see `get.denoised`.
    library_size
        The total that each cell's expression is scaled to: 1 gives shares, 1e4 counts per ten thousand, `"latent"` the
        cell's own library size, which makes values comparable to the counts. After a fit with `size_factor_key`, what
        the expression per unit of size factor is multiplied with.
    {TRANSFORM_BATCH}
    {N_SAMPLES}
    {BATCH_SIZE}
    key_added
        Name of the layer, f"{key}_denoised" by default.
    {RANDOM}
    copy
        Return a copy instead of writing to the object.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following field:

    `.layers['scvi_denoised' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_vars)`)
        Denoised expression; NaN for genes that were not modelled or not asked for.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.denoise(adata, library_size=1e4)
    >>> float(adata.layers["scvi_denoised"].sum(1).mean().round())
    10000.0
    """
    target = adata if adata_new is None else adata_new
    check_anndata(target, verb="tl.denoise")
    if copy:
        target = target.copy()
    size = checked_library_size(library_size)
    seed, draws = seed_from(rng, random_state), checked_samples(n_samples)
    layer = f"{key}_denoised" if key_added is None else check_key(key_added)
    model = open_model(adata, key, verb="tl.denoise", adata_new=target, seed=seed, batch_size=batch_size)
    check_writable(target)
    values = denoised_layer(
        model.posterior,
        target,
        model.genes,
        columns=model.columns(genes),
        library_size=size,
        batches=model.batches(transform_batch),
        n_samples=draws,
    )
    write(target, obsm={}, layers={layer: values}, uns={})
    return target if copy else None
