"""A latent position becomes expression, or accessibility."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from scvi_pp._backend import decoders
from scvi_pp._backend.decoders import AccessibilityDecoder, ExpressionDecoder, inverse_softplus, log_softplus
from scvi_pp._backend.layers import Norms

Z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
CODES = torch.tensor([[0], [1], [0], [1], [0]])


def decoder(**options: object) -> ExpressionDecoder:
    shape = {
        "n_hidden": 8,
        "n_layers": 2,
        "n_levels": (2,),
        "deeply_inject": True,
        "norms": Norms(batch=True, layer=False),
        "sums_to_one": True,
        "has_dispersion": True,
        "has_dropout": True,
    }
    return ExpressionDecoder(3, 11, **{**shape, **options}).eval()


def test_shares_of_expression_sum_to_one():
    torch.testing.assert_close(decoder()(Z, CODES).log_scale.exp().sum(1), torch.ones(5))


def test_with_a_size_factor_expression_is_only_positive():
    network = decoder(sums_to_one=False)
    expected = torch.nn.functional.softplus(network.scale(network.body(Z, CODES)))
    torch.testing.assert_close(network(Z, CODES).log_scale.exp(), expected)


@pytest.mark.parametrize("sums_to_one", [True, False])
def test_the_first_head_can_be_asked_alone(sums_to_one: bool):
    network = decoder(sums_to_one=sums_to_one)
    assert torch.equal(network.log_scale(Z, CODES), network(Z, CODES).log_scale)


@pytest.mark.parametrize("has_dispersion", [True, False])
@pytest.mark.parametrize("has_dropout", [True, False])
def test_heads_exist_where_the_likelihood_needs_them(has_dispersion: bool, has_dropout: bool):
    network = decoder(has_dispersion=has_dispersion, has_dropout=has_dropout)
    expression = network(Z, CODES)
    assert (expression.log_dispersion is not None) == has_dispersion
    assert (expression.dropout_logits is not None) == has_dropout
    assert any(name.startswith("log_dispersion") for name in network.state_dict()) == has_dispersion


def test_decoding_is_without_dropout():
    network = decoder(norms=Norms(batch=False, layer=False)).train()
    assert torch.equal(network(Z, CODES).log_scale, network(Z, CODES).log_scale)


@pytest.mark.parametrize("sums_to_one", [True, False])
def test_expression_is_the_exponential_of_the_first_head(sums_to_one: bool):
    network = decoder(sums_to_one=sums_to_one)
    torch.testing.assert_close(network.expression(Z, CODES), network.log_scale(Z, CODES).exp())


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("sums_to_one", [True, False])
def test_expression_of_some_genes_counts_all_of_them_a_block_at_a_time(
    sums_to_one: bool, biased: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decoders, "GENES_AT_A_TIME", 4)  # of eleven
    network, columns = decoder(sums_to_one=sums_to_one), torch.tensor([9, 0, 4])
    whole = network.expression(Z, CODES, biased=biased)
    torch.testing.assert_close(network.expression(Z, CODES, columns, biased=biased), whole[:, columns])


@pytest.mark.parametrize("sums_to_one", [True, False])
def test_without_the_bias_expression_is_that_of_a_decoder_whose_bias_is_nothing(sums_to_one: bool):
    network = decoder(sums_to_one=sums_to_one)
    found = network.expression(Z, CODES, biased=False)
    assert not torch.allclose(found, network.expression(Z, CODES))
    with torch.no_grad():
        network.scale.bias.zero_()
    torch.testing.assert_close(found, network.expression(Z, CODES))


def test_log_softplus_is_right_from_minus_a_hundred_to_a_thousand():
    x = torch.tensor([-100.0, -15.1, -14.9, -1.0, 0.0, 1.0, 30.0, 1000.0])
    expected = [math.log(math.log1p(math.exp(v))) if v < 700 else math.log(v) for v in x.tolist()]
    torch.testing.assert_close(log_softplus(x), torch.tensor(expected))


def test_log_softplus_has_a_finite_gradient_everywhere():
    x = torch.tensor([-1e4, -100.0, -15.0, 0.0, 100.0, 1e4], requires_grad=True)
    log_softplus(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(x.grad[:2], torch.ones(2))


def test_inverse_softplus_is_the_inverse():
    y = torch.tensor([1e-6, 1e-3, 0.5, 3.0, 50.0])
    torch.testing.assert_close(log_softplus(inverse_softplus(y)).exp(), y, rtol=1e-4, atol=0.0)


# ---- accessibility


def of_chromatin(**options: object) -> AccessibilityDecoder:
    shape = {"n_hidden": 8, "n_layers": 2, "n_levels": (2,), "deeply_inject": False, "norms": Norms(False, True)}
    return AccessibilityDecoder(3, 11, **{**shape, **options})


def test_the_logit_of_every_region_comes_from_leaky_layers():
    network = of_chromatin(n_layers=1)
    h = F.leaky_relu(F.layer_norm(network.body.blocks[0].linear(Z, CODES), (8,)))
    torch.testing.assert_close(network(Z, CODES), network.logits(h))


def test_logits_of_some_regions_are_those_columns_of_all():
    network, columns = of_chromatin(), torch.tensor([9, 0, 4])
    torch.testing.assert_close(network(Z, CODES, columns), network(Z, CODES)[:, columns])


@pytest.mark.parametrize(("deeply_inject", "n_injected"), [(True, 2), (False, 1)])
def test_categories_enter_the_first_layer_of_accessibility_or_every_one(deeply_inject: bool, n_injected: int):
    network = of_chromatin(deeply_inject=deeply_inject)
    assert sum(len(block.linear.shifts) > 0 for block in network.body.blocks) == n_injected
    assert not torch.equal(network(Z, CODES), network(Z, 1 - CODES))


def test_accessibility_is_decoded_without_dropout():
    network = of_chromatin().train()
    assert torch.equal(network(Z, CODES), network(Z, CODES))
