"""How much features differ against how sure that is, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scvi_pp._errors import InputError
from scvi_pp.get._options import checked_count
from scvi_pp.get._statistics import CALLED, statistics

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

CHANGES = {"lfc_mean": "log2 fold change", "effect_size": "difference of accessibility"}


def volcano(
    adata: AnnData | MuData,
    group: str | None = None,
    *,
    key: str = "rank_genes_groups",
    n_names: int = 5,
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw the change of each gene or region of a group against the log odds that it is one.

    Features that are called stand out, and those of them that one is surest of carry their names. To the right is what
    is higher in the group.

    Parameters
    ----------
    adata
        The object that `tl.differential_expression` or `tl.differential_accessibility` was called on.
    group
        The group; the only one that was tested by default.
    key
        Where in `.uns` the results are.
    n_names
        Features to name on either side, surest first.
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
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.differential_expression(adata, "bulk_labels", n_samples=500)
    >>> svp.pl.volcano(adata, "CD34+", show=False).get_xlabel()
    'log2 fold change'
    """
    import matplotlib.pyplot as plt

    most = checked_count("n_names", n_names) if n_names != 0 else 0
    name, table = _of_group(adata, key, group)
    change = next(column for column in CHANGES if column in table)
    flag = next((column for column in table if column.startswith(CALLED)), None)
    if flag is None:
        raise InputError(f"pl.volcano draws tests in mode 'change', and uns['{key}'] is one in mode 'vanilla'.")
    called, x = table[flag].to_numpy(), table[change].to_numpy()
    n_samples = int(adata.uns[key]["params"]["n_samples"])
    furthest = np.log(2 * n_samples)  # beyond is more than that many draws can say
    y = np.clip(table["bayes_factor"].to_numpy(), -furthest, furthest)
    own = ax is None
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    for which, color, label in ((~called, "0.75", None), (called, "C3", f"called ({int(called.sum())})")):
        ax.scatter(x[which], y[which], s=8, color=color, label=label, linewidths=0)
    for place in _surest(x, y, called, most):
        towards = "right" if x[place] > 0 else "left"  # the middle, where there is room
        at = {"xytext": (-3 if x[place] > 0 else 3, 0), "textcoords": "offset points", "ha": towards, "va": "center"}
        ax.annotate(table.index[place], (x[place], y[place]), fontsize=7, **at)
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel=CHANGES[change], ylabel="log odds of a difference", title=name)
    if called.any():
        ax.legend(frameon=False, loc="lower right")
    if show or (show is None and own):
        plt.show()
        return None
    return ax


def _of_group(adata: AnnData | MuData, key: str, group: str | None) -> tuple[str, pd.DataFrame]:
    if group is None:
        groups = list(
            statistics(adata, key, None, only_called=False, verb="get.differential_expression")["group"].unique()
        )
        if len(groups) > 1:
            raise InputError(f"uns['{key}'] has several groups. Name one: group={str(groups[0])!r}.")
        group = str(groups[0])
    return group, statistics(adata, key, group, only_called=False, verb="get.differential_expression")


def _surest(x: np.ndarray, y: np.ndarray, called: np.ndarray, most: int) -> list[int]:
    """Called features to be named, on either side: by log odds, then by the change."""
    order = np.lexsort((-np.abs(x), -y))
    sides = [[place for place in order if called[place] and side * x[place] > 0][:most] for side in (1, -1)]
    return [int(place) for side in sides for place in side]
