"""PoissonVI: what is assumed of fragment counts of chromatin.

For cell n with batch s_n (and further categories and numbers c_n) and region j:

    z_n     ~ Normal(0, I)                          position in the latent space; "ln": z_n = softmax of it
    l_n     = log of the cell's fragments           or log size factor
    rho_n   = softmax(decoder(z_n, s_n, c_n) + b)   share of each region; b_j is what all cells have in common
    x_nj    ~ Poisson(exp(l_n) rho_nj)

This is scVI with a Poisson likelihood, layer norms and leaky rectifiers, and with as many units as PeakVI. Without b,
accessibility is on one scale in all regions.

Martens, Fischer, Yepez, Theis, Gagneur. Modeling fragment counts improves single-cell ATAC-seq analysis. Nature Methods
2023.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from scvi_pp._backend.models import scvi
from scvi_pp._backend.models.scvi import Inputs

if TYPE_CHECKING:
    from scvi_pp._backend.encoders import Posterior
    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.models.scvi import Where
    from scvi_pp._backend.objectives import Elbo
    from scvi_pp._backend.streams import Cells


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
    n_layers: int = 2
    dropout_rate: float = 0.1
    latent_distribution: Literal["normal", "ln"] = "normal"
    use_observed_lib_size: bool = True
    encode_covariates: bool = False
    deeply_inject_covariates: bool = True
    batch_representation: Literal["one-hot", "embedding"] = "one-hot"
    n_batch_embedding: int = 5
    use_batch_norm: Where = "none"
    use_layer_norm: Where = "both"

    def of_scvi(self) -> scvi.Hyperparameters:
        """The same, as scVI says it."""
        own = {name: value for name, value in asdict(self).items() if name != "n_regions"}
        return scvi.Hyperparameters(
            n_genes=self.n_regions, n_labels=1, gene_likelihood="poisson", activation="leaky_relu", **own
        )


class Network(nn.Module):
    """The network of scVI, whose genes are regions."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.scvi = scvi.Network(hyperparameters.of_scvi())

    @property
    def n_features(self) -> int:
        return self.hyperparameters.n_regions

    def encode(self, cells: Inputs[Tensor]) -> Posterior:
        """Fragments -> posterior of latent position and library size."""
        return self.scvi.encode(cells)

    def latent(self, position: Tensor) -> Tensor:
        """The latent space of the decoder."""
        return self.scvi.latent(position)

    def decode(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Likelihood:
        """Latent (cells, n_latent), log library (cells, 1) and covariates -> p(x | z)."""
        return self.scvi.decode(z, library, cells)

    def expression(self, z: Tensor, cells: Inputs[Tensor], columns: Tensor | None = None) -> Tensor:
        """Accessibility on one scale in all regions, or in those of `columns`, (cells, columns); rows sum to one."""
        return self.scvi.expression(z, cells, columns, biased=False)

    def expression_with_regions(self, z: Tensor, cells: Inputs[Tensor], columns: Tensor | None = None) -> Tensor:
        """The share of fragments in each region: accessibility and what is peculiar to the region."""
        return self.scvi.expression(z, cells, columns)

    def factor_of_regions(self) -> Tensor:
        """What all cells have in common, on a log scale, (regions,)."""
        bias: Tensor = self.scvi.decoder.heads().scale_bias
        return bias.detach()

    def elbo(self, cells: Inputs[Tensor]) -> Elbo:
        """The bound of each cell with one draw of everything hidden."""
        return self.scvi.elbo(cells)

    def log_importance_weight(self, posterior: Posterior, cells: Inputs[Tensor]) -> Tensor:
        """log p(x, hidden) - log q(hidden) at one draw, (cells,)."""
        return self.scvi.log_importance_weight(posterior, cells)

    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Begin where the data are: mean accessibility in the bias."""
        self.scvi.start_from(cells, rows)

    def start_batches_from(self, cells: Cells, first: int) -> None:
        """Take the prior of the library of batches that were added from their cells."""
        self.scvi.start_batches_from(cells, first)


def build(hyperparameters: Hyperparameters) -> Network:
    """The untrained network."""
    return Network(hyperparameters)
