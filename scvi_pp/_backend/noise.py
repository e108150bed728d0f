"""Standard normal draws for every cell: the same whichever rows are asked for, and however many at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# rows whose draws come from one generator
ROWS_OF_A_PART = 4096


def standard_normal(n_cells: int, width: int, *, seed: int, sample: int, rows: slice) -> Tensor:
    """The draws of these rows in the sample of that number, (rows, width)."""
    first = rows.start // ROWS_OF_A_PART
    parts = [_part(n_cells, width, seed, sample, part) for part in range(first, -(-rows.stop // ROWS_OF_A_PART))]
    skipped = first * ROWS_OF_A_PART
    return torch.cat(parts)[rows.start - skipped : rows.stop - skipped]


def seed_of(seed: int, stream: int) -> int:
    """The seed of all that is drawn but latent positions: another for every stream, and of the first the seed itself."""
    return seed if not stream else int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> 1)


def _part(n_cells: int, width: int, seed: int, sample: int, part: int) -> Tensor:
    entropy = [seed, sample, part] if part else [seed, sample]
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    return torch.randn(min(ROWS_OF_A_PART, n_cells - part * ROWS_OF_A_PART), width, generator=generator)
