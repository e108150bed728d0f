"""The Bernoulli kernel is its reference, in value and in every gradient, wherever logits may take it."""

from __future__ import annotations

import gc
import itertools
import re
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scvi_pp._backend import crew, kernels
from scvi_pp._backend.kernels import bernoulli, bernoulli_row
from scvi_pp._backend.kernels.arithmetic import FAST
from scvi_pp._backend.kernels.bernoulli import cpu, reference
from scvi_pp._backend.sparse import Places, SparseRows

EXTREMES = (-80.0, -30.0, -4.0, -0.3, 0.0, 0.3, 4.0, 16.0, 80.0)
WIDTH = 43  # columns: some for the vectors of the compiled form, and some that are left over

Logits = list[Tensor | None]

# for each form: what it is called with, its type, and what it may lose, relative to the result and below any digit
FORMS: dict[str, tuple[kernels.Choice, torch.dtype, float, float]] = {
    "analytic": ("analytic", torch.float64, 1e-12, 1e-14),
    "compiled": ("auto", torch.float32, 6e-7, 1e-7),  # sums of terms near 1, each rounded to 6e-8, may cancel
}
every_form = pytest.mark.parametrize("form", FORMS)
both_kinds = pytest.mark.parametrize("as_counts", [lambda x: x, SparseRows.of], ids=["dense", "sparse"])
with_and_without = pytest.mark.parametrize("has_factor", [True, False], ids=["factor", "no factor"])


def value_and_gradients(form: str, counts: Any, logits: Logits, outer: Tensor | None = None) -> list[Tensor]:
    """The value, (cells,), then its gradient by each of the logits, for the outer gradient, in float64."""
    choice, dtype = FORMS[form][:2]
    leaves = [None if each is None else each.to(dtype).clone().requires_grad_() for each in logits]
    with kernels.use(choice):
        value = bernoulli.log_likelihood(counts, *leaves)
        value.backward(torch.ones_like(value) if outer is None else outer.to(dtype))
    return [value.detach().double(), *(leaf.grad.double() for leaf in leaves if leaf is not None)]


def truth(counts: Tensor, logits: Logits, outer: Tensor | None = None, among: Tensor | float = 1) -> list[Tensor]:
    """The same by automatic differentiation of the reference in float64, of some of the entries."""
    leaves = [None if each is None else each.double().clone().requires_grad_() for each in logits]
    value = (reference.log_probability(counts, *leaves) * among).sum(1)
    value.backward(torch.ones_like(value) if outer is None else outer)
    return [value.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def assert_the_same(form: str, found: list[Tensor], expected: list[Tensor]) -> None:
    _, _, relative, absolute = FORMS[form]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=relative, atol=absolute)


def normal(*shape: int, seed: int = 0, scale: float = 1) -> Tensor:
    """Numbers that are exact in float32, held in float64."""
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).double()


def sample(n_cells: int = 70, n_regions: int = 300) -> tuple[Tensor, Logits]:
    """A few open places, among them cells without any and one with nothing else; counts go up to three."""
    counts = (normal(n_cells, n_regions, seed=1, scale=2) - 2).clamp(min=0).ceil().float()
    counts[0], counts[1] = 0, 3
    return counts, [normal(n_cells, n_regions, scale=3), normal(n_cells, 1, seed=2), normal(n_regions, seed=3)]


def one_entry_a_row(cell: float | None, factor: float | None) -> Logits:
    """Each extreme a row, the same in every column: values are those of an entry times the width."""
    region = torch.tensor(EXTREMES, dtype=torch.float64)[:, None].expand(-1, WIDTH)
    cells = None if cell is None else torch.full((len(EXTREMES), 1), cell, dtype=torch.float64)
    return [region, cells, None if factor is None else torch.full((WIDTH,), factor, dtype=torch.float64)]


def one_entry_a_column(cell: float | None) -> Logits:
    """Each pair of extremes a column of one row: gradients by the factors are those of an entry."""
    region, factor = torch.tensor(list(itertools.product(EXTREMES, EXTREMES)), dtype=torch.float64).T
    return [region[None], None if cell is None else torch.tensor([[cell]], dtype=torch.float64), factor]


@pytest.mark.parametrize("count", [0.0, 1.0], ids=["closed", "open"])
@both_kinds
@every_form
def test_every_combination_of_extremes_is_the_reference(form: str, as_counts: Callable[[Tensor], Any], count: float):
    rows = [one_entry_a_row(*pair) for pair in itertools.product((None, *EXTREMES), (None, *EXTREMES))]
    columns = [one_entry_a_column(cell) for cell in (None, *EXTREMES)]
    for logits in (*rows, *columns):
        assert logits[0] is not None
        counts = torch.full(logits[0].shape, count)
        assert_the_same(form, value_and_gradients(form, as_counts(counts), logits), truth(counts, logits))


@cache
def closed_to_fifty_digits() -> Tensor:
    """log(1 - p) of each region, cell and factor logit, then its gradient by each of them, (4, n, n, n)."""
    mpmath = pytest.importorskip("mpmath")  # torch brings it, through sympy
    with mpmath.workdps(90):  # forty of which are in 1 - p
        yes = [1 / (1 + mpmath.exp(-logit)) for logit in EXTREMES]
        entries = []
        for factors in itertools.product(yes, repeat=3):
            p = factors[0] * factors[1] * factors[2]
            odds = p / (1 - p)
            entries.append([float(mpmath.log(1 - p)), *(float(-odds * (1 - factor)) for factor in factors)])
    return torch.tensor(entries, dtype=torch.float64).T.reshape(4, *[len(EXTREMES)] * 3)


@every_form
def test_no_digit_is_lost_against_fifty(form: str):
    """The reference rounds e^-t where p is small; the forms do not."""
    truths, relative = closed_to_fifty_digits(), FORMS[form][2]
    for (i, cell), (j, factor) in itertools.product(enumerate(EXTREMES), enumerate(EXTREMES)):
        logits = one_entry_a_row(cell, factor)
        value, to_region, to_cell, _ = value_and_gradients(form, torch.zeros(len(EXTREMES), WIDTH), logits)
        expected = truths[:, :, i, j]
        for found, which in ((value / WIDTH, 0), (to_region.T, 1), (to_cell[:, 0] / WIDTH, 2)):
            # float32 ends at 1e-38
            torch.testing.assert_close(found, expected[which].expand_as(found), rtol=relative, atol=1e-37)
    for i, cell in enumerate(EXTREMES):
        _, _, _, to_factor = value_and_gradients(form, torch.zeros(1, len(EXTREMES) ** 2), one_entry_a_column(cell))
        torch.testing.assert_close(to_factor, truths[3, :, i].flatten(), rtol=relative, atol=1e-37)


def test_the_reference_is_the_cross_entropy_of_torch_where_that_is_exact():
    counts, logits = sample()
    p = torch.sigmoid(logits[0]) * torch.sigmoid(logits[1]) * torch.sigmoid(logits[2])
    expected = -F.binary_cross_entropy(p, (counts > 0).double(), reduction="none").sum(1)
    torch.testing.assert_close(reference.log_likelihood(counts, *logits), expected, rtol=1e-12, atol=0)


@with_and_without
@pytest.mark.parametrize("has_cell", [True, False], ids=["cell", "no cell"])
@both_kinds
@every_form
def test_an_uneven_outer_gradient_weighs_the_cells(
    form: str, as_counts: Callable[[Tensor], Any], has_cell: bool, has_factor: bool
):
    counts, (region, cell, factor) = sample()
    logits = [region, cell if has_cell else None, factor if has_factor else None]
    outer = normal(len(counts), seed=4).abs()
    found = value_and_gradients(form, as_counts(counts), logits, outer)
    expected = truth(counts, logits, outer)
    opens, closes = (truth(counts, logits, outer, among) for among in (counts > 0, counts == 0))
    for ours, theirs, positive, negative in zip(found, expected, opens, closes, strict=True):
        magnitude = positive.abs() + negative.abs()  # what cancels in the sums
        assert ((ours - theirs).abs() <= 1e-14 + FORMS[form][2] * magnitude).all()


def test_a_long_row_keeps_its_digits():
    """A plain sum of a hundred thousand numbers in float32 would lose two of seven."""
    counts = (normal(3, 100_000, seed=1) > 2).float()
    logits: Logits = [10 * normal(3, 100_000).abs() // 0.25 * 0.25, torch.full((3, 1), 8.0), None]
    found, expected = value_and_gradients("compiled", counts, logits), truth(counts, logits)
    torch.testing.assert_close(found[0], expected[0], rtol=2e-7, atol=0)
    torch.testing.assert_close(found[2], expected[2], rtol=2e-7, atol=0)


def test_entries_are_evaluated_several_at_once():
    """A condition on a sum is enough to end that, without a word, and the kernel is six times slower."""
    row, cell = np.zeros(8, np.float32), (np.float32(1), np.float32(0))
    arguments = {bernoulli_row.closed_block: (row, cell, row, row, row), cpu.opened_block: (row, row)}
    for block, examples in arguments.items():
        function = numba.njit(fastmath=FAST, error_model="numpy")(block.py_func)
        function(*examples)
        (code,) = function.inspect_llvm().values()
        assert re.search(r"fdiv [a-z ]*<\d+ x float>", code)


@every_form
def test_gradients_can_be_asked_for_twice(form: str):
    counts, logits = sample()
    leaf = logits[0].to(FORMS[form][1]).requires_grad_()
    with kernels.use(FORMS[form][0]):
        value = bernoulli.log_likelihood(counts, leaf, None, None).sum()
    (once,) = torch.autograd.grad(3 * value, leaf, retain_graph=True)
    (twice,) = torch.autograd.grad(3 * value, leaf)
    assert torch.equal(once, twice)


@every_form
def test_nothing_is_held_once_the_value_is_gone(form: str, monkeypatch: pytest.MonkeyPatch):
    """Matrices of (cells, regions) in a ring of references would stay until Python looks for rings."""
    counts, logits = sample()
    held: list[weakref.ref[Tensor]] = []
    save = torch.autograd.function.FunctionCtx.save_for_backward

    def watch(ctx: Any, *tensors: Tensor | None) -> None:
        held.extend(weakref.ref(tensor) for tensor in tensors if tensor is not None)
        held.append(weakref.ref(ctx))
        save(ctx, *tensors)

    monkeypatch.setattr(torch.autograd.function.FunctionCtx, "save_for_backward", watch)
    gc.disable()
    try:
        value_and_gradients(form, counts, logits)
        assert held
        assert not any(each() is not None for each in held)
    finally:
        gc.enable()


def test_gradients_are_those_of_the_values():
    counts, logits = sample(5, 7)
    with kernels.use("analytic"):
        leaves = [each.requires_grad_() for each in logits]
        assert torch.autograd.gradcheck(lambda *p: bernoulli.log_likelihood(counts, *p), leaves)


@both_kinds
@every_form
def test_any_positive_count_is_open(form: str, as_counts: Callable[[Tensor], Any]):
    counts, logits = sample()
    assert counts.max() > 1
    many = value_and_gradients(form, as_counts(counts), logits)
    one = value_and_gradients(form, as_counts((counts > 0).float()), logits)
    for ours, theirs in zip(many, one, strict=True):
        assert torch.equal(ours, theirs)


@every_form
def test_a_zero_that_is_stored_is_closed(form: str):
    _, logits = sample(2, 5)
    starts, columns = torch.tensor([0, 2, 4], dtype=torch.int32), torch.tensor([0, 3, 1, 4], dtype=torch.int32)
    counts = SparseRows(Places(starts, columns, 5), torch.tensor([1.0, 0.0, 0.0, 2.0]))
    assert_the_same(form, value_and_gradients(form, counts, logits), truth(counts.dense(), logits))


@pytest.mark.parametrize("logit", [120.0, 1e4, float("inf")])
@every_form
def test_a_closed_region_that_cannot_be_is_worth_minus_a_hundred_and_pulls_at_nothing(form: str, logit: float):
    logits: Logits = [torch.full((3, WIDTH), logit), torch.full((3, 1), logit), torch.full((WIDTH,), logit)]
    value, *gradients = value_and_gradients(form, torch.zeros(3, WIDTH), logits)
    assert (value == -100 * WIDTH).all()
    assert not any(gradient.any() for gradient in gradients)


@every_form
def test_an_open_region_that_cannot_be_is_worth_its_logit_and_is_pulled(form: str):
    """torch's binary_cross_entropy ends at -100 here too, and its pull with it."""
    logits: Logits = [torch.full((3, WIDTH), -1e4), None, None]
    value, gradient = value_and_gradients(form, torch.ones(3, WIDTH), logits)
    assert (value == -1e4 * WIDTH).all()
    assert (gradient == 1).all()


@every_form
def test_cells_without_an_open_region_and_with_nothing_else_have_a_value(form: str):
    counts, logits = sample()
    for some in (counts[:1] * 0, counts[:1] * 0 + 1):
        few = [logits[0][:1], logits[1][:1], logits[2]]
        assert_the_same(form, value_and_gradients(form, some, few), truth(some, few))


@every_form
def test_no_cells_have_no_values(form: str):
    logits: Logits = [torch.zeros(0, 4), torch.zeros(0, 1), torch.zeros(4)]
    value, *gradients = value_and_gradients(form, torch.zeros(0, 4), logits)
    assert value.shape == (0,)
    assert [gradient.shape for gradient in gradients] == [(0, 4), (0, 1), (4,)]


@pytest.mark.parametrize("count", [0.0, 1.0], ids=["closed", "open"])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["region", "cell", "factor"])
@every_form
def test_not_a_number_is_not_hidden(form: str, which: int, count: float):
    counts, logits = torch.full((2, WIDTH), count), [torch.zeros(2, WIDTH), torch.zeros(2, 1), torch.zeros(WIDTH)]
    for column in (0, WIDTH - 1):
        wrong = [each.clone() for each in logits]
        wrong[which][(0, 0) if which == 1 else (..., column)] = float("nan")
        value, *gradients = value_and_gradients(form, counts, wrong)
        assert torch.equal(value.isnan(), torch.tensor([True, which != 1]))
        assert torch.equal(gradients[which].isnan(), wrong[which].isnan())


@with_and_without
def test_two_threads_give_what_one_gives(has_factor: bool, monkeypatch: pytest.MonkeyPatch):
    counts, (region, cell, factor) = sample()
    logits, outer = [region, cell, factor if has_factor else None], normal(len(counts), seed=4)
    results = []
    for n in (1, 2):
        monkeypatch.setattr(crew, "available_threads", lambda n=n: n)
        with crew.working_together(len(counts)):
            assert crew.crew().n == n
            results.append(value_and_gradients("compiled", SparseRows.of(counts), logits, outer))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_arguments_are_left_as_they_are():
    counts, logits = sample()
    arguments = [each.float() for each in logits]
    bernoulli.log_likelihood(counts, *arguments)
    assert all(torch.equal(each, before.float()) for each, before in zip(arguments, logits, strict=True))


def test_a_matrix_that_lies_otherwise_in_memory_is_the_same_matrix():
    counts, logits = sample()
    turned = [logits[0].float().t().contiguous().t(), logits[1], logits[2]]
    plain = value_and_gradients("compiled", counts, logits)
    for ours, theirs in zip(value_and_gradients("compiled", counts, turned), plain, strict=True):
        assert torch.equal(ours, theirs)


@every_form
def test_no_gradient_is_asked_of_fixed_logits(form: str):
    counts, logits = sample()
    arguments = [each.to(FORMS[form][1]) for each in logits]
    with kernels.use(FORMS[form][0]):
        assert not bernoulli.log_likelihood(counts, *arguments).requires_grad
        leaf = arguments[2].requires_grad_()
        bernoulli.log_likelihood(counts, *arguments).sum().backward()
    assert leaf.grad.shape == leaf.shape


def test_use_chooses_the_form_for_its_block_alone(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    modules = {"analytic": bernoulli.analytic, "reference": bernoulli.reference, "compiled": cpu}
    for form, module in modules.items():
        monkeypatch.setattr(module, "log_likelihood", lambda *_, form=form: asked.append(form))
    for choice, dtype in itertools.product(("auto", "analytic", "reference"), (torch.float32, torch.float64)):
        with kernels.use(choice):
            bernoulli.log_likelihood(torch.zeros(1, 1), torch.zeros(1, 1, dtype=dtype), None, None)
    assert asked == ["compiled", "analytic", "analytic", "analytic", "reference", "reference"]
