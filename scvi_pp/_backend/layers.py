"""Fully connected layers that also see category codes, the building blocks of every encoder and decoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvi_pp._backend.dropout import Dropout
from scvi_pp._backend.kernels import sparse_linear
from scvi_pp._backend.sparse import SparseRows

if TYPE_CHECKING:
    from collections.abc import Sequence


Activation = Literal["relu", "leaky_relu"]


class Norms(NamedTuple):
    """Which normalisations follow each linear map."""

    batch: bool
    layer: bool


class ConditionalLinear(nn.Module):
    """A linear map plus one learned shift per category level: the product with a one-hot code, without the one-hot.

    A category with a single level says nothing and gets no shift. Counts are read without their zeros: the weight lies
    in memory with one row for each input, so that a cell is a sum of such rows.
    """

    def __init__(self, n_in: int, n_out: int, n_levels: Sequence[int] = ()) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.linear.weight = nn.Parameter(torch.empty(n_in, n_out).t())
        self.informative = [column for column, n in enumerate(n_levels) if n > 1]
        tables = [nn.Embedding(n_levels[column], n_out) for column in self.informative]
        self.shifts = nn.ModuleList(tables)
        bound = 1 / math.sqrt(n_in + sum(n_levels[column] for column in self.informative))
        for weight in (self.linear.weight, self.linear.bias, *(table.weight for table in tables)):
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor | SparseRows, codes: Tensor | None = None, more: Tensor | None = None) -> Tensor:
        """x (cells, n_in), codes (cells, n_categories) -> (cells, n_out); `more` columns may follow those of x."""
        out = self._product(x, more)
        if self.informative and codes is not None:
            for column, shift in zip(self.informative, self.shifts, strict=True):
                out = out + shift(codes[:, column])
        return out

    def tables(self) -> list[Tensor]:
        """The shifts of each category that says something, (levels, n_out) each."""
        return [shift.weight for shift in self.shifts]  # type: ignore[misc]

    def _product(self, x: Tensor | SparseRows, more: Tensor | None) -> Tensor:
        weight, bias = self.linear.weight, self.linear.bias
        if isinstance(x, SparseRows):
            if more is None:  # a slice of all columns would have a gradient of its own, to be copied
                return sparse_linear.linear(x, weight, bias)
            of_counts, of_more = weight.t().split([x.shape[1], more.shape[1]])  # rows of memory behind each other
            return torch.addmm(sparse_linear.linear(x, of_counts.t(), bias), more, of_more)
        return F.linear(x if more is None else torch.cat([x, more], dim=1), weight, bias)


class Block(nn.Module):
    """Linear map, normalisation, activation, dropout."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_levels: Sequence[int],
        norms: Norms,
        dropout_rate: float,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.linear = ConditionalLinear(n_in, n_out, n_levels)
        # eps and momentum as Lopez et al. 2018 trained with; momentum is faster, since our runs are shorter
        self.batch_norm = nn.BatchNorm1d(n_out, eps=1e-3, momentum=0.1) if norms.batch else None
        self.layer_norm = nn.LayerNorm(n_out, elementwise_affine=False) if norms.layer else None
        self.activation = {"relu": torch.relu, "leaky_relu": F.leaky_relu}[activation]
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: Tensor | SparseRows, codes: Tensor | None = None, more: Tensor | None = None) -> Tensor:
        """As `ConditionalLinear`."""
        h: Tensor = self.linear(x, codes, more)
        if self.batch_norm is not None:
            h = self.batch_norm(h)
        if self.layer_norm is not None:
            h = self.layer_norm(h)
        out: Tensor = self.dropout(self.activation(h))
        return out


class FullyConnected(nn.Module):
    """`n_layers` blocks; categories enter the first, and every one where `deeply_inject` asks for it."""

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        n_layers: int,
        *,
        n_levels: Sequence[int] = (),
        deeply_inject: bool = False,
        norms: Norms,
        dropout_rate: float,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                n_in if depth == 0 else n_hidden,
                n_hidden,
                n_levels if depth == 0 or deeply_inject else (),
                norms,
                dropout_rate,
                activation,
            )
            for depth in range(n_layers)
        )

    def forward(self, x: Tensor | SparseRows, codes: Tensor | None = None, more: Tensor | None = None) -> Tensor:
        """x (cells, n_in), codes (cells, n_categories) -> (cells, n_hidden); `more` columns may follow those of x."""
        first, *others = self.blocks
        h: Tensor = first(x, codes, more)
        for block in others:
            h = block(h, codes)
        return h
