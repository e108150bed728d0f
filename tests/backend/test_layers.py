"""Fully connected layers that see category codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scvi_pp._backend import kernels
from scvi_pp._backend.layers import Block, ConditionalLinear, FullyConnected, Norms
from scvi_pp._backend.sparse import SparseRows

NEITHER = Norms(batch=False, layer=False)
X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
CODES = torch.tensor([[0, 0, 2], [1, 0, 0], [1, 0, 1], [0, 0, 2], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
N_LEVELS = (2, 1, 3)
MORE = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))


def test_a_conditional_linear_map_is_the_product_with_one_hot_codes():
    layer = ConditionalLinear(4, 5, N_LEVELS)
    shifts = torch.cat([shift.weight for shift in layer.shifts])
    one_hot = torch.cat([F.one_hot(CODES[:, 0], 2), F.one_hot(CODES[:, 2], 3)], dim=1).float()
    expected = F.linear(torch.cat([X, one_hot], 1), torch.cat([layer.linear.weight, shifts.T], 1), layer.linear.bias)
    torch.testing.assert_close(layer(X, CODES), expected)


def test_a_category_of_one_level_has_no_weights():
    layer = ConditionalLinear(4, 5, N_LEVELS)
    assert [shift.num_embeddings for shift in layer.shifts] == [2, 3]


def test_without_categories_it_is_a_linear_map():
    layer = ConditionalLinear(4, 5)
    torch.testing.assert_close(layer(X), F.linear(X, layer.linear.weight, layer.linear.bias))
    torch.testing.assert_close(layer(X, CODES), layer(X))


@pytest.mark.parametrize("form", ["auto", "reference"])
@pytest.mark.parametrize("more", [None, MORE], ids=["counts alone", "more columns"])
def test_counts_without_their_zeros_give_what_all_columns_side_by_side_give(form: str, more: torch.Tensor | None):
    counts = X.relu()
    layer = ConditionalLinear(4 if more is None else 6, 5, N_LEVELS)
    expected = layer(counts if more is None else torch.cat([counts, more], 1), CODES)
    (to_weight,) = torch.autograd.grad(expected.square().sum(), layer.linear.weight)
    with kernels.use(form):
        for x in (counts, SparseRows.of(counts)):
            out = layer(x, CODES, more)
            torch.testing.assert_close(out, expected)
            (again,) = torch.autograd.grad(out.square().sum(), layer.linear.weight)
            torch.testing.assert_close(again, to_weight)


def test_weights_start_within_the_bound_of_all_that_enters():
    """As one linear map over the input and its one-hot codes would."""
    layer = ConditionalLinear(4, 500, N_LEVELS)
    for weight in (layer.linear.weight, layer.linear.bias, *(shift.weight for shift in layer.shifts)):
        assert float(weight.detach().abs().max()) <= 1 / 3
        assert float(weight.detach().abs().max()) > 0.3


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("layer", [False, True])
def test_each_norm_is_there_if_it_is_asked_for(batch: bool, layer: bool):
    block = Block(4, 5, (), Norms(batch, layer), 0.1)
    assert (block.batch_norm is not None) == batch
    assert (block.layer_norm is not None) == layer
    out = block.eval()(X)
    assert out.shape == (7, 5)
    assert (out >= 0).all()


def test_batch_norm_comes_before_layer_norm_and_both_before_relu():
    block = Block(4, 5, (), Norms(batch=True, layer=True), 0.0).train()
    h = block.linear(X)
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-3).sqrt()
    h = (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(X), h.relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
def test_below_zero_a_hundredth_passes_where_the_rectifier_leaks(activation: str, slope: float):
    block = Block(4, 5, (), NEITHER, 0.0, activation)
    h = block.linear(X)
    assert (h < 0).any()
    torch.testing.assert_close(block(X), torch.where(h > 0, h, slope * h))


def test_a_body_hands_its_activation_and_further_columns_to_its_layers():
    body = FullyConnected(6, 5, 2, n_levels=N_LEVELS, norms=NEITHER, dropout_rate=0.0, activation="leaky_relu").eval()
    first, second = body.blocks
    expected = F.leaky_relu(second.linear(F.leaky_relu(first.linear(torch.cat([X, MORE], 1), CODES))))
    torch.testing.assert_close(body(X, CODES, MORE), expected)


def test_dropout_acts_in_training_alone():
    block = Block(4, 50, (), NEITHER, 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(block.train()(X), block(X))
    assert torch.equal(block.eval()(X), block(X))


@pytest.mark.parametrize(("deeply_inject", "n_injected"), [(True, 3), (False, 1)])
def test_categories_enter_the_first_layer_or_every_one(deeply_inject: bool, n_injected: int):
    body = FullyConnected(
        4, 6, 3, n_levels=N_LEVELS, deeply_inject=deeply_inject, norms=NEITHER, dropout_rate=0.0
    ).eval()
    assert sum(len(block.linear.shifts) > 0 for block in body.blocks) == n_injected
    assert body(X, CODES).shape == (7, 6)
    assert not torch.equal(body(X, CODES), body(X, CODES.flip(0)))


def test_widths_go_from_the_input_to_the_hidden_layers():
    body = FullyConnected(4, 6, 3, norms=NEITHER, dropout_rate=0.0)
    widths = [(block.linear.linear.in_features, block.linear.linear.out_features) for block in body.blocks]
    assert widths == [(4, 6), (6, 6), (6, 6)]
