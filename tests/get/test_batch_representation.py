from __future__ import annotations

import numpy as np
import pytest

from scvi_pp import get
from scvi_pp._errors import InputError
from tests.fits import fit

pytestmark = pytest.mark.usefixtures("quiet")


def test_each_batch_has_a_vector():
    table = get.batch_representation(fit("embedding"))
    assert table.shape == (2, 3)
    assert list(table.index) == ["b0", "b1"]
    assert table.index.name == "batch"
    assert np.isfinite(table.to_numpy()).all()
    assert not np.allclose(table.loc["b0"], table.loc["b1"])


def test_other_models_say_how_to_get_one():
    with pytest.raises(InputError, match=r"uns\['scvi'\] has no batch vectors: .* batch_representation='embedding'"):
        get.batch_representation(fit("zinb"))
