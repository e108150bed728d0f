from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from scvi_pp import get, pl, tl
from scvi_pp._errors import MissingKeyError
from tests.contract import QUICK, assert_same, contents
from tests.fits import cells, fit

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


def curves(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def test_curves_are_those_of_the_history():
    adata = fit("zinb")
    history = get.history(adata)
    ax = pl.history(adata, show=False)
    drawn = curves(ax)
    for label, column in (("training", "elbo_train"), ("held out", "elbo_validation")):
        np.testing.assert_array_equal(drawn[label][:, 0], history.index)
        np.testing.assert_allclose(drawn[label][:, 1], history[column], rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("epoch", "ELBO per cell", "scvi")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "held out", "kept"]


def test_dot_marks_the_weights_that_were_kept():
    adata = fit("zinb")
    ((epoch, _),) = curves(pl.history(adata, show=False))["kept"]
    assert epoch == adata.uns["scvi"]["params"]["best_epoch"]


def test_without_held_out_cells_one_curve_is_drawn():
    adata = cells()
    tl.scvi(adata, **QUICK, validation_size=0, key_added="mine", denoise=False)
    ax = pl.history(adata, key="mine", show=False)
    assert list(curves(ax)) == ["training"]
    assert ax.get_title() == "mine"


def test_first_steps_do_not_flatten_the_rest():
    adata = cells()
    tl.scvi(adata, **{**QUICK, "max_epochs": 30}, denoise=False, early_stopping=False)
    curve = adata.uns["scvi"]["history"]["elbo_train"].copy()
    curve[0] = -1e6
    adata.uns["scvi"]["history"]["elbo_train"] = curve
    low, high = pl.history(adata, show=False).get_ylim()
    assert high - low < 1e3


def test_axes_given_are_drawn_on_and_returned_unshown(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("shown"))
    _, (left, right) = plt.subplots(1, 2)
    assert pl.history(fit("zinb"), ax=right) is right
    assert not left.get_lines()
    assert right.get_lines()


def test_figure_of_its_own_is_shown_unless_told_otherwise(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *_: shown.append(True))
    assert pl.history(fit("zinb")) is None
    assert pl.history(fit("zinb"), show=True) is None
    assert len(shown) == 2
    assert isinstance(pl.history(fit("zinb"), show=False), matplotlib.axes.Axes)
    assert len(shown) == 2


def test_drawing_writes_nothing_and_needs_no_model():
    adata = cells()
    tl.scvi(adata, **QUICK, save_model=False, denoise=False)
    before, style = contents(adata), dict(matplotlib.rcParams)
    pl.history(adata, show=False)
    assert_same(contents(adata), before)
    assert dict(matplotlib.rcParams) == style


def test_object_without_a_fit_is_told_so():
    n_figures = len(plt.get_fignums())
    with pytest.raises(MissingKeyError, match=r"uns holds no fitted model: fit one"):
        pl.history(cells())
    assert len(plt.get_fignums()) == n_figures
