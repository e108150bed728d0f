"""The results of `tl.differential_expression` as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp.get._statistics import statistics

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def differential_expression(
    adata: AnnData | MuData,
    *,
    key: str = "rank_genes_groups",
    group: str | None = None,
    only_called: bool = False,
) -> pd.DataFrame:
    """Return what `tl.differential_expression` found, a row for each comparison and gene.

    Parameters
    ----------
    adata
        The object the test was made on.
    key
        Where in `.uns` the results are: the `key_added` of the test.
    group
        Of this group alone, with genes as the index; by default all.
    only_called
        Leave out genes that are not called at the `fdr_target` of the test.

    Returns
    -------
    A table with the columns

    `group`, `feature`, `comparison`, `group1`, `group2`, and `within` if it was asked for; `modality`, if several were tested
        What was compared: the first group with the second.
    `proba_de`
        Probability that a pair of cells differs by `delta` or more, in the likelier direction; `bayes_factor` its natural
        log odds, `proba_not_de` the rest. In mode `"vanilla"` `proba_m1` and `proba_m2`: that the one or the other is higher.
    `lfc_mean`, `lfc_median`, `lfc_std`, `lfc_min`, `lfc_max`
        The log2 fold change over pairs, positive where the first group is higher.
    `scale1`, `scale2`
        Mean share of the gene in each group, as the model has it.
    `raw_mean1`, `raw_mean2`, `raw_normalized_mean1`, ..., `non_zeros_proportion1`, ...
        What was counted: mean counts, mean counts per ten thousand of the cell, share of cells with any.
    `is_de_fdr_0.05`
        Whether the gene is called; `expected_fdr` is the expected share of false ones down to it, `score` what genes are
        sorted by: the log odds that it is higher in the first group.

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
    >>> svp.tl.differential_expression(adata, "bulk_labels", n_samples=500)
    >>> svp.get.differential_expression(adata, group="CD34+").shape[0]
    50
    """
    return statistics(adata, key, group, only_called=only_called, verb="get.differential_expression")
