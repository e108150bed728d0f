"""From cells to the approximate posterior of what is hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.distributions import Normal

from scvi_pp._backend.kernels.counts import totals
from scvi_pp._backend.layers import FullyConnected, Norms
from scvi_pp._backend.sparse import SparseRows

if TYPE_CHECKING:
    from scvi_pp._backend.layers import Activation

# keeps the posterior from collapsing to a point; the value of the reference implementation of scVI
SMALLEST_VARIANCE = 1e-4


class Posterior(NamedTuple):
    """What the encoders say of each cell."""

    q_z: Normal  # over (cells, n_latent), before the softmax of "ln"
    q_library: Normal | None  # over (cells, 1) log library size, where it is hidden
    library: Tensor  # (cells, 1) log library size: observed, or the posterior mean


def log_of_relative(counts: Tensor | SparseRows, n_measured: Tensor) -> Tensor | SparseRows:
    """log(1 + x / (1 + mean)) of counts, (cells, features): what of a cell does not tell how deeply it was sequenced.

    The mean is that of the cell over what was measured in it, `n_measured` features (cells,); what was not measured has
    no counts.
    """
    factor = 1 / (1 + totals(counts) / n_measured.clamp(min=1))
    return counts.times(factor).log1p() if isinstance(counts, SparseRows) else (counts * factor[:, None]).log1p()


class GaussianEncoder(nn.Module):
    """A diagonal Gaussian whose mean and variance are read off the cell."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_levels: tuple[int, ...] = (),
        deeply_inject: bool = False,
        norms: Norms,
        dropout_rate: float,
        activation: Activation = "relu",
        smallest_variance: float | None = None,
    ) -> None:
        super().__init__()
        self.smallest_variance = smallest_variance
        self.body = FullyConnected(
            n_in,
            n_hidden,
            n_layers,
            n_levels=n_levels,
            deeply_inject=deeply_inject,
            norms=norms,
            dropout_rate=dropout_rate,
            activation=activation,
        )
        self.mean = nn.Linear(n_hidden, n_out)
        self.log_variance = nn.Linear(n_hidden, n_out)

    def forward(self, x: Tensor | SparseRows, codes: Tensor | None = None, more: Tensor | None = None) -> Normal:
        """x (cells, n_in) -> Normal over (cells, n_out); `more` columns may follow those of x."""
        h = self.body(x, codes, more)
        smallest = SMALLEST_VARIANCE if self.smallest_variance is None else self.smallest_variance
        variance = self.log_variance(h).exp() + smallest
        return Normal(self.mean(h), variance.sqrt(), validate_args=False)


class ScalarEncoder(nn.Module):
    """One number read off each cell, such as how deeply it was sequenced."""

    def __init__(
        self,
        n_in: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_levels: tuple[int, ...] = (),
        deeply_inject: bool = False,
        norms: Norms = Norms(batch=False, layer=True),  # noqa: B008 - a tuple
    ) -> None:
        super().__init__()
        self.body = FullyConnected(
            n_in,
            n_hidden,
            n_layers,
            n_levels=n_levels,
            deeply_inject=deeply_inject,
            norms=norms,
            dropout_rate=0.0,
            activation="leaky_relu",
        )
        self.number = nn.Linear(n_hidden, 1)

    def forward(self, x: Tensor | SparseRows, codes: Tensor | None = None, more: Tensor | None = None) -> Tensor:
        """x (cells, n_in) -> (cells, 1); `more` columns may follow those of x."""
        out: Tensor = self.number(self.body(x, codes, more))
        return out
