"""scANVI: what is assumed of single-cell RNA counts of which some have a label, such as a cell type.

For cell n with label y_n, batch s_n (and further categories and numbers c_n) and gene g:

    y_n     ~ Categorical(1/K, ..., 1/K)            seen in labelled cells, hidden in the others
    u_n     ~ Normal(0, I)                          what distinguishes cells of one label
    z_n     ~ Normal(mean(u_n, y_n), variance(u_n, y_n))    position in the latent space, by two networks
    x_ng                                            given z_n as scVI says it

Approximate posterior, with z_n read off the counts as in scVI:

    q(z, y, u | x) = q(z | x) q(y | z) q(u | z, y)

q(y | z) is a classifier. Where the label is hidden, the bound is its mean over all labels by the classifier's shares; where
it is seen, and training may look at it, the one of that label, and the classifier pays for every label that it misses.

Xu, Lopez, Mehlman, Regier, Jordan, Yosef. Probabilistic harmonization and annotation of single-cell transcriptomics data
with deep generative models. Molecular Systems Biology 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvi_pp._backend import priors
from scvi_pp._backend.encoders import GaussianEncoder
from scvi_pp._backend.layers import FullyConnected
from scvi_pp._backend.measured import rows_of
from scvi_pp._backend.models import scvi
from scvi_pp._backend.models.scvi import Inputs, Where
from scvi_pp._backend.objectives import Elbo

if TYPE_CHECKING:
    from scvi_pp._backend.encoders import Posterior
    from scvi_pp._backend.likelihoods import Likelihood
    from scvi_pp._backend.streams import Cells

# of the rows of an epoch that have a label, at least: labelled cells come again until it is reached (docs/benchmarks.md)
LABELLED_SHARE = 0.25
# of the share of cells that have a label: how much of the classifier's gradient reaches the encoder (the same page)
POWER_OF_REACH = 2
PRIOR_DRAWS = 8
SURELY_NOT = -1e4  # a logit whose share is zero, and zero times it too


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that fixes the shape of the network, and what a missed label costs."""

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
    dispersion: Literal["gene", "gene-batch", "gene-cell"] = "gene"
    gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "zinb"
    latent_distribution: Literal["normal", "ln"] = "normal"
    use_observed_lib_size: bool = True
    encode_covariates: bool = False
    deeply_inject_covariates: bool = True
    batch_representation: Literal["one-hot", "embedding"] = "one-hot"
    n_batch_embedding: int = 5
    use_batch_norm: Where = "both"
    use_layer_norm: Where = "none"
    linear_classifier: bool = False
    classification_weight: float = 50.0
    n_samples_per_label: int | None = None

    def of_scvi(self) -> scvi.Hyperparameters:
        """Those of the scVI that this one holds, to which labels mean nothing."""
        shared = {field.name for field in fields(scvi.Hyperparameters)} & {field.name for field in fields(self)}
        return scvi.Hyperparameters(**{**{name: getattr(self, name) for name in shared}, "n_labels": 1})


class Terms(NamedTuple):
    """The bound of each cell, term by term, (cells,) each: the first less the others."""

    reconstruction: Tensor  # log p(x | z)
    of_position: Tensor  # log q(z | x) - log p(z | u, y)
    of_rest: Tensor  # KL(q(u | z, y) || p(u))
    of_label: Tensor  # KL(q(y | z) || p(y))
    of_library: Tensor  # KL of the library size, where it is hidden


class ByLabel(NamedTuple):
    """Draws of u for every cell and label, (cells, n_labels) each."""

    log_p_position: Tensor  # log p(z | u, y)
    divergence: Tensor  # KL(q(u | z, y) || p(u))
    log_weight: Tensor  # log p(u) - log q(u | z, y)


class PositionOfLabel(nn.Module):
    """Where cells of a label are in the latent space, p(z | u, y), and q(u | z, y): two networks that see the label."""

    def __init__(self, hp: Hyperparameters) -> None:
        super().__init__()
        self.n_labels = hp.n_labels

        def network(
            part: Literal["encoder", "decoder"], dropout_rate: float, smallest_variance: float | None
        ) -> GaussianEncoder:
            return GaussianEncoder(
                hp.n_latent,
                hp.n_latent,
                n_hidden=hp.n_hidden,
                n_layers=hp.n_layers,
                n_levels=(hp.n_labels,),
                deeply_inject=True,
                norms=hp.of_scvi().norms(part),
                dropout_rate=dropout_rate,
                smallest_variance=smallest_variance,
            )

        self.encoder = network("encoder", hp.dropout_rate, None)
        # z is a draw from a Gaussian that is no narrower than that, so this one need not be kept from narrowing
        self.decoder = network("decoder", 0.0, 0.0)

    def forward(self, position: Tensor, drawn: Tensor | None = None, asked: Tensor | None = None) -> ByLabel:
        """position (cells, n_latent); `drawn` (n_latent,) is the noise of u, if given.

        Every cell is asked for every label, or on a CPU for those of `asked` (cells, n_labels) alone: the others are then
        nothing, and cost nothing. Elsewhere a CUDA graph fixes how many there are.
        """
        n_cells, all_asked = len(position), asked is None or position.device.type != "cpu"
        index = None if all_asked else asked.t().flatten().nonzero()[:, 0]  # type: ignore[union-attr]
        of_cell = rows_of(
            position.repeat(self.n_labels, 1), index
        )  # all cells of the first label, all of the second, ...
        label = torch.arange(self.n_labels, device=position.device).repeat_interleave(n_cells)[:, None]
        label = rows_of(label, index)
        q_rest = self.encoder(of_cell, label)
        rest = q_rest.rsample() if drawn is None else q_rest.loc + q_rest.scale * drawn
        p_position = self.decoder(rest, label)
        prior = priors.standard_normal(rest)
        found = (
            p_position.log_prob(of_cell).sum(1),
            priors.divergence_from_standard_normal(q_rest),
            (prior.log_prob(rest) - q_rest.log_prob(rest)).sum(1),
        )
        n_rows = n_cells * self.n_labels
        placed = [each if index is None else each.new_zeros(n_rows).index_copy(0, index, each) for each in found]
        return ByLabel(*(each.view(self.n_labels, n_cells).t() for each in placed))

    def log_density(self, position: Tensor, drawn: Tensor | None = None) -> Tensor:
        """log p(z) by a draw of u for each label, (cells,): its exponential averages to p(z)."""
        by_label: ByLabel = self(position, drawn)
        return (by_label.log_p_position + by_label.log_weight).logsumexp(1) - math.log(self.n_labels)


class Network(nn.Module):
    """The network of scVI, a classifier, and what labels say of the latent position."""

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.hyperparameters = hp = hyperparameters
        self.scvi = scvi.Network(hp.of_scvi())
        self.classifier = _classifier(hp)
        self.position_of_label = PositionOfLabel(hp)
        # by label, and last of cells without one: how much the bound of a cell counts, and a label that is missed
        self.register_buffer("bound_weight", torch.ones(hp.n_labels + 1))
        self.register_buffer("label_weight", torch.zeros(hp.n_labels + 1))
        self.register_buffer("classifier_reach", torch.ones(()))  # into the encoder
        self.register_buffer("temperature", torch.ones(()))
        self.is_pretrained = False

    @property
    def n_features(self) -> int:
        return self.hyperparameters.n_genes

    # ---- as scVI

    def encode(self, cells: Inputs[Tensor]) -> Posterior:
        """Counts (and covariates where `encode_covariates`) -> posterior of latent position and library size."""
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

    # ---- labels

    def label_logits(self, position: Tensor) -> Tensor:
        """Calibrated logits of q(y | z) at positions (cells, n_latent), before the softmax of "ln": (cells, n_labels)."""
        logits: Tensor = self.classifier(position) / self.get_buffer("temperature")
        return logits

    # ---- the objective

    def elbo(self, cells: Inputs[Tensor]) -> Elbo:
        """The bound of each cell with one draw of everything hidden, and what it costs to miss its label.

        In training the bound of a labelled cell is that of log p(x, y). Otherwise it is that of log p(x) for all.
        """
        posterior = self.encode(cells)
        position = posterior.q_z.rsample()
        n_labels = self.hyperparameters.n_labels
        is_labelled, label = cells.labels < n_labels, cells.labels.clamp(max=n_labels - 1)
        if not self.training:
            logits, of_labelled = self.classifier(torch.cat([position, posterior.q_z.loc])).chunk(2)
            return self._elbo(self.terms(position, logits, posterior, cells), of_labelled, label, is_labelled)
        # a few labels are soon known by heart, and hardly move the position; nor may they do so by the batch norm of the
        # classifier, which is asked about each draw by itself
        another = posterior.q_z.rsample()
        judged = torch.lerp(another.detach(), another, self.get_buffer("classifier_reach"))
        logits, of_labelled = self.classifier(position), self.classifier(judged)
        possible = F.one_hot(label, n_labels).bool() | ~is_labelled[:, None]
        logits = torch.where(is_labelled[:, None], torch.where(possible, 0.0, SURELY_NOT), logits)
        terms = self.terms(position, logits, posterior, cells, possible)
        elbo = self._elbo(terms, of_labelled, label, is_labelled)
        weight, of_label = (self.get_buffer(name)[cells.labels] for name in ("bound_weight", "label_weight"))
        return elbo._replace(weight=weight, supervision_weight=of_label)

    def _elbo(self, terms: Terms, logits: Tensor, label: Tensor, is_labelled: Tensor) -> Elbo:
        divergence = terms.of_position + terms.of_rest + terms.of_label
        missed = torch.where(is_labelled, F.cross_entropy(logits, label, reduction="none"), 0.0)
        supervision = self.hyperparameters.classification_weight * missed
        return Elbo(terms.reconstruction, divergence, terms.of_library, supervision=supervision)

    def terms(
        self,
        position: Tensor,
        logits: Tensor,
        posterior: Posterior,
        cells: Inputs[Tensor],
        possible: Tensor | None = None,
    ) -> Terms:
        """The bound at a draw of the position, with these logits of q(y | z), (cells, n_labels); None: all are possible."""
        reconstruction, of_library = self.scvi.explained(position, posterior, cells)
        by_label = self.position_of_label(position, asked=possible)
        log_shares = logits.log_softmax(1)
        shares = log_shares.exp()
        return Terms(
            reconstruction,
            posterior.q_z.log_prob(position).sum(1) - (shares * by_label.log_p_position).sum(1),
            (shares * by_label.divergence).sum(1),
            (shares * log_shares).sum(1) + math.log(self.hyperparameters.n_labels),
            of_library,
        )

    def log_importance_weight(self, posterior: Posterior, cells: Inputs[Tensor]) -> Tensor:
        """log p(x, hidden) - log q(hidden) at one draw, (cells,): its exponential averages to p(x).

        Labels are summed over rather than drawn.
        """
        position = posterior.q_z.rsample()
        ratio: Tensor = self.position_of_label.log_density(position) - posterior.q_z.log_prob(position).sum(1)
        return ratio + self.scvi.log_weight_of_the_rest(position, posterior, cells)

    # ---- the prior

    def log_prior(self, position: Tensor) -> Tensor:
        """log p(z), (cells,), by a few draws of u that are the same for all cells."""
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(PRIOR_DRAWS, self.hyperparameters.n_latent, generator=generator).to(position.device)
        of_draws = torch.stack([self.position_of_label.log_density(position, each) for each in drawn])
        return of_draws.logsumexp(0) - math.log(PRIOR_DRAWS)

    def prior_position(self, drawn: Tensor) -> Tensor:
        """Positions of cells of any label, (cells, n_latent), given what is standard normal of them."""
        label = torch.randint(self.hyperparameters.n_labels, (len(drawn), 1), device=drawn.device)
        position: Tensor = self.position_of_label.decoder(drawn, label).sample()
        return position

    # ---- the start

    @torch.no_grad()
    def start_from(self, cells: Cells, rows: Tensor) -> None:
        """Begin where the data are; `rows` may hold a cell several times, and it then counts as one."""
        once = rows.unique()
        if not self.is_pretrained:
            self.scvi.start_from(cells, once)
        hp = self.hyperparameters
        n_rows, n_cells = (
            torch.bincount(cells.field("labels", some), minlength=hp.n_labels + 1) for some in (rows, once)
        )
        self.get_buffer("bound_weight").copy_(len(rows) / len(once) * n_cells / n_rows.clamp(min=1))
        self.get_buffer("classifier_reach").copy_((n_cells[:-1].sum() / len(once)) ** POWER_OF_REACH)
        wanted = n_cells[:-1].clamp(max=hp.n_samples_per_label or len(rows))
        # so that the mean over rows is the mean over labelled cells, of which each label has those that are wanted
        self.get_buffer("label_weight")[:-1] = wanted / wanted.sum().clamp(min=1) * len(rows) / n_rows[:-1].clamp(min=1)

    def begin_with(self, fitted: scvi.Network) -> None:
        """Take over a fitted scVI of the same shape."""
        self.scvi.load_state_dict(fitted.state_dict())
        self.is_pretrained = True

    def start_batches_from(self, cells: Cells, first: int) -> None:
        """Take the prior of the library of batches that were added from their cells."""
        self.scvi.start_batches_from(cells, first)


def _classifier(hp: Hyperparameters) -> nn.Module:
    """Latent position -> logits of labels."""
    if hp.linear_classifier:
        return nn.Linear(hp.n_latent, hp.n_labels)
    norms, rate = hp.of_scvi().norms("encoder"), hp.dropout_rate
    body = FullyConnected(hp.n_latent, hp.n_hidden, hp.n_layers, norms=norms, dropout_rate=rate)
    return nn.Sequential(body, nn.Linear(hp.n_hidden, hp.n_labels))


def repeats(labels: np.ndarray, hyperparameters: Hyperparameters) -> np.ndarray:
    """How often each of these cells is to come in an epoch, given the codes of their labels.

    Labelled cells come again until they are `LABELLED_SHARE` of the rows, those of each label as often as they count.
    """
    n_labels, most = hyperparameters.n_labels, hyperparameters.n_samples_per_label
    n_cells = np.bincount(labels, minlength=n_labels + 1)[:n_labels]
    wanted = np.minimum(n_cells, most) if most else n_cells
    n_rows = max(n_cells.sum(), LABELLED_SHARE / (1 - LABELLED_SHARE) * (len(labels) - n_cells.sum()))
    times = np.rint(n_rows * wanted / max(wanted.sum(), 1) / np.maximum(n_cells, 1)).astype(np.int64)
    of_label: np.ndarray = np.append(np.maximum(times, 1), 1)
    found: np.ndarray = of_label[labels]
    return found


def build(hyperparameters: Hyperparameters) -> Network:
    """The untrained network."""
    return Network(hyperparameters)
