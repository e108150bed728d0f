"""Parts of docstrings that many verbs share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Verb = TypeVar("Verb", bound=Callable[..., Any])

KEY = """\
key
    Which fitted model: its name in `adata.uns` (the `key_added` of the fit). The only one there is, by default."""

MOD = """\
mod
    Which modality, of a model of a `MuData`: its name there. The first by default (RNA, if there is any). All cells are
    answered for, also those in which it was not measured."""

MODS = """\
mod
    Which modality, of a model of a `MuData`: its name there, or a list of names. The first by default (RNA, if there is
    any). All cells are answered for, also those in which it was not measured."""

MODS_TESTED = """\
mod
    Which modality, of a model of a `MuData`: its name there. The first by default (RNA, if there is any). A list, as
    `["rna", "protein"]`, tests genes and proteins in one table, with one false discovery rate. Cells in which a modality
    was not measured are no evidence, nor are batches whose panel lacks a protein."""

FEATURES_OF_MODS = """\
genes, regions, proteins
    Names of the features to return, in this order: genes, or regions if the model is one of chromatin, or proteins. Of
    several modalities each may be chosen from. All that were modelled by default."""

ADATA_NEW = """\
adata_new
    Ask about these cells instead of those of `adata`. Genes and regions are matched by name, nothing is trained."""

FEATURES = """\
genes, regions
    Names of the genes to return, in this order, or of the regions if the model is one of chromatin; give one of the
    two. All that were modelled by default."""

TRANSFORM_BATCH = """\
transform_batch
    Ask what would be seen had every cell been measured in this batch; a list averages over several. By default each
    cell stays in its own batch."""

NORMALIZE = """\
normalize_cells, normalize_regions
    For models of chromatin, whose values are freed of what is peculiar to the cell and to the region: bring the factor
    of each cell (as `library_size="latent"` does), or of each region (`get.region_factors`), back in. With both, what
    the model expects to be measured."""

BACKGROUND = """\
include_background
    Of surface proteins, whose values are what a cell has of each: add what is seen of it in any cell. How well a batch
    captures a protein (totalVI) is left out in any case."""

N_SAMPLES = """\
n_samples
    Average over this many draws from the posterior of the latent position. By default its mean is decoded once,
    which is fast and deterministic."""

RANDOM = """\
rng, random_state
    The seed, or a numpy generator to draw it from; give one of the two. `settings.seed` by default. Global random
    states are never touched."""

BATCH_SIZE = """\
batch_size
    Cells looked at together. It changes memory and speed, not results; chosen for you by default. What is drawn from
    the likelihood or the bound is drawn in blocks of one fixed size, whatever is given here."""

POPULATIONS = """\
groupby
    Column of `.obs` with the groups.
groups
    Groups to test, all by default.
reference
    `"rest"`: each group is compared with all other cells; or the group that all are compared with.
cells1, cells2
    Instead of `groupby`: the cells of both sides, as a mask, positions, names, or a query of `.obs` such as
    `"donor == 'A' and age > 40"`. Without `cells2` all other cells.
within
    A second column: groups are compared inside each of its groups, such as conditions inside cell types."""

TEST = """\
batch_correction
    Compare cells as if both had been measured in the same batch, over all batches (or `batches`). By default each is
    taken in its own, which is right where batches are shared by the groups.
batches
    The batches for `batch_correction`.
weights
    `"importance"` corrects draws for the encoder's approximation of the posterior. It takes some 25 times as long.
n_samples
    Pairs of cells that are drawn for each comparison. Probabilities are known to about half of its inverse root.
fdr_target
    Expected share of false ones among those that are called, in the column `is_de_fdr_0.05`.
filter_outlier_cells
    Leave out the tenth of each group that lies farthest from its middle in the latent space.
credible_intervals
    Levels such as 0.9, for which the narrowest interval of the change is added.
all_stats
    Add median, extremes and standard deviation of the change, and what was counted in both groups."""

# of which the numbers are filled in for each model (`tl._training.documented_for`)
TRAINING = """\
max_epochs
    Passes through the training cells; also what the learning rate and the KL warm-up are stretched over. By default
    chosen from the number of cells.
batch_size
    Cells per training step, {batch_size} by default.
learning_rate
    The largest step size of Adam, {learning_rate:g} by default; it rises at the start and falls to zero at the end.
weight_decay
    L2 penalty on all that is learned but biases, {weight_decay:g} by default.
kl_warmup
    Share of the run over which the weight of the KL term rises from 0 to `kl_weight`, {kl_warmup:g} by default.
kl_weight
    The final weight of the KL term, {kl_weight:g} by default (1 is the ELBO itself).
early_stopping
    End when the held-out ELBO has not improved for `patience` epochs. The best weights are kept in any case.
patience
    Epochs to wait; by default a fifth of the run and at least 10.
validation_size
    Share of cells held out to measure the ELBO, {validation_size:g} by default.
validation_indices
    The cells to hold out instead: positions or a boolean mask.
precision
    How matrix products are made where the processor can do them faster: `"float32"`, or with float32 numbers rounded
    to `"tf32"` (NVIDIA GPUs from 2020) or `"bf16"` (some CPUs too) before they are multiplied. Sums, likelihoods and
    weights are float32 in any case.
checkpoint
    A file that is kept up to date during training. If the process is killed, the same call continues from it."""


def documented(**parts: str) -> Callable[[Verb], Verb]:
    """Fill `{name}` places of a docstring, each alone on its line, with shared parts at the same indent."""

    def fill(verb: Verb) -> Verb:
        text = inspect.cleandoc(verb.__doc__ or "")
        for name, part in parts.items():
            text = text.replace(f"{{{name}}}", part)
        verb.__doc__ = text
        return verb

    return fill
