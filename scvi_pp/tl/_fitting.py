"""From a model's arrays to its results in the object: what every model verb does after it has read its inputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

import numpy as np

from scvi_pp import __version__, _logging
from scvi_pp._data.fitted import Fitted, check_save_model, to_record
from scvi_pp._data.read import check_anndata, check_annotated, read
from scvi_pp._data.write import check_any_writable, key_names, write
from scvi_pp._errors import InputError, TrainingError, listing
from scvi_pp._fitted_model import MULTIMODAL, kind_of_features
from scvi_pp._settings import settings
from scvi_pp.tl._training import checked, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from mudata import MuData
    from scipy.sparse import csr_matrix

    from scvi_pp._backend.fit import Outcome
    from scvi_pp._backend.query import Posterior
    from scvi_pp.tl._training import Training

    Look: TypeAlias = Callable[[csr_matrix, str], None]


# how the layer of a fit asks for denoised values
PLAIN: dict[str, Any] = {"library_size": 1.0, "batches": None, "n_samples": None}


@dataclass(frozen=True)
class Call:
    """What a model verb was asked beside its model: checked on creation, before anything is read or trained."""

    adata: AnnData | MuData
    model: str
    seed: int
    key_added: str | None
    denoise: bool | None
    save_model: bool | str | Path
    device: str | None
    training: Training
    asked: str = ""  # the verb, if it is not that of the model
    fewest_cells: int = 2

    def __post_init__(self) -> None:
        check = check_annotated if self.model in MULTIMODAL else check_anndata
        check(self.adata, verb=self.verb)
        check_any_writable(self.adata)
        key_names(self.model, self.key_added)
        check_save_model(self.save_model)
        checked(self.training, model=self.model)
        if self.denoise not in (None, True, False):
            raise InputError(f"denoise={self.denoise!r} must be True, False or None.")
        if self.adata.n_obs < self.fewest_cells:
            msg = f"adata has {self.adata.n_obs} cells; {self.verb} needs at least {self.fewest_cells}."
            raise InputError(msg)

    @property
    def verb(self) -> str:
        return self.asked or f"tl.{self.model}"


@dataclass(frozen=True)
class Besides:
    """What a model writes besides latent, denoised layer and itself; `params` go with its settings."""

    obs: Mapping[str, Any] = field(default_factory=dict)
    obsm: Mapping[str, Any] = field(default_factory=dict)
    varm: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""  # a sentence of the report


class How(TypedDict, total=False):
    """What may differ in how a model is trained."""

    groups_of: Callable[[Any], np.ndarray] | None  # arrays -> group of each cell: minibatches have their share of each
    repeats_of: Callable[[Any], np.ndarray] | None  # arrays -> how often each cell comes in an epoch
    make: Callable[[], Any] | None  # the network to train, if it is no new one
    given: Mapping[str, Any] | None  # what else a checkpoint must have begun with


def fit_and_write(
    call: Call,
    sources: Any,
    hyperparameters: Any,
    params: dict[str, Any],
    *,
    look: Look | None = None,
    sparse_layer: str = "",
    besides: Callable[[Trained, Posterior], Besides] | None = None,
    **how: Unpack[How],
) -> None:
    """Train the model on the object's cells, then write latent, denoised layer and model, all or nothing.

    `look` is shown the counts and their place before training, to refuse them or to remark on them. `sparse_layer` are
    the arguments by which tl.denoise makes a layer that is not dense, if that makes sense for the model. `besides` is
    asked what else there is to write, before the network is stored.
    """
    from scvi_pp._backend.query import Posterior

    kind = kind_of_features(asdict(hyperparameters))

    def reading() -> Any:
        arrays = read(call.adata, sources, verb=call.verb)
        if look is not None:
            look(arrays.counts, sources.counts.place)
        report_empty_cells(arrays.counts, kind)
        return arrays

    fitted = trained(call, hyperparameters, reading, **how)
    posterior = Posterior(fitted.network, fitted.cells, seed=call.seed, n_trained_rows=fitted.n_rows)
    obsm_key, uns_key, layer_key = key_names(call.model, call.key_added)
    more = f", {sparse_layer}" if sparse_layer else ""
    layers = layer_if_wanted(
        call,
        call.adata,
        layer_key,
        lambda: denoised_layer(posterior, call.adata.var_names, sources.counts.var_names),
        way=f"Get it with tl.denoise(adata, key={uns_key!r}{more}), or some {kind} with get.denoised(adata, {kind}=...).",
    )
    others = Besides() if besides is None else besides(fitted, posterior)
    record = record_of(call, sources, hyperparameters, {**params, **others.params}, fitted)
    written: dict[str, Mapping[str, Any]] = {
        "obsm": {obsm_key: posterior.latent_mean(), **others.obsm},
        "varm": others.varm,
        "layers": layers,
        "obs": others.obs,
        "uns": {uns_key: record},
    }
    write(call.adata, **written)
    report(call, fitted, [f"{place}['{key}']" for place, entries in written.items() for key in entries], others.said)


@dataclass(frozen=True)
class Trained:
    """A network after its fit, the cells it was fitted to, and how that went."""

    network: Any
    cells: Any
    outcome: Outcome
    where: Any  # the device
    held_out: np.ndarray | None = None  # rows that training has not seen

    @property
    def n_rows(self) -> int:
        """Rows that training took, over all epochs."""
        n_cells: int = self.cells.n_cells
        return n_cells * self.outcome.n_epochs


def trained(call: Call, hyperparameters: Any, reading: Callable[[], Any], **how: Unpack[How]) -> Trained:
    """Train the model on what `reading` returns."""
    from scvi_pp._backend import device as devices
    from scvi_pp._backend import models
    from scvi_pp._backend.checkpoint import digest
    from scvi_pp._backend.device import private_random
    from scvi_pp._backend.fit import Diverged, fit
    from scvi_pp._backend.streams import Cells

    where = devices.choose(settings.device if call.device is None else call.device)
    arrays = reading()
    options = checked(call.training, model=call.model)
    training = plan(options, n_cells=call.adata.n_obs, seed=call.seed, model=call.model)
    if groups_of := how.get("groups_of"):
        training = replace(training, groups=groups_of(arrays))
    if repeats_of := how.get("repeats_of"):
        rows = training.training_rows
        training = replace(training, training_rows=np.repeat(rows, repeats_of(arrays)[rows]))
    make = how.get("make") or partial(models.named(call.model).build, hyperparameters)
    with private_random(where, call.seed):
        cells, network = Cells(arrays, where), make().to(where)
    given = how.get("given") or {}
    facts = {"model": call.model, **_as_json(asdict(hyperparameters)), "device": where.type, **given}
    if training.checkpoint is not None:
        facts["data"] = digest(arrays)
    del arrays  # packed on the device by now: not to be held twice while training runs
    try:
        outcome = fit(network, cells, training, facts=facts)
        return Trained(network, cells, outcome, where, training.validation_rows)
    except Diverged as error:
        raise TrainingError(_divergence(call, hyperparameters, error.rows)) from error


def placed(call: Call, reading: Callable[[], Any], make: Callable[[], Any]) -> Trained:
    """The cells that `reading` returns before a network that is trained already."""
    from scvi_pp._backend import device as devices
    from scvi_pp._backend.fit import Outcome
    from scvi_pp._backend.streams import Cells

    where = devices.choose(settings.device if call.device is None else call.device)
    arrays = reading()
    with devices.private_random(where, call.seed):
        cells, network = Cells(arrays, where), make().to(where)
        network.start_from(cells, None)
    network.eval()
    return Trained(network, cells, Outcome({}, 0, 0, float("nan"), "placed", 0.0), where)


def record_of(
    call: Call, sources: Any, hyperparameters: Any, params: dict[str, Any], fitted: Trained
) -> dict[str, Any]:
    """The entry of `uns` for the fitted model."""
    from scvi_pp._backend import weights

    facts = _facts(call, fitted.outcome, fitted.where)
    stored = Fitted(
        model=call.model,
        sources=sources._asdict(),
        hyperparameters=asdict(hyperparameters),
        weights=weights.to_arrays(fitted.network),
        facts=facts,
        history=fitted.outcome.history,
        params={"model": call.model, **_readable(params), **_readable(facts)},
    )
    return to_record(stored, save_model=call.save_model)


def _divergence(call: Call, hyperparameters: Any, rows: np.ndarray) -> str:
    finding = f"{call.verb}: the loss was never finite, even at the smallest learning rate tried."
    if len(rows):
        names = listing(call.adata.obs_names[rows], quoted=True)
        return f"{finding} The model cannot explain {len(rows)} cells: {names}. Look at their counts, or remove them."
    simpler = " gene_likelihood='nb'," if "gene_likelihood" in asdict(hyperparameters) else ""
    return f"{finding} Try a smaller learning_rate,{simpler} or look for extreme counts."


def layer_if_wanted(
    call: Call, target: AnnData, layer_key: str, make: Callable[[], Any], *, way: str, place: str = ""
) -> dict[str, Any]:
    """The denoised layer of an AnnData, if it is wanted and may be that large.

    `place` is what the AnnData is called in messages, `way` how to get its values if the layer is not written.
    """
    if call.denoise is False:
        return {}
    n_bytes = 4 * target.n_obs * target.n_vars
    if call.denoise is None and n_bytes > settings.max_layer_bytes:
        what = f"The denoised layer{place and f' of {place}'} would take {n_bytes / 1e9:.1f} GB"
        _logging.info(f"{what}, more than settings.max_layer_bytes: not written. {way}")
        return {}
    try:
        return {layer_key: make()}
    except (KeyboardInterrupt, MemoryError) as error:  # the model is worth more than the layer
        reason = "was stopped" if isinstance(error, KeyboardInterrupt) else "does not fit into memory"
        _logging.warning(f"The denoised layer {reason}: the model is written without it. tl.denoise writes it later.")
        if layer_key in target.layers:
            _logging.warning(f"{place and f'{place}.'}layers['{layer_key}'] is still that of the earlier fit.")
        return {}


def denoised_layer(
    posterior: Any,
    var_names: pd.Index,
    features: tuple[str, ...],
    *,
    columns: np.ndarray | None = None,
    threshold: float | None = None,
    options: dict[str, Any] = PLAIN,
    to_rows: np.ndarray | None = None,
) -> np.ndarray | csr_matrix:
    """Denoised values of all cells x `var_names`: NaN for what was not modelled or not asked for.

    With `threshold` sparse, and nothing there. `to_rows` is the row that each cell goes to, -1 for none.
    """
    columns = None if columns is None else np.unique(columns)
    names = features if columns is None else [features[column] for column in columns]
    into, shape = var_names.get_indexer(list(names)), (posterior.cells.n_cells, len(var_names))
    if threshold is not None:
        above = posterior.denoised_above(threshold, n_columns=shape[1], columns=columns, into=into, **options)
        return above if to_rows is None else above[_cells_of_rows(to_rows)]
    if to_rows is not None:
        shape = (int((to_rows >= 0).sum()), shape[1])
    if shape[1] == len(into) and np.array_equal(into, np.arange(len(into))):
        out = np.empty(shape, dtype=np.float32)
        return np.asarray(posterior.denoised(out, columns=columns, into=None, to_rows=to_rows, **options))
    out = np.full(shape, np.nan, dtype=np.float32)
    return np.asarray(posterior.denoised(out, columns=columns, into=into, to_rows=to_rows, **options))


def _cells_of_rows(to_rows: np.ndarray) -> np.ndarray:
    """Which cell goes to each row."""
    cells = np.flatnonzero(to_rows >= 0)
    return cells[np.argsort(to_rows[cells])]


def report_empty_cells(counts: csr_matrix, kind: str) -> None:
    n_empty = int(np.sum(np.diff(counts.indptr) == 0))
    if n_empty:
        _logging.warning(
            f"{n_empty} of {counts.shape[0]} cells have no counts in the modelled {kind}: their latent position says "
            "nothing. Consider sc.pp.filter_cells(adata, min_counts=1)."
        )


def _facts(call: Call, outcome: Outcome, where: Any) -> dict[str, Any]:
    from scvi_pp._backend import device as devices

    return {
        "seed": call.seed,
        "device": str(where),
        "n_obs": call.adata.n_obs,
        "n_epochs": outcome.n_epochs,
        "best_epoch": outcome.best_epoch,
        **({"elbo": float(outcome.best_elbo)} if outcome.n_epochs else {}),
        "ended": outcome.ended,
        "seconds": round(outcome.seconds, 3),
        "scvi_pp_version": __version__,
        "torch_version": devices.torch_version(),
    }


def _readable(params: dict[str, Any]) -> dict[str, Any]:
    """Flat scalars and strings: None is left out, several names are joined."""
    joined = {name: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for name, v in params.items()}
    return {name: value for name, value in joined.items() if value not in (None, "")}


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def report(call: Call, fitted: Trained, written: list[str], said: str = "") -> None:
    """Say how the fit went, and what was written."""
    outcome, where = fitted.outcome, fitted.where
    if not outcome.n_epochs:
        _logging.info(f"{call.model}: {call.adata.n_obs:,} cells on {where}, no training. Added {', '.join(written)}.")
        return
    held_out = "held-out ELBO" if "elbo_validation" in outcome.history else "ELBO"
    reason = {"budget": "", "converged": ", converged", "stopped": ", stopped by you", "diverged": ", diverged"}
    _logging.info(
        f"{call.model}: {outcome.n_epochs} epochs on {where}{reason[outcome.ended]}, {held_out} "
        f"{outcome.best_elbo:.2f} per cell (epoch {outcome.best_epoch}), {outcome.seconds:.1f} s. {said and said + ' '}"
        f"Added {', '.join(written)}."
    )
