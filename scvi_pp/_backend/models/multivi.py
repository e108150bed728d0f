"""MultiVI: what is assumed of cells with RNA, open chromatin and surface proteins, or with some of these.

For cell n with batch s_n (and further categories and numbers c_n), gene g, region j and protein t:

    z_n     ~ Normal(0, I)                          position in the latent space, shared; "ln": z_n = softmax of it

    L_n     = network(x_n)                          log library of the RNA; or log size factor
    rho_n   = softmax(decoder(z_n, s_n, c_n))       share of each gene; with a size factor softplus takes its place
    x_ng    ~ ZINB(exp(L_n) rho_ng, theta_g, pi_ng) or NB, Poisson

    y_nj    = sigmoid(decoder(z_n, s_n, c_n))       chance that the region is open in such a cell
    l_n     = sigmoid(network(a_n))                 factor of the cell: how deeply it was sequenced; or given
    r_j     = sigmoid(parameter)                    factor of the region: how well it can be seen
    a_nj    ~ Bernoulli(y_nj l_n r_j)               whether a fragment of the region was seen

    beta_nt ~ LogNormal(decoder(z_n, s_n, c_n))     background of the protein
    alpha_nt = 1 + relu(decoder(z_n, s_n, c_n))     how far its foreground is above
    pi_nt   = sigmoid(decoder(z_n, s_n, c_n))       chance that it is background
    p_nt    ~ pi_nt NB(beta_nt, phi_t) + (1 - pi_nt) NB(alpha_nt beta_nt, phi_t)

Each modality has an encoder that reads a Gaussian of z_n off it: off log(1 + x_n), 1[a_n > 0] and log(1 + p_n). Their
weighted mean over the modalities that were measured in a cell is its posterior (`posterior_mixture`). Trained by the
evidence lower bound of what was measured, less a penalty on modalities that disagree about a cell that has them both.

Ashuach, Gabitto, Koodli, Saldi, Jordan, Yosef. MultiVI: deep generative model for the integration of multimodal data.
Nature Methods 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi_pp._backend import posterior_mixture, priors
from scvi_pp._backend.adversary import Adversary
from scvi_pp._backend.layers import Norms
from scvi_pp._backend.measured import MODALITIES, Modality, present_in
from scvi_pp._backend.modality_parts import AccessibilityPart, ExpressionPart, Layers, ProteinPart
from scvi_pp._backend.modality_view import VIEWS, ModalityView, Position
from scvi_pp._backend.objectives import Elbo
from scvi_pp._backend.posterior_mixture import ModalityWeights

if TYPE_CHECKING:
    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.streams import Cells

T = TypeVar("T")
Where = Literal["encoder", "decoder", "both", "none"]
Part = ExpressionPart | AccessibilityPart | ProteinPart


class Inputs(NamedTuple, Generic[T]):
    """What MultiVI reads of a cell: as sources, as arrays, as the tensors of a minibatch.

    What was not measured in a cell holds no counts, and `present` says so. A modality that is in no cell is None.
    """

    expression: T  # (cells, genes)
    accessibility: T  # (cells, regions); any positive count is open
    protein: T  # (cells, proteins)
    present: T  # bool (cells, 3): whether expression, accessibility and proteins were measured
    batch: T  # (cells,) codes
    categories: T  # (cells, n_categories) codes
    numbers: T  # (cells, n_numbers), standardised
    expression_size_factor: T  # (cells,), or None
    accessibility_size_factor: T  # (cells,) above 0 and at most 1, or None
    row: T  # (cells,) which of the fitted cells it is, -1 if none of them; seen by modality_weights="cell" alone


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that fixes the shape of the network; a modality of no features is not part of it."""

    n_genes: int
    n_regions: int
    n_proteins: int
    n_cells: int  # that are fitted
    n_batches: int
    n_levels: tuple[int, ...]
    n_numbers: int
    has_expression_size_factor: bool
    has_accessibility_size_factor: bool
    n_latent: int
    n_hidden: int
    n_layers_encoder: int = 2
    n_layers_decoder: int = 2
    dropout_rate: float = 0.1
    gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb"
    dispersion: Literal["gene", "gene-batch", "gene-cell"] = "gene"
    protein_dispersion: Literal["protein", "protein-batch"] = "protein"
    region_factors: bool = True
    modality_weights: posterior_mixture.Weights = "equal"
    modality_penalty: posterior_mixture.Penalty = "MMD"
    adversarial_mixing: bool = False
    latent_distribution: Literal["normal", "ln"] = "normal"
    encode_covariates: bool = False
    deeply_inject_covariates: bool = False
    use_batch_norm: Where = "none"
    use_layer_norm: Where = "both"

    def norms(self, part: Literal["encoder", "decoder"]) -> Norms:
        """The normalisations of one part of the network."""
        return Norms(self.use_batch_norm in (part, "both"), self.use_layer_norm in (part, "both"))

    def layers(self) -> Layers:
        """What the networks of all modalities have in common."""
        return Layers(
            n_latent=self.n_latent,
            n_hidden=self.n_hidden,
            n_layers_encoder=self.n_layers_encoder,
            n_layers_decoder=self.n_layers_decoder,
            n_levels=(self.n_batches, *self.n_levels),
            n_numbers=self.n_numbers,
            dropout_rate=self.dropout_rate,
            encode_covariates=self.encode_covariates,
            deeply_inject_covariates=self.deeply_inject_covariates,
            encoder_norms=self.norms("encoder"),
            decoder_norms=self.norms("decoder"),
        )


class Posterior(NamedTuple):
    """What the encoders say of each cell, together and each by itself."""

    q_z: Normal  # over (cells, n_latent), before the softmax of "ln"
    q_library: None
    library: Tensor  # (cells, 1) exposure of the first modality: the log library, if there is RNA
    weights: Tensor  # (cells, modalities)
    of_modality: dict[Modality, Normal]  # what one modality says; of cells without it nothing that means anything
    exposures: dict[Modality, Tensor]  # (cells, 1): log library, log factor of accessibility, nothing


class Network(nn.Module):
    """A part for each modality, and how much each counts."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.hyperparameters = hp = hyperparameters
        self.expression_part = _expression_part(hp) if hp.n_genes else None
        self.accessibility_part = _accessibility_part(hp) if hp.n_regions else None
        self.protein_part = _protein_part(hp) if hp.n_proteins else None
        self.columns = [MODALITIES.index(modality) for modality in self.parts()]  # of `present`
        self.weights = ModalityWeights(hp.modality_weights, len(self.columns), hp.n_cells)
        has_adversary = hp.adversarial_mixing and hp.n_batches > 1
        self.adversary = Adversary(hp.n_latent, hp.n_batches) if has_adversary else None

    def parts(self) -> dict[Modality, Part]:
        """What there is of each modality that the network knows."""
        all_parts: tuple[Part | None, ...] = (self.expression_part, self.accessibility_part, self.protein_part)
        return {modality: part for modality, part in zip(MODALITIES, all_parts, strict=True) if part is not None}

    @property
    def n_features(self) -> int:
        return self._first().n_features

    # ---- the posterior

    def encode(self, cells: Inputs[Tensor]) -> Posterior:
        """All modalities (and covariates where `encode_covariates`) -> posteriors and exposures."""
        encoded = {modality: part.encode(cells) for modality, part in self.parts().items()}
        of_modality = {modality: q_z for modality, (q_z, _) in encoded.items()}
        exposures = {modality: exposure for modality, (_, exposure) in encoded.items()}
        weights = self.weights(self._present(cells), cells.row)
        q_z = posterior_mixture.mixture(list(of_modality.values()), weights)
        return Posterior(q_z, None, next(iter(exposures.values())), weights, of_modality, exposures)

    def latent(self, position: Tensor) -> Tensor:
        """The latent space of the decoders: the simplex for "ln", else as it is."""
        return torch.softmax(position, dim=-1) if self.hyperparameters.latent_distribution == "ln" else position

    # ---- the generative model

    def decode(self, z: Tensor, library: Tensor, cells: Inputs[Tensor]) -> Likelihood:
        """Latent (cells, n_latent), exposure (cells, 1) and covariates -> p(x | z) of RNA, or else the first modality."""
        return self._first().decode(z, library, cells)

    def expression(self, z: Tensor, cells: Inputs[Tensor], columns: Tensor | None = None) -> Tensor:
        """Share of each gene, or of those of `columns` alone, (cells, columns); without RNA what the first has."""
        return self._first().expression(z, cells, columns)

    def about(self, modality: Modality, position: Position = "joint") -> ModalityView:
        """The network as it is asked about one modality, whose posterior `query` then looks at."""
        return VIEWS[modality](self, modality, position)

    def said_by(self, modality: Modality, posterior: Posterior, cells: Inputs[Tensor]) -> Normal:
        """The posterior of the latent position by one modality, of cells in which it was measured."""
        return posterior.of_modality[modality]

    def reconstruction(self, z: Tensor, posterior: Posterior, cells: Inputs[Tensor]) -> dict[Modality, Tensor]:
        """log p(x | z) of each modality, (cells,) each, zero where it was not measured."""
        exposures = posterior.exposures
        return {name: part.log_likelihood(z, exposures[name], cells) for name, part in self.parts().items()}

    def _present(self, cells: Inputs[Tensor]) -> Tensor:
        """Which modalities were measured, bool (cells, modalities); an index of numbers would come from the host."""
        return torch.stack([cells.present[:, column] for column in self.columns], dim=1)

    def _first(self) -> Part:
        return next(iter(self.parts().values()))

    # ---- the objective

    def elbo(self, cells: Inputs[Tensor]) -> Elbo:
        """The bound of each cell with one draw of everything hidden, and what modalities that disagree cost."""
        return self.elbo_and_position(cells)[0]

    def elbo_and_position(self, cells: Inputs[Tensor]) -> tuple[Elbo, Tensor]:
        """The same with the draw of the latent position, (cells, n_latent), of which an adversary is asked."""
        posterior = self.encode(cells)
        z = self.latent(posterior.q_z.rsample())
        divergence = priors.divergence_from_standard_normal(posterior.q_z)
        reconstruction = torch.stack(list(self.reconstruction(z, posterior, cells).values())).sum(0)
        penalty = posterior_mixture.disagreement(
            self.hyperparameters.modality_penalty, list(posterior.of_modality.values()), self._present(cells)
        )
        if self.adversary is not None and self.training:
            contest = self.adversary.contest(z, cells.batch).expand(len(z))
            penalty = contest if penalty is None else penalty + contest
        return Elbo(reconstruction, divergence, torch.zeros_like(divergence), penalty), z

    def log_importance_weight(self, posterior: Posterior, cells: Inputs[Tensor]) -> Tensor:
        """log p(x, hidden) - log q(hidden) at one draw, (cells,): its exponential averages to p(x)."""
        position = posterior.q_z.rsample()
        ratio: Tensor = priors.standard_normal(position).log_prob(position) - posterior.q_z.log_prob(position)
        likelihoods = self.reconstruction(self.latent(position), posterior, cells)
        return ratio.sum(1) + torch.stack(list(likelihoods.values())).sum(0)

    # ---- the start

    @torch.no_grad()
    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Begin where the data are: each modality at the cells in which it was measured."""
        present = present_in(cells, rows)
        for column, part in zip(self.columns, self.parts().values(), strict=True):
            measured = rows[present[:, column].to(rows.device)]
            if len(measured):
                part.start_from(cells, measured)


def _expression_part(hp: Hyperparameters) -> ExpressionPart:
    return ExpressionPart(
        hp.layers(),
        hp.n_genes,
        gene_likelihood=hp.gene_likelihood,
        dispersion=hp.dispersion,
        has_size_factor=hp.has_expression_size_factor,
    )


def _accessibility_part(hp: Hyperparameters) -> AccessibilityPart:
    return AccessibilityPart(
        hp.layers(),
        hp.n_regions,
        region_factors=hp.region_factors,
        has_size_factor=hp.has_accessibility_size_factor,
    )


def _protein_part(hp: Hyperparameters) -> ProteinPart:
    return ProteinPart(hp.layers(), hp.n_proteins, dispersion=hp.protein_dispersion)


def build(hyperparameters: Hyperparameters) -> Network:
    """The untrained network."""
    return Network(hyperparameters)
