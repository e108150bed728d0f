"""A network of several modalities as one that knows a single one of them: what `query.Posterior` can ask about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from scvi_pp._backend import posterior_mixture
from scvi_pp._backend.measured import Modality, measured_in

if TYPE_CHECKING:
    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.objectives import Elbo

Position = Literal["joint"] | Modality


class ModalityView:
    """Answers about `modality` at the joint latent position, or at the one that a modality says by itself.

    A cell in which that modality was not measured is then anywhere: its posterior is the prior.
    """

    def __init__(self, network: Any, modality: Modality, position: Position = "joint") -> None:
        self.network, self.position = network, position
        self.part = network.parts()[modality]
        self.modality = modality
        self.hyperparameters = network.hyperparameters

    @property
    def n_features(self) -> int:
        n: int = self.part.n_features
        return n

    def eval(self) -> ModalityView:
        """As of the network."""
        self.network.eval()
        return self

    def encode(self, cells: Any) -> Any:
        """The posterior of the network, with the exposure of this modality as its library."""
        posterior = self.network.encode(cells)
        q_z = posterior.q_z
        if self.position != "joint":
            alone = self.network.said_by(self.position, posterior, cells)
            q_z = posterior_mixture.mixture([alone], measured_in(cells, self.position)[:, None].to(alone.loc.dtype))
        q_library = posterior.q_library if self.modality == "expression" else None
        return posterior._replace(q_z=q_z, q_library=q_library, library=posterior.exposures[self.modality])

    def measured(self, cells: Any) -> Tensor:
        """In which cells the modality was measured, bool (cells,)."""
        return measured_in(cells, self.modality)

    def latent(self, position: Tensor) -> Tensor:
        """The latent space of the decoders."""
        z: Tensor = self.network.latent(position)
        return z

    def decode(self, z: Tensor, library: Tensor, cells: Any) -> Likelihood:
        """p(x | z) of the modality."""
        likelihood: Likelihood = self.part.decode(z, library, cells)
        return likelihood

    def expression(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """Shares of genes, chances that regions are open, or expected foreground of proteins, (cells, columns)."""
        values: Tensor = self.part.expression(z, cells, columns)
        return values

    def elbo(self, cells: Any) -> Elbo:
        """The bound of all modalities together."""
        elbo: Elbo = self.network.elbo(cells)
        return elbo

    def log_importance_weight(self, posterior: Any, cells: Any) -> Tensor:
        """That of all modalities together."""
        weight: Tensor = self.network.log_importance_weight(posterior, cells)
        return weight


class RegionsView(ModalityView):
    """Answers about accessibility, and about what is peculiar to each region."""

    def expression_with_regions(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """The chance that a region is open times the factor of the region, (cells, columns)."""
        values: Tensor = self.part.expression_with_regions(z, cells, columns)
        return values

    def factor_of_regions(self) -> Tensor:
        """How well each region can be seen, (regions,)."""
        factors: Tensor = self.part.factor_of_regions()
        return factors


class ProteinsView(ModalityView):
    """Answers about proteins, and about their background."""

    def expression_with_background(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """Expected foreground and background of proteins, (cells, columns)."""
        values: Tensor = self.part.expression_with_background(z, cells, columns)
        return values

    def foreground_probability(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """The chance that a cell has each protein, (cells, columns)."""
        values: Tensor = self.part.foreground_probability(z, cells, columns)
        return values


VIEWS: dict[Modality, type[ModalityView]] = {
    "expression": ModalityView,
    "accessibility": RegionsView,
    "protein": ProteinsView,
}
