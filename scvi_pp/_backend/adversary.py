"""A classifier that tells batches apart by the latent position, and what it costs a model to be found out.

The model is trained on `fool`, with which it hides the batch, and the classifier on `loss`, with which it learns to see
it again. Both are in one sum, `contest`, whose gradients reach the one by the latent position alone and the other by its
own weights alone: one step takes both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from scvi_pp._backend.layers import FullyConnected, Norms

if TYPE_CHECKING:
    from torch import Tensor

# as in the reference implementations of totalVI and MultiVI
N_HIDDEN, N_LAYERS, DROPOUT_RATE = 32, 2, 0.1


class Adversary(nn.Module):
    """Latent position -> logits of the batches."""

    def __init__(self, n_latent: int, n_batches: int) -> None:
        super().__init__()
        norms = Norms(batch=True, layer=False)
        self.body = FullyConnected(n_latent, N_HIDDEN, N_LAYERS, norms=norms, dropout_rate=DROPOUT_RATE)
        self.logits = nn.Linear(N_HIDDEN, n_batches)

    def forward(self, z: Tensor) -> Tensor:
        """z (cells, n_latent) -> (cells, n_batches)."""
        out: Tensor = self.logits(self.body(z))
        return out

    def contest(self, z: Tensor, batch: Tensor) -> Tensor:
        """`fool` for whoever made z, and `loss` for the weights of the classifier."""
        fixed = {name: tensor.detach() for name, tensor in (*self.named_parameters(), *self.named_buffers())}
        logits = functional_call(self, {name: tensor.clone() for name, tensor in fixed.items()}, (z,))
        return _not_the_true_one(logits, batch) + self.loss(z, batch)

    def loss(self, z: Tensor, batch: Tensor) -> Tensor:
        """Mean negative log probability of the true batch, for the classifier alone: z is taken as it is."""
        return F.cross_entropy(self(z.detach()), batch)

    def fool(self, z: Tensor, batch: Tensor) -> Tensor:
        """Mean negative log probability of the other batches, each as good as the next, for the model."""
        return _not_the_true_one(self(z), batch)


def _not_the_true_one(logits: Tensor, batch: Tensor) -> Tensor:
    log_probability = F.log_softmax(logits, dim=1)
    of_all, of_true = log_probability.sum(1), log_probability.gather(1, batch[:, None])[:, 0]
    return -(of_all - of_true).mean() / (log_probability.shape[1] - 1)
