from __future__ import annotations

import json

import pytest

import scvi_pp as svp
from scvi_pp import get
from tests.fits import MODELS, OPTIONS, fit, genes_of, model_of

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("name", MODELS)
def test_everything_about_the_fit_can_be_read(name: str):
    adata = fit(name)
    info = get.model_info(adata)
    assert list(info) == ["model", "genes", "batches", "hyperparameters", "training", "reads", "n_parameters"]
    assert info["model"] == model_of(name)
    assert info["genes"] == genes_of(name)
    assert info["batches"] == ["b0", "b1"]
    assert info["hyperparameters"]["n_latent"] == OPTIONS["n_latent"]
    assert info["training"]["n_epochs"] == OPTIONS["max_epochs"]
    assert info["training"]["scvi_pp_version"] == svp.__version__
    assert info["reads"]["counts"]["layer"] == MODELS[name].get("layer")
    assert list(info["reads"]["batch"]["keys"]) == ["batch"]
    assert info["n_parameters"] > len(info["genes"]) * 4
    json.dumps(info)


def test_columns_that_are_read_are_named():
    reads = get.model_info(fit("encoded covariates"))["reads"]
    assert list(reads["categories"]["keys"]) == ["sex"]
    assert list(reads["numbers"]["keys"]) == ["mito", "age"]
    assert get.model_info(fit("size factor"))["reads"]["size_factor"] == {"key": "size"}


def test_a_changed_answer_does_not_change_the_model():
    adata = fit("zinb")
    info = get.model_info(adata)
    info["genes"].clear()
    info["hyperparameters"].clear()
    assert get.model_info(adata)["genes"] == genes_of("zinb")
    assert get.model_info(adata)["hyperparameters"]
