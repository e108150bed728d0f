"""scANVI: the call, what it reads and what it writes. What is assumed is in `_backend/models/scanvi.py`."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from scvi_pp import _docs, _logging
from scvi_pp._data.columns import as_keys
from scvi_pp._data.fitted import from_record
from scvi_pp._data.sources import Labels
from scvi_pp._data.write import key_names
from scvi_pp._errors import InputError, listing
from scvi_pp._fitted_model import rebuilt
from scvi_pp._seed import seed_from
from scvi_pp.get._options import is_number
from scvi_pp.tl._fitting import Besides, Call, fit_and_write
from scvi_pp.tl._inputs_of_counts import inputs_of_counts, refuse_negative_values, sizes_of
from scvi_pp.tl._label_results import label_results
from scvi_pp.tl._options import (
    BatchRepresentation,
    LatentDistribution,
    Where,
    check_choices,
    check_flags,
    check_names,
    check_rate,
    check_sizes,
)
from scvi_pp.tl._training import checked, documented_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from scvi_pp._backend.query import Posterior
    from scvi_pp._data.fitted import Fitted
    from scvi_pp._seed import Seed
    from scvi_pp.tl._fitting import Trained
    from scvi_pp.tl._training import Training

Dispersion = Literal["gene", "gene-batch", "gene-cell"]
GeneLikelihood = Literal["zinb", "nb", "poisson", "normal"]
CHOICES = {
    "dispersion": Dispersion,
    "gene_likelihood": GeneLikelihood,
    "latent_distribution": LatentDistribution,
    "batch_representation": BatchRepresentation,
    "use_batch_norm": Where,
    "use_layer_norm": Where,
}
SIZES = ("n_latent", "n_hidden", "n_layers", "n_batch_embedding")
FLAGS = ("use_observed_lib_size", "encode_covariates", "deeply_inject_covariates", "linear_classifier")
# what is said of labels, with which a fitted scVI goes on; all else is as it was fitted
OF_LABELS = ("linear_classifier", "classification_weight", "n_samples_per_label")
OF_CALL = ("labels_key", "unlabeled_category", "from_key")
FEWEST_TO_HOLD_OUT = 10  # cells of a label: those of rarer ones are all trained on
# of a fit that starts from a fitted scVI: passes, and the share of the learning rate (docs/benchmarks.md)
PASSES_FROM_SCVI = {"usual": 8, "fewest_steps": 140}
RATE_FROM_SCVI = 0.5


@_docs.documented(RANDOM=_docs.RANDOM, TRAINING=documented_for("scanvi"))
def scanvi(
    adata: AnnData,
    labels_key: str,
    *,
    unlabeled_category: str | None = None,
    from_key: str | None = None,
    linear_classifier: bool = False,
    classification_weight: float = 50.0,
    n_samples_per_label: int | None = None,
    layer: str | None = None,
    batch_key: str | Sequence[str] | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: str | Sequence[str] | None = None,
    continuous_covariate_keys: str | Sequence[str] | None = None,
    mask_var: str | None = None,
    n_latent: int = 10,
    n_hidden: int = 128,
    n_layers: int = 1,
    dropout_rate: float = 0.1,
    dispersion: Dispersion = "gene",
    gene_likelihood: GeneLikelihood = "zinb",
    latent_distribution: LatentDistribution = "normal",
    use_observed_lib_size: bool = True,
    encode_covariates: bool = False,
    deeply_inject_covariates: bool = True,
    batch_representation: BatchRepresentation = "one-hot",
    n_batch_embedding: int = 5,
    use_batch_norm: Where = "both",
    use_layer_norm: Where = "none",
    denoise: bool | None = None,
    key_added: str | None = None,
    save_model: bool | str | Path = True,
    rng: Seed = None,
    random_state: Seed = None,
    device: str | None = None,
    copy: bool = False,
    **training: Unpack[Training],
) -> AnnData | None:
    """Embed RNA counts and annotate cells, from those of them that have a label [Xu21]_.

    scVI that knows the types of some cells: the labels shape the latent space, and every other cell is given one, with
    calibrated probabilities. Use it to carry an annotation over to new batches, to grow one from a few cells that are
    certain (marker genes, say), and to integrate batches whose types are known.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts; dense or sparse, whole or a view.
    labels_key
        Column of `.obs` with the labels. Cells where it is missing (NaN) have none.
    unlabeled_category
        The value of that column that says the same, such as `"Unknown"`.
    from_key
        Start from the scVI that `tl.scvi` has fitted to these cells: its name in `.uns`. All about counts is as it was
        fitted, and a few passes are enough.
    linear_classifier
        Tell labels apart by planes in the latent space, rather than by a network with a hidden layer.
    classification_weight
        What a label that is missed costs, beside the bound of a cell.
    n_samples_per_label
        Let no label count for more cells than these, in each pass. By default labels count as often as they occur.
    layer
        Where the counts are; `.X` by default.
    batch_key
        Column(s) of `.obs` that name the batch, whose effect is to be removed: donor, run, chemistry. Several columns
        count as one, with a batch for every combination.
    size_factor_key
        Column of `.obs` with a positive size factor for each cell, instead of its total count.
    categorical_covariate_keys
        Further columns of `.obs` whose effects are to be removed, each on its own: sex, sort gate.
    continuous_covariate_keys
        Numeric columns of `.obs` whose effects are to be removed, standardised for you: percentage of mitochondrial counts.
    mask_var
        Boolean column of `.var` that chooses the genes to model, as `"highly_variable"`.
    n_latent
        Dimensions of the latent space.
    n_hidden, n_layers
        Units of each hidden layer of every network, and how many of these layers each has.
    dropout_rate
        Dropout in the encoders and the classifier.
    dispersion
        Whether overdispersion is constant per gene, or differs between batches or cells.
    gene_likelihood
        How counts scatter: zero-inflated negative binomial, negative binomial, Poisson, or normal for values that
        were normalised already (log-normalised, not scaled).
    latent_distribution
        `"normal"`, or `"ln"` for a latent space on the simplex.
    use_observed_lib_size
        Take the total count as the library size; `False` infers it, with a prior from the cells of the same batch.
    encode_covariates
        Show batch and covariates to the encoder too.
    deeply_inject_covariates
        Show categories to every hidden layer rather than the first alone.
    batch_representation, n_batch_embedding
        `"one-hot"`, or `"embedding"` for a learned vector of that length per batch (many batches).
    use_batch_norm, use_layer_norm
        Where each normalisation is applied.
    denoise
        Write the denoised layer; by default only if it takes at most `settings.max_layer_bytes`.
    key_added
        Name of the results in `.obsm`, `.obs` and `.uns` instead of `'X_scanvi'` and `'scanvi'`.
    save_model
        Keep the fitted model in `.uns`; a path keeps it in a file of its own; `False` not at all.
    {RANDOM}
    device
        `"cpu"`, `"cuda"`, ...; `settings.device` by default, which takes a GPU if there is one.
    copy
        Return a copy instead of writing to the object.
    {TRAINING}

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `.obs['scanvi' | key_added]` : :class:`pandas.Categorical`
        The most probable label of each cell, also of those that have one; the categories are all labels.
    `.obs['scanvi_entropy' | f'{key_added}_entropy']` : `float64`
        How undecided that is, in nats: 0 where one label is certain, log of the number of labels where all are as likely.
    `.obsm['scanvi_probabilities' | f'{key_added}_probabilities']` : :class:`numpy.ndarray` (dtype `float32`, `(n_obs, n_labels)`)
        The probability of each label, in the order of the categories.
    `.obsm['X_scanvi' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Posterior mean of each cell's latent position.
    `.layers['scanvi_denoised' | f'{key_added}_denoised']` : :class:`numpy.ndarray` (dtype `float32`, `(n_obs, n_vars)`)
        Denoised share of each gene (rows sum to 1); NaN for genes outside `mask_var`.
    `.uns['scanvi' | key_added]` : :class:`dict`
        `'params'`: the settings, and the accuracy on labels that were held out; `'history'`: curves by epoch; `'model'`:
        the fitted model itself.

    Raises
    ------
    InputError
        Fewer than two labels are there, the values are no raw counts, an option is impossible or contradicts `from_key`.
    MissingKeyError
        A layer, a column or the model of `from_key` is not there.
    TrainingError
        The loss was never finite. In each case the object is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()
    >>> adata.obs["known"] = adata.obs["bulk_labels"].where(adata.obs_names < "C")
    >>> svp.tl.scanvi(adata, "known", max_epochs=2)
    >>> adata.obsm["scanvi_probabilities"].shape
    (700, 10)
    """
    options = {
        "n_latent": n_latent,
        "n_hidden": n_hidden,
        "n_layers": n_layers,
        "dropout_rate": dropout_rate,
        "dispersion": dispersion,
        "gene_likelihood": gene_likelihood,
        "latent_distribution": latent_distribution,
        "use_observed_lib_size": use_observed_lib_size,
        "encode_covariates": encode_covariates,
        "deeply_inject_covariates": deeply_inject_covariates,
        "batch_representation": batch_representation,
        "n_batch_embedding": n_batch_embedding,
        "use_batch_norm": use_batch_norm,
        "use_layer_norm": use_layer_norm,
        "linear_classifier": linear_classifier,
        "classification_weight": classification_weight,
        "n_samples_per_label": n_samples_per_label,
    }
    keys = {
        "labels_key": labels_key,
        "unlabeled_category": unlabeled_category,
        "from_key": from_key,
        "layer": layer,
        "batch_key": as_keys(batch_key, "batch_key"),
        "size_factor_key": size_factor_key,
        "categorical_covariate_keys": as_keys(categorical_covariate_keys, "categorical_covariate_keys"),
        "continuous_covariate_keys": as_keys(continuous_covariate_keys, "continuous_covariate_keys"),
        "mask_var": mask_var,
    }
    _check_names(keys)
    seed = seed_from(rng, random_state)
    options = _checked(options)
    call = Call(adata, "scanvi", seed, key_added, denoise, save_model, device, training)
    call = replace(call, adata=adata.copy()) if copy else call
    _fit(call, options, keys)
    return call.adata if copy else None


def _fit(call: Call, options: dict[str, Any], keys: dict[str, Any]) -> None:
    """Declare what is read, train, label the cells and write it all."""
    from scvi_pp._backend.models.scanvi import repeats

    labels = Labels(keys["labels_key"], keys["unlabeled_category"])
    if keys["from_key"] is None:
        sources, hyperparameters = _declare(call.adata, labels, options, keys)
        make, given = None, None
    else:
        stored, sources, hyperparameters = _declare_from(call.adata, labels, options, keys)
        make = partial(_begun, hyperparameters, stored, keys["from_key"])
        given = {"from": str(call.adata.uns[keys["from_key"]]["model"]["sha256"])}
        call = replace(call, training=_short(call))
        asked = {name: options[name] for name in OF_LABELS} | {name: keys[name] for name in OF_CALL}
        settled = {"model", *stored.facts}
        keys, options = {name: value for name, value in stored.params.items() if name not in settled}, asked
    for name in sources.labels.suspicious():
        _logging.warning(
            f"{sources.labels.place} holds '{name}', which is taken for a label like any other. If it says that there is "
            f"none, give unlabeled_category='{name}'."
        )
    fit_and_write(
        replace(call, training={"validation_indices": _held_out(call, sources), **call.training}),
        sources,
        hyperparameters,
        {**keys, **options},
        look=refuse_negative_values,
        besides=partial(_labelled, call, sources),
        groups_of=lambda arrays: arrays.labels,
        repeats_of=lambda arrays: repeats(arrays.labels, hyperparameters),
        make=make,
        given=given,
    )


def _held_out(call: Call, sources: Any) -> np.ndarray:
    """The rows that are held out by default: as of any model, without the cells of labels that few have."""
    from scvi_pp._backend.fit import split

    options = checked(call.training, model="scanvi")
    rows = split(call.adata.n_obs, float(options["validation_size"]), call.seed)[1]
    labels = sources.labels.read(call.adata)
    n_cells = np.bincount(labels, minlength=len(sources.labels.levels) + 1)
    n_cells[-1] = len(labels)  # of those without a label there are enough
    return rows[n_cells[labels[rows]] >= FEWEST_TO_HOLD_OUT]


def _labelled(call: Call, sources: Any, fitted: Trained, posterior: Posterior) -> Besides:
    """The labels of all cells, calibrated on those that training has not seen, of which it says how many are right."""
    from scvi_pp._backend.labels import calibrate, label_probabilities

    labels, levels = sources.labels.read(call.adata), sources.labels.levels
    held_out = fitted.held_out[labels[fitted.held_out] < len(levels)]
    calibrate(posterior, held_out, labels[held_out])
    probabilities = label_probabilities(posterior)
    obs, obsm = label_results(key_names(call.model, call.key_added)[1], probabilities, levels, call.adata.obs_names)
    params: dict[str, Any] = {"n_labels": len(levels), "n_labelled": int((labels < len(levels)).sum())}
    said = ""
    if len(held_out):
        is_right = probabilities[held_out].argmax(1) == labels[held_out]
        params |= {"n_labelled_held_out": len(held_out), "held_out_accuracy": round(float(is_right.mean()), 4)}
        said = f"{is_right.sum():,} of {len(held_out):,} held-out labels found."
    return Besides(obs=obs, obsm=obsm, params=params, said=said)


def _declare(adata: AnnData, labels: Labels, options: dict[str, Any], keys: dict[str, Any]) -> tuple[Any, Any]:
    """What the model reads, learned from these cells, and the network that follows from it."""
    from scvi_pp._backend.models.scanvi import Hyperparameters

    integers = options["gene_likelihood"] != "normal"
    sources = inputs_of_counts(adata, keys, verb="tl.scanvi", labels=labels, integers=integers)
    sizes = {"n_genes": len(sources.counts.var_names), "n_labels": len(sources.labels.levels), **sizes_of(sources)}
    return sources, Hyperparameters(**sizes, **options)


def _declare_from(
    adata: AnnData, labels: Labels, options: dict[str, Any], keys: dict[str, Any]
) -> tuple[Fitted, Any, Any]:
    """The fitted scVI, what it reads and labels besides, and the network that goes on from it."""
    from scvi_pp._backend.models import restored
    from scvi_pp._backend.models.scanvi import Hyperparameters, Inputs

    stored = from_record(adata.uns, key := keys["from_key"])
    if stored.model != "scvi" or stored.hyperparameters["dispersion"] == "gene-label":
        what = "a scvi whose dispersion is by label" if stored.model == "scvi" else f"a {stored.model}"
        raise InputError(f"from_key='{key}' is {what}; tl.scanvi starts from a model of tl.scvi without labels.")
    _refuse_what_is_fitted({**options, **keys}, key)
    sources = Inputs(**stored.sources)._replace(labels=labels.learn(adata))
    shared = {field.name for field in fields(Hyperparameters)} & stored.hyperparameters.keys()
    network = {name: stored.hyperparameters[name] for name in shared}
    network |= {"n_labels": len(sources.labels.levels), **{name: options[name] for name in OF_LABELS}}
    return stored, sources, restored(Hyperparameters, network)


def _refuse_what_is_fitted(given: dict[str, Any], key: str) -> None:
    """Refuse an option that the fitted model has settled, if it is given."""
    defaults = {name: each.default for name, each in inspect.signature(scanvi).parameters.items()}
    settled = [name for name, value in given.items() if name not in (*OF_LABELS, *OF_CALL)]
    asked = [name for name in settled if given[name] != defaults[name] and given[name] != ()]
    if asked:
        msg = f"from_key='{key}' goes on from a fitted model, and {listing(asked)} cannot be changed in it."
        raise InputError(f"{msg} Leave it out, or fit anew without from_key.")


def _begun(hyperparameters: Any, stored: Fitted, key: str) -> Any:
    """A network that holds the fitted scVI."""
    from scvi_pp._backend.models.scanvi import build

    network = build(hyperparameters)
    network.begin_with(rebuilt(stored, key)[0])
    return network


def _short(call: Call) -> Training:
    """The training options of a fit that starts from a fitted scVI: few passes, small steps."""
    from scvi_pp._backend.schedule import default_epochs

    options = checked(call.training, model="scanvi")
    passes = default_epochs(call.adata.n_obs, int(options["batch_size"]), **PASSES_FROM_SCVI)
    short: Training = {"max_epochs": passes, "learning_rate": RATE_FROM_SCVI * options["learning_rate"]}
    return {**short, **call.training}


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options in plain Python types, after every check that needs no data."""
    check_choices(options, CHOICES)
    most = options["n_samples_per_label"]
    check_sizes(options, *SIZES, *(("n_samples_per_label",) if most is not None else ()))
    check_flags(options, *FLAGS)
    check_rate(options, "dropout_rate")
    weight = options["classification_weight"]
    if not is_number(weight) or not 0 <= float(weight) < np.inf:
        raise InputError(f"classification_weight={weight!r} must be a number of at least 0.")
    sizes = {name: int(options[name]) for name in SIZES}
    rates = {name: float(options[name]) for name in ("dropout_rate", "classification_weight")}
    return {**options, **sizes, **rates, "n_samples_per_label": None if most is None else int(most)}


def _check_names(keys: dict[str, Any]) -> None:
    check_names(keys, "labels_key", "size_factor_key")
    if keys["labels_key"] is None:
        raise InputError("labels_key=None: name the obs column with the labels. Without labels take tl.scvi.")
    for name in ("unlabeled_category", "from_key"):
        if keys[name] is not None and not isinstance(keys[name], str):
            raise InputError(f"{name}={keys[name]!r} must be text.")
