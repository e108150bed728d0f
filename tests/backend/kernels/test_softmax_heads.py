"""The last layer and the likelihood taken together are the two one after the other, value and gradients."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from scvi_pp._backend import kernels
from scvi_pp._backend.crew import crew, working_together
from scvi_pp._backend.kernels import row_likelihood, softmax_heads
from scvi_pp._backend.kernels.softmax_heads import Heads
from scvi_pp._backend.sparse import SparseRows

N_CELLS, N_GENES, N_HIDDEN = 67, 101, 6
LIKELIHOODS = ("poisson", "nb", "zinb")

every_likelihood = pytest.mark.parametrize(
    ("likelihood", "per_cell"),
    [("poisson", False), ("nb", False), ("nb", True), ("zinb", False), ("zinb", True)],
    ids=["poisson", "nb, genes", "nb, cells x genes", "zinb, genes", "zinb, cells x genes"],
)


def arguments(
    likelihood: str, *, per_cell: bool = False, n_cells: int = N_CELLS, spread: float = 1.0
) -> dict[str, Any]:
    """Every argument by name, exact in float32, held in float64; `spread` is that of the logits of the genes."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    counts = torch.poisson(normal(n_cells, N_GENES).exp(), generator=generator)
    counts[n_cells // 2] = 0
    found: dict[str, Any] = {
        "counts": counts,
        "h": normal(n_cells, N_HIDDEN).relu(),
        "log_library": 5 + normal(n_cells, 1),
        "scale_weight": 0.3 * normal(N_GENES, N_HIDDEN),
        "scale_bias": spread * torch.linspace(-1, 1, N_GENES)[torch.randperm(N_GENES, generator=generator)].double(),
    }
    if likelihood == "zinb":
        found |= {"dropout_weight": 0.3 * normal(N_GENES, N_HIDDEN), "dropout_bias": normal(N_GENES) - 1}
    if likelihood != "poisson":
        found["log_dispersion"] = normal(n_cells, N_GENES) if per_cell else normal(N_GENES)
    return {name: value.float().double() for name, value in found.items()}


def log_likelihood(named: dict[str, Any]) -> Tensor:
    heads = Heads(*(named.get(name) for name in Heads._fields))
    return softmax_heads.log_likelihood(
        named["counts"], named["h"], named["log_library"], heads, named.get("log_dispersion")
    )


def value_and_gradients(named: dict[str, Any], dtype: torch.dtype, outer: Tensor | None = None) -> dict[str, Tensor]:
    """The value under its own name, the gradients of everything but the counts under the names of their arguments."""
    leaves = {name: value.to(dtype).requires_grad_() for name, value in named.items() if name != "counts"}
    value = log_likelihood({"counts": SparseRows.of(named["counts"].to(dtype)), **leaves})
    if outer is None:
        value.mean().backward()
    else:
        (value * outer.to(dtype)).sum().backward()
    return {"value": value.detach().double(), **{name: leaf.grad.double() for name, leaf in leaves.items()}}


def by_reference(named: dict[str, Any], outer: Tensor | None = None) -> dict[str, Tensor]:
    with kernels.use("reference"):
        return value_and_gradients(named, torch.float64, outer)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 2e-6) -> None:
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
@every_likelihood
def test_it_is_the_layer_and_the_likelihood_one_after_the_other(likelihood: str, per_cell: bool, outer: Tensor | None):
    named = arguments(likelihood, per_cell=per_cell)
    assert_same(value_and_gradients(named, torch.float32, outer), by_reference(named, outer))


@pytest.mark.parametrize("form", ["analytic", "auto"])
@every_likelihood
def test_without_machine_code_it_is_the_reference_too(likelihood: str, per_cell: bool, form: str):
    named = arguments(likelihood, per_cell=per_cell)
    with kernels.use(form):  # float64 has no machine code
        found = value_and_gradients(named, torch.float64)
    assert_same(found, by_reference(named), 1e-9)


@every_likelihood
def test_logits_of_eighty_in_either_direction_overflow_nowhere(likelihood: str, per_cell: bool):
    """float32 holds a logit of 80 to 4e-6, so each mean is off by 4e-6 of itself; sums of them by a few times that."""
    named = arguments(likelihood, per_cell=per_cell, spread=80.0)
    assert_same(value_and_gradients(named, torch.float32), by_reference(named), 2e-5)


@every_likelihood
def test_one_cell_is_enough(likelihood: str, per_cell: bool):
    named = arguments(likelihood, per_cell=per_cell, n_cells=1)
    named["counts"][0, 3] = 2
    assert_same(value_and_gradients(named, torch.float32), by_reference(named))


@every_likelihood
def test_counts_may_be_dense(likelihood: str, per_cell: bool):
    named = {name: value.float() for name, value in arguments(likelihood, per_cell=per_cell).items()}
    dense = log_likelihood(named)
    assert torch.equal(dense, log_likelihood({**named, "counts": SparseRows.of(named["counts"])}))


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@every_likelihood
def test_threads_change_no_more_than_last_digits_and_repeat_exactly(
    likelihood: str, per_cell: bool, n_threads: int, monkeypatch: pytest.MonkeyPatch
):
    named, outer = arguments(likelihood, per_cell=per_cell), torch.linspace(-1, 2, N_CELLS)
    alone = value_and_gradients(named, torch.float32, outer)
    with crew_of(n_threads, monkeypatch):
        assert crew().n == n_threads
        first = value_and_gradients(named, torch.float32, outer)
        again = [value_and_gradients(named, torch.float32, outer) for _ in range(5)]
    assert_same(first, alone, 1e-6)
    for each in again:
        assert all(torch.equal(value, first[name]) for name, value in each.items())


def test_more_threads_than_cells_do_no_harm(monkeypatch: pytest.MonkeyPatch):
    named = arguments("zinb", n_cells=2)
    with crew_of(3, monkeypatch):
        found = value_and_gradients(named, torch.float32)
    assert_same(found, by_reference(named))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_it_can_be_asked_without_gradients(n_threads: int, monkeypatch: pytest.MonkeyPatch):
    named = arguments("zinb")
    leaves = {name: value.float().requires_grad_(name != "counts") for name, value in named.items()}
    with crew_of(n_threads, monkeypatch):
        expected = log_likelihood(leaves).detach()
        with torch.no_grad():
            assert torch.equal(log_likelihood(leaves), expected)
        with torch.inference_mode():
            found = log_likelihood(leaves)
    assert found.is_inference()
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "name", ["h", "log_library", "scale_weight", "scale_bias", "dropout_weight", "dropout_bias", "log_dispersion"]
)
@every_likelihood
def test_nan_anywhere_is_seen_in_the_value(likelihood: str, per_cell: bool, name: str):
    named = {key: value.float() for key, value in arguments(likelihood, per_cell=per_cell).items()}
    if name not in named:
        return
    named[name].view(-1)[3] = torch.nan
    hits_all_cells = named[name].shape[0] == N_GENES
    is_nan = torch.isnan(log_likelihood(named))
    assert is_nan.all() if hits_all_cells else is_nan.sum() == 1


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_hidden_unit_beyond_all_numbers_is_seen_in_its_cell_alone(likelihood: str):
    named = {name: value.float() for name, value in arguments(likelihood).items()}
    named["h"][5, 2] = torch.inf
    assert (~torch.isfinite(log_likelihood(named))).nonzero().tolist() == [[5]]


def test_arguments_are_left_as_they_are():
    named = {name: value.float() for name, value in arguments("zinb", per_cell=True).items()}
    before = {name: value.clone() for name, value in named.items()}
    value_and_gradients(named, torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in named.items())


def test_backward_may_run_twice():
    named = {name: value.float().requires_grad_(name != "counts") for name, value in arguments("zinb").items()}
    leaves = [value for value in named.values() if value.requires_grad]
    total = log_likelihood(named).sum()
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    second = torch.autograd.grad(total, leaves)
    assert all(torch.equal(once, again) for once, again in zip(first, second, strict=True))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_what_a_step_has_worked_with_is_freed_with_its_value(likelihood: str):
    """At once, not when the collector of cycles comes: a step works with two to three arrays of cells x genes."""
    named = arguments(likelihood)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            value_and_gradients(named, torch.float32)
        assert sum(type(thing) is row_likelihood.Work for thing in gc.get_objects()) == 0
    finally:
        gc.enable()
