"""The genes that make up the latent dimensions of a linear model, drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from scvi_pp import _docs
from scvi_pp._data.fitted import model_key
from scvi_pp._data.read import check_annotated
from scvi_pp._errors import InputError, missing_key
from scvi_pp.get._options import checked_count
from scvi_pp.pl._panels import panels

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

WIDE = 5  # panels in a row


@_docs.documented(KEY=_docs.KEY)
def loadings(
    adata: AnnData,
    dimensions: int | Iterable[int] | None = None,
    *,
    key: str | None = None,
    n_genes: int = 10,
    show: bool | None = None,
) -> list[Axes] | None:
    """Draw the genes with the largest loadings on each latent dimension, of either sign.

    Parameters
    ----------
    adata
        The object a model was fitted to with `tl.linear_scvi`.
    dimensions
        Which, counted from 0; all by default.
    {KEY}
    n_genes
        Genes to draw of each sign.
    show
        Show the figure and return nothing, which is the default as in scanpy.

    Returns
    -------
    The axes, if not shown.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.linear_scvi(adata, max_epochs=1, n_latent=3, denoise=False)
    >>> [ax.get_title() for ax in svp.pl.loadings(adata, show=False)]
    ['Z_0', 'Z_1', 'Z_2']
    """
    import matplotlib.pyplot as plt

    check_annotated(adata, verb="pl.loadings")
    most = checked_count("n_genes", n_genes)
    name = f"{model_key(adata.uns, key, model='linear_scvi')}_loadings"
    if name not in adata.varm:
        raise missing_key("varm", "entry", name, list(adata.varm), way_out="tl.linear_scvi writes one.")
    values = np.asarray(adata.varm[name])
    wanted = _wanted(dimensions, values.shape[1])
    axes = panels(len(wanted), in_a_row=WIDE, size=(2.4, 0.16 * 2 * most + 0.8))
    for number, ax in zip(wanted, axes, strict=True):
        _draw(ax, values[:, number], adata.var_names.astype(str).to_numpy(), most)
        ax.set_title(f"Z_{number}")
    if show is None or show:
        plt.show()
        return None
    return axes


def _draw(ax: Axes, values: np.ndarray, names: np.ndarray, most: int) -> None:
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known])]
    most = min(most, len(order) // 2) or len(order)
    chosen = np.concatenate([order[:most], order[len(order) - most :]])
    place = np.arange(len(chosen))
    ax.barh(place, values[chosen], color=np.where(values[chosen] > 0, "C3", "C0"), height=0.8)
    ax.set_yticks(place, names[chosen], fontsize=7)
    ax.axvline(0, color="0.5", linewidth=0.8)
    ax.set_xlabel("loading")


def _wanted(dimensions: int | Iterable[int] | None, n: int) -> list[int]:
    if dimensions is None:
        return list(range(n))
    wanted = list(dimensions) if isinstance(dimensions, Iterable) else [dimensions]
    for number in wanted:
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < n:
            raise InputError(f"dimensions={number!r}: there are {n}, counted from 0.")
    if not wanted:
        raise InputError("dimensions is empty. Name at least one, or leave it out for all.")
    return [int(number) for number in wanted]
