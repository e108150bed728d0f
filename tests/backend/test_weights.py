"""Networks to arrays and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend import weights
from scvi_pp._backend.models.scvi import build
from scvi_pp._errors import ModelRecordError
from tests.backend import small


@pytest.fixture
def network() -> Any:
    network = small.network(small.arrays(n_levels=(3,)), use_observed_lib_size=False)
    for tensor in network.state_dict().values():
        tensor.add_(1)  # batch norms and library priors as no new network has them
    return network


def test_a_rebuilt_network_has_every_weight_and_every_buffer(network: Any):
    arrays = weights.to_arrays(network)
    again = weights.rebuild(lambda: build(network.hyperparameters), arrays)
    assert again.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_arrays_are_copies_and_so_are_weights(network: Any):
    arrays = weights.to_arrays(network)
    before = {name: array.copy() for name, array in arrays.items()}
    again = weights.rebuild(lambda: build(network.hyperparameters), arrays)
    for each in (network, again):
        for tensor in each.state_dict().values():
            tensor.add_(1)
    assert all(np.array_equal(arrays[name], before[name]) for name in arrays)


def test_read_only_arrays_can_be_loaded(network: Any):
    arrays = weights.to_arrays(network)
    for array in arrays.values():
        array.flags.writeable = False
    weights.rebuild(lambda: build(network.hyperparameters), arrays)


def test_rebuilding_draws_no_random_number(network: Any):
    arrays = weights.to_arrays(network)
    before = torch.random.get_rng_state()
    weights.rebuild(lambda: build(network.hyperparameters), arrays)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "type"])
def test_weights_of_another_network_are_refused_by_name(network: Any, change: str):
    arrays = weights.to_arrays(network)
    name = "decoder.scale.weight"
    if change == "missing":
        del arrays[name]
    elif change == "extra":
        arrays[name + "s"] = arrays[name]
    elif change == "shape":
        arrays[name] = arrays[name][:-1]
    else:
        arrays[name] = arrays[name].astype(np.float64)
    with pytest.raises(ModelRecordError, match=name):
        weights.rebuild(lambda: build(network.hyperparameters), arrays)


def test_a_snapshot_does_not_follow_the_network(network: Any):
    taken = weights.snapshot(network)
    before = network.decoder.scale.weight.detach().clone()
    with torch.no_grad():
        network.decoder.scale.weight.zero_()
    assert torch.equal(taken["decoder.scale.weight"], before)
    assert not taken["decoder.scale.weight"].requires_grad
