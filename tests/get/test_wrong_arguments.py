"""What cannot be asked is refused by every getter in the same words, and before anything is computed."""

from __future__ import annotations

import numpy as np
import pytest

import scvi_pp as svp
from scvi_pp import get
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError
from tests.contract import assert_same, contents
from tests.fits import cells, fit

pytestmark = pytest.mark.usefixtures("quiet")

OF_RESULTS = {
    "differential_accessibility",
    "differential_expression",
    "posterior_predictive_check",
}  # they read what a test wrote, and no model
NAMES = [name for name in get.__all__ if name not in OF_RESULTS]
OF_GENES = ["denoised", "samples", "likelihood_parameters", "feature_correlation"]
OF_BATCHES = ["denoised", "samples", "feature_correlation"]
OF_DRAWS = [*OF_GENES, "latent", "elbo", "reconstruction_error", "marginal_log_likelihood"]
RANDOM = OF_DRAWS
BATCHED = [*OF_DRAWS, "library_size"]
CASES = [
    *((name, {"key": "svci"}, r"uns has no key 'svci'\. Did you mean 'scvi'\?") for name in NAMES),
    *((name, {"key": "neighbors"}, r"uns\['neighbors'\] was not written by scvi_pp") for name in NAMES),
    *(
        (name, {"genes": ["gene3", "CD3E"]}, "genes names 'CD3E', which the model was not fitted to")
        for name in OF_GENES
    ),
    *((name, {"genes": "gen3"}, "genes names 'gen3', .* Did you mean 'gene3'") for name in OF_GENES),
    *((name, {"genes": []}, "genes is empty") for name in OF_GENES),
    *((name, {"genes": [True, False]}, "genes takes names, not a mask") for name in OF_GENES),
    *((name, {"genes": 3}, r"genes=3 .*name") for name in OF_GENES),
    *((name, {"transform_batch": "b7"}, r"obs\['batch'\] has no level 'b7'.*Known: b0, b1") for name in OF_BATCHES),
    *((name, {"transform_batch": ["b0", "b7"]}, r"has no level 'b7'") for name in OF_BATCHES),
    *((name, {"transform_batch": []}, "transform_batch is empty") for name in OF_BATCHES),
    *((name, {"n_samples": 0}, "n_samples=0 must be a whole number of at least 1") for name in OF_DRAWS),
    *((name, {"n_samples": 2.5}, "n_samples=2.5 must be a whole number") for name in OF_DRAWS),
    *((name, {"n_samples": True}, "n_samples=True must be a whole number") for name in OF_DRAWS),
    *((name, {"rng": "a"}, "rng='a' is no seed") for name in RANDOM),
    *((name, {"rng": 1, "random_state": 1}, "Give rng or random_state, not both") for name in RANDOM),
    *((name, {"batch_size": 0}, "batch_size=0 must be a whole number of at least 1") for name in BATCHED),
    *((name, {"batch_size": 2.5}, "batch_size=2.5 must be a whole number") for name in BATCHED),
    *((name, {"batch_size": "all"}, "batch_size='all' must be a whole number") for name in BATCHED),
    *(
        ("denoised", {"library_size": size}, "library_size=.* must be a positive number or 'latent'")
        for size in (0, -1, "observed", np.nan, np.inf, True, None)
    ),
    ("latent", {"kind": "median"}, "kind='median' is unknown. Choose one of 'mean', 'sample', 'distribution'"),
]


@pytest.mark.parametrize(("name", "options", "message"), CASES, ids=lambda value: str(value) if value != "" else None)
def test_impossible_argument_is_refused(name: str, options: dict, message: str):
    adata = fit("zinb")
    before = contents(adata)
    with pytest.raises((InputError, MissingKeyError, ModelRecordError), match=message):
        getattr(get, name)(adata, **options)
    assert_same(contents(adata), before)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_anndata_is_refused(name: str):
    with pytest.raises(InputError, match=rf"get\.{name} takes an AnnData or a MuData, not NoneType"):
        getattr(get, name)(None)


@pytest.mark.parametrize("name", NAMES)
def test_object_without_a_fit_is_told_so(name: str):
    with pytest.raises(MissingKeyError, match=r"uns holds no fitted model: fit one \(tl\.scvi"):
        getattr(get, name)(cells())
    with pytest.raises(MissingKeyError, match=r"uns has no key 'scvi'\. It holds no fitted model"):
        getattr(get, name)(cells(), key="scvi")


def test_batches_can_only_be_asked_for_after_a_fit_with_batches():
    adata = cells()
    svp.tl.scvi(adata, max_epochs=1, n_hidden=4, denoise=False)
    for name in OF_BATCHES:
        with pytest.raises(InputError, match="transform_batch needs a model that was fitted with batch_key"):
            getattr(get, name)(adata, transform_batch="b0")
