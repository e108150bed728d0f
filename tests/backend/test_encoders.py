"""A cell becomes a Gaussian."""

from __future__ import annotations

import torch

from scvi_pp._backend.encoders import SMALLEST_VARIANCE, GaussianEncoder
from scvi_pp._backend.layers import Norms

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def encoder(**options: object) -> GaussianEncoder:
    shape = {"n_hidden": 8, "n_layers": 1, "norms": Norms(batch=True, layer=False), "dropout_rate": 0.0}
    return GaussianEncoder(4, 3, **{**shape, **options}).eval()


def test_every_cell_has_a_mean_and_a_variance():
    q = encoder()(X)
    assert q.loc.shape == q.scale.shape == (6, 3)
    assert (q.scale > 0).all()


def test_variance_is_the_exponential_of_its_head_and_never_nothing():
    network = encoder()
    h = network.body(X)
    torch.testing.assert_close(network(X).variance, network.log_variance(h).exp() + SMALLEST_VARIANCE)
    with torch.no_grad():
        network.log_variance.bias.fill_(-200.0)
    torch.testing.assert_close(network(X).variance, torch.full((6, 3), SMALLEST_VARIANCE))


def test_codes_move_the_posterior_only_where_the_encoder_sees_them():
    codes = torch.tensor([[0], [1], [0], [1], [0], [1]])
    blind, seeing = encoder(), encoder(n_levels=(2,))
    assert torch.equal(blind(X, codes).loc, blind(X, 1 - codes).loc)
    assert not torch.equal(seeing(X, codes).loc, seeing(X, 1 - codes).loc)


def test_a_draw_carries_gradients_to_both_heads():
    network = encoder()
    network(X).rsample().sum().backward()
    assert network.mean.weight.grad.any()
    assert network.log_variance.weight.grad.any()
