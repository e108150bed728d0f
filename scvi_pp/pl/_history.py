"""The curves of training, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp import _docs, get
from scvi_pp._data.fitted import model_key
from scvi_pp._data.read import check_annotated

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


@_docs.documented(KEY=_docs.KEY)
def history(adata: AnnData, *, key: str | None = None, ax: Axes | None = None, show: bool | None = None) -> Axes | None:
    """Draw the ELBO of training and held-out cells by epoch.

    Held-out and training curves that rise together and level off are a good fit; a held-out curve that falls while
    the other rises is overfitting (the weights kept are those of its peak, marked by a dot).

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}
    ax
        Draw here rather than into a figure of its own.
    show
        Show the figure and return nothing; by default done unless `ax` is given, as in scanpy.

    Returns
    -------
    The axes, if not shown.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=2, denoise=False)
    >>> ax = svp.pl.history(adata, show=False)
    >>> ax.get_ylabel()
    'ELBO per cell'
    """
    import matplotlib.pyplot as plt

    check_annotated(adata, verb="pl.history")
    key = model_key(adata.uns, key)
    curves = get.history(adata, key=key)
    own = ax is None
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for name, label, color in (("elbo_train", "training", "0.6"), ("elbo_validation", "held out", "C0")):
        if name in curves:
            ax.plot(curves.index, curves[name], label=label, color=color)
    if "elbo_validation" in curves and curves["elbo_validation"].notna().any():
        best = curves["elbo_validation"].idxmax()
        ax.plot(best, curves["elbo_validation"][best], "o", color="C0", label="kept")
    low = curves["elbo_train"].iloc[len(curves) // 10 :].min()  # the first steps would flatten all the rest
    ax.set(xlabel="epoch", ylabel="ELBO per cell", title=key)
    if len(curves) > 10:
        highest = curves.filter(like="elbo_").max().max()
        ax.set_ylim(low - 0.02 * abs(highest - low), highest + 0.05 * abs(highest - low))
    ax.legend(frameon=False)
    if show or (show is None and own):
        plt.show()
        return None
    return ax
