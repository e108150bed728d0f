"""Where samples of two conditions differ in how many cells they have, drawn over an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scvi_pp._data.read import check_annotated
from scvi_pp._errors import InputError, MissingKeyError, missing_key
from scvi_pp.get._options import is_number

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

LARGEST = 30.0  # of points whose size is not given


def abundance(
    adata: AnnData | MuData,
    basis: str = "umap",
    *,
    key: str = "scvi_da",
    max_padj: float = 0.1,
    size: float | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw where cells of one condition are denser than those of another.

    Cells are coloured by the log2 of the ratio of densities; those at which the samples of the conditions are not told
    apart are grey.

    Parameters
    ----------
    adata
        The object that `tl.differential_abundance` was called on with `condition_key`.
    basis
        Where cells are drawn: an entry of `.obsm`, with or without its `X_`, of which the first two columns are taken.
    key
        The `key_added` of the test.
    max_padj
        Cells with a larger adjusted p-value are grey; 1 colours all.
    size
        Of the points; by the number of cells by default, as in scanpy.
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
    >>> adata = svp.datasets.simulate_rna(200, 50, n_batches=4)
    >>> adata.obs["condition"] = adata.obs["batch"].isin(["batch1", "batch2"]).map({True: "early", False: "late"})
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.differential_abundance(adata, "batch", condition_key="condition")
    >>> svp.pl.abundance(adata, "scvi", show=False).get_title()
    'late against early'
    """
    import matplotlib.pyplot as plt

    check_annotated(adata, verb="pl.abundance")
    if not is_number(max_padj) or not 0 < float(max_padj) <= 1:
        raise InputError(f"max_padj={max_padj!r} must be a number above 0 and at most 1.")
    ratio, padj, title = _tested(adata, key)
    position = _positions(adata, basis)
    own = ax is None
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    called = padj <= max_padj if max_padj < 1 else np.ones(len(padj), dtype=bool)
    points = min(LARGEST, 120_000 / len(ratio)) if size is None else size
    ax.scatter(*position[~called].T, s=points, color="0.85", linewidths=0, rasterized=True)
    # weak ones first: the strong ones shall not be hidden
    order = np.flatnonzero(called)[np.argsort(np.abs(ratio[called]))]
    largest = float(np.abs(ratio[called]).max(initial=1.0))
    colored = ax.scatter(
        *position[order].T,
        s=points,
        c=ratio[order],
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
        linewidths=0,
        rasterized=True,
    )
    ax.figure.colorbar(colored, ax=ax, label="log2 ratio of densities")
    ax.set(title=title, xlabel=f"{basis}1", ylabel=f"{basis}2", xticks=[], yticks=[])
    if show or (show is None and own):
        plt.show()
        return None
    return ax


def _tested(adata: AnnData | MuData, key: str) -> tuple[np.ndarray, np.ndarray, str]:
    """The log2 ratio and the adjusted p-value of each cell, and what was compared."""
    entry = adata.uns.get(key)
    params = entry.get("params", {}) if isinstance(entry, dict) else {}
    if "sample_key" not in params:
        msg = (
            f"uns has no test of abundance under '{key}'. Call tl.differential_abundance first, or give its key_added."
        )
        raise MissingKeyError(msg)
    columns = [f"{key}_log_ratio", f"{key}_padj"]
    if "condition" not in params or not set(columns) <= set(adata.obs.columns):
        msg = f"uns['{key}'] compares no conditions: call tl.differential_abundance with condition_key=."
        raise MissingKeyError(msg)
    ratio, padj = (adata.obs[column].to_numpy(dtype=np.float64) for column in columns)
    return ratio / np.log(2), padj, f"{params['condition']} against {params['reference']}"


def _positions(adata: AnnData | MuData, basis: str) -> np.ndarray:
    name = basis if basis in adata.obsm else f"X_{basis}"
    if name not in adata.obsm:
        way_out = "sc.tl.umap makes one." if basis == "umap" else ""
        raise missing_key("obsm", "entry", basis, [str(known) for known in adata.obsm], way_out=way_out)
    position = np.asarray(adata.obsm[name])
    if position.ndim != 2 or position.shape[1] < 2:
        raise InputError(f"obsm['{name}'] has shape {position.shape}, and two columns are drawn. Choose another basis.")
    return position[:, :2]
