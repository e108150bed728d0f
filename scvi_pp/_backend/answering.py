"""What a network must be able to do to be asked about cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.objectives import Elbo


# what can be asked of each feature of each cell
Value = Literal["expression", "expression_with_regions", "expression_with_background", "foreground_probability"]


class Answering(Protocol):
    """What any network can do."""

    hyperparameters: Any

    @property
    def n_features(self) -> int: ...
    def eval(self) -> Any: ...
    def encode(self, cells: Any) -> Any: ...
    def latent(self, position: Tensor) -> Tensor: ...
    def decode(self, z: Tensor, library: Tensor, cells: Any) -> Likelihood: ...
    def expression(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor: ...
    def elbo(self, cells: Any) -> Elbo: ...
    def log_importance_weight(self, posterior: Any, cells: Any) -> Tensor: ...


@runtime_checkable
class Partial(Protocol):
    """A network whose features were not measured in all cells."""

    def measured(self, cells: Any) -> Tensor: ...


@runtime_checkable
class Explaining(Protocol):
    """A network that says how likely counts are without making the parameters of each."""

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Any) -> Tensor: ...


@runtime_checkable
class Loaded(Protocol):
    """A network whose latent dimensions have loadings."""

    def loadings(self) -> Tensor: ...


@runtime_checkable
class Labelling(Protocol):
    """A network that says which label a cell has."""

    def label_logits(self, position: Tensor) -> Tensor: ...


@runtime_checkable
class Structured(Protocol):
    """A network whose latent positions are not standard normal before any cell is seen."""

    def log_prior(self, position: Tensor) -> Tensor: ...
    def prior_position(self, drawn: Tensor) -> Tensor: ...


@runtime_checkable
class Regional(Protocol):
    """What a network of chromatin can do besides."""

    def expression_with_regions(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor: ...
    def factor_of_regions(self) -> Tensor: ...


@runtime_checkable
class Proteinic(Protocol):
    """What a network of surface proteins can do besides."""

    def expression_with_background(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor: ...
    def foreground_probability(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor: ...


def values_of(network: Answering, value: Value) -> Callable[..., Tensor]:
    """What tells that value, of latent positions, cells and columns; TypeError of a network that does not know it."""
    if value == "expression":
        return network.expression
    if value == "expression_with_regions":
        if not isinstance(network, Regional):
            raise TypeError(f"{type(network).__module__} has no regions.")
        return network.expression_with_regions
    if not isinstance(network, Proteinic):
        raise TypeError(f"{type(network).__module__} has no proteins.")
    return network.foreground_probability if value == "foreground_probability" else network.expression_with_background
