"""Differential accessibility of chromatin by a fitted model."""

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


@_docs.documented(KEY=_docs.KEY, MOD=_docs.MOD, POPULATIONS=_docs.POPULATIONS, TEST=_docs.TEST, RANDOM=_docs.RANDOM)
def differential_accessibility(
    adata: AnnData | MuData,
    groupby: str | None = None,
    *,
    groups: Sequence[str] | str = "all",
    reference: str = "rest",
    cells1: object = None,
    cells2: object = None,
    within: str | None = None,
    key: str | None = None,
    mod: str | None = None,
    mode: Mode = "change",
    delta: float | None = 0.05,
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
    """Find regions of chromatin whose accessibility differs between groups of cells, by a fitted model [Ashuach22]_.

    As :func:`~scvi_pp.tl.differential_expression`, with pairs of cells drawn from both groups. Of PeakVI and MultiVI the
    chances that a region is open are compared: the difference, first - second, is **positive where the first group is
    more open**. Of PoissonVI, whose values are shares, it is the log2 fold change.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {POPULATIONS}
    {KEY}
    {MOD}
    mode
        `"change"`: the probability of a difference of at least `delta`. `"vanilla"`: of any difference.
    delta
        The least difference of probabilities (of PoissonVI: log2 fold change) that matters; `None` takes it from the data.
    pseudocount
        Of PoissonVI, as for expression.
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
        As :func:`~scvi_pp.tl.differential_expression` writes it, with `'logfoldchanges'` the mean difference of
        probabilities. The table is read by :func:`~scvi_pp.get.differential_accessibility`.

    Raises
    ------
    InputError
        The model is not one of chromatin; a group is unknown, has one cell or is the reference.
    MissingKeyError
        The column or the model is not there. In each case the object is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.simulate_multiome(100, 20, n_regions=40)["atac"]
    >>> svp.tl.peakvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.differential_accessibility(adata, "cell_type", groups=["type1"], n_samples=500)
    >>> bool(svp.get.differential_accessibility(adata)["est_prob1"].between(0, 1).all())
    True
    """
    check_annotated(adata, verb="tl.differential_accessibility")
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
        as_accessibility=True,
        verb="tl.differential_accessibility",
    )
    return adata if copy else None
