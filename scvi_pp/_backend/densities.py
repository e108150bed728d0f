"""How dense cells of each sample lie around every cell in the latent space.

The posterior of a sample is the mixture of those of its cells, q_s(z) = 1/|s| sum_n prod_d K(z_d; m_nd, sqrt(v_nd)), with K
a normal or a Student t of that location and scale. It is evaluated at the posterior mean of every cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

from scvi_pp._backend import kernels
from scvi_pp._backend.crew import FEWEST_ROWS, crew, working_together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Array = npt.NDArray[np.float64]

MOST_PAIRS = 2_000_000  # of a cell and a component that are held at a time: 16 MB
MOST_PAIRS_BY_DIMENSION = 200_000  # where each pair takes a number for every dimension


def log_densities(
    at: npt.NDArray[np.floating],
    mean: npt.NDArray[np.floating],
    variance: npt.NDArray[np.floating],
    samples: Sequence[npt.NDArray[np.int64]],
    *,
    dof: float | None = None,
    own_rows: npt.NDArray[np.int64] | None = None,
) -> Array:
    """Return the log density of every sample at every position, (positions, samples).

    Parameters
    ----------
    at
        Positions, (positions, n_latent).
    mean, variance
        Of the posterior of every cell, (cells, n_latent).
    samples
        The cells of each sample that make up its mixture.
    dof
        Degrees of freedom of a Student t; a normal by default.
    own_rows
        Which cell each position is of. If given, a cell does not count for itself.
    """
    positions = np.asarray(at, dtype=np.float64)
    out = np.empty((len(positions), len(samples)))
    with kernels.use_for(len(positions) * len(mean)), working_together(FEWEST_ROWS * 64):
        for column, rows in enumerate(samples):
            log_kernel = _kernel(np.asarray(mean[rows], np.float64), np.asarray(variance[rows], np.float64), dof)
            by_dimension = dof is not None
            size = max(1, (MOST_PAIRS_BY_DIMENSION if by_dimension else MOST_PAIRS) // max(1, len(rows)))

            def one(
                number: int, column: int = column, rows: Any = rows, log_kernel: Any = log_kernel, size: int = size
            ) -> None:
                where = slice(number * size, (number + 1) * size)
                values = log_kernel(positions[where])
                n_components = np.full(len(values), float(len(rows)))
                if own_rows is not None:
                    itself = own_rows[where][:, None] == rows
                    values[itself] = -np.inf
                    n_components -= itself.sum(1)
                with np.errstate(divide="ignore"):
                    out[where, column] = logsumexp(values, axis=1) - np.log(n_components)

            crew().each(-(-len(positions) // size), one)
    return out


def _kernel(mean: Array, variance: Array, dof: float | None) -> Callable[[Array], Array]:
    """A function from positions (n, d) to the log density of every component at each, (n, components)."""
    if dof is None:  # squares multiplied out, so that it is two matrix products
        precision = 1 / variance
        weighted, constant = mean * precision, (mean**2 * precision + np.log(2 * np.pi * variance)).sum(1)

        def normal(z: Array) -> Array:
            values: Array = z**2 @ precision.T
            values -= 2 * (z @ weighted.T)
            values += constant
            values *= -0.5
            return values

        return normal

    scale = np.sqrt(variance)
    constant = (gammaln((dof + 1) / 2) - gammaln(dof / 2) - 0.5 * np.log(dof * np.pi) - np.log(scale)).sum(1)

    def student(z: Array) -> Array:
        standard = (z[:, None] - mean) / scale
        values: Array = constant - (dof + 1) / 2 * np.log1p(standard**2 / dof).sum(2)
        return values

    return student


def log_ratio(densities: Array, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Array:
    """Return the log of the mean density of the first samples over that of the second, (positions,)."""
    sides = [logsumexp(densities[:, side], axis=1) - np.log(side.sum()) for side in (first, second)]
    found: Array = sides[0] - sides[1]
    return found


def welch(densities: Array, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Array:
    """Return p-values, (positions,), of Welch's test between the log densities of the samples of both sides."""
    from scipy.stats import ttest_ind

    with np.errstate(invalid="ignore"):
        found: Array = ttest_ind(densities[:, first], densities[:, second], axis=1, equal_var=False).pvalue
    return found
