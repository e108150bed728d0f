"""The results of `tl.differential_accessibility` as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp.get._statistics import statistics

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def differential_accessibility(
    adata: AnnData | MuData,
    *,
    key: str = "rank_genes_groups",
    group: str | None = None,
    only_called: bool = False,
) -> pd.DataFrame:
    """Return what `tl.differential_accessibility` found, a row for each comparison and region.

    Parameters
    ----------
    adata
        The object the test was made on.
    key
        Where in `.uns` the results are: the `key_added` of the test.
    group
        Of this group alone, with regions as the index; by default all.
    only_called
        Leave out regions that are not called at the `fdr_target` of the test.

    Returns
    -------
    A table with the columns

    `group`, `feature`, `comparison`, `group1`, `group2`, and `within` if it was asked for
        What was compared: the first group with the second.
    `prob_da`
        Probability that a pair of cells differs by `delta` or more, in the likelier direction; `bayes_factor` its natural
        log odds. In mode `"vanilla"` `proba_m1` and `proba_m2`.
    `effect_size`
        Mean difference of the chances that the region is open, `est_prob1 - est_prob2`: positive where the first group is
        more open. Of PoissonVI `lfc_mean` and its like.
    `est_prob1`, `est_prob2`
        Mean chance in each group that the region is open, as the model has it.
    `emp_prob1`, `emp_prob2`, `emp_effect`
        Share of cells in which it was seen open, and the difference.
    `is_da_fdr_0.05`
        Whether the region is called; `expected_fdr` is the expected share of false ones down to it, `score` what regions
        are sorted by: the log odds that it is more open in the first group.

    Raises
    ------
    MissingKeyError
        No such results are there.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.simulate_multiome(100, 20, n_regions=40)["atac"]
    >>> svp.tl.peakvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.differential_accessibility(adata, "cell_type", n_samples=500)
    >>> svp.get.differential_accessibility(adata, group="type1").shape[0]
    40
    """
    return statistics(adata, key, group, only_called=only_called, verb="get.differential_accessibility")
