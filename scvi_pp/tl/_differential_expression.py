"""Differential expression by a fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudata import MuData

from scvi_pp import _docs
from scvi_pp._data.multiome import copied
from scvi_pp._data.read import check_annotated
from scvi_pp._seed import seed_from
from scvi_pp.tl._differential import Asked, differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scvi_pp._seed import Seed
    from scvi_pp.tl._differential import Mode, Weights


@_docs.documented(
    KEY=_docs.KEY, MODS_TESTED=_docs.MODS_TESTED, POPULATIONS=_docs.POPULATIONS, TEST=_docs.TEST, RANDOM=_docs.RANDOM
)
def differential_expression(
    adata: AnnData | MuData,
    groupby: str | None = None,
    *,
    groups: Sequence[str] | str = "all",
    reference: str = "rest",
    cells1: object = None,
    cells2: object = None,
    within: str | None = None,
    key: str | None = None,
    mod: str | Sequence[str] | None = None,
    mode: Mode = "change",
    delta: float | None = 0.25,
    pseudocount: float | None = None,
    batch_correction: bool = False,
    batches: Sequence[object] | None = None,
    weights: Weights = "uniform",
    n_samples: int = 5000,
    fdr_target: float = 0.05,
    filter_outlier_cells: bool = False,
    credible_intervals: Sequence[float] = (),
    all_stats: bool = True,
    key_added: str = "rank_genes_groups",
    rng: Seed = None,
    random_state: Seed = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Find genes that differ between groups of cells, by what a fitted model says of their expression [Boyeau19]_.

    For every comparison pairs of cells are drawn, one of each group, with a draw of the latent position of each from its
    posterior. Their expression (the share of each gene, at a library size of one) is compared: the log fold change is
    log2(first + c) - log2(second + c), **positive where the first group is higher**. A gene is called if the probability
    that a pair differs by `delta` or more in one direction is high. Only the pairs that are drawn are decoded, so the
    number of cells does not matter.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {POPULATIONS}
    {KEY}
    {MODS_TESTED}
    mode
        `"change"`: the probability of a change of at least `delta`. `"vanilla"`: of any difference (Lopez et al. 2018),
        which in large data is nearly always there.
    delta
        The least log2 fold change that matters; `None` takes it from the spread of the genes' mean changes.
    pseudocount
        c above. By default a thirtieth of the level at which genes are drawn that are as good as unseen (mean count below
        0.01 in a group), so that changes from nothing to next to nothing count as none.
    {TEST}
    key_added
        Where in `.uns` the results go. The default is where scanpy's own test writes, and its plots and getters look.
    {RANDOM}
    copy
        Return a copy instead of writing to the object.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following field:

    `.uns['rank_genes_groups' | key_added]` : :class:`dict`
        As `sc.tl.rank_genes_groups` writes it: `'names'`, genes of each group by falling score; `'scores'`, the natural
        log odds that the gene is higher in the group by `delta` or more; `'logfoldchanges'`, the mean log2 fold change;
        `'pvals'`, the posterior probability that the gene does not differ; `'pvals_adj'`, the expected false discovery
        rate of the genes down to this one; `'params'`. Everything else, a row for each group and gene, is
        `'statistics'`: see :func:`~scvi_pp.get.differential_expression`.

    Raises
    ------
    InputError
        A group is unknown, has one cell or is the reference; a value of the column is missing.
    MissingKeyError
        The column or the model is not there. In each case the object is left as it was.

    See Also
    --------
    scvi_pp.get.differential_expression : the results as a table.
    scvi_pp.tl.differential_accessibility : the same of chromatin.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.differential_expression(adata, "bulk_labels", groups=["CD14+ Monocyte"], n_samples=500)
    >>> adata.uns["rank_genes_groups"]["names"].dtype.names
    ('CD14+ Monocyte',)
    """
    check_annotated(adata, verb="tl.differential_expression")
    if copy:
        adata = copied(adata)
    asked = Asked(
        mode=mode,
        delta=delta,
        pseudocount=pseudocount,
        batch_correction=batch_correction,
        batches=batches,
        weights=weights,
        n_samples=n_samples,
        fdr_target=fdr_target,
        filter_outlier_cells=filter_outlier_cells,
        intervals=tuple(credible_intervals),
        all_stats=all_stats,
    )
    differences(
        adata,
        groupby,
        groups=groups,
        reference=reference,
        cells1=cells1,
        cells2=cells2,
        within=within,
        key=key,
        mod=mod,
        asked=asked,
        seed=seed_from(rng, random_state),
        key_added=key_added,
        as_accessibility=False,
        verb="tl.differential_expression",
    )
    return adata if copy else None
