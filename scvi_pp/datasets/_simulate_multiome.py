"""RNA, chromatin accessibility and surface proteins of the same cells, of which everything is known.

Genes are those of `simulate_rna`. For cell n of type t and batch b, gene g, region j and protein p:

    z_n            = center_t + Normal(0, 1)                                            (n_latent,)
    logit_nj       = base_j + movement_j(z_n) + batch_shift_bj                          for regions of their own
    logit_nj       = base_j + link_strength * log(share_ng / base_g) + batch_shift_bj   for regions linked to gene g
    y_nj           = sigmoid(logit_nj)                                                  accessibility
    l_n, r_j       = sigmoid(Normal(0, depth_sd)), sigmoid(Normal(0, 1))                depth and region factor
    fragments_nj   = 1 + Poisson(extra_fragments) with probability y_nj * l_n * r_j, or else 0

    foreground_np  = Bernoulli(sigmoid(presence_p(z_n)))
    rate_np        = background_bp * LogNormal(0, 0.4) * (foreground_factor_p, or 1 in the background)
    count_np       = Poisson(rate_np * Gamma(dispersion_p, 1) / dispersion_p)
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import expit

from scvi_pp import _docs
from scvi_pp._data.modalities import multimodal
from scvi_pp._errors import InputError
from scvi_pp._seed import seed_from
from scvi_pp.datasets._proteins import draw_proteins, protein_truth, random_proteins
from scvi_pp.datasets._regions import at_level, draw_fragments, random_regions, region_names, region_truth
from scvi_pp.datasets._simulation import (
    COUNTS_PER_GENE,
    Noise,
    check_range,
    checked_size,
    draw_expression,
    gene_truth,
    random_batch_factors,
    random_cells,
    random_genes,
    spread_centers,
)

if TYPE_CHECKING:
    from mudata import MuData
    from numpy.typing import NDArray

    from scvi_pp._seed import Seed
    from scvi_pp.datasets._proteins import Proteins
    from scvi_pp.datasets._regions import Regions
    from scvi_pp.datasets._simulation import Cells, Genes

MODALITIES = ("paired", "expression", "accessibility")  # what a cell was measured in, as pp.organize_multiome says it


@_docs.documented(RANDOM=_docs.RANDOM)
def simulate_multiome(
    n_obs: int = 1000,
    n_genes: int = 500,
    *,
    n_regions: int = 2000,
    n_proteins: int = 0,
    rna_only: float = 0.0,
    atac_only: float = 0.0,
    n_types: int = 5,
    n_batches: int = 2,
    n_latent: int = 8,
    type_separation: float = 3.0,
    differential: float = 0.3,
    linked: float = 0.2,
    link_strength: float = 1.5,
    effect_size: float = 0.8,
    region_effect_size: float = 1.2,
    batch_effect: float = 0.3,
    region_batch_effect: float = 0.3,
    composition_shift: float = 0.0,
    library_size: float | None = None,
    library_sd: float = 0.45,
    dispersion: float = 4.0,
    positive_rate: float = 0.06,
    depth_sd: float = 0.6,
    extra_fragments: float = 0.25,
    true_rate: bool = False,
    true_accessibility: bool = False,
    rng: Seed = None,
    random_state: Seed = None,
) -> MuData:
    """Simulate RNA, chromatin accessibility and surface proteins of the same cells, with known truth.

    Use it to see whether a method finds the latent space that the modalities share, removes batch effects from each,
    and fills in what was not measured. Genes are those of :func:`simulate_rna`. A region of chromatin is open with a
    probability that depends on the cell's latent position, on the expression of a gene it is linked to, or on neither;
    a cell's depth and a region's own factor say how often what is open is seen. Most of what is seen is one fragment.

    With `rna_only` and `atac_only`, cells lack one of the modalities. The same seed gives the same cells whatever these
    shares are: what a call with `rna_only=0.3` leaves out is found in the call without.

    Cells are made in blocks and kept sparse: memory is little more than the result.

    Parameters
    ----------
    n_obs, n_genes, n_regions, n_proteins
        Number of cells, genes, regions and proteins. Without proteins there is no such modality.
    rna_only, atac_only
        Shares of cells, from 0 to 1 and together at most 1, that have RNA but no chromatin, and the reverse. They are
        missing from the other modality. Proteins are measured with RNA.
    n_types
        Number of cell types. Their proportions differ, by up to a factor of 3.
    n_batches
        Number of batches, equal in size.
    n_latent
        Dimensions of the latent space.
    type_separation
        Standard deviation of the types' centers; the cells of a type have a standard deviation of 1 around theirs.
    differential
        Share of genes, and share of regions, from 0 to 1, that follow the latent position. Of regions, in addition to
        those that follow a gene.
    linked
        Share of regions, from 0 to 1, that follow a gene: one of the differential genes. If there are none, no region
        is linked.
    link_strength
        By how much the logit of such a region's accessibility changes with the natural log of its gene's share of
        expression. Negative for regions that close as the gene is expressed.
    effect_size, region_effect_size
        Standard deviation over cells of the natural log of a differential gene's share, and of the logit of a
        differential region's accessibility: the median over these genes and over these regions.
    batch_effect, region_batch_effect
        Standard deviation over genes, and over proteins, of the natural log of a batch's factors; over regions of what
        a batch adds to the logit. Between two batches, they then differ by 1.4 times as much.
    composition_shift
        Standard deviation of the natural log by which a type's proportion differs between batches.
    library_size, library_sd
        Median over cells of the expected total of RNA counts, by default 0.6 counts per gene, and the standard
        deviation over cells of its natural log.
    dispersion
        Median over genes of the inverse dispersion: the variance of a count is `mean + mean**2 / dispersion`.
    positive_rate
        Share of the entries of cells and regions that are above zero, about.
    depth_sd
        Standard deviation over cells of the logit of the depth, whose median is 0.5.
    extra_fragments
        Mean number of fragments after the first, in a region where there is one.
    true_rate, true_accessibility
        Keep expected counts of genes, or the probabilities that regions are open, as a dense layer, of
        `4 * n_obs * n_genes` or `4 * n_obs * n_regions` bytes.
    {RANDOM}

    Returns
    -------
    Multimodal data with the modalities `'rna'`, `'atac'` and, if there are proteins, `'protein'`. Of all cells:

    `.obs['cell_type']`, `.obs['batch']` : categorical
        `'type1'`, ... and `'batch1'`, ... They are in `obs` of each modality too.
    `.obs['modality']` : categorical
        `'paired'`, `'expression'` (no chromatin) or `'accessibility'` (no RNA): in this order, and only those that occur.
    `.obs['library_size']`
        Expected total of RNA counts, but for batch factors. Also in `obs` of `'rna'`.
    `.obs['accessibility_depth']`
        The depth, between 0 and 1. Also in `obs` of `'atac'`.
    `.obsm['X_true']` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Latent position. Also in each modality.

    Each modality has its counts in `.X` (:class:`scipy.sparse.csr_matrix`, dtype `float32`) and, in
    `.var['feature_types']`, the name that 10x has for it: `'Gene Expression'`, `'Peaks'`, `'Antibody Capture'`. What is
    true of a gene, region or protein is that of all cells, measured or not. `mdata['rna']` has the fields of
    :func:`simulate_rna`. `mdata['atac']` has

    `.var['mean']`
        Expected number of fragments, the mean over cells.
    `.var['region_factor']`
        The region's factor, between 0 and 1.
    `.var['differential']` : bool
        Whether accessibility depends on the latent position, also by way of a gene.
    `.var['linked_gene']` : categorical
        The gene that the region follows; missing if there is none.
    `.varm['true_accessibility']` : :class:`pandas.DataFrame` (a column for each cell type)
        Probability that the region is open, the mean over the cells of the type.
    `.varm['true_batch_shift']` : :class:`pandas.DataFrame` (a column for each batch)
        What the batch adds to the logit of accessibility.
    `.layers['true_accessibility']` : :class:`numpy.ndarray` (dtype `float32`)
        Probability that the region is open in the cell. Only if `true_accessibility=True`.

    and `mdata['protein']`

    `.var['foreground_factor']`, `.var['dispersion']`
        By how much the foreground exceeds the background, and inverse dispersion.
    `.varm['true_background']` : :class:`pandas.DataFrame` (a column for each batch)
        Median of the expected background count.
    `.layers['true_foreground']` : :class:`numpy.ndarray` (dtype `bool`)
        Whether the cell has the protein.

    Raises
    ------
    InputError
        A number is outside of what its argument can be.

    See Also
    --------
    simulate_rna : RNA alone.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> mdata = svp.datasets.simulate_multiome(200, 100, n_regions=300, rna_only=0.2, atac_only=0.3, rng=1)
    >>> mdata["rna"].shape, mdata["atac"].shape, mdata.obsm["X_true"].shape
    ((140, 100), (160, 300), (200, 8))
    >>> mdata.obs["modality"].value_counts().to_dict()
    {'paired': 100, 'accessibility': 60, 'expression': 40}
    >>> int(mdata["atac"].var["linked_gene"].notna().sum())
    60
    """
    n_obs, n_genes = checked_size("n_obs", n_obs), checked_size("n_genes", n_genes)
    n_regions, n_proteins = checked_size("n_regions", n_regions), checked_size("n_proteins", n_proteins, smallest=0)
    n_latent = checked_size("n_latent", n_latent)
    n_types, n_batches = checked_size("n_types", n_types, n_obs), checked_size("n_batches", n_batches, n_obs)
    library_size = COUNTS_PER_GENE * n_genes if library_size is None else library_size
    for name, value, lowest, highest in (
        ("rna_only", rna_only, 0, 1),
        ("atac_only", atac_only, 0, 1),
        ("type_separation", type_separation, 0, 1000),
        ("differential", differential, 0, 1),
        ("linked", linked, 0, 1),
        ("link_strength", link_strength, -5, 5),
        ("effect_size", effect_size, 0, 5),
        ("region_effect_size", region_effect_size, 0, 5),
        ("batch_effect", batch_effect, 0, 5),
        ("region_batch_effect", region_batch_effect, 0, 5),
        ("composition_shift", composition_shift, 0, 5),
        ("library_size", library_size, 1e-3, 1e6),
        ("library_sd", library_sd, 0, 3),
        ("dispersion", dispersion, 1e-3, np.inf),
        ("positive_rate", positive_rate, 1e-6, 1),
        ("depth_sd", depth_sd, 0, 3),
        ("extra_fragments", extra_fragments, 0, 100),
    ):
        check_range(name, value, lowest, highest)
    modality = _modality_of_cells(n_obs, rna_only, atac_only)

    # Each part of the truth and of the noise has a generator of its own: no part changes with what is asked of another.
    seeds = np.random.SeedSequence(seed_from(rng, random_state)).spawn(7)
    of_genes, of_cells, of_regions, of_proteins = (np.random.default_rng(seed) for seed in seeds[:4])
    centers = spread_centers(n_types, n_latent, of_genes) * type_separation
    genes = random_genes(centers, n_genes, differential, effect_size, dispersion, of_genes)
    batch_factor = random_batch_factors(n_batches, genes, batch_effect, of_genes)
    cells = random_cells(centers, n_obs, n_batches, composition_shift, library_size, library_sd, of_cells)
    depth = expit(of_cells.normal(0, depth_sd, n_obs)).astype(np.float32)
    table = cells.table().assign(accessibility_depth=depth, modality=modality)
    regions = random_regions(
        centers,
        genes,
        n_regions,
        n_batches,
        differential=differential,
        effect_size=region_effect_size,
        batch_effect=region_batch_effect,
        linked=linked,
        link_strength=link_strength,
        random=of_regions,
    )
    regions = at_level(regions, cells, genes, depth, positive_rate)
    modalities = {
        "rna": _rna(table, cells, genes, batch_factor, true_rate, seeds[4]),
        "atac": _atac(table, cells, genes, regions, extra_fragments, true_accessibility, seeds[5]),
    }
    if n_proteins:
        proteins = random_proteins(centers, n_proteins, n_batches, batch_effect, of_proteins)
        modalities["protein"] = _protein(table, cells, proteins, seeds[6])
    return multimodal(modalities, table, {"X_true": cells.position})


def _modality_of_cells(n_obs: int, rna_only: float, atac_only: float) -> pd.Categorical:
    """In this order, so that a MuData with the cells of one modality after those of another keeps it."""
    if rna_only + atac_only > 1 + 1e-9:
        raise InputError(
            f"rna_only={rna_only!r} and atac_only={atac_only!r} are more than all cells. Give shares with a sum of at "
            "most 1: the other cells are paired."
        )
    n_unpaired, n_expression = round((rna_only + atac_only) * n_obs), round(rna_only * n_obs)
    n_cells = (n_obs - n_unpaired, n_expression, n_unpaired - n_expression)
    present = [name for name, n in zip(MODALITIES, n_cells, strict=True) if n]
    return pd.Categorical(np.repeat(MODALITIES, n_cells), categories=present)


def _rna(
    table: pd.DataFrame,
    cells: Cells,
    genes: Genes,
    batch_factor: NDArray[np.float64],
    true_rate: bool,
    seed: np.random.SeedSequence,
) -> AnnData:
    measured = (table["modality"] != "accessibility").to_numpy()
    drawn = draw_expression(
        cells, genes, batch_factor, noise=repeat(_noise(seed)), measured=measured, true_rate=true_rate
    )
    var, varm = gene_truth(cells, genes, batch_factor, drawn)
    return AnnData(
        drawn.counts,
        obs=table.loc[measured, ["cell_type", "batch", "modality", "library_size"]],
        var=var.assign(feature_types=_feature_types("Gene Expression", len(var))),
        obsm={"X_true": cells.position[measured]},
        varm=varm,
        layers={} if drawn.rate is None else {"true_rate": drawn.rate},
    )


def _atac(
    table: pd.DataFrame,
    cells: Cells,
    genes: Genes,
    regions: Regions,
    extra_fragments: float,
    true_accessibility: bool,
    seed: np.random.SeedSequence,
) -> AnnData:
    measured = (table["modality"] != "expression").to_numpy()
    of_names, of_fragments = (np.random.default_rng(part) for part in seed.spawn(2))
    drawn = draw_fragments(
        cells,
        genes,
        regions,
        table["accessibility_depth"].to_numpy(),
        measured=measured,
        extra_fragments=extra_fragments,
        true_accessibility=true_accessibility,
        random=of_fragments,
    )
    var, varm = region_truth(cells, regions, drawn, extra_fragments, region_names(len(regions.base), of_names))
    return AnnData(
        drawn.counts,
        obs=table.loc[measured, ["cell_type", "batch", "modality", "accessibility_depth"]],
        var=var.assign(feature_types=_feature_types("Peaks", len(var))),
        obsm={"X_true": cells.position[measured]},
        varm=varm,
        layers={} if drawn.accessibility is None else {"true_accessibility": drawn.accessibility},
    )


def _protein(table: pd.DataFrame, cells: Cells, proteins: Proteins, seed: np.random.SeedSequence) -> AnnData:
    measured = (table["modality"] != "accessibility").to_numpy()
    of_counts, of_presence, of_background = seed.spawn(3)
    drawn = draw_proteins(
        cells,
        proteins,
        noise=_noise(of_counts),
        measured=measured,
        of_presence=np.random.default_rng(of_presence),
        of_background=np.random.default_rng(of_background),
    )
    var, varm = protein_truth(cells, proteins)
    return AnnData(
        drawn.counts,
        obs=table.loc[measured, ["cell_type", "batch", "modality"]],
        var=var.assign(feature_types=_feature_types("Antibody Capture", len(var))),
        obsm={"X_true": cells.position[measured]},
        varm=varm,
        layers={"true_foreground": drawn.foreground},
    )


def _noise(seed: np.random.SeedSequence) -> Noise:
    """One for all blocks, with a generator for each part, so that where blocks end does not show."""
    return Noise(*(np.random.default_rng(part) for part in seed.spawn(3)))


def _feature_types(name: str, n_vars: int) -> pd.Categorical:
    return pd.Categorical.from_codes(np.zeros(n_vars, dtype=int), [name])
