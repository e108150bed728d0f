from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from scvi_pp import get
from scvi_pp._errors import InputError
from tests.fits import CHROMATIN, MODELS, fit, genes_of

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_correlations_are_symmetric_with_ones_on_the_diagonal(name: str, method: str):
    table = get.feature_correlation(fit(name), method=method)
    assert list(table.index) == list(table.columns) == genes_of(name)
    values = table.to_numpy()
    np.testing.assert_allclose(np.diag(values), 1, rtol=1e-5)
    np.testing.assert_allclose(values, values.T, atol=1e-6)
    assert (np.abs(values) <= 1).all()
    assert np.isfinite(values).all()


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_without_overdispersion_correlations_are_those_of_denoised_draws(method: str):
    """A Poisson has no spread of its own: what is left is that of the latent draws, which get.denoised shows too."""
    adata = fit("poisson")
    one = get.denoised(adata, n_samples=1, rng=3, library_size=1000.0).to_numpy(dtype=float)
    values = rankdata(one, axis=0) if method == "spearman" else one
    found = get.feature_correlation(adata, n_samples=1, rng=3, method=method)
    np.testing.assert_allclose(found, np.corrcoef(values.T), atol=2e-3)


def test_genes_are_rows_and_columns_of_the_whole():
    adata = fit("zinb")
    chosen = ["gene9", "gene2", "gene4"]
    whole = get.feature_correlation(adata, rng=1)
    np.testing.assert_allclose(
        get.feature_correlation(adata, genes=chosen, rng=1), whole.loc[chosen, chosen], atol=1e-5
    )


def test_several_batches_give_the_mean_of_the_singles():
    adata = fit("nb")
    single = [get.feature_correlation(adata, transform_batch=batch) for batch in ("b0", "b1")]
    both = get.feature_correlation(adata, transform_batch=["b0", "b1"])
    assert np.abs(single[0] - single[1]).to_numpy().max() > 0.01
    # the draws of the second batch go on where those of the first ended
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=0.15)


def test_draws_follow_the_seed():
    adata = fit("zinb")
    np.testing.assert_array_equal(get.feature_correlation(adata, rng=1), get.feature_correlation(adata, random_state=1))
    assert not np.allclose(get.feature_correlation(adata, rng=1), get.feature_correlation(adata, rng=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "kendall"}, "method='kendall' is unknown. Choose 'spearman' or 'pearson'"),
        ({"library_size": "latent"}, "makes no sense here: correlations are taken at one library size"),
        ({"n_samples": 0}, "n_samples=0 must be a whole number of at least 1"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        get.feature_correlation(fit("zinb"), **options)
