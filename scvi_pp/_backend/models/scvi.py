"""scVI: what is assumed of single-cell RNA counts.

For cell n with batch s_n (and further categories and numbers c_n) and gene g:

    z_n     ~ Normal(0, I)                          position in the latent space; "ln": z_n = softmax of it
    l_n     = log of the cell's total count         or ~ Normal(mean, variance of its batch), or log size factor
    rho_n   = softmax(decoder(z_n, s_n, c_n))       share of each gene; with a size factor softplus takes its place
    mu_ng   = exp(l_n) rho_ng
    x_ng    ~ ZINB(mu_ng, theta_g, pi_ng)           or NB, Poisson, Normal; pi_ng is the chance that a count is lost

The posterior of z_n is a diagonal Gaussian that an encoder reads off log(1 + x_n). Trained by the evidence lower bound.

Lopez, Regier, Cole, Jordan, Yosef. Deep generative modeling for single-cell transcriptomics. Nature Methods 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi_pp._backend import priors
from scvi_pp._backend.decoders import ExpressionDecoder, LinearDecoder
from scvi_pp._backend.encoders import GaussianEncoder, Posterior
from scvi_pp._backend.kernels import softmax_heads
from scvi_pp._backend.kernels.counts import totals
from scvi_pp._backend.layers import Activation, Norms
from scvi_pp._backend.likelihoods import (
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from scvi_pp._backend.moments import expression_moments, library_moments
from scvi_pp._backend.objectives import Elbo

if TYPE_CHECKING:
    from scvi_pp._backend.streams import Cells

T = TypeVar("T")
Where = Literal["encoder", "decoder", "both", "none"]


class Inputs(NamedTuple, Generic[T]):
    """What scVI reads of a cell: as sources, as arrays, as the tensors of a minibatch."""

    counts: T  # (cells, genes)
    batch: T  # (cells,) codes
    labels: T  # (cells,) codes, seen by dispersion="gene-label" alone
    categories: T  # (cells, n_categories) codes
    numbers: T  # (cells, n_numbers), standardised
    size_factor: T  # (cells,), or None


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
    dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene"
    gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "zinb"
    latent_distribution: Literal["normal", "ln"] = "normal"
    use_observed_lib_size: bool = True
    encode_covariates: bool = False
    deeply_inject_covariates: bool = True
    batch_representation: Literal["one-hot", "embedding"] = "one-hot"
    n_batch_embedding: int = 5
    use_batch_norm: Where = "both"
    use_layer_norm: Where = "none"
    activation: Activation = "relu"
    linear_decoder: bool = False

    @property
    def has_latent_library(self) -> bool:
        return not (self.use_observed_lib_size or self.has_size_factor)

    @property
    def embeds_batch(self) -> bool:
        return self.batch_representation == "embedding"

    def norms(self, part: Literal["encoder", "decoder"]) -> Norms:
        """The normalisations of one part of the network."""
        return Norms(self.use_batch_norm in (part, "both"), self.use_layer_norm in (part, "both"))


class Network(nn.Module):
    """Encoder, decoder and the dispersion of each gene."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.hyperparameters = hp = hyperparameters
        category_levels = hp.n_levels if hp.embeds_batch else (hp.n_batches, *hp.n_levels)
        n_extra = hp.n_numbers + (hp.n_batch_embedding if hp.embeds_batch else 0)
        self.batch_embedding = nn.Embedding(hp.n_batches, hp.n_batch_embedding) if hp.embeds_batch else None
        encode = hp.encode_covariates
        n_in, levels = hp.n_genes + encode * n_extra, category_levels if encode else ()

        def encoder(n_out: int, n_layers: int) -> GaussianEncoder:
            return GaussianEncoder(
                n_in,
                n_out,
                n_hidden=hp.n_hidden,
                n_layers=n_layers,
                n_levels=levels,
                deeply_inject=hp.deeply_inject_covariates,
                norms=hp.norms("encoder"),
                dropout_rate=hp.dropout_rate,
                activation=hp.activation,
            )

        self.encoder = encoder(hp.n_latent, hp.n_layers)
        self.library_encoder = encoder(1, 1) if hp.has_latent_library else None
        self.decoder = _decoder(hp, hp.n_latent + n_extra, category_levels)
        self.log_dispersion = self._dispersion_table()
        if hp.has_latent_library:
            self.register_buffer("library_mean", torch.zeros(hp.n_batches))
            self.register_buffer("library_variance", torch.ones(hp.n_batches))

    def _dispersion_table(self) -> nn.Parameter | None:
        """One row for all cells, or one for each batch or label."""
        hp = self.hyperparameters
        if hp.gene_likelihood == "poisson" or hp.dispersion == "gene-cell":
            return None
        n_rows = {"gene": 1, "gene-batch": hp.n_batches, "gene-label": hp.n_labels}[hp.dispersion]
        return nn.Parameter(torch.randn(n_rows, hp.n_genes))

    @property
    def n_features(self) -> int:
        return self.hyperparameters.n_genes

    # ---- the posterior

    def encode(self, cells: Inputs[Tensor]) -> Posterior:
        """Counts (and covariates where `encode_covariates`) -> posterior of latent position and library size."""
        x, numbers, codes = cells.counts.log1p(), None, None
        if self.hyperparameters.encode_covariates:
            numbers, codes = self._covariates(cells)
        q_z = self.encoder(x, codes, numbers)
        if self.library_encoder is None:
            return Posterior(q_z, None, self._observed_library(cells))
        q_library = self.library_encoder(x, codes, numbers)
        return Posterior(q_z, q_library, q_library.mean)

    def latent(self, position: Tensor) -> Tensor:
        """The latent space of the decoder: the simplex for "ln", else as it is."""
        return torch.softmax(position, dim=-1) if self.hyperparameters.latent_distribution == "ln" else position

    def _observed_library(self, cells: Inputs[Tensor]) -> Tensor:
        if self.hyperparameters.has_size_factor:
            return cells.size_factor.log()[:, None]
        total = totals(cells.counts)
        return torch.where(total > 0, total, 1.0).log()[:, None]  # an empty cell has a library of one count

    # ---- the generative model

    def decode(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Likelihood:
        """Latent (cells, n_latent), log library (cells, 1) and covariates -> p(x | z)."""
        expression = self.decoder(*self._decoder_inputs(z, cells))
        log_mean = library + expression.log_scale
        if self.hyperparameters.gene_likelihood == "poisson":
            return Poisson(log_mean)
        log_dispersion = self._log_dispersion(expression.log_dispersion, cells)
        if self.hyperparameters.gene_likelihood == "nb":
            return NegativeBinomial(log_mean, log_dispersion)
        if self.hyperparameters.gene_likelihood == "normal":
            return Gaussian(log_mean, log_dispersion)
        assert expression.dropout_logits is not None
        return ZeroInflatedNegativeBinomial(log_mean, log_dispersion, expression.dropout_logits)

    def log_scale(self, z: Tensor, cells: Inputs[Tensor]) -> Tensor:
        """Log share of each gene, (cells, genes): expression freed from library size."""
        return self.decoder.log_scale(*self._decoder_inputs(z, cells))

    def expression(
        self, z: Tensor, cells: Inputs[Tensor], columns: Tensor | None = None, *, biased: bool = True
    ) -> Tensor:
        """Share of each gene, or of those of `columns` alone, (cells, columns); per unit of size factor, if given."""
        return self.decoder.expression(*self._decoder_inputs(z, cells), columns, biased=biased)

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Tensor:
        """log p(x | z), (cells,): that of `decode`, with the last layer and the likelihood taken together."""
        hp = self.hyperparameters
        if hp.has_size_factor or hp.gene_likelihood == "normal":
            return self.decode(z, library, cells).log_likelihood(cells.counts)
        h = self.decoder.body(*self._decoder_inputs(z, cells))
        of_cell = None if self.decoder.log_dispersion is None else self.decoder.log_dispersion(h)
        log_dispersion = None if hp.gene_likelihood == "poisson" else self._log_dispersion(of_cell, cells)
        return softmax_heads.log_likelihood(cells.counts, h, library, self.decoder.heads(), log_dispersion)

    def _decoder_inputs(self, z: Tensor, cells: Inputs[Tensor]) -> tuple[Tensor, Tensor]:
        numbers, codes = self._covariates(cells)
        return torch.cat([z, numbers], dim=1) if numbers.shape[1] else z, codes

    def _log_dispersion(self, of_cell: Tensor | None, cells: Inputs[Tensor]) -> Tensor:
        if of_cell is not None:
            return of_cell
        assert self.log_dispersion is not None
        if self.hyperparameters.dispersion == "gene":
            return self.log_dispersion[0]
        rows = cells.batch if self.hyperparameters.dispersion == "gene-batch" else cells.labels
        return self.log_dispersion[rows]

    def _covariates(self, cells: Inputs[Tensor]) -> tuple[Tensor, Tensor]:
        """Numbers to append (batch embedding included), and the codes of the remaining categories."""
        if self.batch_embedding is None:
            return cells.numbers, torch.cat([cells.batch[:, None], cells.categories], dim=1)
        return torch.cat([cells.numbers, self.batch_embedding(cells.batch)], dim=1), cells.categories

    # ---- the objective

    def elbo(self, cells: Inputs[Tensor]) -> Elbo:
        """The bound of each cell with one draw of everything hidden."""
        posterior = self.encode(cells)
        reconstruction, fixed_divergence = self.explained(posterior.q_z.rsample(), posterior, cells)
        return Elbo(reconstruction, priors.divergence_from_standard_normal(posterior.q_z), fixed_divergence)

    def explained(self, position: Tensor, posterior: Posterior, cells: Inputs[Tensor]) -> tuple[Tensor, Tensor]:
        """log p(x | z) at a draw of the library size, and what its posterior is from its prior, (cells,) each."""
        library, q_library = posterior.library, posterior.q_library
        divergence = torch.zeros_like(library[:, 0])
        if q_library is not None:
            library = q_library.rsample()
            divergence = priors.divergence(q_library, self.p_library(cells))
        return self.log_likelihood(self.latent(position), library, cells), divergence

    def log_importance_weight(self, posterior: Posterior, cells: Inputs[Tensor]) -> Tensor:
        """log p(x, hidden) - log q(hidden) at one draw, (cells,): its exponential averages to p(x)."""
        position = posterior.q_z.rsample()
        ratio: Tensor = priors.standard_normal(position).log_prob(position) - posterior.q_z.log_prob(position)
        return ratio.sum(1) + self.log_weight_of_the_rest(position, posterior, cells)

    def log_weight_of_the_rest(self, position: Tensor, posterior: Posterior, cells: Inputs[Tensor]) -> Tensor:
        """The part of the importance weight that is not about the latent position, (cells,)."""
        library, weight = posterior.library, torch.zeros_like(posterior.library[:, 0])
        if posterior.q_library is not None:
            library = posterior.q_library.rsample()
            ratio = self.p_library(cells).log_prob(library) - posterior.q_library.log_prob(library)
            weight = ratio.sum(1)
        return weight + self.log_likelihood(self.latent(position), library, cells)

    def p_library(self, cells: Inputs[Tensor]) -> Normal:
        """The prior of the log library size, from the cells of the same batch, (cells, 1)."""
        mean, variance = self.get_buffer("library_mean"), self.get_buffer("library_variance")
        return Normal(mean[cells.batch, None], variance[cells.batch, None].sqrt(), validate_args=False)

    # ---- the start

    @torch.no_grad()
    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Begin where the data are: mean expression in the bias, dispersion by moments, library prior by batch."""
        hp = self.hyperparameters
        moments = expression_moments(cells, rows)
        spread = (moments.deviation if hp.gene_likelihood == "normal" else moments.dispersion).log()
        self.decoder.start_from(moments.share, spread)
        if self.log_dispersion is not None:
            self.log_dispersion.copy_(spread.expand_as(self.log_dispersion))
        if hp.has_latent_library:
            mean, variance = library_moments(cells, rows, hp.n_batches)
            self.get_buffer("library_mean").copy_(mean)
            self.get_buffer("library_variance").copy_(variance)
            assert self.library_encoder is not None
            self.library_encoder.mean.bias.fill_(mean.mean())
            self.library_encoder.log_variance.bias.fill_(variance.mean().log())

    @torch.no_grad()
    def start_batches_from(self, cells: Cells, first: int) -> None:
        """Take the prior of the library of batches that were added, from the `first` on, from all of their cells."""
        n_batches = self.hyperparameters.n_batches
        if self.hyperparameters.has_latent_library and first < n_batches:
            rows = torch.arange(cells.n_cells, device=cells.index_device)
            mean, variance = library_moments(cells, rows, n_batches)
            self.get_buffer("library_mean")[first:] = mean[first:]
            self.get_buffer("library_variance")[first:] = variance[first:]


def _decoder(hp: Hyperparameters, n_in: int, n_levels: tuple[int, ...]) -> ExpressionDecoder | LinearDecoder:
    sums_to_one, has_dropout = not hp.has_size_factor, hp.gene_likelihood == "zinb"
    if hp.linear_decoder:
        return LinearDecoder(n_in, hp.n_genes, n_levels=n_levels, sums_to_one=sums_to_one, has_dropout=has_dropout)
    return ExpressionDecoder(
        n_in,
        hp.n_genes,
        n_hidden=hp.n_hidden,
        n_layers=hp.n_layers,
        n_levels=n_levels,
        deeply_inject=hp.deeply_inject_covariates,
        norms=hp.norms("decoder"),
        sums_to_one=sums_to_one,
        has_dispersion=hp.dispersion == "gene-cell" and hp.gene_likelihood != "poisson",
        has_dropout=has_dropout,
        activation=hp.activation,
    )


def build(hyperparameters: Hyperparameters) -> Network:
    """The untrained network."""
    return Network(hyperparameters)
