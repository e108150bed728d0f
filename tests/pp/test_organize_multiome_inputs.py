"""What may be joined to one MuData, what may not, and what becomes of it."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pytest

from scvi_pp import pp
from scvi_pp._errors import InputError, MissingKeyError
from tests.pp.small_parts import assert_same_counts, both, mudata_of, part

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # mudata 0.4.1 with pandas 3.1


@pytest.fixture(autouse=True)
def _quiet(quiet):
    pass


# The inputs


def test_inputs_are_untouched_and_share_no_memory():
    paired, rna, atac = both("cell"), part("cell", "gene", 4, batch=list("xxyy")), part("a", "peak", 3, 8)
    before = [adata.copy() for adata in (paired, rna, atac)]
    mdata = pp.organize_multiome(paired, rna=rna, atac=atac)
    alone = pp.organize_multiome(rna=rna, atac=atac)
    for adata in (*mdata.mod.values(), *alone.mod.values()):
        adata.X.data[:] = -1
        adata.obs["batch"] = "changed"
        adata.var["length"] = -1
    for adata, old in zip((paired, rna, atac), before, strict=True):
        np.testing.assert_array_equal(adata.X.toarray(), old.X.toarray())
        assert adata.obs.equals(old.obs)
        assert adata.var.equals(old.var)
        assert adata.obs_names.equals(old.obs_names)


def test_views_give_what_copies_give():
    paired, rna, atac = both(), part("r", "gene", 6, batch=list("xxyyzz")), part("a", "peak", 3, 8)
    views = {"rna": rna[[4, 1, 2], [5, 3, 4, 0, 1, 2]], "atac": atac[:2]}
    joined = pp.organize_multiome(paired[1:4], **views)
    copied = pp.organize_multiome(paired[1:4].copy(), **{name: view.copy() for name, view in views.items()})
    assert all(view.is_view for view in views.values())
    assert joined.obs.equals(copied.obs)
    for name in ("rna", "atac"):
        np.testing.assert_array_equal(joined[name].X.toarray(), copied[name].X.toarray())
        assert not joined[name].is_view


def test_files_on_disk_are_read(tmp_path):
    rna, atac = part("r", "gene", 4), part("a", "peak", 3, 8)
    rna.write_h5ad(tmp_path / "rna.h5ad")
    backed = anndata.read_h5ad(tmp_path / "rna.h5ad", backed="r")
    for paired in (both(), None):
        joined = pp.organize_multiome(paired, rna=backed, atac=atac)
        assert not joined["rna"].isbacked
        assert_same_counts(joined["rna"], rna)
    backed.file.close()


def test_raw_is_not_needed_and_not_kept():
    paired, rna = both(), part("r", "gene", 4)
    paired.raw = paired
    for mdata in (pp.organize_multiome(paired, rna=rna), pp.organize_multiome(paired)):
        assert mdata["rna"].raw is None
        assert mdata["atac"].raw is None


def test_a_modality_of_one_input_keeps_its_embedding_and_one_of_several_does_not():
    paired, atac = both(), part("a", "peak", 3, 8)
    paired.obsm["X_pca"], atac.obsm["X_pca"] = np.ones((5, 2)), np.ones((3, 2))
    mdata = pp.organize_multiome(paired, atac=atac)
    assert list(mdata["rna"].obsm) == ["X_pca"]
    assert list(mdata["atac"].obsm) == []


def test_inputs_without_cells_add_nothing():
    paired, rna = both(), part("r", "gene", 4)
    rna.obs["batch"] = 1
    mdata = pp.organize_multiome(paired, rna=rna[:0].copy(), atac=part("a", "peak", 2, 8)[:0])
    assert list(mdata.obs["modality"].cat.categories) == ["paired"]
    assert (mdata["rna"].shape, mdata["atac"].shape) == ((5, 6), (5, 8))
    with pytest.raises(InputError, match="no cells"):
        pp.organize_multiome(rna=rna[:0].copy(), atac=part("a", "peak", 0))


def test_proteins_of_10x_are_kept_and_features_of_other_types_are_left_out_and_named(capsys):
    from scvi_pp import settings

    paired = both()
    paired.var["feature_types"] = ["Antibody Capture", "CRISPR Guide Capture", *paired.var["feature_types"][2:]]
    with settings.override(verbosity=1):
        mdata = pp.organize_multiome(paired)
    assert list(mdata.mod) == ["rna", "atac", "protein"]
    assert mdata["protein"].n_vars == 1
    assert mdata.n_vars == 13
    assert "left out 1 features of other types: 'CRISPR Guide Capture'" in capsys.readouterr().err


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: {}, r"No input has genes.*multiome= or rna="),
        (lambda: {"rna": part("r", "gene", 4)}, r"No input has regions.*multiome= or atac="),
        (lambda: {"atac": part("a", "peak", 4)}, r"No input has genes"),
        (lambda: {"multiome": [both()]}, r"pp.organize_multiome takes an AnnData, not list"),
        (lambda: {"rna": mudata_of({"rna": part("r", "gene", 4)})}, r"rna=.*takes an AnnData: pass mdata\['rna'\]"),
        (lambda: {"multiome": both(), "genes": "union"}, r"genes='union' cannot be. Choose 'equal' or 'intersection'"),
        (lambda: {"multiome": both(), "regions": None}, r"regions=None cannot be"),
        (lambda: {"multiome": mudata_of({"gex": part("r", "gene", 4), "atac": part("r", "peak", 4)})}, r"no modality 'rna'. Modalities: gex, atac.*MuData\(\{'rna'"),
        (lambda: {"multiome": both()[:, both().var["feature_types"] == "Peaks"]}, r"does not hold 'Gene Expression', only 'Peaks'"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_with_a_way_out(arguments, message: str):
    with pytest.raises(InputError, match=message):
        pp.organize_multiome(**arguments())


def test_cells_without_either_modality_are_refused():
    modalities = {"rna": part("c", "gene", 4), "atac": part("c", "peak", 4), "protein": part("c", "protein", 6, 2)}
    with pytest.raises(InputError, match=r"2 cells of multiome are neither in 'rna' nor in 'atac': c4, c5\..*mdata\["):
        pp.organize_multiome(mudata_of(modalities))
    mdata = mudata_of(modalities)
    assert pp.organize_multiome(mdata[(mdata.obsmap["rna"] > 0) | (mdata.obsmap["atac"] > 0)])["protein"].n_obs == 4


def test_object_that_does_not_tell_genes_from_regions_is_refused():
    paired = both()
    paired.var = paired.var.rename(columns={"feature_types": "feature_type"})
    with pytest.raises(MissingKeyError, match=r"no column 'feature_types'. Did you mean 'feature_type'\?.*'Peaks'"):
        pp.organize_multiome(paired)


# The result


@pytest.fixture
def _columns_stay_where_they_are():
    """As mudata 0.4 has it; 0.3 warns of that when it writes or copies."""
    before = mudata.set_options(pull_on_update=False).opts if "set_options" in mudata.__all__ else {}
    yield
    if before:
        mudata.set_options(**before)


@pytest.mark.usefixtures("_columns_stay_where_they_are")
def test_result_survives_a_file_and_a_copy(tmp_path):
    rna = part("r", "gene", 4)
    rna.obs["doublet"] = True
    mdata = pp.organize_multiome(both(), rna=rna, atac=part("a", "peak", 3, 8))
    mdata.write(tmp_path / "joined.h5mu")
    for back in (mudata.read_h5mu(tmp_path / "joined.h5mu"), mdata.copy()):
        assert back.obs_names.equals(mdata.obs_names)
        assert list(back.obs["modality"]) == list(mdata.obs["modality"])
        assert_same_counts(back["rna"], mdata["rna"])
        np.testing.assert_array_equal(back.obsmap["atac"], mdata.obsmap["atac"])


def test_nothing_of_mudata_is_changed_for_others():
    if "set_options" not in mudata.__all__:
        pytest.skip("mudata 0.4 has no such option")
    before = mudata.set_options(pull_on_update=True).opts
    mdata = pp.organize_multiome(both())
    assert mudata.set_options(**before).opts == {"pull_on_update": True}
    assert list(mdata.obs) == ["modality"]
