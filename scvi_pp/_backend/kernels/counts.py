"""Counts as a kernel gets them: a dense tensor, or compressed rows. What each form of a kernel makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.sparse import SparseRows

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def dense(counts: Tensor | SparseRows) -> Tensor:
    """(cells, genes)."""
    return counts.dense() if isinstance(counts, SparseRows) else counts


def sparse(counts: Tensor | SparseRows) -> SparseRows:
    """Compressed rows."""
    return counts if isinstance(counts, SparseRows) else SparseRows.of(counts)


def totals(counts: Tensor | SparseRows) -> Tensor:
    """The sum of each row, (cells,)."""
    return counts.totals if isinstance(counts, SparseRows) else counts.sum(1)


def at_counts(counts: Tensor | SparseRows, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Where counts are, as row and column indices, and the counts there, as a plain type."""
    if isinstance(counts, SparseRows):
        return (counts.places.rows, counts.places.columns.long()), counts.values.to(dtype)
    rows, columns = counts.nonzero(as_tuple=True)
    return (rows, columns), counts[rows, columns].to(dtype)
