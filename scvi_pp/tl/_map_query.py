"""Query mapping: cells of another study brought into the latent space of a fitted model."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import pandas as pd
from mudata import MuData

from scvi_pp import _docs, _logging
from scvi_pp._data.extend import extend
from scvi_pp._data.multiome import copied, without_modalities
from scvi_pp._data.read import check_annotated, read
from scvi_pp._data.reference import open_reference
from scvi_pp._data.write import check_key, key_names, write_to_cells
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import MULTIMODAL, as_read, rebuilt
from scvi_pp._seed import seed_from
from scvi_pp.get._options import is_number
from scvi_pp.tl._fitting import Call, placed, record_of, report, trained
from scvi_pp.tl._fitting_multimodal import kinds_of_cells
from scvi_pp.tl._inputs_of_counts import numbers_of_levels
from scvi_pp.tl._neighborhood import mapping_confidence
from scvi_pp.tl._options import check_choices
from scvi_pp.tl._training import defaults

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData

    from scvi_pp._data.extend import Additions
    from scvi_pp._data.reference import Reference
    from scvi_pp._seed import Seed
    from scvi_pp.tl._fitting import Trained
    from scvi_pp.tl._training import Training

Unfrozen = Literal["new", "inputs", "all"]
FEW = 0.8  # of the features: a smaller share is remarked on
FINE_TUNING = 0.1  # of the learning rate of a fit


@_docs.documented(RANDOM=_docs.RANDOM)
def map_query(
    query: AnnData | MuData,
    reference: AnnData | MuData | Mapping[str, Any] | str | Path,
    *,
    key: str | None = None,
    unfrozen: Unfrozen = "new",
    min_shared: float = 0.5,
    layer: str | None = None,
    key_added: str | None = None,
    save_model: bool | str | Path = True,
    rng: Seed = None,
    random_state: Seed = None,
    device: str | None = None,
    copy: bool = False,
    **training: Unpack[Training],
) -> AnnData | MuData | None:
    """Map the cells of another study into a fitted model, which stays as it is [Lotfollahi22]_.

    The query gets positions in the latent space of the reference, so that both can be looked at together and labels be
    carried over (`tl.transfer_labels`), and a model of its own that knows its batches: `tl.denoise`,
    `tl.differential_expression` and all the others work on it. Cells of the reference have the same positions under both
    models, to the last bit.

    A batch or category that the model has not seen is added to its tables, and what is new there is learned; nothing else
    is. Where the encoder does not see batches (`encode_covariates=False`, the default of every model but totalVI) positions do not
    depend on what is learned, and `max_epochs=0` gives the same ones at once.

    Parameters
    ----------
    query
        The new cells: counts where they were in the data of the fit, the columns of `.obs` that the fit was given (but
        not those of labels). Genes are matched by name; those that are not there count as zero. Of a model of several
        modalities, a `MuData` that may lack some of them: its cells are placed by the others.
    reference
        The object that the model was fitted to, the path of its file (h5ad, h5mu, zarr, or the safetensors of
        `save_model`), or its entry of `.uns`. It is not changed.
    key
        Which fitted model: its name in the `.uns` of the reference. The only one there is, by default.
    unfrozen
        What is learned: `"new"`, the rows of batches and categories that are new; `"inputs"`, with them the first layer
        of every part, so that the query may shift what genes mean; `"all"`, everything, as a fit that starts from
        the reference. Only with `"new"` do cells of the reference keep their positions.
    min_shared
        Smallest share of the model's genes that the query has to have. A warning is given below 0.8.
    layer
        The layer with the counts of the query, if it is another one than in the data of the fit; `"X"` for `.X`.
    key_added
        Name of the results in `.obsm` and `.uns`, those of the fit by default.
    save_model
        Keep the model of the query in its `.uns`; a path keeps it in a file of its own; `False` not at all.
    {RANDOM}
    device
        `"cpu"`, `"cuda"`, ...; `settings.device` by default, which takes a GPU if there is one.
    copy
        Return a copy instead of writing to the object.
    training
        The training options of the model, as of its fit; `max_epochs=0` places cells without training. By default the KL
        term has its full weight from the start, and with `"inputs"` or `"all"` the learning rate is a tenth.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `.obsm['X_scvi' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Positions in the latent space of the reference.
    `.obs['scvi_mapping_confidence']` : `float64`
        From 0 to 1: the share of cells of the reference whose nearest others lie at least as far as those of this cell.
        Cells like those of the reference have values that are spread evenly from 0 to 1; cells of a type it lacks have
        values near 0. Not written if the places of the reference's cells are not at hand.
    `.uns['scvi' | key_added]` : :class:`dict`
        The model that knows the query, as of a fit; `'params'` say what was found and added.

    Raises
    ------
    InputError
        Too few genes are shared, the values are no raw counts, a column has missing values.
    MissingKeyError
        A layer, a column or the model is not there.
    ModelRecordError
        The model is damaged. In each case the query is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> cells = svp.datasets.simulate_rna(300, 50, n_batches=3)
    >>> is_new = cells.obs["batch"] == "batch2"
    >>> reference, query = cells[~is_new].copy(), cells[is_new].copy()
    >>> svp.tl.scvi(reference, batch_key="batch", max_epochs=2, denoise=False)
    >>> svp.tl.map_query(query, reference, max_epochs=2)
    >>> query.obsm["X_scvi"].shape
    (100, 10)
    """
    check_annotated(query, verb="tl.map_query")
    check_choices({"unfrozen": unfrozen}, {"unfrozen": Unfrozen})
    if not is_number(min_shared) or not 0 < float(min_shared) <= 1:
        raise InputError(f"min_shared={min_shared!r} must be a number above 0 and at most 1.")
    if key_added is not None:
        check_key(key_added)
    seed = seed_from(rng, random_state)
    if query is reference:
        raise InputError("query and reference are the same object: its model would be replaced. Its cells are mapped.")
    known = open_reference(reference, key)
    call = Call(
        copied(query) if copy else query,
        known.stored.model,
        seed,
        known.key_added if key_added is None else key_added,
        False,
        save_model,
        device,
        _as_trained(training, unfrozen, known.stored.model),
        asked="tl.map_query",
        fewest_cells=1,
    )
    sources, additions = _extended(call, known, fewest=float(min_shared), layer=layer)
    only_placed = training.get("max_epochs") == 0 or (unfrozen == "new" and not additions.groups)
    fitted, hyperparameters = _mapped(call, known, sources, unfrozen, only_placed=only_placed)
    _write(call, known, sources, hyperparameters, fitted, _params(known, additions, unfrozen))
    return call.adata if copy else None


def _as_trained(training: Training, unfrozen: Unfrozen, model: str) -> Training:
    """The options with the defaults of a mapping: a model that is fitted needs no warm-up, and small steps."""
    options: Training = {**training}
    if options.get("max_epochs") == 0:
        del options["max_epochs"]
    options.setdefault("kl_warmup", 0.0)
    if unfrozen != "new":
        options.setdefault("learning_rate", FINE_TUNING * defaults(model)["learning_rate"])
    return options


def _extended(call: Call, known: Reference, *, fewest: float, layer: str | None) -> tuple[Any, Additions]:
    """The sources of the model for these cells, and what was added to them."""
    from scvi_pp._backend import models

    if layer is not None and call.model in MULTIMODAL:
        raise InputError("layer is for models of one modality. Put the counts where those of the reference are.")
    sources = models.named(call.model).Inputs(**known.stored.sources)
    with as_read(call.adata, known.stored, call.verb, "the query") as data:
        extended, additions = extend(data, sources, verb=call.verb, fewest=fewest, layer=layer)
    for place, (found, wanted) in additions.shared.items():
        if found < FEW * wanted:
            _logging.warning(
                f"{place} has {found:,} of the {wanted:,} features of the model. The others count as zero, which moves "
                "cells: see that the names are of the same kind."
            )
    return extended, additions


def _mapped(
    call: Call, known: Reference, sources: Any, unfrozen: Unfrozen, *, only_placed: bool
) -> tuple[Trained, Any]:
    """The network that knows the query, and its hyperparameters."""
    from scvi_pp._backend import models
    from scvi_pp._backend.surgery import mapping

    network, _, _ = rebuilt(known.stored, known.key)
    model = models.named(call.model)
    hyperparameters = _grown(models.restored(model.Hyperparameters, known.stored.hyperparameters), sources)

    def reading() -> Any:
        with as_read(call.adata, known.stored, call.verb, "the query") as data:
            return read(data, sources, verb=call.verb)

    def make() -> Any:
        return mapping(network, model.build(hyperparameters), unfrozen)

    if only_placed:
        fitted = placed(call, reading, make)
    else:
        groups_of = kinds_of_cells if call.model in MULTIMODAL else None
        given = {"unfrozen": unfrozen, "reference": known.sha256}
        fitted = trained(call, hyperparameters, reading, groups_of=groups_of, make=make, given=given)
    return replace(fitted, network=fitted.network.finished()), hyperparameters


def _grown(hyperparameters: Any, sources: Any) -> Any:
    """The hyperparameters of a network with a row for every level there is."""
    sizes = numbers_of_levels(sources)
    if "n_labels" in asdict(hyperparameters):
        sizes["n_labels"] = len(sources.labels.levels)
    return replace(hyperparameters, **sizes)


def _write(
    call: Call, known: Reference, sources: Any, hyperparameters: Any, fitted: Trained, params: dict[str, Any]
) -> None:
    """Positions, confidence and the model of the query, all or nothing."""
    from scvi_pp._backend.query import Posterior

    n_trained = known.stored.n_trained_rows + fitted.n_rows
    latent = Posterior(fitted.network, fitted.cells, seed=call.seed, n_trained_rows=n_trained).latent_mean()
    obsm_key, uns_key, _ = key_names(call.model, call.key_added)
    confidence = _confidence(call, known, sources, fitted, latent, stays=params["unfrozen"] == "new")
    column, index = f"{uns_key}_mapping_confidence", call.adata.obs_names
    if confidence is None and column in call.adata.obs:  # of an earlier mapping
        confidence = np.full(len(index), np.nan)
    obs = {} if confidence is None else {column: confidence}
    write_to_cells(
        call.adata,
        obsm={obsm_key: latent},
        uns={uns_key: record_of(call, sources, hyperparameters, params, fitted)},
        obs={name: pd.Series(values, index=index) for name, values in obs.items()},
    )
    places = [f"obsm['{obsm_key}']", *(f"obs['{name}']" for name in obs), f"uns['{uns_key}']"]
    report(call, fitted, places)


def _params(known: Reference, additions: Additions, unfrozen: Unfrozen) -> dict[str, Any]:
    """The settings of the fit, and how the query was mapped."""
    settings_of_fit = {name: value for name, value in known.stored.params.items() if name not in known.stored.facts}
    found = {f"shared features of {place}": f"{n:,} of {of:,}" for place, (n, of) in additions.shared.items()}
    new = {f"added to {place}": list(levels) for place, levels in additions.groups.items()}
    return {**settings_of_fit, "unfrozen": unfrozen, "reference_sha256": known.sha256, **found, **new}


def _confidence(
    call: Call, known: Reference, sources: Any, fitted: Trained, latent: np.ndarray, *, stays: bool
) -> np.ndarray | None:
    """How well each cell fits in among those of the reference, if these are at hand.

    Cells that lack a modality are held against where those of the reference would be without it.
    """
    lacking = sources.present.absent if call.model in MULTIMODAL else ()
    positions = known.latent
    if known.has_counts and (lacking or not stays or positions is None):
        from scvi_pp._backend.query import Posterior
        from scvi_pp._backend.streams import Cells

        assert known.data is not None
        with as_read(known.data, known.stored, call.verb, known.place) as data:
            seen = without_modalities(data, lacking) if isinstance(data, MuData) and lacking else data
            cells = Cells(read(seen, sources, verb=call.verb), fitted.where)
        positions = Posterior(fitted.network, cells, seed=call.seed).latent_mean()
    elif not stays:
        positions = None
    if positions is None:
        _logging.info(f"No mapping confidence: {known.place} does not hold where its cells are.")
        return None
    return mapping_confidence(positions, latent, seed=call.seed)
