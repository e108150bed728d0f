"""Single-cell RNA counts of which everything is known.

For cell n of type t and batch b, and gene g:

    z_n       = center_t + Normal(0, 1)                 (n_latent,)
    share_n   = mass * softmax(log base + effect(z_n))  for the differential genes; base for the others; (n_vars,)
    library_n = LogNormal(log library_size, library_sd)
    rate_ng   = library_n * share_ng * batch_factor_bg
    count_ng  = Poisson(rate_ng * Gamma(dispersion_g, 1) / dispersion_g), or 0 with probability zero_inflation

`effect` is a random smooth network with one hidden layer, scaled so that the log expression of a gene has the standard
deviation over cells that was asked for. `mass` is what the differential genes have together: because it is constant,
the others have a log fold change of exactly zero. A batch factor is the same in every cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from scvi_pp import _docs
from scvi_pp._seed import seed_from
from scvi_pp.datasets._simulation import (
    COUNTS_PER_GENE,
    Noise,
    blocks,
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
    from scvi_pp._seed import Seed


@_docs.documented(RANDOM=_docs.RANDOM)
def simulate_rna(
    n_obs: int = 1000,
    n_vars: int = 500,
    *,
    n_types: int = 5,
    n_batches: int = 2,
    n_latent: int = 8,
    type_separation: float = 3.0,
    differential: float = 0.3,
    effect_size: float = 0.8,
    batch_effect: float = 0.3,
    composition_shift: float = 0.0,
    library_size: float | None = None,
    library_sd: float = 0.45,
    dispersion: float = 4.0,
    zero_inflation: float = 0.0,
    true_rate: bool = False,
    rng: Seed = None,
    random_state: Seed = None,
) -> AnnData:
    """Simulate single-cell RNA counts with known latent space, cell types, batches and differential genes.

    Use it to see whether a method finds what is there, and how that depends on depth, noise, and batch effects. A
    cell's type and its variation within the type are a position in a low-dimensional latent space. A smooth random
    decoder turns the position into each gene's share of expression; a batch multiplies each gene by a factor of its
    own; the library size says how many counts the cell has in the mean; counts scatter around that as negative
    binomials. The defaults resemble the most variable genes of 10x data.

    Cells are made in blocks and kept sparse: a million cells take minutes, and little more memory than the result.

    Parameters
    ----------
    n_obs, n_vars
        Number of cells and of genes.
    n_types
        Number of cell types. Their proportions differ, by up to a factor of 3.
    n_batches
        Number of batches, equal in size.
    n_latent
        Dimensions of the latent space.
    type_separation
        Standard deviation of the types' centers; the cells of a type have a standard deviation of 1 around theirs.
        At 0 there are no types, whatever the labels say.
    differential
        Share of genes, from 0 to 1, whose expression depends on the latent position.
    effect_size
        Standard deviation over cells of the natural log of a differential gene's share: the median over these genes.
    batch_effect
        Standard deviation over genes of the natural log of a batch's factors. Between two batches, genes then differ
        by 1.4 times as much. 0.15 is a repeat of an experiment, 0.45 another laboratory with another chemistry.
    composition_shift
        Standard deviation of the natural log by which a type's proportion differs between batches.
    library_size
        Median over cells of the expected total count; by default 0.6 counts per gene.
    library_sd
        Standard deviation over cells of the natural log of the expected total count.
    dispersion
        Median over genes of the inverse dispersion: the variance of a count is `mean + mean**2 / dispersion`.
        `inf` gives Poisson counts.
    zero_inflation
        Share of counts, from 0 up to 1, that are lost: set to zero whatever they were. UMI counts have none.
    true_rate
        Keep the expected counts as a dense layer, of `4 * n_obs * n_vars` bytes.
    {RANDOM}

    Returns
    -------
    Annotated data matrix with the fields

    `.X` : :class:`scipy.sparse.csr_matrix` (dtype `float32`, shape `(n_obs, n_vars)`)
        Counts.
    `.obs['cell_type']`, `.obs['batch']` : categorical
        `'type1'`, ... and `'batch1'`, ...
    `.obs['library_size']`
        Expected total count, but for batch factors and lost counts.
    `.obsm['X_true']` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Latent position.
    `.var['mean']`
        Expected count, the mean over these cells.
    `.var['dispersion']`
        Inverse dispersion.
    `.var['differential']` : bool
        Whether expression depends on the latent position.
    `.varm['true_lfc']` : :class:`pandas.DataFrame` (a column for each cell type)
        Log2 fold change of the mean share in the cells of the type over that in all others. Exactly 0 for genes that
        are not differential; NaN for those that are if there is one type only.
    `.varm['true_batch_lfc']` : :class:`pandas.DataFrame` (a column for each batch)
        Log2 of the factor by which the batch multiplies the gene.
    `.layers['true_rate']` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_vars)`)
        Expected count of each gene in each cell before any is lost. Only if `true_rate=True`.

    Raises
    ------
    InputError
        A number is outside of what its argument can be.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> adata = svp.datasets.simulate_rna(200, 100, n_types=3, rng=1)
    >>> adata.shape, adata.obsm["X_true"].shape
    ((200, 100), (200, 8))
    >>> int(adata.var["differential"].sum())
    30
    >>> adata.varm["true_lfc"].columns.to_list()
    ['type1', 'type2', 'type3']
    """
    n_obs, n_vars = checked_size("n_obs", n_obs), checked_size("n_vars", n_vars)
    n_latent = checked_size("n_latent", n_latent)
    n_types, n_batches = checked_size("n_types", n_types, n_obs), checked_size("n_batches", n_batches, n_obs)
    check_range("type_separation", type_separation, 0, 1000)
    check_range("differential", differential, 0, 1)
    check_range("effect_size", effect_size, 0, 5)
    check_range("batch_effect", batch_effect, 0, 5)
    check_range("composition_shift", composition_shift, 0, 5)
    library_size = COUNTS_PER_GENE * n_vars if library_size is None else library_size
    check_range("library_size", library_size, 1e-3, 1e6)
    check_range("library_sd", library_sd, 0, 3)
    check_range("dispersion", dispersion, 1e-3, np.inf)
    check_range("zero_inflation", zero_inflation, 0, 1)

    of_genes, of_cells, of_counts = np.random.SeedSequence(seed_from(rng, random_state)).spawn(3)
    random = np.random.default_rng(of_genes)
    centers = spread_centers(n_types, n_latent, random) * type_separation
    genes = random_genes(centers, n_vars, differential, effect_size, dispersion, random)
    batch_factor = random_batch_factors(n_batches, genes, batch_effect, random)
    random = np.random.default_rng(of_cells)
    cells = random_cells(centers, n_obs, n_batches, composition_shift, library_size, library_sd, random)
    of_blocks = [np.random.default_rng(seed) for seed in of_counts.spawn(len(blocks(n_obs, n_vars)))]
    drawn = draw_expression(
        cells,
        genes,
        batch_factor,
        noise=[Noise(random, random, random) for random in of_blocks],
        measured=np.ones(n_obs, dtype=bool),
        zero_inflation=zero_inflation,
        true_rate=true_rate,
    )
    var, varm = gene_truth(cells, genes, batch_factor, drawn)
    layers = {} if drawn.rate is None else {"true_rate": drawn.rate}
    return AnnData(drawn.counts, obs=cells.table(), var=var, obsm={"X_true": cells.position}, varm=varm, layers=layers)
