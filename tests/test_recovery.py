"""What is true of simulated cells is found again: their types, their expression, the noise of each gene; not the batch.

Each number is judged in the mean over studies (tests/studies.py), by a bound that follows from what could be reached at
best and from what is reached without a model, at least four of its standard deviations from what is expected:
- `type_separation=3` puts types so far apart that k-means on the true positions finds nearly all of them, but a cell has
  only some 150 counts. Uncorrected components reach an index of 0.3 to 0.9.
- Two equal batches are guessed with accuracy 0.5 by chance, and the majority of 15 neighbours of 1,500 cells scatters by
  about 0.02 around it even where batches are mixed by a coin. Fits scatter by more: 0.53 to 0.63, and of 500 cells 0.52 to
  0.68; without correction 0.95 and more.
- Nobody can know the dispersion of a gene better than who knows its mean in every cell. Where a gene has no biology to
  explain (it is not differential), the estimate should come near the maximum likelihood of an oracle that does. It is
  judged by the median over genes: of the 11 to 30 in a study a single one may be far off. Biology that 1,500 cells do not
  suffice to explain counts as noise, so the dispersion of the other genes may only be too small.
- Denoised expression is compared gene by gene around its mean, so that knowing which genes are high earns nothing.

Chromatin is simulated here, by the story of PeakVI: three groups of cells, factors of cells and of regions. A cell has
some 64 open regions of 400, or as many fragments:
- Groups: index 0.19 to 0.26 for principal components of what is open. Who knows all but the group of a cell is right in
  99.0% to 99.8% of them.
- Depth: 85% to 92% of its variance is explained by those components. The latent position of PeakVI explains 7 % in the
  mean, which scatters by 5 % from study to study (0 to 16 % in twelve fits); that of PoissonVI 4 %.
- Accessibility region by region around its mean, on a log scale: 0.13 to 0.15 for what is seen of a cell over its total.
- Factors of cells: the total of a cell, which is most of what there is to go by, comes to 0.95 to 0.96.
- Accessibility times the factor of the region, in the mean over cells on a log scale. The two are not told apart, since
  any share of one could be of the other.
The KL term rises over half of a run of 560 steps. Where it rises over a tenth of half as many, the posterior of data as
small as these stays at the prior for some seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import anndata as ad
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.stats import nbinom
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import scvi_pp as svp
from scvi_pp._backend.fit import fit
from scvi_pp._backend.query import Posterior
from tests.backend import small
from tests.studies import Judge, seeds

SEEDS, FEWER = seeds(3), seeds(2)
N_NEIGHBORS = 15


@dataclass(frozen=True)
class Study:
    """A fit of simulated cells, and the uncorrected principal components to hold it against."""

    adata: ad.AnnData
    log_normalised: np.ndarray
    components: np.ndarray

    def of_types(self, key: str) -> float:
        """Agreement of a position in obsm with the types."""
        return agreement_with_types(self.adata.obsm[key], self.adata)

    @property
    def true_log_share(self) -> np.ndarray:
        rate = self.adata.layers["true_rate"]
        return np.log(rate / rate.sum(1, keepdims=True))


@cache
def study(seed: int, likelihood: str = "zinb", n_obs: int = 1500, n_vars: int = 300, depth: float = 150) -> Study:
    adata = svp.datasets.simulate_rna(n_obs, n_vars, library_size=depth, batch_effect=0.45, true_rate=True, rng=seed)
    counts = adata.X.toarray()
    total = counts.sum(1, keepdims=True)
    log_normalised = np.log1p(counts / np.maximum(total, 1) * np.median(total))
    with svp.settings.override(verbosity=0):
        svp.tl.scvi(adata, batch_key="batch", gene_likelihood=likelihood, device="cpu", rng=seed)
    return Study(adata, log_normalised, PCA(10, random_state=0).fit_transform(log_normalised))


def agreement_with_types(position: np.ndarray, adata: ad.AnnData) -> float:
    """Adjusted Rand index of k-means with the cell types: 0 by chance, 1 at best."""
    types = adata.obs["cell_type"]
    clusters = KMeans(types.nunique(), n_init=10, random_state=0).fit_predict(position)
    return adjusted_rand_score(types, clusters)


def batch_guessed(position: np.ndarray, adata: ad.AnnData) -> float:
    """Share of cells whose neighbours are mostly of their own batch: 0.5 where the batches are mixed."""
    neighbors = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(position).kneighbors(return_distance=False)
    batch = adata.obs["batch"].cat.codes.to_numpy()
    return float(((batch[neighbors] == batch[:, None]).mean(1) > 0.5).mean())


def within_genes(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation over cells and genes, each gene around its mean."""
    return float(np.corrcoef((one - one.mean(0)).ravel(), (other - other.mean(0)).ravel())[0, 1])


def dispersion_of_an_oracle(adata: ad.AnnData, genes: np.ndarray) -> np.ndarray:
    """Maximum likelihood given the true mean of every count; log, (genes,)."""
    counts, rate = adata.X.toarray()[:, genes], adata.layers["true_rate"][:, genes].astype(float)

    def surprise(log_dispersion: float, gene: int) -> float:
        dispersion = np.exp(log_dispersion)
        chance = dispersion / (dispersion + rate[:, gene])
        return -nbinom.logpmf(counts[:, gene], dispersion, chance).sum()

    fits = [minimize_scalar(surprise, bounds=(-3, 6), args=(gene,), method="bounded") for gene in range(len(genes))]
    return np.array([fit.x for fit in fits])


def difference(ours: np.ndarray, others: np.ndarray) -> list[float]:
    """By how much the first is larger, study by study."""
    return list(np.subtract(ours, others))


@pytest.mark.slow
def test_cell_types_are_found_again_and_batches_mixed(judge: Judge):
    """In five studies: the index of cell types scatters by 0.1, that of uncorrected components from 0.3 to 0.9."""
    studies = [study(seed) for seed in seeds(5)]
    judge("index of the true positions", [found.of_types("X_true") for found in studies], above=0.97)
    judge_latent("scvi", studies, judge, of_types=0.6, of_batch=0.67)


def judge_latent(what: str, studies: list[Study], judge: Judge, *, of_types: float, of_batch: float) -> None:
    """Types and batches in the latent position, and in components without correction."""
    ours = [found.of_types("X_scvi") for found in studies]
    plain = [agreement_with_types(found.components, found.adata) for found in studies]
    as_good = [one >= other - 0.02 for one, other in zip(ours, plain, strict=True)]
    judge(f"{what}: index of cell types", ours, above=of_types)
    judge(f"{what}: share of studies with at least the index of components", as_good, above=0.3)
    latents = [(found.adata.obsm["X_scvi"], found.adata) for found in studies]
    judge(f"{what}: batch guessed", [batch_guessed(*latent) for latent in latents], below=of_batch)
    of_components = [batch_guessed(found.components, found.adata) for found in studies]
    judge(f"{what}: batch guessed by components", of_components, above=0.85)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["zinb", "nb"])
def test_denoised_expression_is_nearer_the_truth_than_counts(likelihood: str, judge: Judge):
    ours, plain = [], []
    for found in (study(seed, likelihood) for seed in SEEDS):
        differential = found.adata.var["differential"].to_numpy()
        truth = found.true_log_share[:, differential]
        ours.append(within_genes(np.log(found.adata.layers["scvi_denoised"])[:, differential], truth))
        plain.append(within_genes(found.log_normalised[:, differential], truth))
    judge(f"scvi {likelihood}: correlation of denoised expression within genes", ours, above=0.65)
    judge(f"scvi {likelihood}: the same, beyond log-normalised counts", difference(ours, plain), above=0.2)


@pytest.mark.slow
def test_mean_expression_of_genes_is_found_again(judge: Judge):
    judge(
        "scvi nb: correlation of mean expression of genes",
        [_mean_expression(study(seed, "nb")) for seed in SEEDS],
        above=0.95,
    )


def _mean_expression(found: Study) -> float:
    ours = np.log(found.adata.layers["scvi_denoised"]).mean(0)
    return float(np.corrcoef(ours, found.true_log_share.mean(0))[0, 1])


@pytest.mark.slow
def test_dispersion_is_found_nearly_as_well_as_it_can_be(judge: Judge):
    behind, biases, of_differential = [], [], []
    for found in (study(seed, "nb") for seed in SEEDS):
        var = found.adata.var
        truth = np.log(var["dispersion"].to_numpy())
        ours = np.log(svp.get.likelihood_parameters(found.adata)["dispersion"].iloc[0].to_numpy())
        seen = var["mean"].to_numpy() > 1  # below a count per cell, dispersion hardly shows
        plain, differential = (np.flatnonzero(seen & (var["differential"] == kind)) for kind in (False, True))
        oracle = dispersion_of_an_oracle(found.adata, plain)
        behind.append(np.median(np.abs(ours[plain] - truth[plain])) - np.median(np.abs(oracle - truth[plain])))
        biases.append(np.median(ours[plain] - truth[plain]))
        of_differential.append(np.median(ours[differential] - truth[differential]))
    judge("scvi nb: median error of log dispersion, beyond that of an oracle", behind, below=0.15)
    judge("scvi nb: bias of log dispersion", biases, above=-0.2, below=0.2)
    judge("scvi nb: bias of log dispersion of differential genes", of_differential, above=-1.5, below=0.2)


def test_types_are_found_and_batches_mixed_in_a_few_seconds(judge: Judge):
    """Fewer cells with more counts each. Batches are guessed in 0.52 to 0.75 of the cells, with a mean of 0.59."""
    studies = [study(seed, "nb", n_obs=500, n_vars=150, depth=600) for seed in seeds(5)]
    judge_latent("scvi, 500 cells", studies, judge, of_types=0.7, of_batch=0.75)


# ---- chromatin


@dataclass(frozen=True)
class Chromatin:
    """A fit of simulated cells of three groups, and what is true of them."""

    model: str
    posterior: Posterior
    seen: np.ndarray  # (cells, regions): whether open, or fragments
    group: np.ndarray  # (cells,)
    accessibility: np.ndarray  # (cells, regions)
    depth: np.ndarray  # (cells,)
    factors: np.ndarray  # (regions,)

    @property
    def true_share(self) -> np.ndarray:
        """How often a region would be seen but for the depth of the cell; of PoissonVI, its share of the fragments."""
        seen = self.accessibility * self.factors
        return seen / seen.sum(1, keepdims=True) if self.model == "poissonvi" else seen

    @property
    def true_log_accessibility(self) -> np.ndarray:
        """On the scale of each region but for a constant."""
        return np.log(self.true_share)

    @property
    def over_total(self) -> np.ndarray:
        """What is seen, over the total of the cell."""
        return self.seen / np.maximum(self.seen.sum(1, keepdims=True), 1)

    @property
    def components(self) -> np.ndarray:
        """Principal components of what is open, to hold the latent position against."""
        return PCA(4, random_state=0).fit_transform((self.seen > 0).astype(float))

    def agreement_with_groups(self, position: np.ndarray) -> float:
        """As `agreement_with_types`."""
        return adjusted_rand_score(self.group, KMeans(3, n_init=10, random_state=0).fit_predict(position))

    def depth_explained(self, position: np.ndarray) -> float:
        """Share of the variance of depth that is linear in the position."""
        columns = np.column_stack([position, np.ones(len(position))])
        residual = self.depth - columns @ np.linalg.lstsq(columns, self.depth, rcond=None)[0]
        return float(1 - residual.var() / self.depth.var())

    def estimate(self, value: str = "expression") -> np.ndarray:
        out = np.empty(self.seen.shape, np.float32)
        options = {"columns": None, "library_size": 1.0, "batches": None, "n_samples": None}
        return self.posterior.denoised(out, value=value, **options)


@cache
def chromatin(model: str, seed: int, n_cells: int = 600, n_regions: int = 400) -> Chromatin:
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=n_cells)
    differs = rng.random(n_regions) < 0.5
    logit = rng.normal(-0.5, 0.7, n_regions) + rng.normal(0, 2, (3, n_regions)) * differs
    accessibility = (1 / (1 + np.exp(-logit)))[group]
    depth, factors = rng.uniform(0.2, 0.95, n_cells), rng.uniform(0.4, 1, n_regions)
    rate = accessibility * depth[:, None] * factors
    seen = rng.random(rate.shape) < rate if model == "peakvi" else rng.poisson(rate)
    inputs = (small.regions if model == "peakvi" else small.arrays)(n_cells, n_regions, n_batches=1)
    inputs = inputs._replace(counts=csr_matrix(seen.astype(np.float32)))
    build = small.peakvi_network if model == "peakvi" else small.poissonvi_network
    network = build(inputs, n_hidden=20, n_latent=4, seed=seed)  # roots of roots, as the verbs have it
    options = {
        "seed": seed,
        "max_epochs": 140,
        "batch_size": 128,
        "learning_rate": 1e-2,
        "weight_decay": 1e-4,
        "kl_warmup": 0.5,
    }
    fit(network, small.cells(inputs), small.plan(n_cells, **options))
    posterior = Posterior(network, small.cells(inputs))
    return Chromatin(model, posterior, seen, group, accessibility, depth, factors)


both_models = pytest.mark.parametrize("model", ["peakvi", "poissonvi"])


@both_models
def test_groups_of_chromatin_are_found_again(model: str, judge: Judge):
    studies = [chromatin(model, seed) for seed in FEWER]
    ours = [found.agreement_with_groups(found.posterior.latent_mean()) for found in studies]
    plain = [found.agreement_with_groups(found.components) for found in studies]
    judge(f"{model}: index of groups", ours, above=0.8)
    judge(f"{model}: index of groups beyond components", difference(ours, plain), above=0.4)


@both_models
def test_the_latent_position_of_chromatin_does_not_tell_the_depth(model: str, judge: Judge):
    studies = [chromatin(model, seed) for seed in FEWER]
    of_latent = [found.depth_explained(found.posterior.latent_mean()) for found in studies]
    judge(f"{model}: depth explained by the latent position", of_latent, below=0.25)
    judge(
        f"{model}: depth explained by components",
        [found.depth_explained(found.components) for found in studies],
        above=0.8,
    )


@both_models
def test_accessibility_is_nearer_the_truth_than_what_is_seen(model: str, judge: Judge):
    studies = [chromatin(model, seed) for seed in FEWER]
    ours = [within_genes(np.log(found.estimate()), found.true_log_accessibility) for found in studies]
    plain = [within_genes(found.over_total, found.true_log_accessibility) for found in studies]
    judge(f"{model}: correlation of accessibility within regions", ours, above=0.8)
    judge(f"{model}: the same, beyond what is seen over the total", difference(ours, plain), above=0.5)


@both_models
def test_accessibility_and_the_factors_of_regions_are_found_together(model: str, judge: Judge):
    judge(
        f"{model}: correlation of mean accessibility of regions",
        [_mean_accessibility(chromatin(model, seed)) for seed in FEWER],
        above=0.95,
    )


def _mean_accessibility(found: Chromatin) -> float:
    ours, truth = found.estimate("expression_with_regions").mean(0), found.true_share.mean(0)
    return float(np.corrcoef(np.log(ours), np.log(truth))[0, 1])


def test_factors_of_cells_are_their_depth(judge: Judge):
    studies = [chromatin("peakvi", seed) for seed in FEWER]
    found = [np.corrcoef(found.posterior.library_size(), found.depth)[0, 1] for found in studies]
    judge("peakvi: correlation of factors of cells with depth", found, above=0.8)
