"""The last layer and the likelihood together, shared out over threads: by cells forward, by genes and cells backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scvi_pp._backend.crew import crew
from scvi_pp._backend.kernels.row_likelihood import Work
from scvi_pp._backend.kernels.softmax_heads.reference import Heads

if TYPE_CHECKING:
    from scvi_pp._backend.kernels.row_likelihood import Rows
    from scvi_pp._backend.sparse import SparseRows


def log_likelihood(
    counts: SparseRows, h: Tensor, log_library: Tensor, heads: Heads, log_dispersion: Tensor | None
) -> Tensor:
    """Sum over genes, (cells,)."""
    value: Tensor = _LogLikelihood.apply(counts, h, log_library, log_dispersion, *heads)  # type: ignore[no-untyped-call]
    return value


def _rows_of(*, has_dispersion: bool, has_dropout: bool) -> Rows:
    """The compiled likelihood; only the one that is needed is compiled."""
    rows: Rows
    if not has_dispersion:
        from scvi_pp._backend.kernels.poisson.cpu import rows
    elif has_dropout:
        from scvi_pp._backend.kernels.zero_inflated_negative_binomial.cpu import rows
    else:
        from scvi_pp._backend.kernels.negative_binomial.cpu import rows
    return rows


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, counts: SparseRows, h: Tensor, log_library: Tensor, log_dispersion: Tensor | None, *weights: Tensor
    ) -> Tensor:
        heads = Heads(*weights)
        layers = [(heads.scale_weight, heads.scale_bias)]
        if heads.dropout_weight is not None and heads.dropout_bias is not None:
            layers.append((heads.dropout_weight, heads.dropout_bias))
        outputs = [torch.empty(counts.shape) for _ in layers]
        dropout = outputs[1] if len(outputs) > 1 else None
        offsets = log_library.detach().reshape(-1).contiguous()
        work = Work(counts, offsets, outputs[0], dropout, log_dispersion, normalised=True)
        rows = _rows_of(has_dispersion=log_dispersion is not None, has_dropout=dropout is not None)

        def some_cells(part: slice) -> None:
            for (weight, bias), output in zip(layers, outputs, strict=True):
                torch.addmm(bias, h[part], weight.t(), out=output[part])
            work.run(rows, part)

        crew().share(len(h), some_cells)
        ctx.work, ctx.outputs = work, outputs
        ctx.save_for_backward(h, *(weight for weight, _ in layers))
        return work.take_values()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        h, *weights = ctx.saved_tensors
        work: Work = ctx.work
        gradients: list[Tensor] = ctx.outputs  # by the outputs of the layers, for an outer gradient of 1
        weighted = h * outer[:, None]
        to_h = torch.empty_like(h)
        to_weights = [torch.empty_like(weight) for weight in weights]
        to_biases = [torch.empty(len(weight)) for weight in weights]
        n_parts = crew().n

        def some(parts: slice) -> None:
            for part in range(parts.start, parts.stop):
                edges = [(n * part // n_parts, n * (part + 1) // n_parts) for n in (len(to_biases[0]), len(h))]
                genes, cells = (slice(*pair) for pair in edges)
                for gradient, to_weight, to_bias in zip(gradients, to_weights, to_biases, strict=True):
                    torch.mm(gradient[:, genes].t(), weighted, out=to_weight[genes])
                    torch.mv(gradient[:, genes].t(), outer, out=to_bias[genes])
                torch.mm(gradients[0][cells], weights[0], out=to_h[cells])
                for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
                    to_h[cells].addmm_(gradient[cells], weight)

        crew().share(n_parts, some)
        to_layers: list[Tensor | None] = [tensor for pair in zip(to_weights, to_biases, strict=True) for tensor in pair]
        to_layers += [None] * (4 - len(to_layers))
        to_library = (work.to_offset * outer)[:, None]
        return None, to_h.mul_(outer[:, None]), to_library, work.dispersion_gradient(outer), *to_layers
