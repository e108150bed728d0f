"""How counts scatter about their mean: one frozen class per likelihood, all with the same few questions.

Means and dispersions are held as logarithms, so that nothing overflows and no epsilon is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.distributions import Normal

from scvi_pp._backend.kernels import (
    bernoulli,
    negative_binomial,
    negative_binomial_mixture,
    poisson,
    zero_inflated_negative_binomial,
)
from scvi_pp._backend.kernels.counts import dense

if TYPE_CHECKING:
    from scvi_pp._backend.sparse import SparseRows

# the Poisson sampler of torch refuses rates beyond what its integers hold
LARGEST_RATE = 1e8


class Likelihood(Protocol):
    """What a model asks of p(x | z)."""

    @property
    def mean(self) -> Tensor: ...
    def log_likelihood(self, counts: Tensor | SparseRows) -> Tensor: ...
    def sample(self) -> Tensor: ...
    def parameters(self) -> dict[str, Tensor]: ...
    def sample_denoised(self) -> Tensor: ...


@dataclass(frozen=True)
class Poisson:
    """Counts that scatter by chance alone: variance = mean."""

    log_mean: Tensor  # (cells, genes)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    def log_likelihood(self, counts: Tensor | SparseRows) -> Tensor:
        """Sum over genes, (cells,)."""
        return poisson.log_likelihood(counts, self.log_mean)

    def sample(self) -> Tensor:
        """One posterior predictive draw, (cells, genes)."""
        return torch.poisson(self.mean.clamp(max=LARGEST_RATE))

    def parameters(self) -> dict[str, Tensor]:
        """Name -> (cells, genes)."""
        return {"mean": self.mean}

    def sample_denoised(self) -> Tensor:
        """One draw of the rate behind the counts: without overdispersion it is the mean."""
        return self.mean


@dataclass(frozen=True)
class NegativeBinomial:
    """Overdispersed counts: variance = mean + mean^2 / dispersion."""

    log_mean: Tensor  # (cells, genes)
    log_dispersion: Tensor  # (genes,) or (cells, genes)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    def log_likelihood(self, counts: Tensor | SparseRows) -> Tensor:
        """Sum over genes, (cells,)."""
        return negative_binomial.log_likelihood(counts, self.log_mean, self.log_dispersion)

    def sample_denoised(self) -> Tensor:
        """One draw of the Gamma-distributed rate behind the counts, (cells, genes)."""
        dispersion = self.log_dispersion.exp().expand_as(self.log_mean)
        rate: Tensor = torch._standard_gamma(dispersion) * (self.log_mean - self.log_dispersion).exp()
        return rate

    def sample(self) -> Tensor:
        """One posterior predictive draw, (cells, genes)."""
        return torch.poisson(self.sample_denoised().clamp(max=LARGEST_RATE))

    def parameters(self) -> dict[str, Tensor]:
        """Name -> (cells, genes)."""
        return {"mean": self.mean, "dispersion": self.log_dispersion.exp().expand_as(self.log_mean)}


@dataclass(frozen=True)
class ZeroInflatedNegativeBinomial:
    """A negative binomial of which a share is lost altogether."""

    log_mean: Tensor  # (cells, genes), of the negative binomial part
    log_dispersion: Tensor  # (genes,) or (cells, genes)
    dropout_logits: Tensor  # (cells, genes)

    @property
    def expressed(self) -> NegativeBinomial:
        return NegativeBinomial(self.log_mean, self.log_dispersion)

    @property
    def mean(self) -> Tensor:
        """Mean of the counts, losses included."""
        return torch.sigmoid(-self.dropout_logits) * self.log_mean.exp()

    def log_likelihood(self, counts: Tensor | SparseRows) -> Tensor:
        """Sum over genes, (cells,)."""
        return zero_inflated_negative_binomial.log_likelihood(
            counts, self.log_mean, self.log_dispersion, self.dropout_logits
        )

    def sample_denoised(self) -> Tensor:
        """One draw of the rate before anything is lost, (cells, genes)."""
        return self.expressed.sample_denoised()

    def sample(self) -> Tensor:
        """One posterior predictive draw, (cells, genes)."""
        kept = torch.bernoulli(torch.sigmoid(-self.dropout_logits))
        return self.expressed.sample() * kept

    def parameters(self) -> dict[str, Tensor]:
        """Name -> (cells, genes); the mean is that of the negative binomial part."""
        return {**self.expressed.parameters(), "dropout": torch.sigmoid(self.dropout_logits)}


@dataclass(frozen=True)
class Bernoulli:
    """Whether a region of chromatin is seen open: it is, the cell was sequenced deeply enough, and it can be seen."""

    region_logits: Tensor  # (cells, regions)
    cell_logits: Tensor | None  # (cells, 1); None is a factor of one
    factor_logits: Tensor | None  # (regions,); None is a factor of one

    @property
    def mean(self) -> Tensor:
        probability = torch.sigmoid(self.region_logits)
        for logits in (self.cell_logits, self.factor_logits):
            if logits is not None:
                probability = probability * torch.sigmoid(logits)
        return probability

    def log_likelihood(self, counts: Tensor | SparseRows) -> Tensor:
        """Sum over regions, (cells,)."""
        return bernoulli.log_likelihood(counts, self.region_logits, self.cell_logits, self.factor_logits)

    def sample(self) -> Tensor:
        """One posterior predictive draw of zeros and ones, (cells, regions)."""
        return torch.bernoulli(self.mean)

    def parameters(self) -> dict[str, Tensor]:
        """Name -> (cells, regions)."""
        return {"probability": self.mean}

    def sample_denoised(self) -> Tensor:
        """The probability itself: there is no spread behind it."""
        return self.mean


@dataclass(frozen=True)
class NegativeBinomialMixture:
    """Counts of a protein: background alone, or a foreground some times above it; both with one dispersion.

    The log of the background may itself be Gaussian. The mean is that over all backgrounds; a likelihood and a sample
    are those at one draw of it.
    """

    log_background: Tensor  # (cells, proteins)
    log_factor: Tensor  # (cells, proteins), of the foreground over the background
    log_dispersion: Tensor  # (proteins,) or (cells, proteins)
    background_logits: Tensor  # (cells, proteins), of the chance that a count is background
    deviation: Tensor | None = None  # (cells, proteins), of the log background; None: it is known

    @property
    def background(self) -> Tensor:
        """Mean of the counts that are background: of a log-normal, if its log is not known."""
        spread = 0.0 if self.deviation is None else self.deviation.square() / 2
        return (self.log_background + spread).exp()

    @property
    def foreground(self) -> Tensor:
        """Mean of the counts that are not."""
        return self.background * self.log_factor.exp()

    @property
    def foreground_probability(self) -> Tensor:
        return torch.sigmoid(-self.background_logits)

    @property
    def mean(self) -> Tensor:
        return torch.lerp(self.background, self.foreground, self.foreground_probability)

    @property
    def q_log_background(self) -> Normal:
        """The Gaussian of the log of the background, where that is not known, over (cells, proteins)."""
        assert self.deviation is not None
        return Normal(self.log_background, self.deviation, validate_args=False)

    def times(self, log_efficiency: Tensor) -> NegativeBinomialMixture:
        """The same with a share of everything captured, (cells, proteins)."""
        return replace(self, log_background=self.log_background + log_efficiency)

    def drawn(self) -> NegativeBinomialMixture:
        """The same with one draw of the background."""
        if self.deviation is None:
            return self
        return replace(self, log_background=self.q_log_background.rsample(), deviation=None)

    def log_likelihood(self, counts: Tensor | SparseRows) -> Tensor:
        """Sum over proteins, (cells,), at one draw of the background."""
        return self.log_likelihood_of_each(counts).sum(1)

    def log_likelihood_of_each(self, counts: Tensor | SparseRows) -> Tensor:
        """By protein, (cells, proteins), at one draw of the background."""
        log_background = self.drawn().log_background
        return negative_binomial_mixture.log_likelihood(
            dense(counts), log_background, self.log_factor, self.log_dispersion, self.background_logits
        )

    def sample_denoised(self) -> Tensor:
        """One draw of the rate behind the counts, (cells, proteins)."""
        is_foreground = torch.bernoulli(self.foreground_probability)
        log_mean = self.drawn().log_background + is_foreground * self.log_factor
        return NegativeBinomial(log_mean, self.log_dispersion).sample_denoised()

    def sample(self) -> Tensor:
        """One posterior predictive draw, (cells, proteins)."""
        return torch.poisson(self.sample_denoised().clamp(max=LARGEST_RATE))

    def parameters(self) -> dict[str, Tensor]:
        """Name -> (cells, proteins)."""
        return {
            "mean": self.mean,
            "background": self.background,
            "foreground": self.foreground,
            "foreground_probability": self.foreground_probability,
            "dispersion": self.log_dispersion.exp().expand_as(self.log_background),
        }


@dataclass(frozen=True)
class Gaussian:
    """Real-valued expression about its mean; for data that was normalised already."""

    log_mean: Tensor  # (cells, genes)
    log_scale: Tensor  # log standard deviation, (genes,) or (cells, genes)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    @property
    def _normal(self) -> Normal:
        return Normal(self.mean, self.log_scale.exp().expand_as(self.log_mean), validate_args=False)

    def log_likelihood(self, counts: Tensor | SparseRows) -> Tensor:
        """Sum over genes, (cells,)."""
        log_density: Tensor = self._normal.log_prob(dense(counts))
        return log_density.sum(1)

    def sample(self) -> Tensor:
        """One posterior predictive draw, (cells, genes)."""
        draw: Tensor = self._normal.sample()
        return draw

    def parameters(self) -> dict[str, Tensor]:
        """Name -> (cells, genes)."""
        return {"mean": self.mean, "standard_deviation": self._normal.scale}

    def sample_denoised(self) -> Tensor:
        """One draw about the mean, (cells, genes)."""
        return self.sample()


def likelihood_of_counts(
    log_mean: Tensor, log_dispersion: Tensor | None, dropout_logits: Tensor | None
) -> Poisson | NegativeBinomial | ZeroInflatedNegativeBinomial:
    """The one that has these parameters."""
    if log_dispersion is None:
        return Poisson(log_mean)
    if dropout_logits is None:
        return NegativeBinomial(log_mean, log_dispersion)
    return ZeroInflatedNegativeBinomial(log_mean, log_dispersion, dropout_logits)
