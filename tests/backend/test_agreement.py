"""Whether drawn counts differ between groups as measured ones do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr, ttest_ind

from scvi_pp._backend.agreement import Differences, agreement, differences


def counts(seed: int = 0, effect: float = 1.0) -> tuple[csr_matrix, np.ndarray]:
    """Poisson counts of three groups, of which the first two have genes of their own."""
    random = np.random.default_rng(seed)
    groups = np.arange(300) % 3
    change = np.zeros((3, 60))
    change[0, :5], change[1, 5:10] = effect, effect
    rate = np.random.default_rng(1).gamma(2.0, 1.0, 60) * np.exp(change[groups])
    return csr_matrix(random.poisson(rate)), groups


def test_differences_are_those_of_means_and_scores_those_of_welch():
    x, groups = counts()
    found = differences(x, groups, 3)
    dense = x.toarray()
    y = np.log1p(1e4 * dense / dense.sum(1, keepdims=True))
    for group in range(3):
        inside, outside = y[groups == group], y[groups != group]
        np.testing.assert_allclose(found.change[group], inside.mean(0) - outside.mean(0), atol=1e-12)
        expected = ttest_ind(inside, outside, equal_var=False).statistic
        np.testing.assert_allclose(found.score[group], expected, rtol=1e-9)


def test_a_gene_that_no_cell_has_does_not_differ():
    x, groups = counts()
    x = csr_matrix(np.hstack([x.toarray(), np.zeros((300, 1))]))
    found = differences(x, groups, 3)
    assert (found.change[:, -1] == 0).all() and (found.score[:, -1] == 0).all()


def test_agreement_with_oneself_is_perfect():
    found = differences(*counts(), 3)
    same = agreement(found, [found, found])
    np.testing.assert_allclose([same.top_genes, same.pearson, same.slope], 1)
    np.testing.assert_allclose(same.error, 0, atol=1e-12)


def test_agreement_is_the_mean_over_draws_of_known_statistics():
    measured = differences(*counts(), 3)
    draws = [differences(*counts(seed), 3) for seed in (1, 2)]
    found = agreement(measured, draws)
    for group in range(3):
        expected = np.mean([pearsonr(measured.change[group], draw.change[group])[0] for draw in draws])
        assert found.pearson[group] == pytest.approx(expected)
        slopes = [np.polyfit(measured.change[group], draw.change[group], 1)[0] for draw in draws]
        assert found.slope[group] == pytest.approx(np.mean(slopes))
    assert found.top_genes[0] > 0.7  # five of the six are the group's own
    assert found.pearson[0] > 0.7


def test_effects_that_are_shrunk_show_in_the_slope():
    measured = differences(*counts(), 3)
    found = agreement(measured, [differences(*counts(3, effect=0.5), 3)])
    assert 0.35 < found.slope[0] < 0.65


def test_top_genes_are_counted_from_the_highest_score():
    score = np.arange(20.0)[None]
    other = score.copy()
    other[0, 18], other[0, 0] = -1.0, 18.0  # one of the two highest changes places with the lowest
    found = agreement(Differences(score, score), [Differences(other, other)])
    assert found.top_genes.tolist() == [0.5]
