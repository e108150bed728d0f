"""A fitted model opened again on cells: what every verb and getter that asks a question begins with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvi_pp._data.fitted import from_record
from scvi_pp._data.read import check_anndata, read
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError, did_you_mean, listing
from scvi_pp._settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

    from scvi_pp._backend.query import Posterior
    from scvi_pp._data.fitted import Fitted


@dataclass(frozen=True)
class FittedModel:
    """The stored model, and its posterior on the cells that were asked about."""

    stored: Fitted
    posterior: Posterior
    obs_names: pd.Index

    @property
    def genes(self) -> tuple[str, ...]:
        """The modelled genes, in the order of the network."""
        names: tuple[str, ...] = self.stored.sources["counts"].var_names  # type: ignore[attr-defined]
        return names

    def columns(self, genes: Sequence[str] | str | None) -> np.ndarray | None:
        """Where genes stand among those of the network; None stays None, which means all."""
        if genes is None:
            return None
        if not isinstance(genes, Iterable):
            raise InputError(f"genes={genes!r} must be the name of a gene or a list of names.")
        wanted = [genes] if isinstance(genes, str) else list(genes)
        if any(isinstance(gene, bool | np.bool_) for gene in wanted):
            raise InputError("genes takes names, not a mask: use genes=adata.var_names[mask].")
        wanted = [str(gene) for gene in wanted]
        if not wanted:
            raise InputError("genes is empty. Name at least one gene, or leave it out for all.")
        place = {gene: column for column, gene in enumerate(self.genes)}
        unknown = [gene for gene in wanted if gene not in place]
        if unknown:
            near = did_you_mean(unknown[0], self.genes)
            msg = f"genes names {listing(unknown, quoted=True)}, which the model was not fitted to.{near}"
            raise InputError(f"{msg} It knows {len(self.genes)} genes.")
        return np.array([place[gene] for gene in wanted])

    def named(self, columns: np.ndarray | None) -> list[str]:
        """The names of columns."""
        return list(self.genes) if columns is None else [self.genes[column] for column in columns]

    def batches(self, transform_batch: object) -> list[int] | None:
        """The codes of one batch or a list of them; None stays None, which means each cell's own."""
        if transform_batch is None:
            return None
        source: Any = self.stored.sources["batch"]
        if not source.keys:
            raise InputError("transform_batch needs a model that was fitted with batch_key.")
        # of a model with joined columns a tuple is one batch: a value for each column
        one = isinstance(transform_batch, str) or (isinstance(transform_batch, tuple) and len(source.keys) > 1)
        several = isinstance(transform_batch, Iterable) and not one
        levels = list(transform_batch) if several else [transform_batch]  # type: ignore[call-overload]
        if not levels:
            raise InputError("transform_batch is empty. Name at least one batch, or leave it out.")
        return [source.code(level) for level in levels]


def open_model(
    adata: AnnData,
    key: str,
    *,
    verb: str,
    adata_new: AnnData | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
) -> FittedModel:
    """Rebuild the network stored in `adata.uns[key]` and put the cells before it."""
    check_anndata(adata, verb=verb)
    data = adata if adata_new is None else adata_new
    check_anndata(data, verb=verb)
    is_size = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    if batch_size is not None and (not is_size or batch_size < 1):
        raise InputError(f"batch_size={batch_size!r} must be a whole number of at least 1.")
    stored = from_record(adata.uns, key)

    from scvi_pp._backend import device as devices
    from scvi_pp._backend import models, weights
    from scvi_pp._backend.query import Posterior
    from scvi_pp._backend.streams import Cells

    model, where = models.named(stored.model), devices.choose(settings.device if device is None else device)
    try:
        sources = model.Inputs(**stored.sources)
        hyperparameters = model.hyperparameters_from(stored.hyperparameters)
        with devices.private_random(where, seed):
            network = weights.rebuild(lambda: model.build(hyperparameters), stored.weights)
        n_trained_rows = stored.n_trained_rows
    except (TypeError, ValueError, RuntimeError, KeyError) as error:  # what a foreign description can cause
        msg = f"uns['{key}']: the stored model does not describe a {stored.model} network ({error}). Fit again."
        raise ModelRecordError(msg) from error
    cells = Cells(_read(data, sources, stored, verb, "adata" if adata_new is None else "adata_new"), where)
    posterior = Posterior(network.to(where), cells, seed=seed, batch_size=batch_size, n_trained_rows=n_trained_rows)
    return FittedModel(stored, posterior, data.obs_names)


def _read(data: AnnData, sources: Any, stored: Fitted, verb: str, name: str) -> Any:
    """What the fit read, of these cells; an error says that it is the question, not the fit, that lacks something."""
    try:
        return read(data, sources, verb=verb)
    except (InputError, MissingKeyError) as error:
        place: str = stored.sources["counts"].place  # type: ignore[attr-defined]
        changed = f" The model was fitted to {place}: has it changed since? Put the counts back there."
        hint = changed if f"{place} holds" in str(error) else ""
        raise type(error)(f"{verb} reads {name} as the fit did, but {error}{hint}") from error
