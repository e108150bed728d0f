"""What may be handed to any model verb, and what it says of the rest. The verbs are in contract.py."""

from __future__ import annotations

from collections.abc import Sequence

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scvi_pp as svp
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import (
    VERBS,
    Verb,
    assert_only_added,
    assert_same,
    contents,
    fitted,
    latent_of_default,
    small_counts,
    stored_in_every_way,
)

pytestmark = [pytest.mark.parametrize("verb", VERBS, ids=str), pytest.mark.usefixtures("quiet")]


def assert_refused(verb: Verb, adata: ad.AnnData, message: str, error: type = InputError, **options) -> None:
    before = contents(adata)
    with pytest.raises(error, match=message):
        verb(adata, **options)
    assert_same(contents(adata), before)


# ---- how counts are stored


@pytest.mark.every_form
@pytest.mark.parametrize("way", stored_in_every_way(small_counts(4).X))
def test_every_storage_of_the_same_counts_gives_the_same_latent_and_stays_as_it_is(verb: Verb, way: str):
    adata = verb.data()
    expected = latent_of_default(verb)
    stored = stored_in_every_way(adata.X)[way]
    x_of = ad.AnnData(stored, obs=adata.obs.copy(), var=adata.var.copy())
    in_layer = ad.AnnData(None, obs=adata.obs.copy(), var=adata.var.copy(), layers={"umi": stored})
    for other, options in ((x_of, {}), (in_layer, {"layer": "umi"})):
        before = contents(other)
        verb(other, denoise=False, **options)
        assert_same(other.obsm[f"X_{verb.name}"], expected)
        assert_only_added(before, other, verb.written() - {f"layers[{verb.name}_denoised]"})


def test_layer_is_read_and_not_x(verb: Verb):
    adata = verb.data()
    expected = latent_of_default(verb)
    adata.X = adata.layers["lognorm"]
    assert_same(verb.latent(adata, layer="counts"), expected)


def test_backed_object_is_read_and_written_to(verb: Verb, tmp_path):
    adata = verb.data()
    expected = latent_of_default(verb)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    verb(backed, denoise=False)
    assert_same(backed.obsm[f"X_{verb.name}"], expected)
    assert_same(svp.get.latent(backed, key=verb.name), expected)
    assert backed.isbacked
    backed.file.close()


# ---- how many cells


EVERY_SIZE = [pytest.param(range(start, min(start + 50, 301)), marks=pytest.mark.slow) for start in range(2, 301, 50)]


@pytest.mark.every_form
@pytest.mark.parametrize("sizes", [(2, 3, 4, 5, 9, 17, 65, 129, 256, 257, 300), *EVERY_SIZE])
def test_a_last_minibatch_of_one_cell_never_hurts(verb: Verb, sizes: Sequence[int]):
    """n % batch_size == 1 for every n: batch normalisation has no variance of one cell."""
    adata = verb.data(301, 6)
    for n in sizes:
        latent = verb.latent(adata[:n].copy(), batch_size=max(2, n - 1), validation_size=0)
        assert np.isfinite(latent).all(), n


@pytest.mark.every_form
@pytest.mark.parametrize(("n", "batch_size"), [(3, 2), (5, 2), (7, 3), (9, 4), (129, 128), (129, 64), (257, 128)])
def test_many_minibatches_and_one_cell_left_over(verb: Verb, n: int, batch_size: int):
    latent = verb.latent(verb.data(n, 6), batch_size=batch_size, validation_size=0, max_epochs=2)
    assert np.isfinite(latent).all()


@pytest.mark.parametrize("n", [143, 285])  # 129 and 257 are left to train on
def test_one_cell_left_over_with_the_default_split(verb: Verb, n: int):
    assert np.isfinite(verb.latent(verb.data(n, 6))).all()


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_cells_are_refused(verb: Verb, n: int):
    assert_refused(verb, verb.data()[:n].copy(), f"adata has {n} cells; tl.{verb.name} needs at least 2")


def test_no_genes_are_refused(verb: Verb):
    assert_refused(verb, verb.data()[:, :0].copy(), "60 cells and 0 features")


@pytest.mark.every_form
def test_one_gene_is_enough(verb: Verb):
    assert np.isfinite(verb.latent(verb.data()[:, :1].copy())).all()


# ---- odd cells, genes and names


@pytest.mark.every_form
def test_empty_cells_and_all_zero_genes_give_finite_results(verb: Verb, capfd):
    adata = verb.data()
    dense = adata.X.toarray()
    dense[[0, 7]] = 0
    dense[:, [1, 5]] = 0
    adata.X = sp.csr_matrix(dense)
    capfd.readouterr()
    with svp.settings.override(verbosity=1):
        verb(adata, batch_key="batch", max_epochs=3)
    assert f"2 of 60 cells have no counts in the modelled {verb.features}" in capfd.readouterr().err
    assert np.isfinite(adata.obsm[f"X_{verb.name}"]).all()
    if verb.writes_denoised:
        assert np.isfinite(adata.layers[f"{verb.name}_denoised"]).all()
    assert np.isfinite(adata.uns[verb.name]["history"]["elbo_train"]).all()


@pytest.mark.every_form
def test_nothing_but_zeros_gives_finite_results_or_is_refused(verb: Verb):
    adata = verb.data()
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    if verb.refuses_nothing_but_zeros:
        assert_refused(verb, adata, f"X holds no count above zero: none of the 20 {verb.features} is open in any cell")
    else:
        assert np.isfinite(verb.latent(adata, max_epochs=2)).all()


@pytest.mark.every_form
def test_enormous_counts_give_finite_results(verb: Verb):
    adata = verb.data()
    adata.X = (adata.X * 5e5).astype(np.float32)
    assert np.isfinite(verb.latent(adata, max_epochs=3)).all()


def test_a_name_held_by_two_cells_does_not_matter(verb: Verb):
    adata = verb.data()
    expected = latent_of_default(verb)
    names = adata.obs_names.to_numpy().copy()
    names[3] = names[2]
    with pytest.warns(UserWarning, match="not unique"):
        twice = ad.AnnData(adata.X, obs=adata.obs.set_axis(names))
    twice.var_names = adata.var_names
    verb(twice, denoise=False)
    assert_same(twice.obsm[f"X_{verb.name}"], expected)


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_a_name_held_by_two_genes_is_refused(verb: Verb):
    adata = verb.data()
    adata.raw = None
    adata.var_names = ["gene1", "gene1", *adata.var_names[2:]]
    assert_refused(verb, adata, r"var_names holds 'gene1' more than once. Call adata.var_names_make_unique\(\)")


# ---- batches


GROUPS = {
    "text": np.repeat(["b0", "b1"], 30),
    "integers": np.repeat([3, 10], 30),  # 10 comes before 3 as text
    "booleans": np.repeat([False, True], 30),
    "whole floats": np.repeat([1.0, 2.0], 30),
    "an unused category": pd.Categorical(np.repeat(["b0", "b1"], 30), categories=["b0", "unused", "b1"]),
    "integer categories": pd.Categorical(np.repeat([3, 10], 30)),
    "pandas text": pd.array(np.repeat(["b0", "b1"], 30), dtype="string"),
    "pandas integers": pd.array(np.repeat([0, 1], 30), dtype="Int64"),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_batches_of_every_type_are_the_same_batches(verb: Verb, kind: str):
    adata = verb.data()
    adata.obs["plain"] = np.repeat(["0", "1"], 30)
    adata.obs["values"] = GROUPS[kind]
    before = adata.obs.copy()
    latents = [verb.latent(adata, batch_key=key) for key in ("plain", "values")]
    assert_same(*latents)
    assert_same(adata.obs, before)


def test_one_batch_gives_finite_results(verb: Verb):
    adata = verb.data()
    adata.obs["one"] = "same"
    assert np.isfinite(verb.latent(adata, batch_key="one")).all()


@pytest.mark.every_form
def test_every_cell_a_batch_gives_finite_results(verb: Verb):
    adata = verb.data()
    adata.obs["own"] = adata.obs_names
    assert np.isfinite(verb.latent(adata, batch_key="own")).all()


def test_batch_with_missing_values_is_refused(verb: Verb):
    adata = verb.data()
    adata.obs["donor"] = pd.Categorical([None, None, *["d1"] * 58])
    message = r"obs\['donor'\] is missing \(NaN\) in 2 of 60 cells.*adata\[adata.obs\['donor'\].notna\(\)\]"
    assert_refused(verb, adata, message, batch_key="donor")


def test_batch_that_measures_is_refused(verb: Verb):
    adata = verb.data()
    adata.obs["age"] = np.linspace(1, 2, 60)
    assert_refused(verb, adata, "a measurement and not a group", batch_key="age")


# ---- missing keys


def test_missing_column_and_layer_are_named_with_the_near_ones(verb: Verb):
    message = r"obs has no column 'Batsch'\. Did you mean 'batch'\? Columns: batch, group"
    assert_refused(verb, verb.data(), message, MissingKeyError, batch_key="Batsch")
    message = r"adata has no layer 'count'\. Did you mean 'counts'\? Layers: counts, lognorm"
    assert_refused(verb, verb.data(), message, MissingKeyError, layer="count")


def test_missing_x_is_said_with_the_layers_there_are(verb: Verb):
    adata = verb.data()
    adata.X = None
    with pytest.raises(InputError, match=r"X is empty \(None\)\. Pass layer= .* counts, lognorm"):
        verb(adata)


@pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning")  # mudata 0.3
def test_mudata_is_refused_with_what_to_pass(verb: Verb):
    rna, protein = small_counts(), small_counts(n_vars=5)
    protein.var_names = [f"protein{i}" for i in range(5)]
    mdata = mudata.MuData({"rna": rna, "protein": protein})
    with pytest.raises(InputError, match=rf"tl\.{verb.name} takes an AnnData: pass mdata\['rna'\]"):
        verb(mdata)


@pytest.mark.parametrize(
    "thing", [None, "study.h5ad", np.ones((3, 3)), pd.DataFrame(), sp.eye(3)], ids=lambda thing: type(thing).__name__
)
@pytest.mark.parametrize("copy", [False, True])
def test_what_is_no_anndata_is_refused(verb: Verb, thing, copy: bool):
    with pytest.raises(InputError, match=rf"tl\.{verb.name} takes an AnnData, not {type(thing).__name__}"):
        verb(thing, copy=copy)


# ---- values that are no counts


def changed(verb: Verb, value: float) -> ad.AnnData:
    adata = verb.data()
    adata.X = adata.X.astype(np.float32)
    adata.X.data[-1] = value  # the very last value is looked at too
    return adata


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, r"X holds negative values \(smallest -1\)"),
        (0.5, r"X holds values that are not whole numbers .* looks log-normalised.* pass layer='counts'"),
        (np.nan, "X holds NaN values"),
        (np.inf, "X holds infinite values"),
        (2.0**25, "the count 33554432, and float32 holds whole numbers exactly only up to 16777216"),
    ],
)
def test_one_value_that_is_no_count_is_found(verb: Verb, value: float, message: str):
    assert_refused(verb, changed(verb, value), message)


def test_log_normalised_x_is_recognised_and_the_layer_with_counts_named(verb: Verb):
    adata = verb.data()
    adata.X = adata.layers["lognorm"].copy()
    message = r"X holds values that are not whole numbers .*: it looks log-normalised, .* pass layer='counts'"
    assert_refused(verb, adata, message)
    del adata.layers["counts"]
    assert_refused(verb, adata, r"raw holds counts: adata\.layers\['counts'\] = adata\.raw")
    adata.raw = None
    assert_refused(verb, adata, r"Pass the layer that holds the counts before any normalisation \(layer=")


def test_wrong_layer_is_told_that_x_is_right(verb: Verb):
    adata = verb.data()
    del adata.layers["counts"]
    assert_refused(verb, adata, r"layers\['lognorm'\] holds .* X holds counts: leave layer out", layer="lognorm")


def test_text_and_complex_matrices_are_refused(verb: Verb):
    adata = verb.data()
    adata.layers["complex"] = adata.X.toarray().astype(np.complex64)
    assert_refused(verb, adata, r"layers\['complex'\] holds complex64, not real numbers", layer="complex")


# ---- the answers to questions about cells


@pytest.mark.every_form
def test_inference_follows_the_order_of_the_cells(verb: Verb):
    adata = fitted(verb, 100, batch_key="batch", max_epochs=3)
    order = np.random.default_rng(0).permutation(100)
    shuffled = svp.get.latent(adata, key=verb.name, adata_new=adata[order])
    np.testing.assert_allclose(shuffled, adata.obsm[f"X_{verb.name}"][order], atol=2e-6)


@pytest.mark.every_form
def test_inference_does_not_depend_on_which_other_cells_are_asked_about(verb: Verb):
    adata = fitted(verb, 100, batch_key="batch", max_epochs=3)
    some = svp.get.latent(adata, key=verb.name, adata_new=adata[17:42])
    np.testing.assert_allclose(some, adata.obsm[f"X_{verb.name}"][17:42], atol=2e-6)


@pytest.mark.every_form
@pytest.mark.parametrize("batch_size", [1, 2, 33, 99, 100, 1000])
def test_inference_does_not_depend_on_the_batch_size(verb: Verb, batch_size: int):
    adata = fitted(verb, 100, batch_key="batch", max_epochs=3)
    latent = svp.get.latent(adata, key=verb.name, batch_size=batch_size)
    np.testing.assert_allclose(latent, adata.obsm[f"X_{verb.name}"], atol=2e-6)


@pytest.mark.every_form
def test_latent_that_was_written_is_the_one_that_is_asked_for(verb: Verb):
    adata = fitted(verb, 100, batch_key="batch", max_epochs=3)
    assert_same(svp.get.latent(adata, key=verb.name), adata.obsm[f"X_{verb.name}"])
