"""The results of `tl.posterior_predictive_check` as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd

from scvi_pp._data.read import check_annotated
from scvi_pp._errors import InputError, MissingKeyError, listing

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

TABLES = ("summary", "genes", "cells", "coverage", "groups")


def posterior_predictive_check(
    adata: AnnData | MuData,
    what: Literal["summary", "genes", "cells", "coverage", "groups"] = "summary",
    *,
    key: str = "posterior_predictive_check",
) -> pd.DataFrame:
    """Return how counts drawn from fitted models compare with those that were measured.

    Parameters
    ----------
    adata
        The object that was checked.
    what
        `"summary"`: a row for each model. `"genes"`, `"cells"`: a row for each gene (or region) or cell. `"coverage"`: a
        row for each level of an interval. `"groups"`: a row for each group and model, if `groupby` was given.
    key
        Where in `.uns` the results are: the `key_added` of the check.

    Returns
    -------
    `"genes"` and `"cells"`: columns `mean_`, `variance_`, `zero_fraction_` and `cv_` (standard deviation by mean), each
    with `measured` and with every model's name. `"summary"`:

    `calibration_error`
        Mean distance, over levels 0.1 to 0.9, of the share of counts that lie in the central interval of their draws from
        that level. 0 is perfect. `coverage_50` and `coverage_90` are two of these shares.
    `cv_gene_pearson`, `cv_gene_mae`, `cv_cell_pearson`, ..., `zero_fraction_gene_pearson`, ...
        Correlation over genes or cells, and mean absolute difference, of that statistic of draws and data.
    `variance_ratio`
        Median over genes of the variance of draws by that of the data: below 1 the model scatters too little.

    `"coverage"`: the share of counts that lie in the central interval of their draws, by the level of the interval, a
    column for each model. `"groups"`: `group`, `n_cells`, `model`, and how the group differs from all other cells, of
    which expression is taken as log(1 + 10,000 x share):

    `top_genes`
        Share of the genes that rank highest in the data (at most 100, by Welch's t) that do so in draws.
    `lfc_pearson`, `lfc_slope`, `lfc_mae`
        Correlation over genes of the differences in draws and data, the slope of the former over the latter (below 1
        where the model makes groups too alike, but also by the noise of what was measured: compare models by it), and
        their mean absolute difference.

    Raises
    ------
    MissingKeyError
        No such results are there.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.posterior_predictive_check(adata, n_samples=5, n_cells=100)
    >>> svp.get.posterior_predictive_check(adata, "genes").shape
    (50, 8)
    """
    check_annotated(adata, verb="get.posterior_predictive_check")
    if what not in TABLES:
        raise InputError(f"what={what!r} is none of {listing(TABLES, quoted=True)}.")
    entry = adata.uns.get(key)
    table = entry.get(what) if isinstance(entry, dict) else None
    if what == "groups" and isinstance(entry, dict) and "summary" in entry and table is None:
        raise MissingKeyError(f"uns['{key}'] compares no groups. Call tl.posterior_predictive_check with groupby=.")
    if not isinstance(table, pd.DataFrame):
        raise MissingKeyError(f"uns has no check under '{key}'. Call tl.posterior_predictive_check first.")
    return table.copy()
