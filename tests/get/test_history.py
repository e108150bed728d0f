from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from scvi_pp import get, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.fits import OPTIONS, cells, fit

pytestmark = pytest.mark.usefixtures("quiet")
COLUMNS = [
    "elbo_train",
    "elbo_validation",
    "reconstruction_train",
    "reconstruction_validation",
    "learning_rate",
    "kl_weight",
]


def test_table_has_a_row_for_each_epoch_from_1():
    table = get.history(fit("zinb"))
    assert list(table.columns) == COLUMNS
    assert list(table.index) == [1, 2, 3, 4]
    assert table.index.name == "epoch"
    assert set(table.dtypes) == {np.dtype("float32")}
    assert np.isfinite(table.to_numpy()).all()


def test_columns_have_the_same_order_after_a_file(tmp_path):
    fit("zinb").write_h5ad(tmp_path / "a.h5ad")
    assert list(get.history(ad.read_h5ad(tmp_path / "a.h5ad")).columns) == COLUMNS


def test_without_held_out_cells_there_is_no_curve_of_them():
    adata = cells()
    tl.scvi(adata, **OPTIONS, validation_size=0)
    assert list(get.history(adata).columns) == [name for name in COLUMNS if "validation" not in name]


def test_key_of_no_model_is_refused():
    with pytest.raises(MissingKeyError, match=r"uns has no key 'scvi2'\. Did you mean 'scvi'\?"):
        get.history(fit("zinb"), key="scvi2")
    with pytest.raises(InputError, match=r"get\.history takes an AnnData or a MuData, not dict"):
        get.history({})
