"""The simulated counts follow the story that is told of them, and look like real counts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from scvi_pp import datasets, settings
from scvi_pp._errors import ScviPPError
from scvi_pp.datasets import _simulation

# Measured on the 2,000 genes of highest variance in: PBMC 3k (2,700 cells), PBMC 4k with ambient RNA (2,170), a
# published choice of PBMC 4k genes (4,271), and a subset of Kang et al. 2018 (2,000), all UMI counts from 10x
# instruments; medians of the total counts are 895 to 3,358. The lowest and the highest of the four.
REAL = {
    "zeros": (0.62, 0.90),
    "ones": (0.53, 0.61),  # among values above zero
    "slope": (1.07, 1.52),  # of log variance on log mean, where the mean is above 0.1: 1 for Poisson, 2 for noise alone
    "excess": (0.59, 5.6),  # (variance - mean) / mean**2, the median over the same genes
    "spread": (0.47, 0.90),  # standard deviation of log10 mean
    "top ten": (0.17, 0.51),  # of all counts, in the ten highest genes
    "library sd": (0.42, 0.51),  # of the log total count
}


@pytest.fixture(scope="module")
def large():
    return datasets.simulate_rna(3000, 2000, rng=0, true_rate=True)


def moments(counts: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    mean = np.asarray(counts.mean(0), dtype=float).ravel()
    return mean, np.asarray(counts.multiply(counts).mean(0), dtype=float).ravel() - mean**2


def same(one, other) -> bool:
    return (
        (one.X != other.X).nnz == 0
        and one.obs.equals(other.obs)
        and one.var.equals(other.var)
        and np.array_equal(one.obsm["X_true"], other.obsm["X_true"])
        and one.varm["true_lfc"].equals(other.varm["true_lfc"])
    )


# What is returned


def test_everything_the_docstring_lists_is_there_and_nothing_else():
    adata = datasets.simulate_rna(300, 100, n_types=4, n_batches=3, n_latent=6)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert (adata.X.dtype, adata.X.shape) == (np.float32, (300, 100))
    assert adata.X.has_canonical_format
    assert (adata.X.data >= 1).all()
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert list(adata.obs) == ["cell_type", "batch", "library_size"]
    assert list(adata.var) == ["mean", "dispersion", "differential"]
    assert list(adata.obs["cell_type"].cat.categories) == ["type1", "type2", "type3", "type4"]
    assert adata.obs["batch"].value_counts().to_dict() == {"batch1": 100, "batch2": 100, "batch3": 100}
    assert adata.obsm["X_true"].shape == (300, 6)
    assert adata.obsm["X_true"].dtype == np.float32
    assert adata.varm["true_lfc"].shape == (100, 4)
    assert adata.varm["true_batch_lfc"].shape == (100, 3)
    assert [key for key in adata.layers if key is not None] == []  # newer anndata lists X, as None
    assert not adata.uns


def test_result_survives_a_file(tmp_path):
    import anndata

    adata = datasets.simulate_rna(50, 30, true_rate=True)
    adata.write_h5ad(tmp_path / "simulated.h5ad")
    back = anndata.read_h5ad(tmp_path / "simulated.h5ad")
    assert same(back, adata)
    np.testing.assert_array_equal(back.layers["true_rate"], adata.layers["true_rate"])


# Randomness


def test_same_seed_gives_same_data_and_another_seed_does_not():
    one = datasets.simulate_rna(100, 50, rng=3)
    assert same(one, datasets.simulate_rna(100, 50, rng=3))
    assert same(one, datasets.simulate_rna(100, 50, random_state=3))
    assert not same(one, datasets.simulate_rna(100, 50, rng=4))
    with settings.override(seed=3):
        assert same(one, datasets.simulate_rna(100, 50))


def test_generator_gives_new_data_at_each_call():
    rng = np.random.default_rng(0)
    assert not same(datasets.simulate_rna(100, 50, rng=rng), datasets.simulate_rna(100, 50, rng=rng))


def test_keeping_the_rate_changes_nothing_else():
    assert same(datasets.simulate_rna(100, 50), datasets.simulate_rna(100, 50, true_rate=True))


def test_global_random_state_is_untouched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    datasets.simulate_rna(50, 20)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# Truth


def test_counts_have_the_mean_and_the_variance_that_are_stored(large):
    rate, theta = large.layers["true_rate"].astype(float), large.var["dispersion"].to_numpy()
    np.testing.assert_allclose(large.var["mean"], rate.mean(0), rtol=1e-4)
    variance = rate + rate**2 / theta
    off = np.asarray(large.X.sum(0)).ravel() - rate.sum(0)
    z = off / np.sqrt(variance.sum(0))
    assert abs(z.mean()) < 0.1
    assert 0.9 < z.std() < 1.1
    pearson = (large.X.toarray() - rate) ** 2 / variance
    assert 0.95 < pearson.mean() < 1.05


def test_rate_is_library_times_share_times_batch_factor(large):
    factor = 2 ** large.varm["true_batch_lfc"].to_numpy().T[large.obs["batch"].cat.codes]
    share = large.layers["true_rate"] / factor / large.obs["library_size"].to_numpy()[:, None]
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-4)
    null = share[:, ~large.var["differential"].to_numpy()]
    np.testing.assert_allclose(null / null[0], 1, rtol=1e-4)


def test_fold_changes_are_those_of_the_mean_shares(large):
    factor = 2 ** large.varm["true_batch_lfc"].to_numpy().T[large.obs["batch"].cat.codes]
    share = large.layers["true_rate"] / factor / large.obs["library_size"].to_numpy()[:, None]
    inside = (large.obs["cell_type"] == "type2").to_numpy()
    lfc = np.log2(share[inside].mean(0) / share[~inside].mean(0))
    np.testing.assert_allclose(large.varm["true_lfc"]["type2"], lfc, atol=1e-3)
    null = ~large.var["differential"].to_numpy()
    assert (large.varm["true_lfc"].to_numpy()[null] == 0).all()
    assert null.sum() == 1400


def test_batch_factors_are_as_strong_as_asked_and_leave_depth_alone():
    adata = datasets.simulate_rna(2000, 1000, n_batches=3, batch_effect=0.4, library_sd=0, rng=1)
    assert adata.varm["true_batch_lfc"].std().to_numpy() == pytest.approx(0.4 / np.log(2), rel=0.1)
    depth = adata.X.sum(1).A1
    by_batch = [depth[adata.obs["batch"] == batch].mean() for batch in adata.obs["batch"].cat.categories]
    assert by_batch == pytest.approx([600] * 3, rel=0.1)


def test_batch_effect_seen_in_the_counts_is_the_one_stored(large):
    seen = [large.X[(large.obs["batch"] == batch).to_numpy()].sum(0).A1 for batch in ("batch1", "batch2")]
    high = np.minimum(*seen) > 200
    truth = large.varm["true_batch_lfc"]["batch1"] - large.varm["true_batch_lfc"]["batch2"]
    assert np.corrcoef(np.log2(seen[0][high] / seen[1][high]), truth[high])[0, 1] > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_types_are_apart_in_the_latent_space_and_in_the_counts(seed: int):
    adata = datasets.simulate_rna(1500, 600, n_batches=1, rng=seed)
    label = adata.obs["cell_type"].cat.codes.to_numpy()
    share = np.log1p(adata.X.toarray() / adata.X.sum(1).A1[:, None] * 300)
    components = np.linalg.svd(share - share.mean(0), full_matrices=False)
    for position in (adata.obsm["X_true"], components[0][:, :10] * components[1][:10]):
        train, test = position[::2], position[1::2]
        centers = np.array([train[label[::2] == k].mean(0) for k in range(5)])
        nearest = np.linalg.norm(test[:, None] - centers, axis=2).argmin(1)
        assert (nearest == label[1::2]).mean() > 0.9


def test_without_separation_there_are_no_types():
    position = datasets.simulate_rna(3000, 20, type_separation=0, n_types=3, rng=0)
    means = [position.obsm["X_true"][position.obs["cell_type"] == f"type{i}"].mean(0) for i in (1, 2, 3)]
    assert np.abs(means).max() < 0.2


def test_composition_differs_between_batches_only_on_request():
    def largest_difference(shift: float) -> float:
        obs = datasets.simulate_rna(4000, 20, composition_shift=shift, rng=0).obs
        table = obs.groupby("cell_type", observed=True)["batch"].value_counts().unstack()
        return float((table["batch1"] / 2000 - table["batch2"] / 2000).abs().max())

    assert largest_difference(0) < 0.05
    assert largest_difference(1.5) > 0.1


def test_zero_inflation_loses_the_share_asked_for():
    whole = datasets.simulate_rna(1000, 500, rng=0)
    thinned = datasets.simulate_rna(1000, 500, rng=0, zero_inflation=0.4)
    assert thinned.X.nnz / whole.X.nnz == pytest.approx(0.6, abs=0.02)
    assert thinned.var["mean"].equals(whole.var["mean"])


def test_infinite_dispersion_is_poisson():
    adata = datasets.simulate_rna(4000, 50, dispersion=np.inf, differential=0, batch_effect=0, library_sd=0, rng=0)
    mean, variance = moments(adata.X)
    np.testing.assert_allclose(variance / mean, 1, atol=0.15)


# Realism


def realism(counts: sparse.csr_matrix) -> dict[str, float]:
    mean, variance = moments(counts)
    seen = mean > 0.1
    return {
        "zeros": 1 - counts.nnz / np.prod(counts.shape),
        "ones": (counts.data == 1).mean(),
        "slope": np.polyfit(np.log(mean[seen]), np.log(variance[seen]), 1)[0],
        "excess": np.median((variance - mean)[seen] / mean[seen] ** 2),
        "spread": np.log10(mean[mean > 0]).std(),
        "top ten": np.sort(mean)[-10:].sum() / mean.sum(),
        "library sd": np.log(counts.sum(1).A1).std(),
    }


def test_counts_look_like_the_most_variable_genes_of_real_data():
    several = [realism(datasets.simulate_rna(2000, 2000, rng=seed).X) for seed in range(4)]
    figures = {name: np.mean([figure[name] for figure in several]) for name in REAL}
    assert not {name: figure for name, figure in figures.items() if not REAL[name][0] <= figure <= REAL[name][1]}


def test_shallow_sequencing_gives_nine_zeros_in_ten():
    adata = datasets.simulate_rna(1000, 2000, library_size=400)
    assert 0.86 < 1 - adata.X.nnz / np.prod(adata.shape) < 0.93


# Size


def test_blocks_do_not_show_and_memory_stays_near_the_result(monkeypatch):
    monkeypatch.setattr(_simulation, "BLOCK_VALUES", 50_000)
    tracemalloc.start()
    try:
        adata = datasets.simulate_rna(10_000, 1000, library_size=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    result = adata.X.data.nbytes + adata.X.indices.nbytes + adata.obsm["X_true"].nbytes
    assert peak < 3 * result + 10_000_000  # dense counts would be 80 MB
    depth = adata.X.sum(1).A1 / adata.obs["library_size"].to_numpy()
    assert depth[:5000].mean() == pytest.approx(depth[5000:].mean(), rel=0.03)


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_obs": 1, "n_vars": 1, "n_types": 1, "n_batches": 1, "n_latent": 1},
        {"n_obs": 7, "n_vars": 3, "n_types": 7, "n_batches": 7},
        {"n_obs": 20, "n_vars": 5, "differential": 0.2},
        {"n_obs": 20, "n_vars": 5, "differential": 0},
        {"n_obs": 20, "n_vars": 5, "differential": 1, "zero_inflation": 1},
        {"n_obs": np.int32(20), "n_vars": np.int16(300), "effect_size": 5, "batch_effect": 5, "library_sd": 3},
    ],
)
def test_smallest_and_most_extreme_arguments_work(sizes: dict):
    adata = datasets.simulate_rna(**sizes)
    assert adata.shape == (sizes["n_obs"], sizes["n_vars"])
    assert np.isfinite(adata.X.data).all()
    assert np.isfinite(adata.var[["mean", "dispersion"]].to_numpy()).all()
    assert adata.obs["cell_type"].nunique() == sizes.get("n_types", 5)
    assert np.isfinite(adata.varm["true_lfc"].to_numpy()).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("n_obs", "n_vars", "n_types", "n_latent") for value in (0, -1, 2.0, True, "5")),
        ("n_types", 101),
        ("n_batches", 101),
        ("differential", 1.1),
        ("effect_size", -0.1),
        ("batch_effect", float("nan")),
        ("library_size", 0),
        ("library_size", "deep"),
        ("library_sd", -1),
        ("dispersion", 0),
        ("zero_inflation", 1.5),
        ("rng", -1),
    ],
)
def test_impossible_argument_is_refused_by_name(name: str, value: object):
    with pytest.raises(ScviPPError, match=rf"{name}={value!r}"):
        datasets.simulate_rna(**{"n_obs": 100, "n_vars": 20, name: value})
