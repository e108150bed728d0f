"""The forms for a device on the CPU, for tests that watch them there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scvi_pp._backend import modality_parts, streams
from scvi_pp._backend.kernels.gather_rows.device import tile
from scvi_pp._backend.models.scanvi import PositionOfLabel
from tests.cuda.test_likelihoods import KERNELS, ON_DEVICE


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and likelihoods in the forms for a device, wherever they are, and what else is chosen by the device."""
    monkeypatch.setattr(streams.Counts, "rows", lambda self, index: tile(self.packed, index, self.longest))
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(kernel.analytic, "log_likelihood", ON_DEVICE[name].log_likelihood)
    monkeypatch.setattr(modality_parts, "of_measured", lambda known, say: torch.where(known, say(None), 0.0))
    plain = PositionOfLabel.forward
    monkeypatch.setattr(
        PositionOfLabel, "forward", lambda self, position, drawn=None, asked=None: plain(self, position, drawn)
    )
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)


def one_hot(codes: Tensor, n: int) -> Any:
    """As torch has it for CUDA; that for the CPU reads the smallest and the largest code first."""
    return (codes[..., None] == torch.arange(n, device=codes.device)).long()
