"""What is stored as truth is what the simulated counts were drawn from, and they look like real ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from scvi_pp import datasets
from scvi_pp._errors import ScviPPError

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # mudata 0.4.1 with pandas 3.1


@pytest.fixture(scope="module")
def large():
    return datasets.simulate_multiome(3000, 300, n_regions=1000, rng=0, true_rate=True, true_accessibility=True)


def positive_rate(mdata) -> float:
    return mdata["atac"].X.nnz / np.prod(mdata["atac"].shape)


# Truth of chromatin


def test_regions_are_open_as_often_as_the_truth_says(large):
    atac = large["atac"]
    probability = atac.layers["true_accessibility"].astype(float)
    probability *= atac.obs["accessibility_depth"].to_numpy()[:, None] * atac.var["region_factor"].to_numpy()
    seen = atac.X > 0
    z = (np.asarray(seen.sum(0)).ravel() - probability.sum(0)) / np.sqrt((probability * (1 - probability)).sum(0))
    assert abs(z.mean()) < 0.1
    assert 0.93 < z.std() < 1.07
    by_cell = (np.asarray(seen.sum(1)).ravel() - probability.sum(1)) / np.sqrt((probability * (1 - probability)).sum(1))
    assert abs(by_cell.mean()) < 0.06
    assert 0.95 < by_cell.std() < 1.05
    np.testing.assert_allclose(atac.var["mean"], probability.mean(0) * 1.25, rtol=1e-4)


def test_fragments_after_the_first_are_poisson(large):
    extra = large["atac"].X.data - 1
    assert extra.mean() == pytest.approx(0.25, abs=0.005)
    assert (extra == 0).mean() == pytest.approx(np.exp(-0.25), abs=0.005)
    assert extra.var() == pytest.approx(0.25, abs=0.01)
    ones = datasets.simulate_multiome(100, 20, n_regions=50, extra_fragments=0)["atac"].X.data
    assert (ones == 1).all()
    many = datasets.simulate_multiome(500, 20, n_regions=200, extra_fragments=8, n_types=2)["atac"].X.data
    assert many.mean() == pytest.approx(9, rel=0.02)


def test_linked_region_opens_with_the_expression_of_its_gene(large):
    rna, atac = large["rna"], large["atac"]
    gene = atac.var["linked_gene"]
    assert gene.notna().sum() == 200
    assert rna.var.loc[gene.dropna().unique(), "differential"].all()
    factor = 2 ** rna.varm["true_batch_lfc"].to_numpy().T[rna.obs["batch"].cat.codes]
    share = pd.DataFrame(
        rna.layers["true_rate"] / factor / rna.obs["library_size"].to_numpy()[:, None], columns=rna.var_names
    )
    shift = atac.varm["true_batch_shift"].to_numpy().T[atac.obs["batch"].cat.codes]
    opened = pd.DataFrame(logit(atac.layers["true_accessibility"].astype(float)) - shift, columns=atac.var_names)
    for region, its_gene in gene.dropna().iloc[::20].items():
        slope, rest = np.polyfit(np.log(share[its_gene]), opened[region], 1)
        assert slope == pytest.approx(1.5, rel=1e-2)
        residual = opened[region] - slope * np.log(share[its_gene]) - rest
        assert np.abs(residual).max() < 0.02


def test_link_is_seen_in_the_counts(large):
    rna, atac = large["rna"], large["atac"]
    share = np.log1p(rna.X.toarray() / rna.X.sum(1).A1[:, None] * 300)
    opened = (atac.X > 0).toarray().astype(float)
    pairs = atac.var.reset_index(names="region").dropna(subset="linked_gene")
    pairs = pairs[(pairs["mean"] > 0.05).to_numpy() & (rna.var.loc[pairs["linked_gene"], "mean"] > 0.5).to_numpy()]

    def mean_correlation(genes) -> float:
        columns = rna.var_names.get_indexer(genes)
        return np.mean(
            [np.corrcoef(share[:, g], opened[:, r])[0, 1] for g, r in zip(columns, pairs.index, strict=True)]
        )

    assert len(pairs) > 15
    assert mean_correlation(pairs["linked_gene"]) > 0.1
    unlinked = rna.var_names[~rna.var["differential"]][: len(pairs)]
    assert abs(mean_correlation(unlinked)) < 0.03


def test_negative_links_close_the_region():
    mdata = datasets.simulate_multiome(
        500, 50, n_regions=100, link_strength=-1.5, true_rate=True, true_accessibility=True, n_batches=1
    )
    rna, atac = mdata["rna"], mdata["atac"]
    region, gene = next(atac.var["linked_gene"].dropna().items())
    share = rna.layers["true_rate"][:, rna.var_names.get_loc(gene)] / rna.obs["library_size"]
    opened = atac.layers["true_accessibility"][:, atac.var_names.get_loc(region)]
    assert np.polyfit(np.log(share), logit(opened.astype(float)), 1)[0] == pytest.approx(-1.5, rel=1e-2)


def test_regions_that_are_not_differential_differ_by_batch_alone(large):
    atac = large["atac"]
    null = ~atac.var["differential"].to_numpy()
    assert null.sum() == 500
    assert not (atac.var["linked_gene"].notna().to_numpy() & null).any()
    shift = atac.varm["true_batch_shift"].to_numpy().T[atac.obs["batch"].cat.codes]
    level = logit(atac.layers["true_accessibility"].astype(float)) - shift
    assert level[:, null].std(0).max() < 1e-4
    moved = ~null & atac.var["linked_gene"].isna().to_numpy()
    assert moved.sum() == 300
    assert 0.9 < np.median(level[:, moved].std(0)) < 1.5


def test_accessibility_of_types_is_the_mean_over_their_cells(large):
    atac = large["atac"]
    inside = (atac.obs["cell_type"] == "type2").to_numpy()
    mean = atac.layers["true_accessibility"][inside].mean(0)
    np.testing.assert_allclose(atac.varm["true_accessibility"]["type2"], mean, atol=1e-5)


def test_batches_shift_chromatin_as_strongly_as_asked():
    mdata = datasets.simulate_multiome(3000, 20, n_regions=600, n_batches=3, region_batch_effect=0.8, rng=1)
    atac = mdata["atac"]
    assert atac.varm["true_batch_shift"].std().to_numpy() == pytest.approx(0.8, rel=0.1)
    seen = [np.asarray((atac[atac.obs["batch"] == batch].X > 0).mean(0)).ravel() for batch in ("batch1", "batch2")]
    truth = (atac.varm["true_batch_shift"]["batch1"] - atac.varm["true_batch_shift"]["batch2"]).to_numpy()
    often = np.minimum(*seen) > 0.05
    assert np.corrcoef(np.log(seen[0][often] / seen[1][often]), truth[often])[0, 1] > 0.8
    alone = datasets.simulate_multiome(50, 20, n_regions=30, n_batches=1)["atac"]
    assert (alone.varm["true_batch_shift"].to_numpy() == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_default_has_as_many_open_regions_as_real_data(seed: int):
    mdata = datasets.simulate_multiome(rng=seed)
    assert positive_rate(mdata) == pytest.approx(0.06, abs=0.003)
    atac = mdata["atac"]
    assert 0.7 < (atac.X.data == 1).mean() < 0.85
    assert 0.25 < np.log(atac.X.sum(1).A1).std() < 0.6
    prevalence = np.asarray((atac.X > 0).mean(0)).ravel()
    assert np.quantile(prevalence, 0.1) < 0.02 < 0.12 < np.quantile(prevalence, 0.9)
    depth, factor = atac.obs["accessibility_depth"], atac.var["region_factor"]
    assert ((depth > 0) & (depth < 1)).all()
    assert ((factor > 0) & (factor < 1)).all()


@pytest.mark.parametrize("asked", [0.001, 0.01, 0.1, 0.2])
@pytest.mark.parametrize("n_regions", [300, 6000])
def test_positive_rate_is_the_one_asked_for(asked: float, n_regions: int):
    mdata = datasets.simulate_multiome(300, 20, n_regions=n_regions, positive_rate=asked, n_types=3)
    expected = mdata["atac"].var["mean"].mean() / 1.25
    assert expected == pytest.approx(asked, rel=0.15)
    assert positive_rate(mdata) == pytest.approx(asked, rel=0.2)


def test_depth_that_cannot_give_the_positive_rate_is_refused():
    with pytest.raises(ScviPPError, match=r"positive_rate=0.5 cannot be reached: depth and region factors leave 0\.2"):
        datasets.simulate_multiome(100, 20, n_regions=100, positive_rate=0.5)


@pytest.mark.parametrize("seed", [0, 1])
def test_types_are_apart_in_each_modality(seed: int):
    mdata = datasets.simulate_multiome(600, 300, n_regions=1500, n_proteins=20, n_batches=1, rng=seed)
    label = mdata.obs["cell_type"].cat.codes.to_numpy()
    for name in ("rna", "atac", "protein"):
        counts = mdata[name].X.toarray()
        share = np.log1p(counts / counts.sum(1, keepdims=True) * 300)
        train, test = share[::2], share[1::2]
        centers = np.array([train[label[::2] == k].mean(0) for k in range(5)])
        nearest = (test @ centers.T - (centers**2).sum(1) / 2).argmax(1)
        assert (nearest == label[1::2]).mean() > 0.8, name


# Truth of RNA and proteins


def test_rna_has_the_mean_and_the_variance_that_are_stored(large):
    rna = large["rna"]
    rate, theta = rna.layers["true_rate"].astype(float), rna.var["dispersion"].to_numpy()
    np.testing.assert_allclose(rna.var["mean"], rate.mean(0), rtol=1e-4)
    variance = rate + rate**2 / theta
    z = (rna.X.sum(0).A1 - rate.sum(0)) / np.sqrt(variance.sum(0))
    assert abs(z.mean()) < 0.15
    assert 0.9 < z.std() < 1.1
    assert 0.95 < ((rna.X.toarray() - rate) ** 2 / variance).mean() < 1.05


def test_proteins_stand_out_of_their_background():
    protein = datasets.simulate_multiome(3000, 20, n_regions=20, n_proteins=12, rng=0)["protein"]
    counts, present = protein.X.toarray(), protein.layers["true_foreground"]
    batch = protein.obs["batch"].cat.codes.to_numpy()
    background = protein.varm["true_background"].to_numpy().T[batch] * np.exp(0.4**2 / 2)  # the mean of a LogNormal
    expected = background * np.where(present, protein.var["foreground_factor"].to_numpy(), 1)
    for chosen in (present, ~present):
        assert counts[chosen].sum() / expected[chosen].sum() == pytest.approx(1, abs=0.04)
    assert 0.02 < present.mean(0).min() < present.mean(0).max() < 0.98
    by_type = pd.DataFrame(present).groupby(protein.obs["cell_type"].to_numpy()).mean()
    assert (by_type.max() - by_type.min()).median() > 0.5
