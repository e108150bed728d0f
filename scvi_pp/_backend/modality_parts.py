"""What a model of several modalities has for each of them: an encoder, the exposure of a cell, and a likelihood.

A part is asked about all cells of a minibatch, and told by `cells.present` in which of them its modality was measured.
The parts are those of expression, accessibility and surface proteins; each reads its own fields of `cells`, besides
batch, categories and numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvi_pp._backend.decoders import (
    AccessibilityDecoder,
    DispersionTable,
    ExpressionDecoder,
    ProteinDecoder,
    SkipDecoder,
)
from scvi_pp._backend.encoders import GaussianEncoder, ScalarEncoder
from scvi_pp._backend.kernels import bernoulli_heads, softmax_heads
from scvi_pp._backend.likelihoods import Bernoulli, NegativeBinomialMixture, likelihood_of_counts
from scvi_pp._backend.measured import log_of_measured, measured_in, of_measured, of_modality, rows_of
from scvi_pp._backend.models.peakvi import OPEN_RANGE, log_to_logit
from scvi_pp._backend.moments import expression_moments, library_moments, log_moments, open_share

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributions import Normal

    from scvi_pp._backend.layers import Norms
    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.streams import Cells

# share of cells with a protein, before anything is learned: with the rest as background, the standard deviation of the
# log counts says how far apart the two are
FOREGROUND_SHARE = 0.25
INITIAL_BACKGROUND_DEVIATION = 0.3  # of its log between like cells
SMALLEST_BACKGROUND = 0.05


@dataclass(frozen=True)
class Layers:
    """How wide and deep the networks of every modality are, and which covariates they see."""

    n_latent: int
    n_hidden: int
    n_layers_encoder: int
    n_layers_decoder: int
    n_levels: tuple[int, ...]  # of the batch, then of the categories
    n_numbers: int
    dropout_rate: float
    encode_covariates: bool
    deeply_inject_covariates: bool
    encoder_norms: Norms
    decoder_norms: Norms

    def encoder(self, n_features: int, *, deeply_inject: bool) -> GaussianEncoder:
        """Features of a cell -> latent position."""
        return GaussianEncoder(
            self._n_in(n_features),
            self.n_latent,
            n_hidden=self.n_hidden,
            n_layers=self.n_layers_encoder,
            n_levels=self._encoder_levels,
            deeply_inject=deeply_inject,
            norms=self.encoder_norms,
            dropout_rate=self.dropout_rate,
            activation="leaky_relu",
        )

    def exposure_encoder(self, n_features: int) -> ScalarEncoder:
        """Features of a cell -> how deeply it was sequenced."""
        return ScalarEncoder(
            self._n_in(n_features),
            n_hidden=self.n_hidden,
            n_layers=self.n_layers_encoder,
            n_levels=self._encoder_levels,
            deeply_inject=self.deeply_inject_covariates,
            norms=self.encoder_norms,
        )

    @property
    def n_decoder_inputs(self) -> int:
        return self.n_latent + self.n_numbers

    @property
    def _encoder_levels(self) -> tuple[int, ...]:
        return self.n_levels if self.encode_covariates else ()

    def _n_in(self, n_features: int) -> int:
        return n_features + self.encode_covariates * self.n_numbers

    def encoder_covariates(self, cells: Any) -> tuple[Tensor | None, Tensor | None]:
        """Codes and numbers that encoders see."""
        return (codes(cells), cells.numbers) if self.encode_covariates else (None, None)


class ExpressionPart(nn.Module):
    """RNA counts: a library, learned or given, times the share of each gene."""

    def __init__(
        self, layers: Layers, n_genes: int, *, gene_likelihood: str, dispersion: str, has_size_factor: bool
    ) -> None:
        super().__init__()
        self.layers, self.n_features, self.has_size_factor = layers, n_genes, has_size_factor
        self.encoder = layers.encoder(n_genes, deeply_inject=layers.deeply_inject_covariates)
        self.library = None if has_size_factor else layers.exposure_encoder(n_genes)
        has_dispersion = gene_likelihood != "poisson"
        self.decoder = ExpressionDecoder(
            layers.n_decoder_inputs,
            n_genes,
            n_hidden=layers.n_hidden,
            n_layers=layers.n_layers_decoder,
            n_levels=layers.n_levels,
            deeply_inject=layers.deeply_inject_covariates,
            norms=layers.decoder_norms,
            sums_to_one=not has_size_factor,
            has_dispersion=has_dispersion and dispersion == "gene-cell",
            has_dropout=gene_likelihood == "zinb",
        )
        n_groups = layers.n_levels[0] if dispersion == "gene-batch" else 1
        has_table = has_dispersion and dispersion != "gene-cell"
        self.dispersion = DispersionTable(n_groups, n_genes) if has_table else None

    def encode(self, cells: Any) -> tuple[Normal, Tensor]:
        """The posterior of the latent position, and the log library (cells, 1)."""
        x, (codes, numbers) = cells.expression.log1p(), self.layers.encoder_covariates(cells)
        q_z = self.encoder(x, codes, numbers)
        if self.library is not None:
            return q_z, F.leaky_relu(self.library(x, codes, numbers))
        return q_z, log_of_measured(cells.expression_size_factor, measured_in(cells, "expression"))

    def decode(self, z: Tensor, library: Tensor, cells: Any) -> Likelihood:
        """p(x | z) of all genes."""
        expression = self.decoder(*decoder_inputs(z, cells))
        log_dispersion = self._log_dispersion(expression.log_dispersion, cells.batch)
        return likelihood_of_counts(library + expression.log_scale, log_dispersion, expression.dropout_logits)

    def expression(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """Share of each gene, or of those of `columns` alone, (cells, columns); per unit of size factor, if given."""
        return self.decoder.expression(*decoder_inputs(z, cells), columns)

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Any) -> Tensor:
        """log p(x | z), (cells,), zero where RNA was not measured."""
        if self.has_size_factor:
            likelihood = self.decode(z, library, cells).log_likelihood(cells.expression)
            return torch.where(measured_in(cells, "expression"), likelihood, 0.0)
        return likelihood_of_shares(self.decoder, self._log_dispersion, z, library, cells)

    def _log_dispersion(self, of_cell: Tensor | None, batch: Tensor) -> Tensor | None:
        return of_cell if self.dispersion is None else self.dispersion(batch)

    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Mean expression in the bias, dispersion by moments, the mean log total as library."""
        start_at_mean_expression(self.decoder, self.dispersion, cells, rows)
        if self.library is not None:
            self.library.number.bias.copy_(library_moments(of_modality(cells, "expression"), rows, 1)[0])


class AccessibilityPart(nn.Module):
    """Whether regions of chromatin were seen open, as PeakVI says it."""

    def __init__(self, layers: Layers, n_regions: int, *, region_factors: bool, has_size_factor: bool) -> None:
        super().__init__()
        self.layers, self.n_features = layers, n_regions
        self.encoder = layers.encoder(n_regions, deeply_inject=True)
        self.cell_factor = None if has_size_factor else layers.exposure_encoder(n_regions)
        self.decoder = AccessibilityDecoder(
            layers.n_decoder_inputs,
            n_regions,
            n_hidden=layers.n_hidden,
            n_layers=layers.n_layers_decoder,
            n_levels=layers.n_levels,
            deeply_inject=layers.deeply_inject_covariates,
            norms=layers.decoder_norms,
        )
        self.region_factors = nn.Parameter(torch.zeros(n_regions)) if region_factors else None

    def encode(self, cells: Any) -> tuple[Normal, Tensor]:
        """The posterior of the latent position, and the log factor of each cell (cells, 1)."""
        x, (codes, numbers) = cells.accessibility.sign(), self.layers.encoder_covariates(cells)
        q_z = self.encoder(x, codes, numbers)
        if self.cell_factor is not None:
            return q_z, F.logsigmoid(self.cell_factor(x, codes, numbers))
        return q_z, log_of_measured(cells.accessibility_size_factor, measured_in(cells, "accessibility"))

    def decode(self, z: Tensor, library: Tensor, cells: Any) -> Bernoulli:
        """p(x | z) of all regions, given the log factors of the cells."""
        return Bernoulli(self.decoder(*decoder_inputs(z, cells)), log_to_logit(library), self.region_factors)

    def expression(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """The chance that each region is open, or each of those of `columns` alone, (cells, columns)."""
        return torch.sigmoid(self.decoder(*decoder_inputs(z, cells), columns))

    def expression_with_regions(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """The same times the factor of each region."""
        factors = self.factor_of_regions()
        return self.expression(z, cells, columns) * (factors if columns is None else factors[columns])

    def factor_of_regions(self) -> Tensor:
        """How well each region can be seen, (regions,)."""
        if self.region_factors is None:
            return torch.ones_like(self.decoder.logits.bias)
        return torch.sigmoid(self.region_factors)

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Any) -> Tensor:
        """log p(x | z), (cells,), zero where accessibility was not measured."""
        h, last = self.decoder.body(*decoder_inputs(z, cells)), self.decoder.logits
        n_cells = len(h)

        def of(index: Tensor | None) -> Tensor:
            counts, of_body, log_factor = (rows_of(each, index) for each in (cells.accessibility, h, library))
            return bernoulli_heads.log_likelihood(
                counts,
                of_body,
                last.weight,
                last.bias,
                log_to_logit(log_factor),
                self.region_factors,
                n_in_mean=n_cells,
            )

        return of_measured(measured_in(cells, "accessibility"), of)

    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Each region as often open as in the mean, with factors of one half."""
        factors = (1.0 if self.region_factors is None else 0.5) * (1.0 if self.cell_factor is None else 0.5)
        share = (open_share(of_modality(cells, "accessibility"), rows) / factors).clamp(*OPEN_RANGE)
        self.decoder.logits.bias.copy_(share.logit())


class ProteinPart(nn.Module):
    """Counts of surface proteins: a background in every cell, and a foreground where the protein is."""

    def __init__(self, layers: Layers, n_proteins: int, *, dispersion: str) -> None:
        super().__init__()
        self.layers, self.n_features = layers, n_proteins
        self.encoder = layers.encoder(n_proteins, deeply_inject=True)
        self.decoder = ProteinDecoder(
            layers.n_decoder_inputs,
            n_proteins,
            n_hidden=layers.n_hidden,
            n_layers=layers.n_layers_decoder,
            n_levels=layers.n_levels,
            norms=layers.decoder_norms,
            dropout_rate=layers.dropout_rate,
        )
        self.dispersion = DispersionTable(layers.n_levels[0] if dispersion == "protein-batch" else 1, n_proteins)
        nn.init.uniform_(self.dispersion.log_dispersion, 0, 2)

    def encode(self, cells: Any) -> tuple[Normal, Tensor]:
        """The posterior of the latent position; counts of proteins know no exposure: the log of one, (cells, 1)."""
        codes, numbers = self.layers.encoder_covariates(cells)
        q_z = self.encoder(cells.protein.log1p(), codes, numbers)
        return q_z, torch.zeros_like(q_z.loc[:, :1])

    def decode(self, z: Tensor, library: Tensor, cells: Any) -> NegativeBinomialMixture:
        """p(x | z) of all proteins; the exposure is not looked at."""
        proteins = self.decoder(*decoder_inputs(z, cells))
        return NegativeBinomialMixture(
            proteins.log_background,
            proteins.log_factor,
            self.dispersion(cells.batch),
            proteins.background_logits,
            proteins.background_deviation,
        )

    def expression(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """Expected foreground of each protein, or of those of `columns`, (cells, columns): without its background."""
        p_x = self._decode(z, cells)
        return picked(p_x.foreground_probability * p_x.foreground, columns)

    def expression_with_background(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """Expected counts of each protein."""
        return picked(self._decode(z, cells).mean, columns)

    def foreground_probability(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """The chance that a cell has each protein, (cells, columns)."""
        return picked(self._decode(z, cells).foreground_probability, columns)

    def _decode(self, z: Tensor, cells: Any) -> NegativeBinomialMixture:
        return self.decode(z, torch.zeros_like(z[:, :1]), cells)

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Any) -> Tensor:
        """log p(x | z) at one draw of the background, (cells,), zero where proteins were not measured."""
        likelihood = self.decode(z, library, cells).log_likelihood(cells.protein)
        return torch.where(measured_in(cells, "protein"), likelihood, 0.0)

    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Background and foreground as far apart as their mixture is wide."""
        mean, deviation = log_moments(of_modality(cells, "protein"), rows)
        apart = deviation / (FOREGROUND_SHARE * (1 - FOREGROUND_SHARE)) ** 0.5
        low = mean - FOREGROUND_SHARE * apart
        background = low.expm1().clamp(min=SMALLEST_BACKGROUND)
        foreground = (low + apart).expm1().clamp(min=SMALLEST_BACKGROUND)
        head = self.decoder
        head.log_background.linear.bias.copy_(background.log())
        head.excess.linear.bias.copy_(foreground / background - 1)
        head.log_background_deviation.linear.bias.fill_(INITIAL_BACKGROUND_DEVIATION).log_()
        head.background_logits.linear.bias.fill_(1 - FOREGROUND_SHARE).logit_()


def likelihood_of_shares(
    decoder: ExpressionDecoder | SkipDecoder,
    log_dispersion: Callable[[Tensor | None, Tensor], Tensor | None],
    z: Tensor,
    library: Tensor,
    cells: Any,
) -> Tensor:
    """log p(x | z) of RNA, (cells,), zero where it was not measured: last layer and likelihood taken together.

    `log_dispersion` is asked with what the decoder says of it by cell, and the batches.
    """
    h = decoder.body(*decoder_inputs(z, cells))

    def of(index: Tensor | None) -> Tensor:
        counts, of_body, log_library, batch = (
            rows_of(each, index) for each in (cells.expression, h, library, cells.batch)
        )
        of_cell = None if decoder.log_dispersion is None else decoder.log_dispersion(of_body)
        return softmax_heads.log_likelihood(
            counts, of_body, log_library, decoder.heads(), log_dispersion(of_cell, batch)
        )

    return of_measured(measured_in(cells, "expression"), of)


def start_at_mean_expression(
    decoder: ExpressionDecoder | SkipDecoder, dispersion: DispersionTable | None, cells: Cells, rows: Tensor
) -> None:
    """Begin at the mean expression of each gene, and at its dispersion by moments."""
    moments = expression_moments(of_modality(cells, "expression"), rows)
    spread = moments.dispersion.log()
    decoder.start_from(moments.share, spread)
    if dispersion is not None:
        dispersion.log_dispersion.copy_(spread.expand_as(dispersion.log_dispersion))


def codes(cells: Any) -> Tensor:
    """Batch and categories, (cells, n_categories)."""
    return torch.cat([cells.batch[:, None], cells.categories], dim=1)


def decoder_inputs(z: Tensor, cells: Any) -> tuple[Tensor, Tensor]:
    """The latent position with the numbers behind it, and the codes."""
    return torch.cat([z, cells.numbers], dim=1) if cells.numbers.shape[1] else z, codes(cells)


def picked(values: Tensor, columns: Tensor | None) -> Tensor:
    """Some columns, or all."""
    return values if columns is None else values[:, columns]
