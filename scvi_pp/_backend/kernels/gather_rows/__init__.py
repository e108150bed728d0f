"""The rows of a minibatch out of all rows: gather(packed, index) -> SparseRows, in the order asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi_pp._backend.kernels import runs_compiled
from scvi_pp._backend.kernels.gather_rows import reference

if TYPE_CHECKING:
    from torch import Tensor

    from scvi_pp._backend.sparse import PackedRows, SparseRows


def gather(packed: PackedRows, index: Tensor) -> SparseRows:
    """Unpack the rows of `index`, int64 (rows,)."""
    if runs_compiled(packed.columns):
        from scvi_pp._backend.kernels.gather_rows import cpu

        return cpu.gather(packed, index)
    return reference.gather(packed, index)
