"""The polynomials of the compiled kernels, on every kind of number that reaches them, against numpy and fifty digits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
import scipy.special

from scvi_pp._backend.kernels import arithmetic
from tests.backend.kernels.extremes import COUNTS, DISPERSIONS

N = 100_001
WHOLE = np.concatenate([np.arange(1.0, 2000), np.geomspace(2000, 1.6e7, 1000).round()])
NAN = np.float32(np.nan)
LENGTHS = (1, 17)  # what is left over of a vectorised loop, and the loop itself


def over(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as the kernels run it: inlined in a loop over float32 that is compiled with their options."""

    @numba.njit(fastmath=arithmetic.FAST, error_model="numpy")
    def loop(x: Any) -> Any:
        out = np.empty_like(x)
        for i in range(x.shape[0]):
            out[i] = function(x[i])
        return out

    return lambda x: loop(np.asarray(x, np.float32)).astype(np.float64)


@pytest.fixture(scope="module")
def gamma_ratio() -> Callable[..., Any]:
    """`log_gamma_ratio` as the kernels run it: value and slope."""

    @numba.njit(fastmath=arithmetic.FAST, error_model="numpy")
    def loop(theta: Any, x: Any) -> Any:
        value, slope = np.empty_like(theta), np.empty_like(theta)
        for i in range(theta.shape[0]):
            value[i], slope[i] = arithmetic.log_gamma_ratio(theta[i], x[i])
        return value, slope

    return lambda theta, x: loop(np.asarray(theta, np.float32), np.asarray(x, np.float32))


# function -> the numbers that reach it, and the truth
RELATIVE: dict[str, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]] = {
    "exp_negative": (-np.concatenate([[0.0], np.geomspace(1e-30, 87, N)]), np.exp),
    "exp": (
        np.concatenate([np.linspace(-87, 88, N), -np.geomspace(1e-30, 1, 100), np.geomspace(1e-30, 1, 100)]),
        np.exp,
    ),
    "log1p_fraction": (np.geomspace(1e-30, 1, N), np.log1p),
    "log1p": (np.geomspace(1e-30, 1e38, N), np.log1p),
    "log": (np.concatenate([np.geomspace(1.2e-38, 3e38, N), np.linspace(0.5, 2, N)]), np.log),
}


@pytest.mark.parametrize("name", RELATIVE)
def test_a_function_is_within_three_parts_in_ten_million(name: str):
    x, truth = RELATIVE[name]
    x = x.astype(np.float32)
    expected = truth(x.astype(np.float64))
    found = over(getattr(arithmetic, name))(x)
    assert (np.abs(found - expected) <= 3e-7 * np.abs(expected)).all()


def test_exponentials_stay_within_float32():
    far = [-88.0, -1e3, -1e30, -np.inf]
    assert (over(arithmetic.exp_negative)(far) > 0).all()
    assert (over(arithmetic.exp_negative)(far) < 2e-38).all()
    assert np.isfinite(over(arithmetic.exp)([88.0])).all()
    assert np.isposinf(over(arithmetic.exp)([1e3, 1e30])).all()


def test_the_log_of_a_ratio_keeps_its_digits_near_one():
    @numba.njit(fastmath=arithmetic.FAST, error_model="numpy")
    def loop(a: Any, b: Any) -> Any:
        out = np.empty_like(a)
        for i in range(a.shape[0]):
            out[i] = arithmetic.log_ratio(a[i], b[i])
        return out

    a = np.concatenate([1 + np.geomspace(1e-6, 1, N), np.linspace(1, 2, N)]).astype(np.float32)
    b = np.concatenate([np.ones(N), np.linspace(2, 1, N)]).astype(np.float32)
    exact = np.log(a.astype(np.float64)) - np.log(b.astype(np.float64))
    assert (np.abs(loop(a, b) - exact) <= 4e-7 * np.abs(exact)).all()


def test_factorials_of_counts_are_right_to_half_a_millionth():
    expected = scipy.special.gammaln(WHOLE.astype(np.float32).astype(np.float64) + 1)
    found = over(arithmetic.log_factorial)(WHOLE)
    assert (np.abs(found - expected) <= 5e-7 * np.maximum(expected, 1)).all()


def test_gamma_ratios_and_their_slopes_are_right_for_every_dispersion(gamma_ratio: Callable[..., Any]):
    mpmath = pytest.importorskip("mpmath")
    theta, x = np.array(list(itertools.product(DISPERSIONS, COUNTS[1:])), np.float32).T
    values, slopes = gamma_ratio(theta, x)
    with mpmath.workdps(50):
        for t, n, value, slope in zip(theta.tolist(), x.tolist(), values.tolist(), slopes.tolist(), strict=True):
            expected = float(mpmath.loggamma(mpmath.mpf(t) + n) - mpmath.loggamma(t))
            assert value == pytest.approx(expected, rel=3e-6, abs=3e-6)
            expected = float(mpmath.digamma(mpmath.mpf(t) + n) - mpmath.digamma(t))
            assert slope == pytest.approx(expected, rel=3e-6)


@pytest.mark.parametrize(
    "name", ["exp_negative", "exp", "log", "log1p", "log1p_fraction", "log_factorial", "stirling", "digamma_tail"]
)
def test_what_is_not_a_number_passes_through(name: str):
    for n in LENGTHS:
        assert np.isnan(over(getattr(arithmetic, name))(np.full(n, NAN))).all()


def test_gamma_ratios_of_what_is_not_a_number_are_none(gamma_ratio: Callable[..., Any]):
    for n, (theta, x) in itertools.product(LENGTHS, ((NAN, 1.0), (1.0, NAN))):
        for found in gamma_ratio(np.full(n, theta), np.full(n, x)):
            assert np.isnan(found).all()


def test_code_that_cannot_be_kept_on_disk_is_compiled_all_the_same():
    """A function without a file, as one in a folder that cannot be written to: numba keeps neither."""
    somewhere: dict[str, Any] = {}
    exec("def twice(x):\n    return x + x", somewhere)
    assert arithmetic.compiled(somewhere["twice"])(21) == 42
