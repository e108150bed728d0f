"""A model's inputs are learned and read together, from an AnnData and nothing else."""

from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scvi_pp._data.read import learn, read
from scvi_pp._data.sources import Categories, Category, Counts, Numbers, Positive
from scvi_pp._errors import InputError, MissingKeyError

# anndata 0.13 uses options that pandas 3.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option is deprecated:DeprecationWarning"),
]


class Inputs(NamedTuple):
    counts: Any
    batch: Any
    covariates: Any
    numbers: Any
    size_factor: Any
    labels: Any = None


SOURCES = Inputs(Counts(), Category(("donor",)), Categories(("phase",)), Numbers(("age",)), Positive("size"))


def cells(n: int = 20) -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "donor": rng.choice(["d1", "d2"], n),
            "phase": rng.choice(["G1", "S"], n),
            "age": rng.normal(size=n),
            "size": rng.uniform(0.5, 2, n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    return ad.AnnData(sp.csr_matrix(rng.poisson(1.0, (n, 4)).astype(np.float32)), obs=obs)


def test_inputs_stay_one_named_tuple_at_every_scale() -> None:
    learned = learn(cells(), SOURCES, verb="tl.scvi")
    arrays = read(cells(), learned, verb="tl.scvi")
    assert type(learned) is type(arrays) is Inputs
    assert learned.batch.levels == ("d1", "d2")
    assert arrays.counts.shape == (20, 4)
    assert arrays.batch.shape == (20,)
    assert arrays.covariates.shape == arrays.numbers.shape == (20, 1)
    assert arrays.size_factor.shape == (20,)
    assert arrays.labels is None


def test_reading_commutes_with_choosing_and_shuffling_cells() -> None:
    data = cells()
    learned = learn(data, SOURCES, verb="tl.scvi")
    arrays = read(data, learned, verb="tl.scvi")
    chosen = np.random.default_rng(1).permutation(20)[:9]
    for again, whole in zip(read(data[chosen], learned, verb="tl.scvi"), arrays, strict=True):
        if whole is not None:
            expected = whole[chosen]
            assert (again != expected).nnz == 0 if sp.issparse(whole) else (again == expected).all()


def test_reading_writes_nothing_and_draws_no_random_number() -> None:
    data = cells()
    before, state = data.copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    read(data, learn(data, SOURCES, verb="tl.scvi"), verb="tl.scvi")
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    pd.testing.assert_frame_equal(data.obs, before.obs)
    pd.testing.assert_frame_equal(data.var, before.var)
    assert (data.X != before.X).nnz == 0
    assert not data.uns and not data.obsm and [name for name in data.layers if name is not None] == []


def test_learned_sources_say_so_if_a_query_lacks_a_column() -> None:
    learned = learn(cells(), SOURCES, verb="tl.scvi")
    query = cells()
    del query.obs["phase"]
    with pytest.raises(MissingKeyError, match="obs has no column 'phase'"):
        read(query, learned, verb="tl.scvi")


@pytest.mark.filterwarnings("ignore")  # mudata's own
def test_mudata_is_refused_with_the_modality_to_pass() -> None:
    mudata = pytest.importorskip("mudata")
    for names, example in ((["atac", "rna"], "rna"), (["prot", "atac"], "prot")):
        mdata = mudata.MuData({name: cells() for name in names})
        for verb in (learn, read):
            with pytest.raises(InputError, match=rf"^tl\.scvi takes an AnnData: pass mdata\['{example}'\]"):
                verb(mdata, SOURCES, verb="tl.scvi")


@pytest.mark.parametrize(
    "data", [None, "study.h5ad", np.ones((3, 3)), pd.DataFrame([[1]])], ids=lambda x: type(x).__name__
)
def test_anything_but_anndata_is_refused(data: Any) -> None:
    for verb in (learn, read):
        with pytest.raises(InputError, match=f"tl.scvi takes an AnnData, not {type(data).__name__}"):
            verb(data, SOURCES, verb="tl.scvi")
