"""PeakVI: what is assumed of single-cell accessibility of chromatin.

For cell n with batch s_n (and further categories and numbers c_n) and region j:

    z_n     ~ Normal(0, I)                          position in the latent space; "ln": z_n = softmax of it
    y_nj    = sigmoid(decoder(z_n, s_n, c_n))       chance that the region is open in such a cell
    l_n     = sigmoid(network(x_n))                 factor of the cell: how deeply it was sequenced; or given
    r_j     = sigmoid(parameter)                    factor of the region: how well it can be seen
    x_nj    ~ Bernoulli(y_nj l_n r_j)               whether a fragment of the region was seen

The posterior of z_n is a diagonal Gaussian that an encoder reads off x_n. Trained by the evidence lower bound.

Ashuach, Reidenbach, Gayoso, Yosef. PeakVI: A deep generative model for single-cell chromatin accessibility analysis.
Cell Reports Methods 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvi_pp._backend import priors
from scvi_pp._backend.decoders import AccessibilityDecoder
from scvi_pp._backend.encoders import GaussianEncoder, Posterior, ScalarEncoder
from scvi_pp._backend.kernels import bernoulli_heads
from scvi_pp._backend.layers import Norms
from scvi_pp._backend.likelihoods import Bernoulli
from scvi_pp._backend.moments import open_share
from scvi_pp._backend.objectives import Elbo

if TYPE_CHECKING:
    from scvi_pp._backend.streams import Cells

T = TypeVar("T")
Where = Literal["encoder", "decoder", "both", "none"]
# of the log factor of a cell: beyond, 1 - l has no digits left
LARGEST_LOG_FACTOR = -1e-7
# of the chance that a region is open, before anything is learned
OPEN_RANGE = (1e-5, 0.95)


class Inputs(NamedTuple, Generic[T]):
    """What PeakVI reads of a cell: as sources, as arrays, as the tensors of a minibatch."""

    counts: T  # (cells, regions); any positive count is open
    batch: T  # (cells,) codes
    categories: T  # (cells, n_categories) codes
    numbers: T  # (cells, n_numbers), standardised
    size_factor: T  # (cells,) above 0 and at most 1, or None


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that fixes the shape of the network."""

    n_regions: int
    n_batches: int
    n_levels: tuple[int, ...]
    n_numbers: int
    has_size_factor: bool
    n_latent: int
    n_hidden: int
    n_layers_encoder: int = 2
    n_layers_decoder: int = 2
    dropout_rate: float = 0.1
    latent_distribution: Literal["normal", "ln"] = "normal"
    cell_factors: bool = True
    region_factors: bool = True
    encode_covariates: bool = False
    deeply_inject_covariates: bool = False
    use_batch_norm: Where = "none"
    use_layer_norm: Where = "both"

    @property
    def infers_cell_factors(self) -> bool:
        return self.cell_factors and not self.has_size_factor

    def norms(self, part: Literal["encoder", "decoder"]) -> Norms:
        """The normalisations of one part of the network."""
        return Norms(self.use_batch_norm in (part, "both"), self.use_layer_norm in (part, "both"))


class Network(nn.Module):
    """Encoder, decoder, and the factors of cells and regions."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.hyperparameters = hp = hyperparameters
        all_levels = (hp.n_batches, *hp.n_levels)
        n_in = hp.n_regions + hp.encode_covariates * hp.n_numbers
        levels = all_levels if hp.encode_covariates else ()
        self.encoder = GaussianEncoder(
            n_in,
            hp.n_latent,
            n_hidden=hp.n_hidden,
            n_layers=hp.n_layers_encoder,
            n_levels=levels,
            deeply_inject=True,
            norms=hp.norms("encoder"),
            dropout_rate=hp.dropout_rate,
            activation="leaky_relu",
        )
        self.decoder = AccessibilityDecoder(
            hp.n_latent + hp.n_numbers,
            hp.n_regions,
            n_hidden=hp.n_hidden,
            n_layers=hp.n_layers_decoder,
            n_levels=all_levels,
            deeply_inject=hp.deeply_inject_covariates,
            norms=hp.norms("decoder"),
        )
        self.cell_factor = (
            ScalarEncoder(n_in, n_hidden=hp.n_hidden, n_layers=hp.n_layers_encoder, n_levels=levels)
            if hp.infers_cell_factors
            else None
        )
        self.region_factors = nn.Parameter(torch.zeros(hp.n_regions)) if hp.region_factors else None

    @property
    def n_features(self) -> int:
        return self.hyperparameters.n_regions

    # ---- the posterior

    def encode(self, cells: Inputs[Tensor]) -> Posterior:
        """Open regions (and covariates where `encode_covariates`) -> posterior, and the log factor of each cell."""
        x, numbers, codes = cells.counts.sign(), None, None
        if self.hyperparameters.encode_covariates:
            numbers, codes = cells.numbers, self._codes(cells)
        return Posterior(self.encoder(x, codes, numbers), None, self._log_cell_factor(x, codes, numbers, cells))

    def latent(self, position: Tensor) -> Tensor:
        """The latent space of the decoder: the simplex for "ln", else as it is."""
        return torch.softmax(position, dim=-1) if self.hyperparameters.latent_distribution == "ln" else position

    def _log_cell_factor(self, x: Any, codes: Tensor | None, numbers: Tensor | None, cells: Inputs[Tensor]) -> Tensor:
        if self.cell_factor is not None:
            return F.logsigmoid(self.cell_factor(x, codes, numbers))
        if self.hyperparameters.has_size_factor:
            return cells.size_factor.log()[:, None]
        return torch.zeros(len(cells.batch), 1, device=cells.batch.device)

    # ---- the generative model

    def decode(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Bernoulli:
        """Latent (cells, n_latent), log factors of the cells (cells, 1) and covariates -> p(x | z)."""
        return Bernoulli(self.decoder(*self._decoder_inputs(z, cells)), self._cell_logits(library), self.region_factors)

    def expression(self, z: Tensor, cells: Inputs[Tensor], columns: Tensor | None = None) -> Tensor:
        """The chance that each region is open, or each of those of `columns` alone, (cells, columns)."""
        return torch.sigmoid(self.decoder(*self._decoder_inputs(z, cells), columns))

    def expression_with_regions(self, z: Tensor, cells: Inputs[Tensor], columns: Tensor | None = None) -> Tensor:
        """The same times the factor of each region."""
        factors = self.factor_of_regions()
        return self.expression(z, cells, columns) * (factors if columns is None else factors[columns])

    def factor_of_regions(self) -> Tensor:
        """How well each region can be seen, (regions,)."""
        if self.region_factors is None:
            return torch.ones(self.n_features, device=self.decoder.logits.bias.device)
        return torch.sigmoid(self.region_factors)

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Tensor:
        """log p(x | z), (cells,): that of `decode`, with the last layer and the likelihood taken together."""
        h = self.decoder.body(*self._decoder_inputs(z, cells))
        last = self.decoder.logits
        return bernoulli_heads.log_likelihood(
            cells.counts, h, last.weight, last.bias, self._cell_logits(library), self.region_factors
        )

    def _decoder_inputs(self, z: Tensor, cells: Inputs[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.cat([z, cells.numbers], dim=1) if cells.numbers.shape[1] else z, self._codes(cells)

    def _codes(self, cells: Inputs[Tensor]) -> Tensor:
        return torch.cat([cells.batch[:, None], cells.categories], dim=1)

    def _cell_logits(self, library: Tensor) -> Tensor | None:
        return log_to_logit(library) if self.hyperparameters.cell_factors else None

    # ---- the objective

    def elbo(self, cells: Inputs[Tensor]) -> Elbo:
        """The bound of each cell with one draw of its latent position."""
        posterior = self.encode(cells)
        z = self.latent(posterior.q_z.rsample())
        divergence = priors.divergence_from_standard_normal(posterior.q_z)
        return Elbo(self.log_likelihood(z, posterior.library, cells), divergence, torch.zeros_like(divergence))

    def log_importance_weight(self, posterior: Posterior, cells: Inputs[Tensor]) -> Tensor:
        """log p(x, hidden) - log q(hidden) at one draw, (cells,): its exponential averages to p(x)."""
        position = posterior.q_z.rsample()
        ratio: Tensor = priors.standard_normal(position).log_prob(position) - posterior.q_z.log_prob(position)
        return ratio.sum(1) + self.log_likelihood(self.latent(position), posterior.library, cells)

    # ---- the start

    @torch.no_grad()
    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Begin where the data are: each region as often open as in the mean, with factors of one half."""
        factors = (1.0 if self.region_factors is None else 0.5) * (1.0 if self.cell_factor is None else 0.5)
        share = (open_share(cells, rows) / factors).clamp(*OPEN_RANGE)
        self.decoder.logits.bias.copy_(share.logit())


def log_to_logit(log_p: Tensor) -> Tensor:
    """The logit of a probability whose log is given; finite up to a probability of one."""
    log_p = log_p.clamp(max=LARGEST_LOG_FACTOR)
    return log_p - torch.log(-torch.expm1(log_p))


def build(hyperparameters: Hyperparameters) -> Network:
    """The untrained network."""
    return Network(hyperparameters)
