"""Cells as if they had been measured elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def in_batch(cells: Any, batch: int | None) -> Any:
    """The cells as if all had been measured in this batch; None leaves each in its own."""
    return cells if batch is None else cells._replace(batch=torch.full_like(cells.batch, batch))


def in_one_of(cells: Any, batches: Tensor | None) -> Any:
    """The cells as if each had been measured in one of these batches, by chance; None leaves each in its own."""
    if batches is None:
        return cells
    return cells._replace(batch=batches[torch.randint(len(batches), cells.batch.shape, device=cells.batch.device)])
