"""A linear map that reads counts without their zeros is the map that reads them all, value and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scvi_pp._backend import kernels
from scvi_pp._backend.crew import working_together
from scvi_pp._backend.kernels import sparse_linear
from scvi_pp._backend.kernels.sparse_linear import columns
from scvi_pp._backend.layers import ConditionalLinear
from scvi_pp._backend.optimizer import SharedAdam
from scvi_pp._backend.sparse import SparseRows
from scvi_pp._backend.weights import rebuild, snapshot, to_arrays

N_CELLS, N_IN, N_OUT = 33, 41, 7
# share of entries that are counts
DENSITIES = {"none": 0.0, "few": 0.05, "some": 0.3, "all": 1.0}
FORMS = ("auto", "analytic", "reference")

# bytes of weights from which they are gone through by column
SIZES = {"small weights": 1 << 30, "large weights": 0}

every_size = pytest.mark.parametrize("size", SIZES)
every_density = pytest.mark.parametrize("density", DENSITIES)
every_form = pytest.mark.parametrize("form", FORMS)


def counts(density: str) -> Tensor:
    """Counts, fractions and negative numbers; some rows and some columns are empty unless all is full."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_CELLS, N_IN, generator=generator) + torch.poisson(torch.full((N_CELLS, N_IN), 5.0), generator)
    if density == "all":
        return x
    x *= torch.rand(N_CELLS, N_IN, generator=generator) < DENSITIES[density]
    x[0] = x[7] = x[8] = x[-1] = 0
    x[:, 0] = x[:, 20] = x[:, -1] = 0
    return x


def layer() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N_OUT, N_IN, generator=generator), torch.randn(N_OUT, generator=generator)


def value_and_gradients(function: Any, x: Any, weight: Tensor, bias: Tensor) -> list[Tensor]:
    leaves = [weight.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()]
    out = function(x, *leaves)
    outer = torch.linspace(-1, 2, out.numel()).view_as(out).to(out.dtype)
    (out * outer).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, truth in zip(found, expected, strict=True):
        assert ours.shape == truth.shape
        torch.testing.assert_close(ours.double(), truth.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lies_by_input", [False, True], ids=["weight by output", "weight by input"])
@every_size
@every_density
@every_form
def test_it_is_the_linear_map_of_dense_counts(
    form: str, density: str, size: str, lies_by_input: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(columns, "LARGE", SIZES[size])
    x, (weight, bias) = counts(density), layer()
    expected = value_and_gradients(F.linear, x.double(), weight.double(), bias.double())
    laid = weight.t().contiguous().t() if lies_by_input else weight
    with kernels.use(form):
        assert_close(value_and_gradients(sparse_linear.linear, SparseRows.of(x), laid, bias), expected)


@pytest.mark.parametrize("n_threads", [2, 3, 50])
@every_density
def test_threads_change_no_bit(density: str, n_threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n_threads)
    x, (weight, bias) = SparseRows.of(counts(density)), layer()
    alone = value_and_gradients(sparse_linear.linear, x, weight, bias)
    with working_together(10_000):
        shared = value_and_gradients(sparse_linear.linear, x, weight, bias)
    assert all(torch.equal(once, again) for once, again in zip(alone, shared, strict=True))


def test_only_the_gradients_that_are_asked_for_are_made():
    x, (weight, bias) = SparseRows.of(counts("some")), layer()
    leaf = bias.clone().requires_grad_()
    sparse_linear.linear(x, weight, leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full((N_OUT,), float(N_CELLS)))
    assert weight.grad is None
    assert not sparse_linear.linear(x, weight, bias).requires_grad
    with torch.inference_mode():
        assert sparse_linear.linear(x, weight, leaf).is_inference()


def test_a_weight_that_is_nan_is_seen_in_the_cells_that_read_it_and_in_no_other():
    x, (weight, bias) = counts("some"), layer()
    weight[2, 5] = torch.nan
    found = torch.isnan(sparse_linear.linear(SparseRows.of(x), weight, bias))
    assert torch.equal(found[:, 2], x[:, 5] != 0)
    assert not found[:, [0, 1, 3, 4, 5, 6]].any()


# ---- in a layer, where codes are added and numbers may follow the counts


@pytest.mark.parametrize("n_more", [0, 3])
@every_density
@every_form
def test_a_layer_reads_sparse_counts_as_it_reads_dense_ones(form: str, density: str, n_more: int):
    x, codes = counts(density), torch.arange(N_CELLS)[:, None] % 2
    more = torch.randn(N_CELLS, n_more, generator=torch.Generator().manual_seed(2)) if n_more else None
    conditional = ConditionalLinear(N_IN + n_more, N_OUT, (2,))
    found, expected = [], []
    for results, each in ((found, SparseRows.of(x)), (expected, x)):
        with kernels.use(form):
            out = conditional(each, codes, more)
        (out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum().backward()
        results += [out.detach(), *(parameter.grad for parameter in conditional.parameters())]
        conditional.zero_grad()
    assert_close(found, expected)


def test_numbers_that_follow_the_counts_take_a_gradient():
    more = torch.randn(N_CELLS, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    conditional = ConditionalLinear(N_IN + 3, N_OUT)
    conditional(SparseRows.of(counts("some")), None, more).sum().backward()
    torch.testing.assert_close(more.grad, conditional.linear.weight[:, N_IN:].sum(0).expand(N_CELLS, 3).detach())


# ---- how the weight lies in memory: one row for each input


def lies_by_input(weight: Tensor) -> bool:
    return weight.shape == (N_OUT, N_IN) and weight.stride() == (1, N_OUT)


def trained(conditional: ConditionalLinear, n_steps: int = 1) -> SharedAdam:
    optimizer = SharedAdam(conditional, weight_decay=0.0)
    for _ in range(n_steps):
        conditional(SparseRows.of(counts("some"))).square().mean().backward()
        optimizer.step(1e-2)
    return optimizer


def test_the_weight_lies_by_input_from_the_start():
    assert lies_by_input(ConditionalLinear(N_IN, N_OUT).linear.weight)


def test_the_weight_still_lies_by_input_after_a_step_and_so_do_its_moments():
    conditional = ConditionalLinear(N_IN, N_OUT)
    before = conditional.linear.weight.detach().clone()
    moments = {name: value for name, value in trained(conditional).state().items() if value.shape == before.shape}
    assert lies_by_input(conditional.linear.weight)
    assert not torch.equal(conditional.linear.weight, before)
    assert len(moments) == 2
    assert all(lies_by_input(moment) for moment in moments.values())


def test_moments_that_come_from_a_file_lie_by_input_again():
    """The fused step goes through memory: moments in another order would be those of other weights."""
    first, second = ConditionalLinear(N_IN, N_OUT), ConditionalLinear(N_IN, N_OUT)
    state = trained(first, 3).state()
    second.load_state_dict(first.state_dict())
    optimizers = [SharedAdam(each, weight_decay=0.0) for each in (first, second)]
    for optimizer, entries in zip(optimizers, (state, _as_from_a_file(state)), strict=True):
        optimizer.restore(entries)
    for each, optimizer in zip((first, second), optimizers, strict=True):
        each(SparseRows.of(counts("some"))).square().mean().backward()
        optimizer.step(1e-2)
    assert torch.equal(first.linear.weight, second.linear.weight)


def _as_from_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}


def test_weights_that_are_loaded_lie_by_input_whatever_they_lay_by():
    conditional, other = ConditionalLinear(N_IN, N_OUT), ConditionalLinear(N_IN, N_OUT)
    state = {name: value.contiguous() for name, value in other.state_dict().items()}
    assert not lies_by_input(state["linear.weight"])
    conditional.load_state_dict(state)
    assert lies_by_input(conditional.linear.weight)
    assert torch.equal(conditional.linear.weight, other.linear.weight)


def test_a_snapshot_lies_by_input():
    conditional = ConditionalLinear(N_IN, N_OUT)
    taken = snapshot(conditional)["linear.weight"]
    assert lies_by_input(taken)
    assert torch.equal(taken, conditional.linear.weight)


def test_a_rebuilt_layer_lies_by_input_and_its_stored_weights_do_not():
    conditional = ConditionalLinear(N_IN, N_OUT)
    arrays = to_arrays(conditional)
    assert arrays["linear.weight"].flags.c_contiguous
    again: Any = rebuild(lambda: ConditionalLinear(N_IN, N_OUT), arrays)
    assert lies_by_input(again.linear.weight)
    assert torch.equal(again.linear.weight, conditional.linear.weight)
