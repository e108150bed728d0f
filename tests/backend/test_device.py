"""Where tensors live, and whose random numbers are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scvi_pp._backend import device
from scvi_pp._backend.device import private_random, reseed
from scvi_pp._errors import InputError
from tests.backend import small


def test_auto_takes_a_gpu_if_there_is_one():
    assert device.choose("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device.choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_with_the_way_out(name: str):
    with pytest.raises(InputError, match=rf"device={name!r} cannot be used here.*device='cpu'"):
        device.choose(name)


def test_private_draws_leave_the_users_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the user's
    with private_random(small.CPU, 1):
        torch.rand(100)
        reseed(small.CPU, 2)
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_the_users_random_state_comes_back_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(ZeroDivisionError), private_random(small.CPU, 1):
        torch.rand(100)
        raise ZeroDivisionError
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_same_seed_gives_the_same_draws():
    draws = []
    for seed in (3, 3, 4):
        with private_random(small.CPU, seed):
            draws.append(torch.rand(5))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_reseeding_starts_the_stream_again():
    with private_random(small.CPU, 3):
        first = torch.rand(5)
        reseed(small.CPU, 3)
        assert torch.equal(torch.rand(5), first)


@pytest.mark.parametrize(("precision", "name"), [("float32", "highest"), ("tf32", "high"), ("bf16", "medium")])
def test_matrices_are_multiplied_as_asked_for_the_block_alone(precision: device.Precision, name: str):
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), device.matrix_products(precision):
        assert torch.get_float32_matmul_precision() == name
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == before


def test_a_device_without_values_is_refused():
    with pytest.raises(InputError, match="cannot be used here"):
        device.choose("meta")
