"""Linear scVI: scVI whose decoder is one linear map, so that each latent dimension has a loading on every gene.

For cell n with batch s_n (and further categories and numbers c_n) and gene g:

    z_n     ~ Normal(0, I)                          position in the latent space; "ln": z_n = softmax of it
    l_n     = log of the cell's total count         or ~ Normal(mean, variance of its batch), or log size factor
    rho_n   = softmax(W z_n + b + shift of s_n, c_n)    share of each gene; with a size factor softplus takes its place
    mu_ng   = exp(l_n) rho_ng
    x_ng    ~ NB(mu_ng, theta_g)                    or ZINB, whose chance of a lost count is linear too, or Poisson

W_gk, less its mean over genes, is the loading of gene g on dimension k: by how much the log share of the gene rises with a
step along it. The posterior is that of scVI, read off by a network that is not linear.

Svensson, Gayoso, Yosef, Pachter. Interpretable factor models of single-cell RNA-seq via variational autoencoders.
Bioinformatics 2020.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from scvi_pp._backend.decoders import LinearDecoder
from scvi_pp._backend.models import scvi
from scvi_pp._backend.models.scvi import Inputs

if TYPE_CHECKING:
    from scvi_pp._backend.encoders import Posterior
    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.objectives import Elbo
    from scvi_pp._backend.streams import Cells


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that fixes the shape of the network."""

    n_genes: int
    n_batches: int
    n_labels: int
    n_levels: tuple[int, ...]
    n_numbers: int
    has_size_factor: bool
    n_latent: int = 10
    n_hidden: int = 128
    n_layers: int = 1
    dropout_rate: float = 0.1
    dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene"
    gene_likelihood: Literal["nb", "zinb", "poisson"] = "nb"
    latent_distribution: Literal["normal", "ln"] = "normal"
    use_observed_lib_size: bool = True

    def of_scvi(self) -> scvi.Hyperparameters:
        """The same, as scVI says it."""
        return scvi.Hyperparameters(linear_decoder=True, **asdict(self))


class Network(nn.Module):
    """The network of scVI with a linear decoder."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.hyperparameters = hyperparameters
        self.scvi = scvi.Network(hyperparameters.of_scvi())

    @property
    def n_features(self) -> int:
        return self.hyperparameters.n_genes

    def encode(self, cells: Inputs[Tensor]) -> Posterior:
        """Counts -> posterior of latent position and library size."""
        return self.scvi.encode(cells)

    def latent(self, position: Tensor) -> Tensor:
        """The latent space of the decoder."""
        return self.scvi.latent(position)

    def decode(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Likelihood:
        """Latent (cells, n_latent), log library (cells, 1) and covariates -> p(x | z)."""
        return self.scvi.decode(z, library, cells)

    def expression(self, z: Tensor, cells: Inputs[Tensor], columns: Tensor | None = None) -> Tensor:
        """Share of each gene, or of those of `columns` alone, (cells, columns); per unit of size factor, if given."""
        return self.scvi.expression(z, cells, columns)

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Tensor:
        """log p(x | z), (cells,)."""
        return self.scvi.log_likelihood(z, library, cells)

    def loadings(self) -> Tensor:
        """By how much a step along each dimension raises the log share of each gene, (genes, n_latent)."""
        decoder = self.scvi.decoder
        assert isinstance(decoder, LinearDecoder)
        return decoder.loadings(self.hyperparameters.n_latent)

    def elbo(self, cells: Inputs[Tensor]) -> Elbo:
        """The bound of each cell with one draw of everything hidden."""
        return self.scvi.elbo(cells)

    def log_importance_weight(self, posterior: Posterior, cells: Inputs[Tensor]) -> Tensor:
        """log p(x, hidden) - log q(hidden) at one draw, (cells,)."""
        return self.scvi.log_importance_weight(posterior, cells)

    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Begin where the data are: mean expression in the bias, dispersion by moments."""
        self.scvi.start_from(cells, rows)

    def start_batches_from(self, cells: Cells, first: int) -> None:
        """Take the prior of the library of batches that were added from their cells."""
        self.scvi.start_batches_from(cells, first)


def build(hyperparameters: Hyperparameters) -> Network:
    """The untrained network."""
    return Network(hyperparameters)
