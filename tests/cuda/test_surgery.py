"""A mapping by repeated steps: on the CPU, and on a device where there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from scvi_pp._backend.fit import _Loop, fit
from scvi_pp._backend.graph import Epochs
from scvi_pp._backend.models import scvi
from scvi_pp._backend.streams import Cells
from scvi_pp._backend.surgery import mapping
from tests.backend import small

needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def mapped(device: str = "cpu") -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights before and after a query with two new batches was mapped."""
    known, query = small.arrays(), small.arrays(n_batches=4, seed=1)
    network = small.network(known, encode_covariates=True, use_observed_lib_size=False)
    grown = mapping(network, scvi.build(replace(network.hyperparameters, n_batches=4)), "new").to(device)
    fit(grown, Cells(query, torch.device(device)), small.plan(max_epochs=4, weight_decay=0.1))
    return network.state_dict(), grown.finished().cpu().state_dict()


def assert_only_new_rows_moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name][: len(tensor)] if tensor.ndim else after[name]), name


def test_in_epochs_of_repeated_steps_nothing_else_moves(monkeypatch: pytest.MonkeyPatch):
    """What another device does, on the CPU."""

    def epochs(loop: Any) -> Any:
        return Epochs(loop._step, loop.network.zero_grad, loop.cells, len(loop.training), loop.n_steps).run

    monkeypatch.setattr(_Loop, "_one_epoch_on_this_device", epochs)
    assert_only_new_rows_moved(*mapped())


@needs_device
def test_on_a_device_nothing_else_moves_either():
    before, after = mapped("cuda")
    assert_only_new_rows_moved(before, after)
    _, expected = mapped()
    table = "decoder.body.blocks.0.linear.shifts.0.weight"
    torch.testing.assert_close(after[table], expected[table], rtol=0.05, atol=0.02)
