"""The last layer and the Bernoulli likelihood taken together are the two one after the other, value and gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from scvi_pp._backend import kernels
from scvi_pp._backend.crew import crew, working_together
from scvi_pp._backend.kernels import bernoulli_heads
from scvi_pp._backend.kernels.bernoulli_heads import cpu
from scvi_pp._backend.sparse import SparseRows

N_CELLS, N_REGIONS, N_HIDDEN = 37, 301, 6
FACTORS: dict[str, tuple[str, ...]] = {
    "no factors": (),
    "cell factors": ("cell_logits",),
    "region factors": ("factor_logits",),
    "both factors": ("cell_logits", "factor_logits"),
}

every_factor = pytest.mark.parametrize("factors", FACTORS)


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few cells would have all regions in one tile."""
    monkeypatch.setattr(cpu, "TILE_ENTRIES", N_CELLS * 64)


def arguments(factors: str = "both factors", *, n_cells: int = N_CELLS, spread: float = 1.0) -> dict[str, Any]:
    """Every argument by name, exact in float32, held in float64; `spread` is that of the logits of the regions."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    counts = torch.poisson(torch.full((n_cells, N_REGIONS), 0.1), generator=generator).double()
    counts[n_cells // 2] = 0
    found: dict[str, Any] = {
        "counts": counts,
        "h": normal(n_cells, N_HIDDEN).relu(),
        "weight": 0.3 * normal(N_REGIONS, N_HIDDEN),
        "bias": spread * torch.linspace(-1, 1, N_REGIONS)[torch.randperm(N_REGIONS, generator=generator)].double(),
        "cell_logits": normal(n_cells, 1),
        "factor_logits": normal(N_REGIONS),
    }
    kept = ("counts", "h", "weight", "bias", *FACTORS[factors])
    return {name: found[name].float().double() for name in kept}


def log_likelihood(named: dict[str, Any], **options: Any) -> Tensor:
    names = ("counts", "h", "weight", "bias", "cell_logits", "factor_logits")
    return bernoulli_heads.log_likelihood(*(named.get(name) for name in names), **options)


def value_and_gradients(
    named: dict[str, Any], dtype: torch.dtype, outer: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """The value under its own name, the gradients of everything but the counts under the names of their arguments."""
    leaves = {name: value.to(dtype).requires_grad_() for name, value in named.items() if name != "counts"}
    value = log_likelihood({"counts": SparseRows.of(named["counts"].to(dtype)), **leaves}, **options)
    if outer is None:
        (-value).mean().backward()
    else:
        (value * outer.to(dtype)).sum().backward()
    return {"value": value.detach().double(), **{name: leaf.grad.double() for name, leaf in leaves.items()}}


def by_reference(named: dict[str, Any], outer: Tensor | None = None) -> dict[str, Tensor]:
    with kernels.use("reference"):
        return value_and_gradients(named, torch.float64, outer)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 3e-6) -> None:
    """Up to some last digits of the largest entry of each."""
    assert found.keys() == expected.keys()
    for name, truth in expected.items():
        assert found[name].shape == truth.shape
        assert torch.isfinite(found[name]).all(), name
        assert float((found[name] - truth).abs().max() / truth.abs().max()) <= tolerance, name


def crew_of(n: int, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[None]:
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n)
    return working_together(1000)


@pytest.mark.parametrize("outer", [None, torch.linspace(-1, 2, N_CELLS)], ids=["of the mean", "of weights"])
@every_factor
def test_it_is_the_layer_and_the_likelihood_one_after_the_other(factors: str, outer: Tensor | None):
    named = arguments(factors)
    assert_same(value_and_gradients(named, torch.float32, outer), by_reference(named, outer))


@every_factor
def test_without_machine_code_it_is_the_reference_too(factors: str):
    named = arguments(factors)
    with kernels.use("analytic"):
        found = value_and_gradients(named, torch.float64)
    assert_same(found, by_reference(named), 1e-9)


def test_the_mean_over_more_cells_than_these_is_ready_too():
    named = arguments()
    outer = torch.full((N_CELLS,), -1.0) / 100
    found = value_and_gradients(named, torch.float32, outer, n_in_mean=100)
    assert_same(found, by_reference(named, outer))


def test_gradients_of_the_mean_take_one_pass_and_others_two(monkeypatch: pytest.MonkeyPatch):
    passes = []
    whole = cpu.Pass.__init__

    def counted(self: cpu.Pass, *arguments: Any) -> None:
        passes.append(1)
        whole(self, *arguments)

    monkeypatch.setattr(cpu.Pass, "__init__", counted)
    value_and_gradients(arguments(), torch.float32)
    assert len(passes) == 1
    value_and_gradients(arguments(), torch.float32, torch.linspace(-1, 2, N_CELLS))
    assert len(passes) == 3


@every_factor
def test_logits_of_eighty_in_either_direction_overflow_nowhere(factors: str):
    named = arguments(factors, spread=80.0)
    assert_same(value_and_gradients(named, torch.float32), by_reference(named), 2e-5)


@every_factor
def test_one_cell_is_enough(factors: str):
    named = arguments(factors, n_cells=1)
    named["counts"][0, 3] = 2
    assert_same(value_and_gradients(named, torch.float32), by_reference(named))


def test_counts_may_be_dense():
    named = {name: value.float() for name, value in arguments().items()}
    assert torch.equal(log_likelihood(named), log_likelihood({**named, "counts": SparseRows.of(named["counts"])}))


def test_a_stored_zero_is_a_closed_region():
    named = {name: value.float() for name, value in arguments().items()}
    stored = SparseRows.of(named["counts"] + 1)
    stored.values.sub_(1)
    torch.testing.assert_close(log_likelihood({**named, "counts": stored}), log_likelihood(named), rtol=1e-6, atol=0)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@every_factor
def test_threads_change_no_more_than_last_digits_and_repeat_exactly(
    factors: str, n_threads: int, monkeypatch: pytest.MonkeyPatch
):
    named, outer = arguments(factors), torch.linspace(-1, 2, N_CELLS)
    alone = value_and_gradients(named, torch.float32, outer)
    with crew_of(n_threads, monkeypatch):
        assert crew().n == n_threads
        first = value_and_gradients(named, torch.float32, outer)
        again = [value_and_gradients(named, torch.float32, outer) for _ in range(5)]
    assert_same(first, alone, 1e-6)
    for each in again:
        assert all(torch.equal(value, first[name]) for name, value in each.items())


@pytest.mark.parametrize("n_threads", [1, 2])
def test_it_can_be_asked_without_gradients(n_threads: int, monkeypatch: pytest.MonkeyPatch):
    named = arguments()
    leaves = {name: value.float().requires_grad_(name != "counts") for name, value in named.items()}
    with crew_of(n_threads, monkeypatch):
        expected = log_likelihood(leaves).detach()
        with torch.no_grad():
            assert torch.equal(log_likelihood(leaves), expected)
        with torch.inference_mode():
            found = log_likelihood(leaves)
    assert found.is_inference()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["h", "weight", "bias", "cell_logits", "factor_logits"])
def test_nan_anywhere_is_seen_in_the_value(name: str):
    named = {key: value.float() for key, value in arguments().items()}
    named[name].view(-1)[3] = torch.nan
    is_nan = torch.isnan(log_likelihood(named))
    assert is_nan.all() if named[name].shape[0] == N_REGIONS else is_nan.sum() == 1


def test_arguments_are_left_as_they_are():
    named = {name: value.float() for name, value in arguments().items()}
    before = {name: value.clone() for name, value in named.items()}
    value_and_gradients(named, torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in named.items())


def test_backward_may_run_twice():
    named = {name: value.float().requires_grad_(name != "counts") for name, value in arguments().items()}
    leaves = [value for value in named.values() if value.requires_grad]
    total = log_likelihood(named).sum()
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    second = torch.autograd.grad(total, leaves)
    assert all(torch.equal(once, again) for once, again in zip(first, second, strict=True))
