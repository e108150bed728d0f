"""Dropout whose coins cost little on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COINS_OF_A_DRAW = 4  # 64 random bits are four numbers of 16
SIDES = 1 << 16


class Dropout(nn.Module):
    """Each value is lost with a chance of `rate`, and what is kept grows so that the mean stays.

    torch draws a number of 64 bits for every value; sixteen decide as well. The chance is then the multiple of 1 / 65536
    nearest to `rate`, and values grow by that chance exactly. A device other than a CPU has a dropout of its own.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape."""
        if not self.training or self.rate == 0:
            return x
        n_lost = round(self.rate * SIDES)
        if x.device.type != "cpu" or n_lost == SIDES:
            return F.dropout(x, self.rate)
        kept = coins(x.numel()).ge(n_lost - SIDES // 2).view(x.shape)
        return x * kept.to(x.dtype).mul_(SIDES / (SIDES - n_lost))


def coins(n: int) -> Tensor:
    """Whole numbers from -32768 to 32767, (n,), each as likely."""
    draws = torch.empty(-(-n // COINS_OF_A_DRAW), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    return draws.view(torch.int16)[:n]
