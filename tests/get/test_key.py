"""`key` may be left out where there is one fitted model, whatever its name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import scvi_pp as svp
from scvi_pp import get, pl, tl
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_same, contents
from tests.fits import cells, fragments

pytestmark = pytest.mark.usefixtures("quiet")

OF_RESULTS = {"differential_accessibility", "differential_expression", "posterior_predictive_check"}
ASKED = {
    **{f"get.{name}": getattr(get, name) for name in get.__all__ if name not in OF_RESULTS},
    "tl.denoise": tl.denoise,
    "pl.history": pl.history,
}


@pytest.fixture
def two():
    adata = cells()
    for seed, key in enumerate(("first", "second")):
        tl.scvi(adata, key_added=key, rng=seed, denoise=False, **QUICK)
    return adata


@pytest.mark.parametrize("name", ASKED)
def test_every_question_may_leave_it_out(name: str):
    assert inspect.signature(ASKED[name]).parameters["key"].default is None


def test_the_only_model_is_meant_whatever_its_name():
    adata = cells()
    tl.scvi(adata, key_added="mine", **{**QUICK, "denoise": False})
    np.testing.assert_array_equal(get.latent(adata), adata.obsm["mine"])
    tl.denoise(adata)
    np.testing.assert_array_equal(adata.layers["mine_denoised"], get.denoised(adata, key="mine"))
    assert get.model_info(adata)["model"] == "scvi"
    assert len(get.history(adata)) == 1
    assert pl.history(adata, show=False).get_title() == "mine"
    other = fragments()
    tl.peakvi(other, **QUICK)
    assert len(get.region_factors(other)) == other.n_vars


@pytest.mark.parametrize("name", ASKED)
def test_of_several_one_has_to_be_named(name: str, two):
    before = contents(two)
    with pytest.raises(InputError, match=r"uns holds 2 fitted models\. Say which one with key=\. .* first, second"):
        ASKED[name](two)
    assert_same(contents(two), before)


def test_of_several_the_one_that_is_named_answers(two):
    latents = [get.latent(two, key=key) for key in ("first", "second")]
    for key, latent in zip(("first", "second"), latents, strict=True):
        np.testing.assert_array_equal(latent, two.obsm[key])
    assert not np.allclose(*latents)


@pytest.mark.parametrize("name", ASKED)
def test_of_none_it_is_said_that_there_is_none(name: str):
    adata = cells()  # its uns holds what scanpy wrote
    with pytest.raises(MissingKeyError, match=r"uns holds no fitted model: fit one .* A concat drops uns"):
        ASKED[name](adata)


def test_a_fit_of_which_the_model_was_not_saved_is_one_too(two):
    tl.scvi(two, key_added="third", save_model=False, denoise=False, **QUICK)
    with pytest.raises(InputError, match="first, second, third"):
        svp.get.history(two)
