"""What the likelihoods of dense counts share on an accelerator: their gradients, and whether Triton works.

A likelihood is a function `evaluate` that gives the value of each cell and, at once, its slope by every parameter, with
shapes that depend on no value and nothing that the host must wait for: a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi_pp import _logging
from scvi_pp._backend import kernels
from scvi_pp._backend.kernels.counts import dense

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import SparseRows

Slopes = tuple[Tensor, ...]  # (cells, genes) each: by log_mean, log_dispersion and dropout_logits, as far as there are
# counts and parameters, (cells, genes) or (genes,), and `with_slopes` -> value (cells,), and the slopes if wanted
Evaluate = Callable[..., tuple[Tensor, Slopes]]


def log_likelihood(
    triton: Callable[[], Evaluate], plain: Evaluate, counts: Tensor | SparseRows, *parameters: Tensor
) -> Tensor:
    """Sum over genes, (cells,), in Triton, which `triton` imports, where that works, else by plain operations.

    A parameter may be (genes,), the same for all cells.
    """
    evaluate = fastest(triton, plain, *parameters)
    x = dense(counts).to(parameters[0].dtype)
    value: Tensor = _LogLikelihood.apply(evaluate, x, *parameters)  # type: ignore[no-untyped-call]
    return value


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, counts: Tensor, *parameters: Tensor) -> Tensor:
        value, slopes = evaluate(counts, *parameters, with_slopes=any(ctx.needs_input_grad))
        ctx.save_for_backward(*slopes)
        ctx.are_shared = [parameter.ndim == 1 for parameter in parameters]
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        gradients = [
            None if not needed else outer @ slope if is_shared else slope * outer[:, None]
            for slope, is_shared, needed in zip(ctx.saved_tensors, ctx.are_shared, wanted, strict=True)
        ]
        return None, None, *gradients


def fastest(triton: Callable[[], Evaluate], plain: Evaluate, *parameters: Tensor) -> Evaluate:
    """The form for these parameters: Triton's for float32 on a CUDA device where it works, else the plain one."""
    suits = all(parameter.device.type == "cuda" and parameter.dtype == torch.float32 for parameter in parameters)
    device = parameters[0].device
    found = working(triton, plain, len(parameters), device) if suits and kernels.compiles() else None
    return found or plain


@cache
def working(
    triton: Callable[[], Evaluate], plain: Evaluate, n_parameters: int, device: torch.device
) -> Evaluate | None:
    """The Triton form if it runs on the device and says what the plain one says: tried once, on a small tile.

    Triton compiles a launcher with the user's C compiler, if there is one, and knows some devices and not others.
    """
    try:
        evaluate = triton()
        counts = torch.tensor([[0.0, 1.0, 2.0, 300.0], [0.0, 0.0, 7.0, 40.0]], device=device)
        parameters = [counts.sqrt() * 0.3 - k for k in range(n_parameters)]
        found, expected = (form(counts, *parameters, with_slopes=True) for form in (evaluate, plain))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    except Exception as error:  # noqa: BLE001 - no Triton, no compiler, an unknown device: each has an error of its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        _logging.debug(f"Triton does not work here, plain operations take its place: {reason[0]}")
        return None
    return evaluate
