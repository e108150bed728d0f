"""How counts drawn from fitted models compare with those that were measured, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from scvi_pp import get
from scvi_pp._errors import InputError, did_you_mean
from scvi_pp.pl._panels import panels as panels_of_figure

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

Panel = Literal["mean_variance", "zero_fraction", "cv_genes", "cv_cells", "coverage", "groups"]
MEASURED = "measured"
WIDE = 3  # panels in a row


def posterior_predictive_check(
    adata: AnnData | MuData,
    panels: Panel | Sequence[Panel] | None = None,
    *,
    key: str = "posterior_predictive_check",
    show: bool | None = None,
) -> list[Axes] | None:
    """Draw how counts drawn from fitted models compare with those that were measured.

    Points on the diagonal, or on the measured ones, are genes or cells of which the model makes what is seen.

    Parameters
    ----------
    adata
        The object that `tl.posterior_predictive_check` was called on.
    panels
        One or several of: `"mean_variance"`, variance of each gene by its mean, of the data and of draws;
        `"zero_fraction"`, share of zeros of each gene; `"cv_genes"`, `"cv_cells"`, standard deviation by mean of each;
        `"coverage"`, the share of counts inside the central intervals of their draws, less the level of these (above
        zero: the model scatters too much); `"groups"`, the correlation of what each group differs in, if it was
        called with `groupby`. All there are by default.
    key
        Where in `.uns` the results are.
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
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.posterior_predictive_check(adata, n_samples=5, n_cells=100)
    >>> len(svp.pl.posterior_predictive_check(adata, show=False))
    5
    """
    import matplotlib.pyplot as plt

    models = [str(name) for name in get.posterior_predictive_check(adata, "summary", key=key).index]
    wanted = _wanted(adata, panels, key)
    axes = panels_of_figure(len(wanted), in_a_row=WIDE, size=(3.6, 3.3))
    for panel, ax in zip(wanted, axes, strict=True):
        table, draw = PANELS[panel]
        draw(ax, get.posterior_predictive_check(adata, table, key=key), models)
    axes[0].legend(frameon=False, markerscale=3)
    if show is None or show:
        plt.show()
        return None
    return axes


def _wanted(adata: AnnData | MuData, panels: object, key: str) -> list[str]:
    if panels is None:
        has_groups = "groups" in adata.uns[key]
        return [panel for panel in PANELS if panel != "groups" or has_groups]
    wanted = [panels] if isinstance(panels, str) else list(panels)  # type: ignore[call-overload]
    for panel in wanted:
        if panel not in PANELS:
            raise InputError(
                f"panels={panel!r} is unknown.{did_you_mean(panel, PANELS)} There are {', '.join(PANELS)}."
            )
    if not wanted:
        raise InputError("panels is empty. Name at least one, or leave it out for all.")
    return wanted


def _mean_variance(ax: Axes, table: pd.DataFrame, models: list[str]) -> None:
    for name, color in (*_colored(models), (MEASURED, "black")):
        mean, variance = table[f"mean_{name}"], table[f"variance_{name}"]
        seen = (mean > 0) & (variance > 0)
        ax.scatter(
            mean[seen],
            variance[seen],
            s=1.5 if name == MEASURED else 4,
            color=color,
            label=name,
            linewidths=0,
            rasterized=True,
        )
    ax.set(xscale="log", yscale="log", xlabel="mean count", ylabel="variance", title="genes")


def _against_measured(statistic: str, label: str, title: str) -> Callable[[Axes, pd.DataFrame, list[str]], None]:
    def draw(ax: Axes, table: pd.DataFrame, models: list[str]) -> None:
        measured = table[f"{statistic}_{MEASURED}"]
        for name, color in _colored(models):
            ax.scatter(
                measured, table[f"{statistic}_{name}"], s=3, color=color, label=name, linewidths=0, rasterized=True
            )
        finite = measured[np.isfinite(measured)]
        if len(finite):
            ax.plot([finite.min(), finite.max()], [finite.min(), finite.max()], color="0.5", linewidth=0.8, zorder=0)
        ax.set(xlabel=f"{label}, measured", ylabel=f"{label}, drawn", title=title)

    return draw


def _coverage(ax: Axes, table: pd.DataFrame, models: list[str]) -> None:
    levels = table.index.astype(float)
    ax.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    for name, color in _colored(models):
        ax.plot(levels, table[name] - levels, "o-", markersize=3, color=color, label=name)
    furthest = max(0.05, *(abs(end) for end in ax.get_ylim()))
    ax.set(xlim=(0, 1), ylim=(-furthest, furthest))
    ax.set(xlabel="level of the interval", ylabel="share of counts inside, less the level", title="coverage")


def _groups(ax: Axes, table: pd.DataFrame, models: list[str]) -> None:
    names = list(dict.fromkeys(table["group"]))
    for name, color in _colored(models):
        of_model = table[table["model"] == name].set_index("group")["lfc_pearson"].reindex(names)
        ax.plot(of_model, np.arange(len(names)), "o", markersize=4, color=color, label=name)
    ax.set_yticks(np.arange(len(names)), names, fontsize=7)
    ax.invert_yaxis()
    ax.set(xlabel="changes: correlation with the data", title="groups", xlim=(min(0.0, *ax.get_xlim()), 1))


def _colored(models: list[str]) -> list[tuple[str, str]]:
    return [(name, f"C{number % 10}") for number, name in enumerate(models)]


PANELS: dict[
    str, tuple[Literal["genes", "cells", "coverage", "groups"], Callable[[Axes, pd.DataFrame, list[str]], None]]
] = {
    "mean_variance": ("genes", _mean_variance),
    "zero_fraction": ("genes", _against_measured("zero_fraction", "share of zeros", "genes")),
    "cv_genes": ("genes", _against_measured("cv", "coefficient of variation", "genes")),
    "cv_cells": ("cells", _against_measured("cv", "coefficient of variation", "cells")),
    "coverage": ("coverage", _coverage),
    "groups": ("groups", _groups),
}
