"""Labels of cells by a fitted model that knows labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi_pp import _docs, _logging
from scvi_pp._data.fitted import from_record, model_key
from scvi_pp._data.multiome import copied
from scvi_pp._data.read import check_annotated
from scvi_pp._data.reference import open_reference
from scvi_pp._data.sources import Labels
from scvi_pp._data.write import check_any_writable, check_key, write_to_cells
from scvi_pp._errors import InputError
from scvi_pp._fitted_model import model_before
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_count
from scvi_pp.tl._label_results import label_results

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scvi_pp._data.fitted import Fitted
    from scvi_pp._seed import Seed


@_docs.documented(BATCH_SIZE=_docs.BATCH_SIZE, RANDOM=_docs.RANDOM)
def predict_labels(
    adata: AnnData | MuData,
    *,
    reference: AnnData | MuData | Mapping[str, Any] | str | Path | None = None,
    key: str | None = None,
    n_samples: int | None = None,
    key_added: str | None = None,
    batch_size: int | None = None,
    rng: Seed = None,
    random_state: Seed = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Give cells the labels that a fitted model knows, with calibrated probabilities.

    For cells that were mapped onto a model with labels (`tl.map_query`), for cells of its fit, or with `reference` for
    new cells at once, if they have its genes and no batch that it has not seen. Nothing is trained. `tl.scanvi` itself
    writes this for the cells of its fit.

    Parameters
    ----------
    adata
        The cells, with counts where those of the fit were. Labels that they have are not looked at.
    reference
        Where the model is, if not in `adata.uns`: the object of the fit, the path of its file (h5ad, h5mu, zarr, or the
        safetensors of `save_model`), or its entry of `.uns`.
    key
        Which model: its name in `.uns`. The only one there is, by default.
    n_samples
        Average the probabilities over this many draws from the posterior of the latent position. By default they are those
        at its mean, which were calibrated.
    key_added
        Under which name results are written, that of the model by default.
    {BATCH_SIZE}
    {RANDOM}
    copy
        Return a copy instead of writing to the object.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `.obs['scanvi' | key_added]` : :class:`pandas.Categorical`
        The most probable label of each cell; the categories are all labels of the model.
    `.obs['scanvi_entropy']` : `float64`
        How undecided that is, in nats: 0 where one label is certain, log of the number of labels where all are as likely.
    `.obsm['scanvi_probabilities']` : :class:`numpy.ndarray` (dtype `float32`, `(n_obs, n_labels)`)
        The probability of each label, in the order of the categories.

    Raises
    ------
    InputError
        The model knows no labels, or the cells lack a gene or have a batch that it has not seen: `tl.map_query` takes both.
    MissingKeyError
        A column or the model is not there. In each case the object is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> cells = svp.datasets.simulate_rna(300, 50)
    >>> is_new = cells.obs_names.isin(cells.obs_names[:100])
    >>> known, new = cells[~is_new].copy(), cells[is_new].copy()
    >>> svp.tl.scanvi(known, "cell_type", max_epochs=2, denoise=False)
    >>> svp.tl.predict_labels(new, reference=known)
    >>> new.obsm["scanvi_probabilities"].shape
    (100, 5)
    """
    check_annotated(adata, verb="tl.predict_labels")
    if n_samples is not None:
        checked_count("n_samples", n_samples)
    seed = seed_from(rng, random_state)
    if key_added is not None:
        check_key(key_added)
    if copy:
        adata = copied(adata)
    check_any_writable(adata)
    name, stored = _model(adata, reference, key)
    source = stored.sources.get("labels")
    if not isinstance(source, Labels) or source.levels is None:
        msg = f"uns['{name}'] is a {stored.model}, which knows no labels. Fit tl.scanvi, or carry labels of other cells"
        raise InputError(f"{msg} over with tl.transfer_labels.")
    model = model_before(adata, stored, name, verb="tl.predict_labels", seed=seed, batch_size=batch_size)

    from scvi_pp._backend.labels import label_probabilities

    probabilities = label_probabilities(model.posterior, n_samples)
    written = name if key_added is None else key_added
    obs, obsm = label_results(written, probabilities, source.levels, adata.obs_names)
    write_to_cells(adata, obs=obs, obsm=obsm, uns={})
    places = [*(f"obs['{column}']" for column in obs), *(f"obsm['{entry}']" for entry in obsm)]
    _logging.info(f"tl.predict_labels: {len(source.levels)} labels, {adata.n_obs:,} cells. Added {', '.join(places)}.")
    return adata if copy else None


def _model(adata: AnnData | MuData, reference: object, key: str | None) -> tuple[str, Fitted]:
    """The name of the model, and the model."""
    if reference is not None:
        known = open_reference(reference, key)
        return known.key, known.stored
    name = model_key(adata.uns, key)
    return name, from_record(adata.uns, name)
