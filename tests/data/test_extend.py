"""Learned sources meet the cells of another study."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scvi_pp._data.counts import Counts
from scvi_pp._data.extend import Additions, extend
from scvi_pp._data.multiome import ModalityCounts, Present, RowNumber
from scvi_pp._data.read import learn, read
from scvi_pp._data.sources import Categories, Category, Numbers, source_from_dict
from scvi_pp._errors import InputError, MissingKeyError
from tests.data.mosaics import mosaic

# anndata 0.13 uses options that pandas 3.1 deprecates, and mudata 0.3 warns of what 0.4 does
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),
]


class Inputs(NamedTuple):
    counts: Any
    batch: Any
    labels: Any
    categories: Any
    numbers: Any


def cells(n_genes: int = 5, **obs: Any) -> ad.AnnData:
    n = len(next(iter(obs.values())))
    x = np.arange(n * n_genes).reshape(n, n_genes).astype(np.float32)
    names = [f"gene{i}" for i in range(n_genes)]
    index = [f"cell{i}" for i in range(n)]
    return ad.AnnData(sp.csr_matrix(x), obs=pd.DataFrame(obs, index=index), var=pd.DataFrame(index=names))


def reference() -> ad.AnnData:
    return cells(batch=["a", "b", "b"], sex=["f", "m", "f"], type=["x", "y", "x"], age=[1.0, 2.0, 3.0])


def query() -> ad.AnnData:
    return cells(batch=["c", "b"], sex=["m", "?"], type=["z", "x"], age=[20.0, 2.0])


def learned() -> Inputs:
    sources = Inputs(Counts(), Category(("batch",)), Category(("type",)), Categories(("sex",)), Numbers(("age",)))
    return learn(reference(), sources, verb="tl.test")


def extended(data: ad.AnnData, **options: Any) -> tuple[Inputs, Additions]:
    return extend(data, learned(), verb="tl.map_query", **{"fewest": 0.5, **options})


def test_new_groups_come_behind_the_known_ones_and_codes_stay():
    sources, additions = extended(query())
    assert sources.batch.levels == ("a", "b", "c")
    assert sources.categories.levels == (("f", "m", "?"),)
    assert sources.labels.levels == ("x", "y", "z")
    assert additions.groups == {"obs['batch']": ("c",), "obs['sex']": ("?",), "obs['type']": ("z",)}
    arrays = read(query(), sources, verb="tl.test")
    np.testing.assert_array_equal(arrays.batch, [2, 1])
    np.testing.assert_array_equal(arrays.categories, [[1], [2]])
    before, after = (read(reference(), each, verb="tl.test") for each in (learned(), sources))
    for one, other in zip(before, after, strict=True):
        assert (one != other).nnz == 0 if sp.issparse(one) else np.array_equal(one, other)


def test_numbers_keep_the_scale_of_the_fit():
    sources, _ = extended(query())
    np.testing.assert_allclose(read(query(), sources, verb="tl.test").numbers[:, 0], [(20 - 2) / np.sqrt(2 / 3), 0])


def test_nothing_is_added_where_nothing_is_new():
    sources, additions = extended(reference())
    assert sources == learned()
    assert additions.groups == {} and additions.shared == {"X": (5, 5)}


def test_joined_columns_are_extended_by_their_pairs():
    source = Category(("batch", "sex")).learn(reference())
    inputs = Inputs(learned().counts, source, *learned()[2:])
    sources, _ = extend(query(), inputs, verb="tl.map_query", fewest=0.5)
    assert sources.batch.levels == ("a | f", "b | f", "b | m", "b | ?", "c | m")


def test_features_that_are_not_there_have_no_counts():
    data = query()[:, ["gene3", "gene0", "gene4"]].copy()
    sources, additions = extended(data)
    assert additions.shared == {"X": (3, 5)}
    counts = read(data, sources, verb="tl.test").counts
    assert counts.shape == (2, 5) and counts.has_sorted_indices
    expected = query().X.toarray()
    expected[:, [1, 2]] = 0
    np.testing.assert_array_equal(counts.toarray(), expected)
    # of cells that have them they are read
    np.testing.assert_array_equal(read(query(), sources, verb="tl.test").counts.toarray(), query().X.toarray())


def test_a_feature_that_was_there_may_not_go_missing():
    sources, _ = extended(query()[:, ["gene3", "gene0", "gene4"]].copy())
    with pytest.raises(InputError, match="lacks 1 of the model's 5 features: gene3"):
        read(query()[:, ["gene0", "gene4"]].copy(), sources, verb="tl.test")


@pytest.mark.parametrize(("kept", "fewest"), [(["gene0", "gene1"], 0.5), (["gene0"], 0.3), ([], 1e-9)])
def test_too_few_shared_features_are_refused(kept: list[str], fewest: float):
    data = query()
    data.var_names = [name if name in kept else f"ENSG{i}" for i, name in enumerate(data.var_names)]
    with pytest.raises(InputError, match=rf"lacks {5 - len(kept)} of the model's 5 features.* Or lower min_shared\."):
        extended(data, fewest=fewest)


def test_counts_may_be_elsewhere():
    data = query()
    data.layers["counts"], data.X = data.X, data.X.log1p()
    assert extended(data, layer="counts")[0].counts.layer == "counts"
    with pytest.raises(MissingKeyError, match="has no layer 'coutns'. Did you mean 'counts'"):
        read(data, extended(data, layer="coutns")[0], verb="tl.test")
    in_layer = learned()._replace(counts=Counts("counts", var_names=learned().counts.var_names))
    sources, _ = extend(query(), in_layer, verb="tl.map_query", fewest=0.5, layer="X")
    assert sources.counts.layer is None


def test_labels_need_not_be_there():
    data = query()
    del data.obs["type"]
    sources, additions = extended(data)
    assert additions.groups["obs['type']"] == ("unlabeled",)
    assert sources.labels.levels == ("x", "y", "unlabeled")
    np.testing.assert_array_equal(read(data, sources, verb="tl.test").labels, [2, 2])
    again, _ = extend(data, sources, verb="tl.map_query", fewest=0.5)
    assert again.labels == sources.labels


def test_a_batch_has_to_be_there():
    data = query()
    del data.obs["batch"]
    with pytest.raises(MissingKeyError, match="obs has no column 'batch'"):
        extended(data)


def test_missing_values_are_refused():
    data = query()
    data.obs["batch"] = [None, "b"]
    with pytest.raises(InputError, match=r"obs\['batch'\] is missing \(NaN\) in 1 of 2 cells"):
        extended(data)


def test_what_was_extended_is_remembered():
    data = query()[:, ["gene3", "gene0", "gene4"]].copy()
    sources, _ = extended(data)
    again = Inputs(*(source_from_dict(json.loads(json.dumps(source.to_dict()))) for source in sources))
    assert again == sources and again.counts.absent == ("gene1", "gene2")


def test_sources_of_a_fit_are_stored_as_they_always_were():
    assert "absent" not in Counts(var_names=("a",)).to_dict()
    assert "absent" not in Present(("rna",)).to_dict()
    assert "is_absent" not in ModalityCounts("rna", Counts()).to_dict()


class Modal(NamedTuple):
    rna: Any
    atac: Any
    present: Any
    row: Any


def of_modalities() -> Modal:
    sources = Modal(
        ModalityCounts("rna", Counts()),
        ModalityCounts("atac", Counts()),
        Present(("rna", "atac", None)),
        RowNumber(kept=True),
    )
    return learn(mosaic(), sources, verb="tl.test")


def test_a_modality_that_is_not_there_was_measured_in_no_cell():
    whole = mosaic()
    data = type(whole)({"rna": whole["rna"].copy()})
    sources, additions = extend(data, of_modalities(), verb="tl.map_query", fewest=0.5)
    arrays = read(data, sources, verb="tl.test")
    assert arrays.atac.shape == (data.n_obs, 3) and arrays.atac.nnz == 0
    np.testing.assert_array_equal(arrays.present, np.tile([True, False, False], (data.n_obs, 1)))
    assert (arrays.row == -1).all()  # the names of other cells may be those of the fit
    assert additions.shared == {"mdata['rna'].X": (3, 3)}
    both = read(whole, sources, verb="tl.test")  # cells that have it are read
    before = read(whole, of_modalities(), verb="tl.test")
    assert (both.atac != before.atac).nnz == 0 and np.array_equal(both.present, before.present)
    again = Modal(*(source_from_dict(json.loads(json.dumps(source.to_dict()))) for source in sources))
    assert again == sources


def test_a_query_without_any_modality_of_the_model_is_refused():
    whole = mosaic()
    data = type(whole)({"gex": whole["rna"].copy()})
    with pytest.raises(InputError, match="mdata has none of the modalities of the model: rna, atac. It has gex"):
        extend(data, of_modalities(), verb="tl.map_query", fewest=0.5)


def test_features_of_a_modality_that_are_not_there_say_where():
    whole = mosaic()
    rna = whole["rna"].copy()
    rna.var_names = ["rna0", "x", "y"]
    data = type(whole)({"rna": rna})
    with pytest.raises(InputError, match=r"mdata\['rna'\]: var_names lacks 2 of the model's 3 features"):
        extend(data, of_modalities(), verb="tl.map_query", fewest=0.5)
    sources, _ = extend(data, of_modalities(), verb="tl.map_query", fewest=0.3)
    assert read(data, sources, verb="tl.test").rna.shape == (6, 3)
