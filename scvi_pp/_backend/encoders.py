"""From cells to the approximate posterior of what is hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.distributions import Normal

from scvi_pp._backend.layers import FullyConnected

if TYPE_CHECKING:
    from scvi_pp._backend.layers import Activation, Norms
    from scvi_pp._backend.sparse import SparseRows

# keeps the posterior from collapsing to a point; the value of the reference implementation
SMALLEST_VARIANCE = 1e-4


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
    ) -> None:
        super().__init__()
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
        variance = self.log_variance(h).exp() + SMALLEST_VARIANCE
        return Normal(self.mean(h), variance.sqrt(), validate_args=False)
