"""Cells as if they had been measured elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def in_batch(cells: Any, batch: int | None) -> Any:
    """The cells as if all had been measured in this batch; None leaves each in its own."""
    return cells if batch is None else cells._replace(batch=torch.full_like(cells.batch, batch))


def in_one_of(cells: Any, batches: Sequence[int] | None) -> Any:
    """The cells as if each had been measured in one of these batches, by chance; None leaves each in its own."""
    if batches is None:
        return cells
    choices = torch.tensor(batches, device=cells.batch.device)
    return cells._replace(batch=choices[torch.randint(len(choices), cells.batch.shape, device=cells.batch.device)])
