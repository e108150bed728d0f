"""The simulated modalities follow the story that is told of them, and share what they should share."""

from __future__ import annotations

import tracemalloc

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scvi_pp import datasets
from scvi_pp._errors import ScviPPError
from scvi_pp.datasets import _simulation

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # mudata 0.4.1 with pandas 3.1


def same_truth(one, other) -> bool:
    """Of cells, genes, regions and proteins: all but what was measured."""
    tables = [(one.obs.drop(columns="modality"), other.obs.drop(columns="modality"))]
    for name in one.mod:
        tables.append((one[name].var, other[name].var))
        tables += [(one[name].varm[key], other[name].varm[key]) for key in one[name].varm]
    return np.array_equal(one.obsm["X_true"], other.obsm["X_true"]) and all(a.equals(b) for a, b in tables)


def same_counts(one, other) -> bool:
    return all((one[name].X != other[name].X).nnz == 0 for name in one.mod)


# What is returned


def test_everything_the_docstring_lists_is_there_and_nothing_else():
    mdata = datasets.simulate_multiome(
        300, 80, n_regions=120, n_proteins=10, rna_only=0.2, atac_only=0.1, n_types=4, n_batches=3, n_latent=6
    )
    assert list(mdata.mod) == ["rna", "atac", "protein"]
    assert list(mdata.obs) == ["cell_type", "batch", "library_size", "accessibility_depth", "modality"]
    assert list(mdata.obs["cell_type"].cat.categories) == ["type1", "type2", "type3", "type4"]
    assert mdata.obs["batch"].value_counts().to_dict() == {"batch1": 100, "batch2": 100, "batch3": 100}
    assert (mdata.obsm["X_true"].shape, mdata.obsm["X_true"].dtype) == ((300, 6), np.float32)
    assert not mdata.uns
    columns = {"rna": ["library_size"], "atac": ["accessibility_depth"], "protein": []}
    shapes = {"rna": (270, 80), "atac": (240, 120), "protein": (270, 10)}
    for name, adata in mdata.mod.items():
        assert isinstance(adata.X, sparse.csr_matrix)
        assert (adata.X.dtype, adata.shape) == (np.float32, shapes[name])
        assert adata.X.has_canonical_format
        assert (adata.X.data >= 1).all()
        assert (adata.X.data == np.rint(adata.X.data)).all()
        assert list(adata.obs) == ["cell_type", "batch", "modality", *columns[name]]
        for column in adata.obs:
            assert (adata.obs[column].to_numpy() == mdata.obs.loc[adata.obs_names, column].to_numpy()).all()
        np.testing.assert_array_equal(adata.obsm["X_true"], mdata.obsm["X_true"][mdata.obs_names.isin(adata.obs_names)])
    atac, protein = mdata["atac"], mdata["protein"]
    assert set(mdata["rna"].var["feature_types"]) == {"Gene Expression"}
    assert set(atac.var["feature_types"]) == {"Peaks"}
    assert set(protein.var["feature_types"]) == {"Antibody Capture"}
    assert list(atac.var) == ["mean", "region_factor", "differential", "linked_gene", "feature_types"]
    assert {key: table.shape for key, table in atac.varm.items()} == {
        "true_accessibility": (120, 4),
        "true_batch_shift": (120, 3),
    }
    assert list(protein.var) == ["foreground_factor", "dispersion", "feature_types"]
    assert protein.varm["true_background"].shape == (10, 3)
    assert (protein.layers["true_foreground"].dtype, protein.layers["true_foreground"].shape) == (bool, (270, 10))
    assert [key for name in ("rna", "atac") for key in mdata[name].layers if key is not None] == []


def test_regions_are_places_in_the_genome_without_overlap():
    names = datasets.simulate_multiome(20, 10, n_regions=500, n_types=1)["atac"].var_names
    assert names.is_unique
    places = names.to_series().str.extract(r"^chr(\d+):(\d+)-(\d+)$").astype(int)
    assert (places[2] - places[1] == 500).all()
    assert places[0].nunique() == 22
    for _, places_of_chromosome in places.groupby(0):
        assert (places_of_chromosome[1].to_numpy()[1:] > places_of_chromosome[2].to_numpy()[:-1]).all()


def test_rna_is_that_of_simulate_rna_in_kind():
    rna = datasets.simulate_multiome(60, 40, n_regions=20, true_rate=True)["rna"]
    alone = datasets.simulate_rna(60, 40, true_rate=True)
    assert set(alone.var) | {"feature_types"} == set(rna.var)
    assert set(alone.varm) == set(rna.varm)
    assert set(alone.layers) == set(rna.layers)
    assert set(alone.obs) | {"modality"} == set(rna.obs)


def test_result_survives_a_file(tmp_path):
    mdata = datasets.simulate_multiome(60, 20, n_regions=30, n_proteins=3, rna_only=0.2, true_accessibility=True)
    before = mudata.set_options(pull_on_update=False).opts if "set_options" in mudata.__all__ else {}
    mdata.write(tmp_path / "simulated.h5mu")
    back = mudata.read_h5mu(tmp_path / "simulated.h5mu")
    if before:
        mudata.set_options(**before)
    assert same_counts(back, mdata)
    assert back.obs["modality"].equals(mdata.obs["modality"])
    assert back["atac"].var["linked_gene"].astype(object).equals(mdata["atac"].var["linked_gene"].astype(object))
    np.testing.assert_array_equal(back["atac"].layers["true_accessibility"], mdata["atac"].layers["true_accessibility"])


# Randomness


def test_same_seed_gives_same_data_and_another_seed_does_not():
    def simulated(**seed):
        return datasets.simulate_multiome(80, 30, n_regions=60, n_proteins=4, **seed)

    one = simulated(rng=3)
    for again in (simulated(rng=3), simulated(random_state=3)):
        assert same_truth(one, again)
        assert same_counts(one, again)
    other = simulated(rng=4)
    assert not same_truth(one, other)
    rng = np.random.default_rng(0)
    assert not same_truth(simulated(rng=rng), simulated(rng=rng))


def test_what_is_kept_or_added_changes_nothing_else():
    arguments = {"n_obs": 80, "n_genes": 30, "n_regions": 60}
    plain = datasets.simulate_multiome(**arguments)
    more = datasets.simulate_multiome(**arguments, n_proteins=4, true_rate=True, true_accessibility=True)
    assert same_truth(plain, more)
    assert same_counts(plain, more)


def test_cells_that_lack_a_modality_are_otherwise_the_same():
    arguments = {"n_obs": 200, "n_genes": 30, "n_regions": 60, "n_proteins": 4}
    whole, partial = (
        datasets.simulate_multiome(**arguments),
        datasets.simulate_multiome(**arguments, rna_only=0.3, atac_only=0.2),
    )
    assert same_truth(whole, partial)
    for name in ("rna", "atac", "protein"):
        left = whole[name][partial[name].obs_names]
        assert (left.X != partial[name].X).nnz == 0


def test_global_random_state_is_untouched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    datasets.simulate_multiome(50, 20, n_regions=20, n_proteins=2)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# Pairing


@pytest.mark.parametrize(
    ("rna_only", "atac_only", "expected"),
    [
        (0, 0, {"paired": 101}),
        (0.2, 0.3, {"paired": 51, "expression": 20, "accessibility": 30}),
        (0.5, 0.5, {"expression": 50, "accessibility": 51}),
        (0.3, 0.7, {"expression": 30, "accessibility": 71}),
        (0, 0.1, {"paired": 91, "accessibility": 10}),
        (1, 0, {"expression": 101}),
        (0, 1.0, {"accessibility": 101}),
    ],
)
def test_cells_are_in_the_modalities_they_were_measured_in(rna_only: float, atac_only: float, expected: dict):
    mdata = datasets.simulate_multiome(101, 20, n_regions=30, n_proteins=2, rna_only=rna_only, atac_only=atac_only)
    modality = mdata.obs["modality"]
    assert modality.value_counts(sort=False).to_dict() == expected
    assert list(modality.cat.categories) == list(expected)
    for name, absent in (("rna", "accessibility"), ("atac", "expression"), ("protein", "accessibility")):
        assert list(mdata[name].obs_names) == list(mdata.obs_names[modality != absent])
        np.testing.assert_array_equal(mdata.obsmap[name] > 0, modality != absent)


def test_types_and_batches_are_in_every_kind_of_cell():
    obs = datasets.simulate_multiome(600, 20, n_regions=30, rna_only=0.3, atac_only=0.3).obs
    assert (pd.crosstab(obs["modality"], [obs["cell_type"], obs["batch"]]) > 0).to_numpy().all()


# Size


def test_blocks_do_not_change_results(monkeypatch):
    arguments = {"n_obs": 150, "n_genes": 30, "n_regions": 70, "n_proteins": 5, "rna_only": 0.2, "atac_only": 0.2}
    whole = datasets.simulate_multiome(**arguments, true_accessibility=True)
    monkeypatch.setattr(_simulation, "BLOCK_VALUES", 700)
    parts = datasets.simulate_multiome(**arguments, true_accessibility=True)
    assert whole.obs.equals(parts.obs)
    assert same_counts(whole, parts)
    for name in ("rna", "atac", "protein"):
        for column, values in whole[name].var.select_dtypes("number").items():
            np.testing.assert_allclose(parts[name].var[column], values, rtol=1e-5)
    np.testing.assert_allclose(
        parts["atac"].layers["true_accessibility"], whole["atac"].layers["true_accessibility"], rtol=1e-4
    )


def test_memory_stays_near_the_result(monkeypatch):
    monkeypatch.setattr(_simulation, "BLOCK_VALUES", 50_000)
    monkeypatch.setattr(_simulation, "DECODED_TOGETHER", 100)
    tracemalloc.start()
    try:
        mdata = datasets.simulate_multiome(4000, 50, n_regions=1500, positive_rate=0.04)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    result = sum(adata.X.data.nbytes + adata.X.indices.nbytes for adata in mdata.mod.values())
    assert peak < 2 * result + 5_000_000  # dense probabilities would be 24 MB


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_obs": 1, "n_genes": 1, "n_regions": 1, "n_proteins": 1, "n_types": 1, "n_batches": 1, "n_latent": 1},
        {"n_obs": 7, "n_genes": 3, "n_regions": 5, "n_types": 7, "n_batches": 7, "rna_only": 0.5, "atac_only": 0.5},
        {"n_obs": 20, "n_genes": 5, "n_regions": 5, "differential": 0, "linked": 1},
        {"n_obs": 20, "n_genes": 5, "n_regions": 5, "differential": 1, "linked": 1},
        {"n_obs": 20, "n_genes": 5, "n_regions": 5, "linked": 0, "positive_rate": 1e-6},
        {"n_obs": np.int32(30), "n_genes": 300, "n_regions": np.int16(30), "effect_size": 5, "batch_effect": 5}
        | {"link_strength": 5, "region_effect_size": 5, "region_batch_effect": 5, "depth_sd": 3, "library_sd": 3},
        {"n_obs": 20, "n_genes": 5, "n_regions": 5, "dispersion": np.inf, "depth_sd": 0, "extra_fragments": 100},
    ],
)  # fmt: skip
def test_smallest_and_most_extreme_arguments_work(arguments: dict):
    mdata = datasets.simulate_multiome(**arguments)
    assert mdata.n_obs == arguments["n_obs"]
    assert mdata["atac"].n_vars == arguments["n_regions"]
    for adata in mdata.mod.values():
        assert np.isfinite(adata.X.data).all()
        assert np.isfinite(adata.var.select_dtypes("number").drop(columns="dispersion", errors="ignore")).all(axis=None)
    assert np.isfinite(mdata["atac"].varm["true_accessibility"].to_numpy()).all()


def test_without_differential_genes_no_region_is_linked():
    atac = datasets.simulate_multiome(20, 5, n_regions=30, differential=0, linked=0.5, n_types=1)["atac"]
    assert atac.var["linked_gene"].isna().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("n_obs", "n_genes", "n_regions", "n_latent") for value in (0, -1, 2.0, True, "5")),
        ("n_proteins", -1),
        ("n_proteins", 1.5),
        ("n_types", 101),
        ("n_batches", 101),
        ("rna_only", -0.1),
        ("rna_only", 1.1),
        ("atac_only", float("nan")),
        ("linked", 2),
        ("link_strength", 6),
        ("region_effect_size", -0.1),
        ("region_batch_effect", "strong"),
        ("positive_rate", 0),
        ("depth_sd", -1),
        ("extra_fragments", -1),
        ("library_size", 0),
        ("rng", -1),
    ],
)
def test_impossible_argument_is_refused_by_name(name: str, value: object):
    with pytest.raises(ScviPPError, match=rf"{name}={value!r}"):
        datasets.simulate_multiome(**{"n_obs": 100, "n_genes": 20, "n_regions": 20, name: value})


def test_shares_of_unpaired_cells_are_at_most_all():
    with pytest.raises(ScviPPError, match=r"rna_only=0.7 and atac_only=0.4 are more than all cells"):
        datasets.simulate_multiome(100, 20, n_regions=20, rna_only=0.7, atac_only=0.4)
