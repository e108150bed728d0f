"""The adversary learns to tell batches apart, and a model learns to fool it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scvi_pp._backend.adversary import Adversary
from scvi_pp._backend.device import private_random
from tests.backend import small
from tests.studies import Judge, seeds

N_CELLS, N_LATENT = 64, 5


def positions(seed: int = 0) -> torch.Tensor:
    return torch.randn(N_CELLS, N_LATENT, generator=torch.Generator().manual_seed(seed))


def adversary(n_batches: int = 3) -> Adversary:
    with private_random(small.CPU, 0):
        return Adversary(N_LATENT, n_batches)


BATCH = torch.arange(N_CELLS) % 3


def test_its_loss_is_the_cross_entropy_of_the_true_batch():
    network, z = adversary().eval(), positions()
    log_probability = F.log_softmax(network(z), dim=1)
    expected = -log_probability[torch.arange(N_CELLS), BATCH].mean()
    torch.testing.assert_close(network.loss(z, BATCH), expected)


def test_to_fool_it_every_wrong_batch_is_as_good_as_the_next():
    network, z = adversary().eval(), positions()
    log_probability = F.log_softmax(network(z), dim=1)
    target = (F.one_hot(BATCH, 3) == 0) / 2
    torch.testing.assert_close(network.fool(z, BATCH), -(log_probability * target).sum(1).mean())


def test_its_own_loss_leaves_the_model_alone_and_the_other_does_not():
    network, z = adversary(), positions().requires_grad_()
    network.loss(z, BATCH).backward()
    assert z.grad is None
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.fool(z, BATCH).backward()
    assert z.grad.any()


def test_one_sum_moves_both_and_each_by_its_own_loss():
    """Gradients of the contest: of the position those of fooling, of the classifier those of its loss."""
    network, z = adversary().eval(), positions().requires_grad_()
    network.contest(z, BATCH).backward()
    to_z, to_weights = z.grad, {name: parameter.grad for name, parameter in network.named_parameters()}
    z.grad = None
    network.zero_grad()
    network.fool(z, BATCH).backward()
    torch.testing.assert_close(to_z, z.grad)
    network.zero_grad()
    network.loss(z, BATCH).backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(to_weights[name], parameter.grad)


def test_a_contest_moves_the_running_statistics_once():
    network = adversary().train()
    network.contest(positions(), BATCH)
    assert int(network.body.blocks[0].batch_norm.num_batches_tracked) == 1


@pytest.mark.parametrize("n_batches", [2, 3])
def test_it_learns_what_can_be_told_apart_and_is_fooled_when_the_model_moves(n_batches: int, judge: Judge):
    losses = np.array([_before_and_after_moving(n_batches, seed) for seed in seeds(8)])
    judge(f"adversary, {n_batches} batches: loss once it has learned", losses[:, 0], below=0.5 * math.log(n_batches))
    is_fooled = losses[:, 1] > math.log(n_batches)
    judge(f"adversary, {n_batches} batches: share of studies in which it is fooled", is_fooled, above=0.5)


def _before_and_after_moving(n_batches: int, seed: int) -> tuple[float, float]:
    """Loss of the adversary when it has learned, and when the model has moved its batches."""
    with private_random(small.CPU, seed):
        network, batch = Adversary(N_LATENT, n_batches), torch.arange(N_CELLS) % n_batches
        shift = torch.nn.Parameter(3 * torch.randn(n_batches, N_LATENT))
        z = positions()
        own = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(60):
            own.zero_grad()
            network.loss(z + shift[batch], batch).backward()
            own.step()
        learned = float(network.eval().loss(z + shift[batch], batch).detach())
        of_model = torch.optim.Adam([shift], lr=3e-2)
        for _ in range(100):
            of_model.zero_grad()
            network.fool(z + shift[batch], batch).backward()
            of_model.step()
        return learned, float(network.loss(z + shift[batch], batch).detach())


def test_it_is_the_peers():
    """Two layers of 32, batch norm, rectifiers, dropout of a tenth."""
    blocks = adversary().body.blocks
    assert [block.linear.linear.out_features for block in blocks] == [32, 32]
    assert all(block.batch_norm is not None and block.layer_norm is None for block in blocks)
    assert all(block.dropout.rate == 0.1 and block.activation is torch.relu for block in blocks)
