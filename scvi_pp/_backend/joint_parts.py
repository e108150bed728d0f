"""What a model that reads RNA and proteins with one encoder has for each of them: a likelihood and where it begins.

A part is asked about all cells of a minibatch; `cells.present` says in which of them its modality was measured, and
`cells.panel` which proteins were.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from scvi_pp._backend import priors
from scvi_pp._backend.decoders import DispersionTable, ProteinDecoder, SkipDecoder, inverse_softplus
from scvi_pp._backend.kernels.counts import dense
from scvi_pp._backend.likelihoods import NegativeBinomialMixture, likelihood_of_counts
from scvi_pp._backend.measured import measured_in, proteins_measured
from scvi_pp._backend.modality_parts import (
    decoder_inputs,
    likelihood_of_shares,
    picked,
    start_at_mean_expression,
)
from scvi_pp._backend.two_levels import Levels, two_levels

if TYPE_CHECKING:
    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.modality_parts import Layers
    from scvi_pp._backend.streams import Cells

BLOCK = 4096
MOST_CELLS = 10_000  # of which the levels of proteins are taken: they are known by then
FEWEST_CELLS = 20  # of a batch; the levels of fewer are those of all
SMALLEST_BACKGROUND = 0.05
SMALLEST_EXCESS = 0.5  # of the foreground over the background: at none it would learn nothing
PRIOR_DEVIATIONS = (0.1, 1.0)
BACKGROUND_DEVIATION = 0.3  # of its log between like cells
INITIAL_DISPERSION = 5.0
# where the prior of the background begins if it is not taken from the data: 20 counts, within a factor of e
PRIOR_MEAN, PRIOR_DEVIATION = 3.0, 1.0
# how strongly a protein is taken for background where its counts do not tell, as in the reference implementation
LEANING_TO_BACKGROUND = 1e-3


class JointExpression(nn.Module):
    """RNA counts: the total of the cell, its size factor or a library that is inferred, times the share of each gene."""

    def __init__(
        self, layers: Layers, n_genes: int, *, gene_likelihood: str, dispersion: str, has_size_factor: bool
    ) -> None:
        super().__init__()
        self.n_features, self.has_size_factor = n_genes, has_size_factor
        self.decoder = SkipDecoder(
            layers.n_decoder_inputs,
            n_genes,
            n_hidden=layers.n_hidden,
            n_layers=layers.n_layers_decoder,
            n_levels=layers.n_levels,
            norms=layers.decoder_norms,
            dropout_rate=layers.dropout_rate,
            sums_to_one=not has_size_factor,
            has_dropout=gene_likelihood == "zinb",
        )
        self.dispersion = DispersionTable(layers.n_levels[0] if dispersion == "gene-batch" else 1, n_genes)

    def decode(self, z: Tensor, library: Tensor, cells: Any) -> Likelihood:
        """p(x | z) of all genes."""
        expression = self.decoder(*decoder_inputs(z, cells))
        return likelihood_of_counts(
            library + expression.log_scale, self.dispersion(cells.batch), expression.dropout_logits
        )

    def expression(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """Share of each gene, or of those of `columns` alone, (cells, columns); per unit of size factor, if given."""
        return self.decoder.expression(*decoder_inputs(z, cells), columns)

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Any) -> Tensor:
        """log p(x | z), (cells,), zero where RNA was not measured."""
        if self.has_size_factor:
            likelihood = self.decode(z, library, cells).log_likelihood(cells.expression)
            return torch.where(measured_in(cells, "expression"), likelihood, 0.0)
        return likelihood_of_shares(self.decoder, self._log_dispersion, z, library, cells)

    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Mean expression in the bias, dispersion by moments."""
        start_at_mean_expression(self.decoder, self.dispersion, cells, rows)

    def _log_dispersion(self, of_cell: Tensor | None, batch: Tensor) -> Tensor:
        table: Tensor = self.dispersion(batch)
        return table


class ProteinTerms(NamedTuple):
    """What the proteins of each cell add to the objective, (cells,) each: the sum over those that were measured."""

    reconstruction: Tensor  # at one draw of the background
    divergence: Tensor  # of the background from its prior
    efficiency: Tensor  # negative log density of the capture efficiency under its prior
    leaning: Tensor  # what foreground costs where counts do not tell


class JointProteins(nn.Module):
    """Counts of surface proteins: a background that is hidden, a foreground where the protein is, and how much is captured.

    Where a batch did not measure a protein, what is said of it there is the mean over the batches that did: nothing was
    learned of it in that batch.
    """

    def __init__(self, layers: Layers, n_proteins: int, *, dispersion: str, empirical_background: bool) -> None:
        super().__init__()
        self.n_features, self.empirical_background = n_proteins, empirical_background
        n_batches = layers.n_levels[0]
        self.decoder = ProteinDecoder(
            layers.n_decoder_inputs,
            n_proteins,
            n_hidden=layers.n_hidden,
            n_layers=layers.n_layers_decoder,
            n_levels=layers.n_levels,
            norms=layers.decoder_norms,
            dropout_rate=layers.dropout_rate,
            deviation="softplus",
        )
        self.dispersion = DispersionTable(n_batches if dispersion == "protein-batch" else 1, n_proteins)
        nn.init.constant_(self.dispersion.log_dispersion, math.log(INITIAL_DISPERSION))
        self.log_efficiency = nn.Parameter(torch.zeros(n_batches, n_proteins))
        self.prior_mean = nn.Parameter(torch.full((n_batches, n_proteins), PRIOR_MEAN))
        self.prior_log_deviation = nn.Parameter(torch.full((n_batches, n_proteins), math.log(PRIOR_DEVIATION)))
        self.register_buffer("n_measured", torch.ones(n_batches, n_proteins))  # cells of each batch, of the fit

    # ---- what is asked

    def decode(self, z: Tensor, library: Tensor, cells: Any) -> NegativeBinomialMixture:
        """p(x | z) of all proteins as they are captured; the exposure is not looked at."""
        return self._captured(self._anywhere(z, cells))

    def expression(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """Expected foreground of each protein, or of those of `columns`, (cells, columns): without its background."""
        p_x = self._anywhere(z, cells)[0]
        return picked(p_x.foreground_probability * p_x.foreground, columns)

    def expression_with_background(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """Foreground and background of each protein, where all of it is captured."""
        return picked(self._anywhere(z, cells)[0].mean, columns)

    def foreground_probability(self, z: Tensor, cells: Any, columns: Tensor | None = None) -> Tensor:
        """The chance that a cell has each protein, (cells, columns)."""
        return picked(self._anywhere(z, cells)[0].foreground_probability, columns)

    def _anywhere(self, z: Tensor, cells: Any) -> tuple[NegativeBinomialMixture, Tensor]:
        """Mixture and log efficiency, also of proteins that the batch of a cell did not measure."""
        own = self._here(z, cells)
        is_measured = self.get_buffer("n_measured") > 0  # (batches, proteins)
        lacks = ~is_measured[cells.batch] & is_measured.any(0)
        index = lacks.any(1).nonzero()[:, 0]
        if not len(index):
            return own
        values, some = _stacked(*own), cells._replace(**_rows(cells, index))
        total = torch.zeros_like(values[:, index])
        for batch in is_measured.any(1).nonzero()[:, 0]:
            there = some._replace(batch=batch.expand_as(some.batch))
            total += _stacked(*self._here(z[index], there)) * is_measured[batch]
        mean = total / is_measured.sum(0).clamp(min=1)
        values[:, index] = torch.where(lacks[index], mean, values[:, index])
        return _unstacked(values)

    def _here(self, z: Tensor, cells: Any) -> tuple[NegativeBinomialMixture, Tensor]:
        """Mixture where all of it is captured, and log efficiency, in the batch of each cell."""
        proteins = self.decoder(*decoder_inputs(z, cells))
        mixture = NegativeBinomialMixture(
            proteins.log_background,
            proteins.log_factor,
            self.dispersion(cells.batch),
            proteins.background_logits,
            proteins.background_deviation,
        )
        return mixture, self.log_efficiency[cells.batch]

    @staticmethod
    def _captured(said: tuple[NegativeBinomialMixture, Tensor]) -> NegativeBinomialMixture:
        mixture, log_efficiency = said
        return mixture.times(log_efficiency)

    # ---- the objective

    def terms(self, z: Tensor, cells: Any) -> ProteinTerms:
        """Reconstruction at one draw of the background, and what else the proteins that were measured add."""
        mixture, log_efficiency = self._here(z, cells)
        measured = proteins_measured(cells)

        def over_measured(values: Tensor) -> Tensor:
            return torch.where(measured, values, 0.0).sum(1)

        return ProteinTerms(
            over_measured(mixture.drawn().times(log_efficiency).log_likelihood_of_each(cells.protein)),
            over_measured(priors.divergence_of_each(mixture.q_log_background, self.p_log_background(cells))),
            over_measured(0.5 * log_efficiency.square() + 0.5 * math.log(2 * math.pi)),
            over_measured(LEANING_TO_BACKGROUND * F.softplus(-mixture.background_logits)),
        )

    def log_importance_weight(self, z: Tensor, cells: Any) -> Tensor:
        """log p(x, background | z) - log q(background) at one draw of it, (cells,)."""
        mixture, log_efficiency = self._here(z, cells)
        drawn, q = mixture.drawn(), mixture.q_log_background
        ratio = self.p_log_background(cells).log_prob(drawn.log_background) - q.log_prob(drawn.log_background)
        weight = drawn.times(log_efficiency).log_likelihood_of_each(cells.protein) + ratio
        return torch.where(proteins_measured(cells), weight, 0.0).sum(1)

    def log_likelihood(self, z: Tensor, library: Tensor, cells: Any) -> Tensor:
        """log p(x | z) at one draw of the background, (cells,), zero where proteins were not measured."""
        return self.terms(z, cells).reconstruction

    def p_log_background(self, cells: Any) -> Normal:
        """The prior of the log of the background in the batch of each cell, (cells, proteins)."""
        deviation = self.prior_log_deviation[cells.batch].exp()
        return Normal(self.prior_mean[cells.batch], deviation, validate_args=False)

    # ---- the start

    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Two levels of every protein: the lower is where background begins, the upper where foreground does."""
        self._count(cells, rows)
        log_counts, measured, batch = _log_counts(cells, rows)
        levels = two_levels(log_counts, measured)
        background = levels.low.expm1().clamp(min=SMALLEST_BACKGROUND)
        excess = (levels.high.expm1() / background - 1).clamp(min=SMALLEST_EXCESS)
        head = self.decoder
        head.log_background.linear.bias.copy_(background.log())
        head.excess.linear.bias.copy_(excess)
        head.log_background_deviation.linear.bias.copy_(inverse_softplus(torch.tensor(BACKGROUND_DEVIATION)))
        head.background_logits.linear.bias.copy_((1 - levels.share).logit())
        if self.empirical_background:
            self._set_prior(levels, log_counts, measured, batch, 0)

    def start_batches_from(self, cells: Cells, first: int) -> None:
        """Which proteins were measured in batches that were added, from the `first` on, and their background."""
        rows = torch.arange(cells.n_cells, device=cells.index_device)
        rows = rows[
            torch.cat([measured_in(block, "protein") for _, block in cells.blocks(BLOCK, rows)]).to(rows.device)
        ]
        if not len(rows):
            self.get_buffer("n_measured")[first:] = 0
            return
        self._count(cells, rows, first)
        if self.empirical_background:
            log_counts, measured, batch = _log_counts(cells, rows)
            self._set_prior(two_levels(log_counts, measured), log_counts, measured, batch, first)

    def _count(self, cells: Cells, rows: Tensor, first: int = 0) -> None:
        """In how many of the rows each batch, from the `first` on, measured each protein."""
        counted = torch.zeros_like(self.get_buffer("n_measured"))
        for _, block in cells.blocks(BLOCK, rows):
            measured = proteins_measured(block).expand(-1, self.n_features)
            counted.index_add_(0, block.batch, measured.to(counted.dtype))
        self.get_buffer("n_measured")[first:] = counted[first:]

    def _set_prior(self, of_all: Levels, log_counts: Tensor, measured: Tensor, batch: Tensor, first: int) -> None:
        """The lower level in each batch, of batches from the `first` on; that of all cells where these are few."""
        for number in range(first, len(self.prior_mean)):
            here = batch == number
            of_batch = two_levels(log_counts[here], measured[here]) if int(here.sum()) >= FEWEST_CELLS else of_all
            enough = measured[here].sum(0) >= FEWEST_CELLS
            low = torch.where(enough, of_batch.low, of_all.low)
            deviation = torch.where(enough, of_batch.deviation, of_all.deviation)
            self.prior_mean[number] = low.expm1().clamp(min=SMALLEST_BACKGROUND).log()
            self.prior_log_deviation[number] = deviation.clamp(*PRIOR_DEVIATIONS).log()


def _log_counts(cells: Cells, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(1 + count) and whether it was measured, (rows, proteins) each, and the batch: of all rows, or as many evenly."""
    kept = rows[:: max(1, -(-len(rows) // MOST_CELLS))]
    found = []
    for _, block in cells.blocks(BLOCK, kept):
        of_block = dense(block.protein).log1p()
        found.append((of_block, proteins_measured(block).expand_as(of_block), block.batch))
    log_counts, measured, batch = (torch.cat(parts) for parts in zip(*found, strict=True))
    return log_counts, measured, batch


def _stacked(mixture: NegativeBinomialMixture, log_efficiency: Tensor) -> Tensor:
    """The parameters, (parameters, cells, proteins)."""
    assert mixture.deviation is not None
    log_dispersion = mixture.log_dispersion.expand_as(mixture.log_background)
    return torch.stack(
        [
            mixture.log_background,
            mixture.log_factor,
            log_dispersion,
            mixture.background_logits,
            mixture.deviation,
            log_efficiency,
        ]
    )


def _unstacked(values: Tensor) -> tuple[NegativeBinomialMixture, Tensor]:
    *of_mixture, log_efficiency = values
    return NegativeBinomialMixture(*of_mixture), log_efficiency


def _rows(cells: Any, index: Tensor) -> dict[str, Tensor]:
    """What a decoder sees of some cells."""
    return {name: getattr(cells, name)[index] for name in ("batch", "categories", "numbers")}
