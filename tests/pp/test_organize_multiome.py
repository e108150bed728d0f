"""Paired and unpaired cells come together in one MuData, and each cell keeps what was measured in it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scvi_pp import datasets, pp
from scvi_pp._data.modalities import multimodal
from scvi_pp._errors import InputError
from tests.pp.small_parts import assert_same_counts, both, mudata_of, part, values

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # mudata 0.4.1 with pandas 3.1


@pytest.fixture(autouse=True)
def _quiet(quiet):
    pass


# Pairing


def test_every_cell_is_where_it_was_measured_and_nowhere_else():
    paired, rna, atac = both(), part("r", "gene", 4), part("a", "peak", 3, 8)
    mdata = pp.organize_multiome(paired, rna=rna, atac=atac)
    assert list(mdata.mod) == ["rna", "atac"]
    assert list(mdata["rna"].obs_names) == [*paired.obs_names, *rna.obs_names]
    assert list(mdata["atac"].obs_names) == [*paired.obs_names, *atac.obs_names]
    for joined, original in (("rna", paired), ("rna", rna), ("atac", paired), ("atac", atac)):
        assert_same_counts(mdata[joined], original)
    assert mdata["rna"].var_names.str.startswith("gene").all()
    assert mdata["atac"].var_names.str.startswith("peak").all()
    np.testing.assert_array_equal(mdata.obsmap["rna"] > 0, [True] * 9 + [False] * 3)
    np.testing.assert_array_equal(mdata.obsmap["atac"] > 0, [True] * 5 + [False] * 4 + [True] * 3)


def test_origin_is_recorded_everywhere_and_only_what_occurs_is_a_category():
    mdata = pp.organize_multiome(both(), rna=part("r", "gene", 4), atac=part("a", "peak", 3, 8))
    assert list(mdata.obs["modality"].cat.categories) == ["paired", "expression", "accessibility"]
    assert list(mdata.obs["modality"]) == ["paired"] * 5 + ["expression"] * 4 + ["accessibility"] * 3
    assert list(mdata["rna"].obs["modality"]) == ["paired"] * 5 + ["expression"] * 4
    assert list(mdata["atac"].obs["modality"]) == ["paired"] * 5 + ["accessibility"] * 3
    alone = pp.organize_multiome(both())
    assert list(alone.obs["modality"].cat.categories) == ["paired"]


def test_cells_that_were_never_measured_together_can_be_joined():
    mdata = pp.organize_multiome(rna=part("r", "gene", 4), atac=part("a", "peak", 3, 8))
    assert (mdata["rna"].shape, mdata["atac"].shape, mdata.n_obs) == ((4, 6), (3, 8), 7)
    assert list(mdata.obs["modality"].cat.categories) == ["expression", "accessibility"]


@pytest.mark.parametrize("shares", [(0, 0), (0.3, 0.2), (0.5, 0.5)])
def test_mudata_is_taken_apart_and_put_together_again(shares: tuple[float, float]):
    mdata = datasets.simulate_multiome(
        40, 20, n_regions=30, n_proteins=3, rna_only=shares[0], atac_only=shares[1], n_types=2, positive_rate=0.2
    )
    joined = pp.organize_multiome(mdata)
    assert list(joined.mod) == ["rna", "atac", "protein"]
    assert joined.obs["modality"].equals(mdata.obs["modality"])
    for name, modality in mdata.mod.items():
        assert joined[name].obs_names.equals(modality.obs_names)
        assert_same_counts(joined[name], modality)
    assert list(joined.obs) == list(mdata.obs)
    pd.testing.assert_frame_equal(joined.obs, mdata.obs)


def test_mudata_with_cells_in_any_order_is_told_apart_cell_by_cell():
    mdata = datasets.simulate_multiome(40, 20, n_regions=30, rna_only=0.3, atac_only=0.2, n_types=2)
    shuffled = mdata[np.random.default_rng(0).permutation(40)]
    joined = pp.organize_multiome(shuffled, rna=part("r", "gene", 3, 20).copy(), genes="intersection")
    truth = mdata.obs["modality"].astype(str)
    assert joined.obs["modality"].astype(str).loc[truth.index].equals(truth)
    assert (joined.obs["modality"] == "expression").sum() == 12 + 3
    assert joined.obs_names.equals(
        joined["rna"].obs_names.append(joined["atac"].obs_names.difference(joined["rna"].obs_names, sort=False))
    )


# Genes and regions


def test_genes_in_another_order_are_found_by_name():
    rna = part("r", "gene", 4)
    turned = rna[:, ::-1].copy()
    mdata = pp.organize_multiome(both(), rna=turned)
    assert_same_counts(mdata["rna"], rna)
    assert mdata["rna"].var_names.equals(pp.organize_multiome(both())["rna"].var_names)


@pytest.mark.parametrize(
    ("argument", "name", "feature", "n_vars"), [("genes", "rna", "gene", 6), ("regions", "atac", "peak", 8)]
)
def test_differing_features_are_refused_unless_the_intersection_is_asked_for(argument, name, feature, n_vars):
    other = part("x", feature, 4, n_vars + 3)[:, 2:].copy()
    message = rf"{name} lacks 2 of the {argument} of multiome \({feature}.*has 3 others .*{argument}='intersection'.* {n_vars - 2} "
    with pytest.raises(InputError, match=message):
        pp.organize_multiome(both(), **{name: other})
    mdata = pp.organize_multiome(both(), **{name: other, argument: "intersection"})
    order = [gene for gene in pp.organize_multiome(both())[name].var_names if gene in other.var_names]
    assert list(mdata[name].var_names) == order
    assert_same_counts(mdata[name], other)
    assert_same_counts(mdata[name], both())


def test_names_of_another_kind_are_refused_even_for_the_intersection():
    for genes in ("equal", "intersection"):
        with pytest.raises(InputError, match=r"share no genes: gene\d.* in multiome; ENSG0.* in rna"):
            pp.organize_multiome(both(), rna=part("r", "ENSG", 4), genes=genes)


def test_a_gene_and_a_region_of_one_name_are_refused():
    atac = part("a", "gene", 3, 4)
    with pytest.raises(InputError, match=r"'rna' and 'atac' share 4 names of features: gene0"):
        pp.organize_multiome(rna=part("r", "gene", 4), atac=atac)


def test_var_of_all_inputs_is_kept_and_the_first_one_decides():
    paired, rna = both(), part("r", "gene", 4)
    paired.var["length"] = np.arange(14)
    rna.var["length"], rna.var["strand"] = -1, pd.Categorical(list("+-+-+-"))
    var = pp.organize_multiome(paired, rna=rna)["rna"].var
    assert var["length"].equals(paired.var["length"].loc[var.index])
    assert var["strand"].astype(str).equals(rna.var["strand"].astype(str).loc[var.index])
    assert (var["feature_types"] == "Gene Expression").all()


# Names of cells


def test_cells_of_the_same_name_are_kept_apart_and_the_log_says_so(capsys):
    from scvi_pp import settings

    paired, rna, atac = both("cell"), part("cell", "gene", 4), part("cell", "peak", 3, 8)
    with settings.override(verbosity=2):
        mdata = pp.organize_multiome(paired, rna=rna, atac=atac)
    logged = capsys.readouterr().err
    assert "inputs share 4 names of cells (cell0, cell1, cell2 and 1 more)" in logged
    assert "12 cells (5 paired, 4 expression, 3 accessibility); features: 6 in 'rna', 8 in 'atac'" in logged
    assert mdata.obs_names.is_unique
    assert list(mdata.obs_names) == [
        *(f"cell{i}_paired" for i in range(5)),
        *(f"cell{i}_expression" for i in range(4)),
        *(f"cell{i}_accessibility" for i in range(3)),
    ]
    assert_same_counts(mdata["rna"], paired, "_paired")
    assert_same_counts(mdata["rna"], rna, "_expression")
    assert_same_counts(mdata["atac"], paired, "_paired")
    assert_same_counts(mdata["atac"], atac, "_accessibility")


def test_names_that_do_not_clash_stay_as_they_are():
    assert list(pp.organize_multiome(rna=part("r", "gene", 2), atac=part("a", "peak", 1)).obs_names) == [
        "r0",
        "r1",
        "a0",
    ]


def test_names_of_a_partly_unpaired_mudata_get_the_origin_of_each_cell():
    mdata = datasets.simulate_multiome(10, 6, n_regions=8, rna_only=0.2, atac_only=0.3, n_types=1, n_batches=1)
    atac = part("cell", "x", 2, 8)
    atac.var_names = mdata["atac"].var_names
    joined = pp.organize_multiome(mdata, atac=atac)
    assert "cell10_accessibility" in joined["atac"].obs_names
    assert "cell7_expression" in joined["rna"].obs_names
    assert_same_counts(joined["rna"][:5], mdata["rna"][:5], "_paired")


def test_clash_that_the_origin_does_not_resolve_is_refused():
    mdata = pp.organize_multiome(both(), rna=part("r", "gene", 4))
    with pytest.raises(InputError, match=r"names of cells of the same kind, such as r0_expression.*sample1_"):
        pp.organize_multiome(mdata, rna=part("r", "gene", 2))


@pytest.mark.parametrize(("axis", "argument"), [("obs_names", "rna"), ("var_names", "rna"), ("obs_names", "multiome")])
@pytest.mark.filterwarnings("ignore:.* names are not unique")
def test_repeated_names_are_refused_where_they_are(axis: str, argument: str):
    inputs = {"multiome": both(), "rna": part("r", "gene", 4)}
    names = list(getattr(inputs[argument], axis))
    setattr(inputs[argument], axis, [names[1], *names[1:]])
    with pytest.raises(
        InputError, match=rf"{axis} of {argument}.* hold '{names[1]}' more than once. Call {axis}_make_unique"
    ):
        pp.organize_multiome(inputs["multiome"], rna=inputs["rna"])


# Columns and layers


def test_columns_of_all_inputs_are_kept_and_shared_ones_are_joined():
    paired, rna, atac = both(), part("r", "gene", 4), part("a", "peak", 3, 8)
    paired.obs["batch"], rna.obs["batch"] = pd.Categorical(["x"] * 5), pd.Categorical(["y"] * 4)
    atac.obs["batch"] = pd.Categorical(["x", "y", "z"])
    rna.obs["doublet"], atac.obs["tss"] = True, 0.5
    mdata = pp.organize_multiome(paired, rna=rna, atac=atac)
    assert set(mdata.obs) == {"batch", "doublet", "tss", "modality"}
    assert isinstance(mdata.obs["batch"].dtype, pd.CategoricalDtype)
    assert list(mdata.obs["batch"]) == list("xxxxxyyyyxyz")
    assert list(mdata["atac"].obs["batch"]) == list("xxxxxxyz")
    assert mdata.obs["doublet"].notna().to_numpy().nonzero()[0].tolist() == [5, 6, 7, 8]
    assert mdata.obs["tss"].notna().sum() == 3
    assert "tss" not in mdata["rna"].obs


def test_columns_that_only_the_modalities_have_come_to_the_top_unless_they_disagree():
    rna, atac = part("c", "gene", 4, batch=list("xyxy")), part("c", "peak", 3, 8, batch=list("xyx"))
    rna.obs["n_counts"], atac.obs["n_counts"], atac.obs["tss"] = 1, 2, 0.5
    mdata = multimodal({"rna": rna, "atac": atac}, pd.DataFrame({"donor": list("dddd")}, index=rna.obs_names))
    obs = pp.organize_multiome(mdata).obs
    assert list(obs) == ["donor", "batch", "tss", "modality"]
    assert list(obs["batch"]) == list("xyxy")
    assert list(obs["modality"]) == ["paired"] * 3 + ["expression"]


def test_columns_that_mudata_pulled_up_are_not_kept_twice():
    rna, atac = part("c", "gene", 4, batch=list("xyxy")), part("c", "peak", 4, 8)
    obs = pd.DataFrame({"rna:batch": list("xyxy"), "rna:own": 1}, index=rna.obs_names)
    assert list(pp.organize_multiome(multimodal({"rna": rna, "atac": atac}, obs)).obs) == [
        "rna:own",
        "batch",
        "modality",
    ]


def test_layers_that_all_inputs_have_are_kept():
    paired, rna = both(), part("r", "gene", 4)
    paired.layers["counts"], rna.layers["counts"] = paired.X * 2, rna.X[:, ::-1].toarray()
    rna.layers["spliced"] = rna.X
    mdata = pp.organize_multiome(paired, rna=rna)
    assert [key for key in mdata["rna"].layers if key is not None] == ["counts"]
    for original in (paired, rna):
        genes = [f"gene{i}" for i in range(6)]
        expected = values(original, original.obs_names, genes, "counts")
        np.testing.assert_array_equal(values(mdata["rna"], original.obs_names, genes, "counts"), expected)


def test_counts_may_be_in_layers_alone():
    paired, rna = both(), part("r", "gene", 4)
    for adata in (paired, rna):
        adata.layers["counts"] = adata.X
        adata.X = None
    mdata = pp.organize_multiome(paired, rna=rna)
    assert mdata["rna"].X is None
    assert mdata["rna"].layers["counts"].shape == (9, 6)
    with pytest.raises(InputError, match=r"X of multiome is empty \(None\), while others are not"):
        pp.organize_multiome(paired, rna=part("r", "gene", 4))


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16", "float64"])
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_type_of_counts_is_kept(dtype: str, kind):
    rna, atac, more = part("r", "gene", 4), part("a", "peak", 3, 8), part("both", "gene", 2)
    for adata in (rna, atac, more):
        adata.X = kind(adata.X.toarray().astype(dtype))
    paired = mudata_of({"rna": more, "atac": part("both", "peak", 2, 8)})
    joined = pp.organize_multiome(paired, rna=rna)["rna"]
    assert joined.X.dtype == dtype
    assert sparse.issparse(joined.X) is sparse.issparse(rna.X)
    assert_same_counts(joined, rna)
    assert_same_counts(joined, more)


def test_dense_and_sparse_counts_become_sparse():
    rna = part("r", "gene", 4)
    rna.X = rna.X.toarray()
    joined = pp.organize_multiome(both(), rna=rna)["rna"]
    assert isinstance(joined.X, sparse.csr_matrix)
    assert_same_counts(joined, rna)
