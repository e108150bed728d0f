"""The Triton kernels: on a CUDA device where there is one, else in Triton's interpreter; and they compile for devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read once, when Triton is imported
pytest.importorskip("triton")

from scvi_pp._backend.kernels import tile_likelihood  # noqa: E402
from tests.backend.kernels.extremes import (  # noqa: E402
    KERNELS,
    extremes,
    magnitudes,
    rounding,
    value_and_gradients,
)

# a device divides to two digits in the last place and takes e^x as a power of two
LESS_EXACT = 3.0 if DEVICE.type == "cuda" else 1.0
every_kernel = pytest.mark.parametrize("name", KERNELS)
sizes = pytest.mark.parametrize("n_genes", [1, 31, 512, 513, 1500])


def in_triton(name: str) -> Callable[..., Tensor]:
    module = import_module(f"scvi_pp._backend.kernels.{name}.triton_tile")
    return partial(tile_likelihood.log_likelihood, None, module.evaluate)


def sample(name: str, n_genes: int, *, per_cell: bool) -> tuple[Tensor, list[Tensor]]:
    """Five cells, one without any count."""
    generator = torch.Generator().manual_seed(n_genes)
    rates = torch.rand(5, n_genes, generator=generator) * 3
    counts = torch.poisson(rates * (torch.arange(5) != 2)[:, None], generator=generator)
    shapes = [(5, n_genes), (5, n_genes) if per_cell else (n_genes,), (5, n_genes)]
    n = 1 + len([form for form in ("negative", "zero") if form in name])
    parameters = [torch.randn(*shape, generator=generator) for shape in shapes[:n]]
    return counts.to(DEVICE), [parameter.to(DEVICE) for parameter in parameters]


def results(form: Callable[..., Tensor], counts: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Values and gradients, each cell weighted differently."""
    leaves = [parameter.clone().requires_grad_() for parameter in parameters]
    value = form(counts, *leaves)
    (value * torch.arange(1.0, 6.0, device=DEVICE)).sum().backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


@sizes
@pytest.mark.parametrize("per_cell", [False, True], ids=["genes", "cells x genes"])
@every_kernel
def test_it_is_the_analytic_form_however_many_genes_there_are(name: str, per_cell: bool, n_genes: int):
    counts, parameters = sample(name, n_genes, per_cell=per_cell)
    found = results(in_triton(name), counts, parameters)
    expected = results(KERNELS[name].analytic.log_likelihood, counts, parameters)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # in what is not selected
@every_kernel
def test_it_keeps_what_rounding_leaves_of_the_terms_wherever_counts_may_take_it(name: str):
    arguments = [column.reshape(7, -1).to(DEVICE) for column in extremes(name)]
    found = value_and_gradients(in_triton(name), arguments, torch.float32)
    expected = value_and_gradients(KERNELS[name].analytic.log_likelihood, arguments, torch.float64)
    bounds = [terms * share for terms, share in zip(magnitudes(arguments), rounding(arguments), strict=True)]
    bounds[0] = bounds[0].sum(1)
    for ours, truth, bound in zip(found, expected, bounds, strict=True):
        assert torch.isfinite(ours).all()
        assert ((ours - truth).abs() <= LESS_EXACT * bound + 1e-30).all(), float(((ours - truth).abs() / bound).max())


@pytest.mark.parametrize("place", ["counts", "parameters"])
@every_kernel
def test_what_is_not_a_number_stays_none(name: str, place: str):
    counts, parameters = sample(name, 40, per_cell=False)
    (counts if place == "counts" else parameters[0])[3, 7] = torch.nan
    leaves = [parameter.requires_grad_() for parameter in parameters]
    value = in_triton(name)(counts, *leaves)
    value.sum().backward()
    assert torch.isnan(value).nonzero().tolist() == [[3]]
    assert torch.isnan(leaves[0].grad[3, 7])


@every_kernel
def test_memory_may_lie_in_any_order(name: str):
    counts, parameters = sample(name, 40, per_cell=True)
    turned = [tensor.t().contiguous().t() for tensor in (counts, *parameters)]
    found = results(in_triton(name), turned[0], turned[1:])
    torch.testing.assert_close(found, results(in_triton(name), counts, parameters), rtol=0, atol=0)


@every_kernel
def test_without_a_wish_for_gradients_only_values_are_computed(name: str):
    counts, parameters = sample(name, 40, per_cell=False)
    value, slopes = import_module(f"scvi_pp._backend.kernels.{name}.triton_tile").evaluate(
        counts, *parameters, with_slopes=False
    )
    assert slopes == ()
    torch.testing.assert_close(value, KERNELS[name].analytic.log_likelihood(counts, *parameters), rtol=1e-5, atol=1e-5)


COMPILE = """
import sys
from importlib import import_module
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
for name in sys.argv[1:]:
    tile = import_module(f"scvi_pp._backend.kernels.{name}.triton_tile").tile
    types = {a: "constexpr" if a.isupper() else "i32" if a == "n_genes" else "*fp32" for a in tile.arg_names}
    for shared in (False, True):
        source = ASTSource(tile, types, {"SHARED": shared, "WITH_SLOPES": True, "BLOCK": 512})
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
        assert made.asm["cubin"]
"""


@pytest.mark.slow
def test_it_compiles_for_a_device_where_there_is_none(tmp_path: Path):
    """Up to machine code: the interpreter takes more than the compiler does."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, *KERNELS], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@every_kernel
def test_it_is_tried_on_a_small_tile_and_found_to_work(name: str):
    kernel, (_, parameters) = import_module(f"scvi_pp._backend.kernels.{name}.cuda"), sample(name, 1, per_cell=True)
    assert tile_likelihood.working(kernel._triton, kernel.dense, len(parameters), DEVICE) is kernel._triton()


@every_kernel
def test_what_gives_other_numbers_does_not_work(name: str):
    kernel, (_, parameters) = import_module(f"scvi_pp._backend.kernels.{name}.cuda"), sample(name, 1, per_cell=True)

    def wrong(*arguments: Tensor, with_slopes: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        value, slopes = kernel.dense(*arguments, with_slopes=with_slopes)
        return value, tuple(slope * 1.01 for slope in slopes)

    assert tile_likelihood.working(kernel._triton, wrong, len(parameters), DEVICE) is None
