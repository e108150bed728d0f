"""totalVI: what is assumed of cells with RNA and surface proteins (CITE-seq), where some may lack one of them.

For cell n with batch s_n (and further categories and numbers c_n), gene g and protein t:

    z_n      ~ Normal(0, I)                                    position in the latent space; "ln": z_n = softmax of it

    l_n                                                        total count of the RNA, or size factor; or hidden:
                                                               log l_n ~ Normal(m_s, v_s) of the batch
    rho_n    = softmax(decoder(z_n, s_n, c_n))                 share of each gene; with a size factor softplus instead
    x_ng     ~ NB(l_n rho_ng, theta_g) or ZINB

    beta_nt  ~ LogNormal(c_ts, d_ts)                           background of the protein; c and d are learned
    alpha_nt = 1 + relu(decoder(z_n, s_n, c_n))                how far its foreground is above
    pi_nt    = sigmoid(decoder(z_n, s_n, c_n))                 chance that it is background
    e_ts     ~ LogNormal(0, 1)                                 how well the batch captures the protein
    y_nt     ~ pi_nt NB(e_ts beta_nt, phi_t) + (1 - pi_nt) NB(e_ts alpha_nt beta_nt, phi_t)

One encoder reads the Gaussian of z_n off both: off log(1 + x_n / (1 + mean of x_n)) and the same of the proteins, without
what was not measured. The posterior of the background, q(log beta_nt) = Normal(decoder(z_n, s_n, c_n)), is read off the
latent position. Trained by the evidence lower bound of what was measured: RNA, proteins, and the divergences of z, of the
background and of a hidden library. To what is known of a batch, and not of a cell, belong the efficiencies e; their log
density is a penalty in every cell, since the data alone cannot tell e from the level of beta.

Gayoso, Steier, Lopez, Regier, Nazor, Streets, Yosef. Joint probabilistic modeling of single-cell multi-omic data with
totalVI. Nature Methods 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi_pp._backend import priors
from scvi_pp._backend.adversary import Adversary
from scvi_pp._backend.encoders import GaussianEncoder, log_of_relative
from scvi_pp._backend.joint_parts import JointExpression, JointProteins, ProteinTerms
from scvi_pp._backend.kernels.counts import dense, totals
from scvi_pp._backend.layers import Norms
from scvi_pp._backend.measured import (
    MODALITIES,
    Modality,
    log_of_measured,
    measured_in,
    of_modality,
    present_in,
    proteins_measured,
)
from scvi_pp._backend.modality_parts import Layers
from scvi_pp._backend.modality_view import VIEWS, ModalityView, Position
from scvi_pp._backend.moments import library_moments
from scvi_pp._backend.objectives import Elbo

if TYPE_CHECKING:
    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.sparse import SparseRows
    from scvi_pp._backend.streams import Cells

T = TypeVar("T")
Where = Literal["encoder", "decoder", "both", "none"]


class Inputs(NamedTuple, Generic[T]):
    """What totalVI reads of a cell: as sources, as arrays, as the tensors of a minibatch.

    What was not measured in a cell holds no counts, and `present` and `panel` say so.
    """

    expression: T  # (cells, genes)
    protein: T  # (cells, proteins)
    present: T  # bool (cells, 3): whether expression, accessibility (never) and proteins were measured
    panel: T  # bool (cells, proteins): which proteins the batch of the cell measures; None if all of them do all
    batch: T  # (cells,) codes
    categories: T  # (cells, n_categories) codes
    numbers: T  # (cells, n_numbers), standardised
    expression_size_factor: T  # (cells,), or None


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that fixes the shape of the network."""

    n_genes: int
    n_proteins: int
    n_batches: int
    n_levels: tuple[int, ...]
    n_numbers: int
    has_expression_size_factor: bool
    n_latent: int = 20
    n_hidden: int = 256
    n_layers_encoder: int = 2
    n_layers_decoder: int = 1
    dropout_rate: float = 0.2
    gene_likelihood: Literal["nb", "zinb"] = "nb"
    dispersion: Literal["gene", "gene-batch"] = "gene"
    protein_dispersion: Literal["protein", "protein-batch"] = "protein"
    empirical_background: bool = True
    use_observed_lib_size: bool = True
    adversarial_mixing: bool = False
    latent_distribution: Literal["normal", "ln"] = "normal"
    encode_covariates: bool = True
    use_batch_norm: Where = "both"
    use_layer_norm: Where = "none"

    @property
    def has_latent_library(self) -> bool:
        """Whether the library size is inferred."""
        return not (self.use_observed_lib_size or self.has_expression_size_factor)

    def norms(self, part: Literal["encoder", "decoder"]) -> Norms:
        """The normalisations of one part of the network."""
        return Norms(self.use_batch_norm in (part, "both"), self.use_layer_norm in (part, "both"))

    def layers(self) -> Layers:
        """What the networks of both modalities have in common."""
        return Layers(
            n_latent=self.n_latent,
            n_hidden=self.n_hidden,
            n_layers_encoder=self.n_layers_encoder,
            n_layers_decoder=self.n_layers_decoder,
            n_levels=(self.n_batches, *self.n_levels),
            n_numbers=self.n_numbers,
            dropout_rate=self.dropout_rate,
            encode_covariates=self.encode_covariates,
            deeply_inject_covariates=True,
            encoder_norms=self.norms("encoder"),
            decoder_norms=self.norms("decoder"),
        )


class Posterior(NamedTuple):
    """What the encoders say of each cell."""

    q_z: Normal  # over (cells, n_latent), before the softmax of "ln"
    q_library: Normal | None  # over (cells, 1) log library size, where it is hidden
    library: Tensor  # (cells, 1) log library size of the RNA: observed, given, or the posterior mean
    exposures: dict[Modality, Tensor]  # (cells, 1): log library, nothing of proteins


class Network(nn.Module):
    """One encoder of both modalities, and a part for each."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.hyperparameters = hp = hyperparameters
        self.layers = hp.layers()
        self.encoder = self._encoder(hp.n_latent, hp.n_layers_encoder)
        self.library_encoder = self._encoder(1, 1) if hp.has_latent_library else None
        self.expression_part = JointExpression(
            self.layers,
            hp.n_genes,
            gene_likelihood=hp.gene_likelihood,
            dispersion=hp.dispersion,
            has_size_factor=hp.has_expression_size_factor,
        )
        self.protein_part = JointProteins(
            self.layers,
            hp.n_proteins,
            dispersion=hp.protein_dispersion,
            empirical_background=hp.empirical_background,
        )
        has_adversary = hp.adversarial_mixing and hp.n_batches > 1
        self.adversary = Adversary(hp.n_latent, hp.n_batches) if has_adversary else None
        if hp.has_latent_library:
            self.register_buffer("library_mean", torch.zeros(hp.n_batches))
            self.register_buffer("library_variance", torch.ones(hp.n_batches))

    def _encoder(self, n_out: int, n_layers: int) -> GaussianEncoder:
        hp = self.hyperparameters
        return GaussianEncoder(
            hp.n_genes + hp.n_proteins + hp.encode_covariates * hp.n_numbers,
            n_out,
            n_hidden=hp.n_hidden,
            n_layers=n_layers,
            n_levels=self.layers.n_levels if hp.encode_covariates else (),
            deeply_inject=True,
            norms=hp.norms("encoder"),
            dropout_rate=hp.dropout_rate,
        )

    def parts(self) -> dict[Modality, JointExpression | JointProteins]:
        """What there is of each modality."""
        return {"expression": self.expression_part, "protein": self.protein_part}

    @property
    def n_features(self) -> int:
        return self.hyperparameters.n_genes

    # ---- the posterior

    def encode(self, cells: Inputs[Tensor]) -> Posterior:
        """Both modalities (and covariates where `encode_covariates`) -> posterior of position and library."""
        rna, more, codes = self._seen(cells)
        q_z, q_library = self.encoder(rna, codes, more), None
        if self.library_encoder is None:
            library = self._observed_library(cells)
        else:
            q_library = self.library_encoder(rna, codes, more)
            library = q_library.mean
        exposures: dict[Modality, Tensor] = {"expression": library, "protein": torch.zeros_like(library)}
        return Posterior(q_z, q_library, library, exposures)

    def _seen(self, cells: Inputs[Tensor]) -> tuple[Tensor | SparseRows, Tensor, Tensor | None]:
        """What an encoder sees: RNA, the columns behind it, and codes."""
        n_genes = torch.full_like(cells.batch, self.hyperparameters.n_genes)
        codes, numbers = self.layers.encoder_covariates(cells)
        measured = proteins_measured(cells).expand(-1, self.hyperparameters.n_proteins)
        proteins = log_of_relative(torch.where(measured, dense(cells.protein), 0.0), measured.sum(1))
        more = [dense(proteins)] if numbers is None else [dense(proteins), numbers]
        return log_of_relative(cells.expression, n_genes), torch.cat(more, dim=1), codes

    def _observed_library(self, cells: Inputs[Tensor]) -> Tensor:
        if self.hyperparameters.has_expression_size_factor:
            return log_of_measured(cells.expression_size_factor, measured_in(cells, "expression"))
        total = totals(cells.expression)
        return torch.where(total > 0, total, 1.0).log()[:, None]  # an empty cell has a library of one count

    def said_by(self, modality: Modality, posterior: Posterior, cells: Inputs[Tensor]) -> Normal:
        """The posterior of the latent position had nothing but one modality been measured."""
        present = torch.zeros_like(cells.present)
        present[:, MODALITIES.index(modality)] = measured_in(cells, modality)
        alone = cells._replace(present=present)
        if modality != "expression":
            alone = alone._replace(expression=torch.zeros(cells.expression.shape, device=cells.batch.device))
        return self.encode(alone).q_z

    def latent(self, position: Tensor) -> Tensor:
        """The latent space of the decoders: the simplex for "ln", else as it is."""
        return torch.softmax(position, dim=-1) if self.hyperparameters.latent_distribution == "ln" else position

    # ---- the generative model

    def decode(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Likelihood:
        """Latent (cells, n_latent), log library (cells, 1) and covariates -> p(x | z) of RNA."""
        return self.expression_part.decode(z, library, cells)

    def expression(self, z: Tensor, cells: Inputs[Tensor], columns: Tensor | None = None) -> Tensor:
        """Share of each gene, or of those of `columns` alone, (cells, columns)."""
        return self.expression_part.expression(z, cells, columns)

    def about(self, modality: Modality, position: Position = "joint") -> ModalityView:
        """The network as it is asked about one modality, whose posterior `query` then looks at."""
        return VIEWS[modality](self, modality, position)

    # ---- the objective

    def elbo(self, cells: Inputs[Tensor]) -> Elbo:
        """The bound of each cell with one draw of everything hidden."""
        posterior = self.encode(cells)
        z = self.latent(posterior.q_z.rsample())
        library, fixed_divergence = self._drawn_library(posterior, cells)
        rna, proteins = self.expression_part.log_likelihood(z, library, cells), self.protein_part.terms(z, cells)
        return Elbo(
            rna + proteins.reconstruction,
            priors.divergence_from_standard_normal(posterior.q_z) + proteins.divergence,
            fixed_divergence,
            self._penalty(z, proteins, cells),
        )

    def _drawn_library(self, posterior: Posterior, cells: Inputs[Tensor]) -> tuple[Tensor, Tensor]:
        """A draw of the log library, (cells, 1), and its divergence from the prior, (cells,): none if it is known."""
        if posterior.q_library is None:
            return posterior.library, torch.zeros_like(posterior.library[:, 0])
        divergence = priors.divergence(posterior.q_library, self.p_library(cells))
        drawn: Tensor = posterior.q_library.rsample()
        return drawn, torch.where(measured_in(cells, "expression"), divergence, 0.0)

    def _penalty(self, z: Tensor, proteins: ProteinTerms, cells: Inputs[Tensor]) -> Tensor:
        """What is no part of the bound: efficiencies far from one, foreground without need, batches that show."""
        penalty = proteins.efficiency + proteins.leaning
        if self.adversary is not None and self.training:
            penalty = penalty + self.adversary.contest(z, cells.batch)
        return penalty

    def log_importance_weight(self, posterior: Posterior, cells: Inputs[Tensor]) -> Tensor:
        """log p(x, hidden) - log q(hidden) at one draw, (cells,): its exponential averages to p(x)."""
        position = posterior.q_z.rsample()
        ratio: Tensor = priors.standard_normal(position).log_prob(position) - posterior.q_z.log_prob(position)
        weight, library = ratio.sum(1), posterior.library
        if posterior.q_library is not None:
            library = posterior.q_library.rsample()
            ratio = self.p_library(cells).log_prob(library) - posterior.q_library.log_prob(library)
            weight = weight + torch.where(measured_in(cells, "expression"), ratio.sum(1), 0.0)
        z = self.latent(position)
        of_rna = self.expression_part.log_likelihood(z, library, cells)
        return weight + of_rna + self.protein_part.log_importance_weight(z, cells)

    def p_library(self, cells: Inputs[Tensor]) -> Normal:
        """The prior of the log library size, from the cells of the same batch, (cells, 1)."""
        mean, variance = self.get_buffer("library_mean"), self.get_buffer("library_variance")
        return Normal(mean[cells.batch, None], variance[cells.batch, None].sqrt(), validate_args=False)

    # ---- the start

    @torch.no_grad()
    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Begin where the data are: each modality at the cells in which it was measured."""
        present = present_in(cells, rows)
        for modality, part in self.parts().items():
            measured = rows[present[:, MODALITIES.index(modality)].to(rows.device)]
            if len(measured):
                part.start_from(cells, measured)
                if modality == "expression" and self.library_encoder is not None:
                    mean, variance = self._set_library_prior(cells, measured, 0)
                    self.library_encoder.mean.bias.fill_(mean.mean())
                    self.library_encoder.log_variance.bias.fill_(variance.mean().log())

    @torch.no_grad()
    def start_batches_from(self, cells: Cells, first: int) -> None:
        """Take what is known of batches that were added, from the `first` on, from all of their cells."""
        if first == self.hyperparameters.n_batches:
            return
        self.protein_part.start_batches_from(cells, first)
        if self.hyperparameters.has_latent_library:
            self._set_library_prior(cells, torch.arange(cells.n_cells, device=cells.index_device), first)

    def _set_library_prior(self, cells: Cells, rows: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of the log total of each batch."""
        with_batch = of_modality(cells, "expression", by_batch=True)
        mean, variance = library_moments(with_batch, rows, self.hyperparameters.n_batches)
        self.get_buffer("library_mean")[first:] = mean[first:]
        self.get_buffer("library_variance")[first:] = variance[first:]
        return mean, variance


def build(hyperparameters: Hyperparameters) -> Network:
    """The untrained network."""
    return Network(hyperparameters)
