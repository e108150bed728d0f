"""A cell becomes a Gaussian."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scvi_pp._backend import encoders
from scvi_pp._backend.encoders import SMALLEST_VARIANCE, GaussianEncoder, ScalarEncoder
from scvi_pp._backend.layers import Norms
from scvi_pp._backend.sparse import SparseRows

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


def test_the_smallest_variance_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch):
    """The tests of parity do without it."""
    network = encoder()
    monkeypatch.setattr(encoders, "SMALLEST_VARIANCE", 0.0)
    torch.testing.assert_close(network(X).variance, network.log_variance(network.body(X)).exp())


def test_leaky_rectifiers_reach_the_body():
    network = encoder(activation="leaky_relu", norms=Norms(batch=False, layer=False))
    h = F.leaky_relu(network.body.blocks[0].linear(X))
    torch.testing.assert_close(network(X).loc, network.mean(h))


# ---- one number


def scalar(**options: object) -> ScalarEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ScalarEncoder(4, **{"n_hidden": 8, "n_layers": 2, **options})


def test_one_number_is_read_off_every_cell():
    network = scalar(n_layers=1)
    h = F.leaky_relu(F.layer_norm(network.body.blocks[0].linear(X), (8,)))
    torch.testing.assert_close(network(X), network.number(h))
    assert network(X).shape == (6, 1)


def test_a_number_is_without_dropout():
    network = scalar().train()
    assert torch.equal(network(X), network(X))


@pytest.mark.parametrize("norms", [Norms(batch=True, layer=False), Norms(batch=False, layer=False)])
def test_a_number_has_the_norms_that_it_is_asked_for(norms: Norms):
    for block in scalar(norms=norms).body.blocks:
        assert (block.batch_norm is not None, block.layer_norm is not None) == norms


@pytest.mark.parametrize(("deeply_inject", "n_shifts"), [(False, [2, 0]), (True, [2, 2])])
def test_categories_enter_the_first_layer_of_a_number_or_every_one(deeply_inject: bool, n_shifts: list[int]):
    network = scalar(n_levels=(2, 1, 3), deeply_inject=deeply_inject)
    assert [len(block.linear.shifts) for block in network.body.blocks] == n_shifts
    codes = torch.tensor([[0, 0, 2], [1, 0, 0], [1, 0, 1], [0, 0, 2], [1, 0, 0], [0, 0, 1]])
    assert not torch.equal(network(X, codes), network(X, codes.flip(0)))


def test_a_number_is_the_same_of_counts_without_their_zeros():
    counts, more = X.relu(), X[:, :2]
    network = ScalarEncoder(6, n_hidden=8, n_layers=2)
    torch.testing.assert_close(network(SparseRows.of(counts), None, more), network(torch.cat([counts, more], 1)))
