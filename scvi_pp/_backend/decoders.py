"""From the latent space back to what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvi_pp._backend.kernels.softmax_heads import Heads
from scvi_pp._backend.layers import ConditionalLinear, FullyConnected

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvi_pp._backend.layers import Activation, Norms


# of which the logits are held at once when only their sum is wanted
GENES_AT_A_TIME = 1024
# few counts are lost beyond what a negative binomial explains (Svensson, Nature Biotechnology 2020)
INITIAL_DROPOUT_LOGIT = -2.0
# of what a layer usually starts with: loadings at random are noise that has to be unlearned (docs/benchmarks.md)
INITIAL_LOADING = 0.1


PositiveMap = Literal["exp", "softplus"]  # how a number becomes positive


class Expression(NamedTuple):
    """What the decoder says of every gene of every cell, (cells, genes) each."""

    log_scale: Tensor  # log share of the library, or log expression per unit of size factor
    log_dispersion: Tensor | None
    dropout_logits: Tensor | None


class ExpressionDecoder(nn.Module):
    """Latent position and covariates -> shares of expression, and the heads that the likelihood needs."""

    def __init__(
        self,
        n_in: int,
        n_genes: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_levels: tuple[int, ...],
        deeply_inject: bool,
        norms: Norms,
        sums_to_one: bool,
        has_dispersion: bool,
        has_dropout: bool,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.sums_to_one = sums_to_one
        self.body = FullyConnected(
            n_in,
            n_hidden,
            n_layers,
            n_levels=n_levels,
            deeply_inject=deeply_inject,
            norms=norms,
            dropout_rate=0.0,
            activation=activation,
        )
        self.scale = nn.Linear(n_hidden, n_genes)
        self.log_dispersion = nn.Linear(n_hidden, n_genes) if has_dispersion else None
        self.dropout_logits = nn.Linear(n_hidden, n_genes) if has_dropout else None

    def forward(self, z: Tensor, codes: Tensor | None = None) -> Expression:
        """z (cells, n_in), codes (cells, n_categories)."""
        h = self.body(z, codes)
        return Expression(
            self._log_scale(h),
            None if self.log_dispersion is None else self.log_dispersion(h),
            None if self.dropout_logits is None else self.dropout_logits(h),
        )

    def log_scale(self, z: Tensor, codes: Tensor | None = None) -> Tensor:
        """The first head alone, (cells, genes)."""
        return self._log_scale(self.body(z, codes))

    def expression(
        self, z: Tensor, codes: Tensor | None = None, columns: Tensor | None = None, *, biased: bool = True
    ) -> Tensor:
        """The exponential of `log_scale`, (cells, genes), or of some genes alone, (cells, columns).

        The shares of some genes are exact: all genes count for what they add up to, a block of genes at a time. Without
        the bias, what all cells have in common is left out.
        """
        bias = self.scale.bias if biased else torch.zeros_like(self.scale.bias)
        return _expression(self.body(z, codes), self.scale.weight, bias, columns, sums_to_one=self.sums_to_one)

    def start_from(self, share: Tensor, log_spread: Tensor) -> None:
        """Begin at the mean share of each gene, and at its dispersion where that is learned by cell."""
        self.scale.bias.copy_(share.log() if self.sums_to_one else inverse_softplus(share))
        if self.log_dispersion is not None:
            self.log_dispersion.bias.copy_(log_spread)
        if self.dropout_logits is not None:
            self.dropout_logits.bias.fill_(INITIAL_DROPOUT_LOGIT)

    def heads(self) -> Heads:
        """The weights of the last layer, for a likelihood that takes it along."""
        dropout = self.dropout_logits
        more = () if dropout is None else (dropout.weight, dropout.bias)
        return Heads(self.scale.weight, self.scale.bias, *more)

    def _log_scale(self, h: Tensor) -> Tensor:
        logits = self.scale(h)
        return torch.log_softmax(logits, dim=1) if self.sums_to_one else log_softplus(logits)


class LinearDecoder(nn.Module):
    """Latent position and covariates -> shares of expression by one linear map, whose columns can be read.

    A level of a category shifts the logits of all genes. In effect the map sees a one-hot code, and that is how its last layer
    is handed to a likelihood: `body` makes the code, and `heads` has the weights for it.
    """

    log_dispersion: None = None  # of a cell there is none

    def __init__(
        self, n_in: int, n_genes: int, *, n_levels: tuple[int, ...], sums_to_one: bool, has_dropout: bool
    ) -> None:
        super().__init__()
        self.sums_to_one, self.n_levels = sums_to_one, n_levels
        self.scale = ConditionalLinear(n_in, n_genes, n_levels)
        self.dropout_logits = ConditionalLinear(n_in, n_genes, n_levels) if has_dropout else None
        with torch.no_grad():
            self.scale.linear.weight.mul_(INITIAL_LOADING)

    def body(self, z: Tensor, codes: Tensor | None = None) -> Tensor:
        """z (cells, n_in), codes (cells, n_categories) -> (cells, n_in + levels)."""
        if codes is None:
            return z
        one_hot = [F.one_hot(codes[:, column], self.n_levels[column]) for column in self.scale.informative]
        return torch.cat([z, *one_hot], dim=1) if one_hot else z

    def forward(self, z: Tensor, codes: Tensor | None = None) -> Expression:
        """z (cells, n_in), codes (cells, n_categories)."""
        dropout = None if self.dropout_logits is None else self.dropout_logits(z, codes)
        return Expression(self.log_scale(z, codes), None, dropout)

    def log_scale(self, z: Tensor, codes: Tensor | None = None) -> Tensor:
        """The first head alone, (cells, genes)."""
        logits = self.scale(z, codes)
        return torch.log_softmax(logits, dim=1) if self.sums_to_one else log_softplus(logits)

    def expression(
        self, z: Tensor, codes: Tensor | None = None, columns: Tensor | None = None, *, biased: bool = True
    ) -> Tensor:
        """The exponential of `log_scale`, (cells, genes), or of some genes alone, (cells, columns)."""
        weight, bias = _of_codes(self.scale)
        bias = bias if biased else torch.zeros_like(bias)
        return _expression(self.body(z, codes), weight, bias, columns, sums_to_one=self.sums_to_one)

    def start_from(self, share: Tensor, log_spread: Tensor) -> None:
        """Begin at the mean share of each gene."""
        self.scale.linear.bias.copy_(share.log() if self.sums_to_one else inverse_softplus(share))
        if self.dropout_logits is not None:
            self.dropout_logits.linear.bias.fill_(INITIAL_DROPOUT_LOGIT)

    def heads(self) -> Heads:
        """The weights of the last layer, for a likelihood that takes it along."""
        more = () if self.dropout_logits is None else _of_codes(self.dropout_logits)
        return Heads(*_of_codes(self.scale), *more)

    def loadings(self, n_latent: int) -> Tensor:
        """By how much a step along each dimension raises the logit of each gene above the mean gene's, (genes, n_latent)."""
        weight = self.scale.linear.weight[:, :n_latent]
        return weight - weight.mean(0)


class SkipDecoder(nn.Module):
    """Hidden layers, after which the latent position and the categories are looked at once more by one linear map."""

    log_dispersion: None = None  # of a cell there is none

    def __init__(
        self,
        n_in: int,
        n_genes: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_levels: tuple[int, ...],
        norms: Norms,
        dropout_rate: float,
        sums_to_one: bool,
        has_dropout: bool,
    ) -> None:
        super().__init__()
        self.trunk = FullyConnected(
            n_in, n_hidden, n_layers, n_levels=n_levels, deeply_inject=True, norms=norms, dropout_rate=dropout_rate
        )
        self.last = LinearDecoder(
            n_hidden + n_in, n_genes, n_levels=n_levels, sums_to_one=sums_to_one, has_dropout=has_dropout
        )

    def body(self, z: Tensor, codes: Tensor | None = None) -> Tensor:
        """What the last layer looks at: z (cells, n_in), codes (cells, n_categories) -> (cells, n_hidden + n_in + levels)."""
        return self.last.body(self._deep(z, codes), codes)

    def forward(self, z: Tensor, codes: Tensor | None = None) -> Expression:
        """z (cells, n_in), codes (cells, n_categories)."""
        out: Expression = self.last(self._deep(z, codes), codes)
        return out

    def expression(self, z: Tensor, codes: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """The exponential of `log_scale`, (cells, genes), or of some genes alone, (cells, columns)."""
        return self.last.expression(self._deep(z, codes), codes, columns)

    def start_from(self, share: Tensor, log_spread: Tensor) -> None:
        """Begin at the mean share of each gene."""
        self.last.start_from(share, log_spread)

    def heads(self) -> Heads:
        """The weights of the last layer, for a likelihood that takes it along."""
        return self.last.heads()

    def _deep(self, z: Tensor, codes: Tensor | None) -> Tensor:
        return torch.cat([self.trunk(z, codes), z], dim=1)


def _of_codes(head: ConditionalLinear) -> tuple[Tensor, Tensor]:
    """Weight and bias of a conditional map as one of codes: (genes, n_in + levels), (genes,)."""
    tables = head.tables()
    if not tables:
        return head.linear.weight, head.linear.bias
    return torch.cat([head.linear.weight.t(), *tables]).t(), head.linear.bias  # rows of memory behind each other


def _expression(h: Tensor, weight: Tensor, bias: Tensor, columns: Tensor | None, *, sums_to_one: bool) -> Tensor:
    """The last layer, (cells, genes), or of some genes alone (cells, columns)."""
    if columns is None:
        logits = F.linear(h, weight, bias)
        return torch.softmax(logits, dim=1) if sums_to_one else F.softplus(logits)
    logits = F.linear(h, weight[columns], bias[columns])
    if not sums_to_one:
        return F.softplus(logits)
    blocks = zip(weight.split(GENES_AT_A_TIME), bias.split(GENES_AT_A_TIME), strict=True)
    sums = [F.linear(h, some_weight, some_bias).logsumexp(1, keepdim=True) for some_weight, some_bias in blocks]
    return (logits - torch.cat(sums, dim=1).logsumexp(1, keepdim=True)).exp()


class AccessibilityDecoder(nn.Module):
    """Latent position and covariates -> the logit that each region is open in such a cell."""

    def __init__(
        self,
        n_in: int,
        n_regions: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_levels: tuple[int, ...],
        deeply_inject: bool,
        norms: Norms,
    ) -> None:
        super().__init__()
        self.body = FullyConnected(
            n_in,
            n_hidden,
            n_layers,
            n_levels=n_levels,
            deeply_inject=deeply_inject,
            norms=norms,
            dropout_rate=0.0,
            activation="leaky_relu",
        )
        self.logits = nn.Linear(n_hidden, n_regions)

    def forward(self, z: Tensor, codes: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """z (cells, n_in), codes (cells, n_categories) -> (cells, regions), or (cells, columns) of some alone."""
        h = self.body(z, codes)
        if columns is None:
            out: Tensor = self.logits(h)
            return out
        return F.linear(h, self.logits.weight[columns], self.logits.bias[columns])


class Proteins(NamedTuple):
    """What the decoder says of every protein of every cell, (cells, proteins) each."""

    log_background: Tensor  # mean of the log of the background
    background_deviation: Tensor  # standard deviation of that log
    log_factor: Tensor  # log of how far the foreground is above the background, none below zero
    background_logits: Tensor  # of the chance that the count is background


class ProteinDecoder(nn.Module):
    """Latent position and covariates -> background, foreground and which of them is seen, each with layers of its own.

    What leaves these layers is read off together with the latent position and the categories once more.
    """

    def __init__(
        self,
        n_in: int,
        n_proteins: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_levels: tuple[int, ...],
        norms: Norms,
        dropout_rate: float,
        deviation: PositiveMap = "exp",
    ) -> None:
        super().__init__()
        self.deviation: Callable[[Tensor], Tensor] = torch.exp if deviation == "exp" else F.softplus

        def body() -> FullyConnected:
            return FullyConnected(
                n_in,
                n_hidden,
                n_layers,
                n_levels=n_levels,
                deeply_inject=True,
                norms=norms,
                dropout_rate=dropout_rate,
            )

        def head() -> ConditionalLinear:
            return ConditionalLinear(n_hidden + n_in, n_proteins, n_levels)

        self.background_body, self.foreground_body, self.mixing_body = body(), body(), body()
        self.log_background, self.log_background_deviation = head(), head()
        self.excess, self.background_logits = head(), head()

    def forward(self, z: Tensor, codes: Tensor | None = None) -> Proteins:
        """z (cells, n_in), codes (cells, n_categories)."""
        background, foreground, mixing = (
            torch.cat([body(z, codes), z], dim=1)
            for body in (self.background_body, self.foreground_body, self.mixing_body)
        )
        return Proteins(
            self.log_background(background, codes),
            self.deviation(self.log_background_deviation(background, codes)),
            torch.log1p(torch.relu(self.excess(foreground, codes))),
            self.background_logits(mixing, codes),
        )


class DispersionTable(nn.Module):
    """The log dispersion of each feature: one for all cells, or one for each group of cells."""

    def __init__(self, n_groups: int, n_features: int) -> None:
        super().__init__()
        self.log_dispersion = nn.Parameter(torch.randn(n_groups, n_features))

    def forward(self, group: Tensor) -> Tensor:
        """group (cells,) codes -> (features,) if there is but one, else (cells, features)."""
        return self.log_dispersion[0] if len(self.log_dispersion) == 1 else self.log_dispersion[group]


def log_softplus(x: Tensor) -> Tensor:
    """log log(1 + e^x), which is x itself far to the left."""
    return torch.where(x < -15, x, F.softplus(x.clamp(min=-15)).log())


def inverse_softplus(y: Tensor) -> Tensor:
    """The x with log(1 + e^x) = y."""
    return y + torch.log(-torch.expm1(-y))
