"""What is known of a fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi_pp import _docs
from scvi_pp._data.fitted import from_record, model_key
from scvi_pp._data.read import check_annotated
from scvi_pp._fitted_model import features_of

if TYPE_CHECKING:
    from anndata import AnnData


@_docs.documented(KEY=_docs.KEY)
def model_info(adata: AnnData, *, key: str | None = None) -> dict[str, Any]:
    """Return what a fitted model is, what it reads, and how it was trained.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    {KEY}

    Returns
    -------
    `"model"`, its name; `"genes"`, `"regions"`, `"proteins"`, those that are modelled; `"batches"`, the batches it knows;
    `"hyperparameters"`; `"training"` (seed, device, epochs, ELBO, seconds, versions); `"reads"` (which layer and columns);
    `"n_parameters"`.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.pbmc68k()[:, :50].copy()
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> info = svp.get.model_info(adata)
    >>> info["model"], len(info["genes"]), info["training"]["seed"]
    ('scvi', 50, 0)
    """
    check_annotated(adata, verb="get.model_info")
    stored = from_record(adata.uns, model_key(adata.uns, key))
    sources = {name: _flat(source.to_dict()) for name, source in stored.sources.items() if source is not None}
    memory = ("kind", "levels", "var_names", "mean", "scale", "names")
    return {
        "model": stored.model,
        **{kind: list(names) for kind, names in features_of(stored).items()},
        "batches": list(sources["batch"]["levels"]),
        "hyperparameters": dict(stored.hyperparameters),
        "training": dict(stored.facts),
        "reads": {
            name: {option: value for option, value in source.items() if option not in memory}
            for name, source in sources.items()
        },
        "n_parameters": int(sum(weight.size for weight in stored.weights.values())),
    }


def _flat(source: dict[str, Any]) -> dict[str, Any]:
    """What is said of the counts of a modality, beside its name."""
    counts = source.pop("counts", {})
    return {**source, **counts}
