"""What the compiled likelihoods of counts share: their arguments, their threads, and how gradients leave them.

A compiled likelihood is a function `rows` that goes through cells one by one. It computes the value of a cell and, at
once, all its gradients, which take the place of the arguments they are by: backward is left with a multiplication.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi_pp._backend.crew import crew

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvi_pp._backend.sparse import SparseRows

    Rows = Callable[..., None]

NOTHING = torch.empty(0, 0)


class Work:
    """The arguments of `rows` for some cells of a minibatch; after it, the gradients stand in their places.

    With `normalised` the log means are logits: mu = exp(offset) softmax(logits), and the gradient is by the logits.
    """

    def __init__(
        self,
        counts: SparseRows,
        offsets: Tensor,  # (cells,), added to every log mean of a cell
        log_mean: Tensor,  # (cells, genes), to be overwritten
        dropout: Tensor | None,  # (cells, genes) logits, to be overwritten
        log_dispersion: Tensor | None,  # (genes,) or (cells, genes)
        *,
        normalised: bool,
    ) -> None:
        self.counts, self.offsets, self.log_mean, self.dropout = counts, offsets, log_mean, dropout
        self.log_dispersion, self.normalised = log_dispersion, normalised
        self.log_theta = NOTHING if log_dispersion is None else torch.atleast_2d(log_dispersion.detach()).contiguous()
        self.theta = self.log_theta.exp()
        self.to_theta = NOTHING if log_dispersion is None else torch.empty_like(log_mean)
        self.values, self.to_offset = torch.empty_like(offsets), torch.empty_like(offsets)

    def run(self, rows: Rows, part: slice) -> None:
        """Evaluate some of the cells."""
        table = part if len(self.theta) > 1 else slice(None)
        rows(
            self.counts.places.starts[part.start : part.stop + 1].numpy(),
            self.counts.places.columns.numpy(),
            self.counts.values.numpy(),
            self.offsets[part].numpy(),
            self.log_mean[part].numpy(),
            (NOTHING if self.dropout is None else self.dropout[part]).numpy(),
            self.log_theta[table].numpy(),
            self.theta[table].numpy(),
            (self.to_theta[part] if len(self.to_theta) else NOTHING).numpy(),
            self.values[part].numpy(),
            self.to_offset[part].numpy(),
            self.normalised,
        )

    def take_values(self) -> Tensor:
        """The value of each cell. What an autograd node keeps must not lead to its output: both would stay in memory."""
        values, self.values = self.values, NOTHING
        return values

    def dispersion_gradient(self, outer: Tensor) -> Tensor | None:
        """By the log dispersion, shaped like it, if each value is multiplied by `outer` (cells,)."""
        if self.log_dispersion is None:
            return None
        return outer @ self.to_theta if self.log_dispersion.ndim == 1 else self.to_theta * outer[:, None]


def log_likelihood(
    rows: Rows, counts: SparseRows, log_mean: Tensor, log_dispersion: Tensor | None, dropout: Tensor | None
) -> Tensor:
    """Sum over genes, (cells,), of the likelihood that `rows` evaluates."""
    value: Tensor = _LogLikelihood.apply(rows, counts, log_mean, log_dispersion, dropout)  # type: ignore[no-untyped-call]
    return value


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Rows,
        counts: SparseRows,
        log_mean: Tensor,
        log_dispersion: Tensor | None,
        dropout: Tensor | None,
    ) -> Tensor:
        to_mean = torch.clone(log_mean.detach(), memory_format=torch.contiguous_format)
        to_dropout = None if dropout is None else torch.clone(dropout.detach(), memory_format=torch.contiguous_format)
        n = len(to_mean)
        work = Work(counts, torch.zeros(n), to_mean, to_dropout, log_dispersion, normalised=False)
        crew().share(n, lambda part: work.run(rows, part))
        ctx.work = work
        return work.take_values()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[None, None, Tensor, Tensor | None, Tensor | None]:
        work: Work = ctx.work
        scale = outer[:, None]
        to_dropout = None if work.dropout is None else work.dropout * scale
        return None, None, work.log_mean * scale, work.dispersion_gradient(outer), to_dropout
