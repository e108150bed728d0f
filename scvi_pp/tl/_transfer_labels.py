"""Labels of a reference for the cells of a query that was mapped onto it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from scvi_pp import _logging
from scvi_pp._data.columns import groups_of_column, obs_column
from scvi_pp._data.fitted import model_key
from scvi_pp._data.multiome import copied, observations
from scvi_pp._data.read import check_annotated
from scvi_pp._data.reference import open_reference
from scvi_pp._data.write import check_any_writable, check_key, write_to_cells
from scvi_pp._errors import InputError, MissingKeyError
from scvi_pp._fitted_model import open_model
from scvi_pp.get._options import checked_count, is_number

if TYPE_CHECKING:
    from pathlib import Path

    from scvi_pp._data.reference import Reference

UNKNOWN = "unknown"


def transfer_labels(
    query: AnnData | MuData,
    reference: AnnData | MuData | str | Path,
    *,
    labels_key: str,
    key: str | None = None,
    n_neighbors: int = 15,
    max_uncertainty: float | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Carry labels of the reference over to a query that was mapped onto it.

    Each cell is given the label that most of its nearest cells of the reference have in the latent space, nearer ones
    counting more. How many of them have another one is its uncertainty. It is about which of the known labels is right:
    a cell of a type that the reference lacks may be certain and wrong, and `scvi_mapping_confidence` of `tl.map_query`
    tells of that.

    Parameters
    ----------
    query
        Cells that `tl.map_query` has mapped.
    reference
        The object they were mapped onto, or the path of its file.
    labels_key
        Column of the `.obs` of the reference with the labels. Cells without one are left out.
    key
        Which model: its name in the `.uns` of the query. The only one there is, by default.
    n_neighbors
        Cells of the reference that are asked, each by the inverse of its distance.
    max_uncertainty
        Cells beyond it are called 'unknown'; by default every cell has a label. The Human Lung Cell Atlas took 0.2.
    key_added
        Under which name results are written, f"{labels_key}_transferred" by default.
    copy
        Return a copy instead of writing to the object.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `.obs['cell_type_transferred' | key_added]` : :class:`pandas.Categorical`
        The labels; the categories are all labels of the reference.
    `.obs['cell_type_transferred_uncertainty']` : `float64`
        One less the share of the neighbours' weight that is for the label: 0 where all agree.
    `.obsm['cell_type_transferred_probabilities']` : :class:`numpy.ndarray` (dtype `float32`, `(n_obs, n_labels)`)
        The share of each label, in the order of the categories.
    `.uns['cell_type_transferred']` : :class:`dict`
        The settings.

    Raises
    ------
    InputError
        The query was not mapped onto this model.
    MissingKeyError
        The column or the model is not there. In each case the query is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> cells = svp.datasets.simulate_rna(300, 50, n_batches=3)
    >>> is_new = cells.obs["batch"] == "batch2"
    >>> reference, query = cells[~is_new].copy(), cells[is_new].copy()
    >>> svp.tl.scvi(reference, batch_key="batch", max_epochs=2, denoise=False)
    >>> svp.tl.map_query(query, reference, max_epochs=0)
    >>> svp.tl.transfer_labels(query, reference, labels_key="cell_type")
    >>> query.obs["cell_type_transferred"].cat.categories.tolist()[:2]
    ['type1', 'type2']
    """
    check_annotated(query, verb="tl.transfer_labels")
    if copy:
        query = copied(query)
    check_any_writable(query)
    n = checked_count("n_neighbors", n_neighbors)
    if max_uncertainty is not None and not (is_number(max_uncertainty) and 0 <= float(max_uncertainty) <= 1):
        raise InputError(f"max_uncertainty={max_uncertainty!r} must be a number from 0 to 1, or None.")
    name = check_key(f"{labels_key}_transferred" if key_added is None else key_added)
    model = model_key(query.uns, key)
    mapping = _mapping(query, model)
    known = open_reference(reference, sha256=str(mapping["reference_sha256"]))
    labels, levels, has_label = _labels(known, labels_key)
    positions, of_query = _positions(query, model, known, stays=mapping["unfrozen"] == "new")
    shares = _shares(positions[has_label], labels, of_query, len(levels), n)
    best = shares.argmax(1)
    uncertainty = 1 - shares[np.arange(len(shares)), best]
    called = list(levels)
    if max_uncertainty is not None:
        called += [UNKNOWN] * (UNKNOWN not in levels)
        best = np.where(uncertainty > float(max_uncertainty), called.index(UNKNOWN), best)
    index = query.obs_names
    params = {"labels_key": labels_key, "n_neighbors": n, "reference_sha256": known.sha256}
    params |= {} if max_uncertainty is None else {"max_uncertainty": float(max_uncertainty)}
    write_to_cells(
        query,
        obs={
            name: pd.Series(pd.Categorical.from_codes(best, called), index=index),
            f"{name}_uncertainty": pd.Series(uncertainty, index=index),
        },
        obsm={f"{name}_probabilities": shares.astype(np.float32)},
        uns={name: {"params": params}},
    )
    written = [f"obs['{name}']", f"obs['{name}_uncertainty']", f"obsm['{name}_probabilities']", f"uns['{name}']"]
    _logging.info(f"tl.transfer_labels: {len(levels)} labels for {query.n_obs:,} cells. Added {', '.join(written)}.")
    return query if copy else None


def _labels(known: Reference, labels_key: str) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """The codes of the labels of the cells that have one, their names, and which cells these are."""
    if known.data is None:
        raise InputError("reference is an entry of uns, which has no cells. Give the object of the fit, or its file.")
    table: Any = observations(known.data, [labels_key]) if isinstance(known.data, MuData) else known.data
    has_label = obs_column(table, labels_key).notna().to_numpy()
    if not has_label.any():
        raise InputError(f"obs['{labels_key}'] of {known.place} has no label in any cell. Name another column.")
    codes, levels = groups_of_column(AnnData(obs=table.obs.loc[has_label, [labels_key]]), labels_key)
    return codes, levels, has_label


def _mapping(query: AnnData | MuData, key: str) -> Mapping[str, Any]:
    """How the query was mapped."""
    entry = query.uns.get(key)
    params: Mapping[str, Any] = entry.get("params", {}) if isinstance(entry, Mapping) else {}
    if "reference_sha256" not in params:
        msg = f"uns['{key}'] of the query does not come from a mapping. Begin with tl.map_query(query, reference)."
        raise (InputError if key in query.uns else MissingKeyError)(msg)
    return params


def _positions(query: AnnData | MuData, model: str, known: Reference, *, stays: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells of the reference and of the query are, in one latent space."""
    verb = "tl.transfer_labels"
    of_query = open_model(query, model, verb=verb).posterior.latent_mean()
    if stays and known.latent is not None:
        return known.latent, of_query
    if not known.has_counts:
        reason = (
            "its cells are nowhere there" if stays else "all of the model was trained on the query, which moves them"
        )
        msg = f"{known.place} does not say where its cells are under the model of the query: {reason}."
        raise InputError(f"{msg} Read the file, and give the object.")
    return open_model(query, model, verb=verb, adata_new=known.data).posterior.latent_mean(), of_query


def _shares(
    positions: np.ndarray, labels: np.ndarray, of_query: np.ndarray, n_labels: int, n_neighbors: int
) -> np.ndarray:
    """The share of each label among the nearest cells by the inverse of their distance, (n_query, n_labels)."""
    from sklearn.neighbors import KNeighborsClassifier

    nearest = KNeighborsClassifier(min(n_neighbors, len(positions)), weights="distance").fit(positions, labels)
    shares: np.ndarray = nearest.predict_proba(of_query)
    assert shares.shape[1] == n_labels
    return shares
