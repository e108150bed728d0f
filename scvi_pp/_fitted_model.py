"""A fitted model opened again on cells: what every verb and getter that asks a question begins with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from anndata import AnnData
from mudata import MuData

from scvi_pp._data.feature_types import said_of_adata
from scvi_pp._data.fitted import from_record, model_key
from scvi_pp._data.multiome import ModalityCounts
from scvi_pp._data.obsm_features import modalities_of
from scvi_pp._data.read import check_anndata, check_annotated, read
from scvi_pp._data.sources import Counts, Share
from scvi_pp._errors import InputError, MissingKeyError, ModelRecordError, did_you_mean, listing
from scvi_pp._settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from scvi_pp._backend.query import Posterior
    from scvi_pp._data.fitted import Fitted


MULTIMODAL = ("multivi", "totalvi")  # models of a MuData, or of an AnnData that holds features of all modalities
# what the features of a modality are called, by the source of its counts
KINDS = {"expression": "genes", "accessibility": "regions", "protein": "proteins"}


def kind_of_features(hyperparameters: Mapping[str, Any]) -> Literal["genes", "regions"]:
    """What a model's features are called: regions if it is one of chromatin."""
    return "regions" if "n_regions" in hyperparameters else "genes"


def features_of(stored: Fitted) -> dict[str, tuple[str, ...]]:
    """The names of what is modelled: of genes, of regions, of proteins."""
    if stored.model not in MULTIMODAL:
        return {kind_of_features(stored.hyperparameters): stored.sources["counts"].var_names}  # type: ignore[union-attr]
    sources = {kind: stored.sources.get(part) for part, kind in KINDS.items()}
    return {kind: source.var_names for kind, source in sources.items() if source is not None}  # type: ignore[attr-defined]


def check_region_factors(stored: Fitted, key: str, asked: str, kind: str | None = None) -> None:
    """Refuse to ask a model for the factors of its regions if it has none."""
    has_regions = kind == "regions" if kind else "regions" in features_of(stored)
    if not has_regions:
        msg = f"{asked} needs a model of chromatin: uns['{key}'] is a {stored.model} of genes, which have no such factors."
        raise InputError(msg)
    if stored.hyperparameters.get("region_factors") is False:
        msg = f"{asked}: uns['{key}'] was fitted with region_factors=False and has none. Fit again with them."
        raise InputError(msg)


@dataclass(frozen=True)
class FittedModel:
    """The stored model, and its posterior on the cells that were asked about."""

    key: str
    stored: Fitted
    posterior: Posterior
    obs_names: pd.Index
    counts: str = "counts"  # the source of the features that are asked about: of several modalities one
    arrays: Any = None  # what was read of the cells, if it was asked for

    @property
    def source(self) -> Any:
        """What reads the counts that are asked about."""
        return self.stored.sources[self.counts]

    def measured(self) -> tuple[Any, np.ndarray]:
        """The counts that are asked about, sparse (n_obs, features), and in which cells they were measured."""
        matrix = getattr(self.arrays, self.counts)
        if self.stored.model not in MULTIMODAL:
            return matrix, np.ones(matrix.shape[0], dtype=bool)
        return matrix, self.arrays.present[:, list(KINDS).index(self.counts)]

    def panel(self) -> np.ndarray | None:
        """Which of the features were measured in which cells, bool (n_obs, features); None: all, where the modality was."""
        return self.arrays.panel if self.kind == "proteins" and "panel" in self.stored.sources else None

    @property
    def kind(self) -> str:
        """What the features are called."""
        return KINDS.get(self.counts) or kind_of_features(self.stored.hyperparameters)

    @property
    def features(self) -> tuple[str, ...]:
        """The modelled features, in the order of the network."""
        names: tuple[str, ...] = self.source.var_names
        return names

    @property
    def has_shares(self) -> bool:
        """Whether cells have a factor of at most one rather than a library size."""
        return self.counts == "accessibility" or isinstance(self.stored.sources.get("size_factor"), Share)

    def columns(
        self,
        genes: Sequence[str] | str | None,
        regions: Sequence[str] | str | None = None,
        proteins: Sequence[str] | str | None = None,
    ) -> np.ndarray | None:
        """Where genes, regions or proteins stand among those of the network; None stays None, which means all."""
        asked = {"genes": genes, "regions": regions, "proteins": proteins}
        given = {word: names for word, names in asked.items() if names is not None}
        if len(given) > 1:
            raise InputError(f"Give {' or '.join(given)}, not both.")
        if not given:
            return None
        ((word, wanted),) = given.items()
        if word == "regions" and self.kind != word:
            raise InputError(f"regions is for models of chromatin: uns['{self.key}'] models {self.kind}. Give genes=.")
        if word == "proteins" and self.kind != word:
            msg = f"proteins names proteins, and {self.kind} of uns['{self.key}'] are asked about. Give mod=..., the"
            raise InputError(f"{msg} modality of proteins, or genes=.")
        return self.places(word, wanted)

    def places(self, word: str, names: Sequence[str] | str) -> np.ndarray:
        """Where features stand among those of the network; `word` is the argument that names them."""
        wanted, kind = _names(word, names), self.kind
        place = {name: column for column, name in enumerate(self.features)}
        unknown = [name for name in wanted if name not in place]
        if unknown:
            near = did_you_mean(unknown[0], self.features)
            msg = f"{word} names {listing(unknown, quoted=True)}, which the model was not fitted to.{near}"
            raise InputError(f"{msg} It knows {len(self.features)} {kind}.")
        return np.array([place[name] for name in wanted])

    def beside(self, mod: str, stream: int) -> FittedModel:
        """The same model, asked about another modality: at the same draws of the latent position, with noise of its own."""
        counts, posterior = part_of(self.stored, self.key, mod), self.posterior
        return replace(self, counts=counts, posterior=posterior.about(counts, stream))

    def named(self, columns: np.ndarray | None) -> list[str]:
        """The names of columns."""
        return list(self.features) if columns is None else [self.features[column] for column in columns]

    def denoising(
        self,
        *,
        library_size: float | None,
        normalize_cells: bool,
        normalize_regions: bool,
        include_background: bool,
        transform_batch: object,
        n_samples: int | None,
    ) -> dict[str, Any]:
        """How the posterior is to be asked for denoised values."""
        value = "expression"
        if normalize_regions:
            check_region_factors(self.stored, self.key, "normalize_regions=True", self.kind)
            value = "expression_with_regions"
        if include_background:
            if self.kind != "proteins":
                msg = f"include_background=True is for proteins, and {self.kind} of uns['{self.key}'] are asked about."
                raise InputError(f"{msg} Name the modality of proteins (mod=...), or leave it out.")
            value = "expression_with_background"
        return {
            "library_size": self._library_size(library_size, normalize_cells),
            "value": value,
            "batches": self.batches(transform_batch),
            "n_samples": n_samples,
        }

    def _library_size(self, given: float | None, normalize_cells: bool) -> float | None:
        """The library size to ask at, None for that of the cell."""
        if normalize_cells and self.kind != "regions":
            msg = f"normalize_cells is for models of chromatin: uns['{self.key}'] models {self.kind}."
            raise InputError(f"{msg} library_size='latent' takes each cell's own library size.")
        if normalize_cells and given not in (None, 1.0):
            raise InputError(f"library_size={given:g} and normalize_cells=True, each cell's own: give one of the two.")
        if given is not None and given > 1 and self.has_shares:
            msg = f"library_size={given:g}: cells of uns['{self.key}'] have a factor of at most 1 and no library size."
            raise InputError(f"{msg} Leave it out, or take 'latent' for each cell's own factor.")
        return None if normalize_cells else given

    @property
    def obsm(self) -> str | None:
        """Where the features that are asked about lie in `obsm`; None if they are those of the object."""
        return self.source.obsm if isinstance(self.source, ModalityCounts) else None

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


def _names(word: str, wanted: object) -> list[str]:
    """The names that an argument lists."""
    if not isinstance(wanted, Iterable):
        raise InputError(f"{word}={wanted!r} must be the name of a {word[:-1]} or a list of names.")
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if any(isinstance(name, bool | np.bool_) for name in names):
        raise InputError(f"{word} takes names, not a mask: use {word}=adata.var_names[mask].")
    if not names:
        raise InputError(f"{word} is empty. Name at least one {word[:-1]}, or leave it out for all.")
    return [str(name) for name in names]


def open_model(
    adata: AnnData | MuData,
    key: str | None,
    *,
    verb: str,
    adata_new: AnnData | MuData | None = None,
    mod: str | None = None,
    alone: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
    keep_arrays: bool = False,
) -> FittedModel:
    """Rebuild the network stored in `adata.uns[key]` (None: the only one) and put the cells before it.

    `mod` is the modality that is asked about, of a model that has several; `alone`: at the latent position that this
    modality says by itself.
    """
    check_annotated(adata, verb=verb)
    key = model_key(adata.uns, key)
    stored = from_record(adata.uns, key)
    data, name = (adata, "adata") if adata_new is None else (adata_new, "adata_new")
    asked = {"mod": mod, "alone": alone, "seed": seed, "batch_size": batch_size, "device": device}
    return model_before(data, stored, key, verb=verb, name=name, keep_arrays=keep_arrays, **asked)


def _check_batch_size(batch_size: object) -> None:
    is_size = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    if batch_size is not None and (not is_size or batch_size < 1):  # type: ignore[operator]
        raise InputError(f"batch_size={batch_size!r} must be a whole number of at least 1.")


def model_before(
    data: AnnData | MuData,
    stored: Fitted,
    key: str,
    *,
    verb: str,
    name: str = "adata",
    mod: str | None = None,
    alone: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
    keep_arrays: bool = False,
) -> FittedModel:
    """Put cells before a model that may be stored elsewhere; `name` is what they are called in messages."""
    _check_batch_size(batch_size)
    check = check_annotated if stored.model in MULTIMODAL else check_anndata
    check(data, verb=verb)
    counts = part_of(stored, key, mod)

    from scvi_pp._backend import device as devices
    from scvi_pp._backend.query import Posterior
    from scvi_pp._backend.streams import Cells

    where = devices.choose(settings.device if device is None else device)
    network, sources, n_trained_rows = rebuilt(stored, key)
    network = network.to(where)
    if counts != "counts":
        network = network.about(counts, counts if alone and mod is not None else "joint")
    arrays = _read(data, sources, stored, verb, name)
    cells = Cells(arrays, where)
    posterior = Posterior(network, cells, seed=seed, batch_size=batch_size, n_trained_rows=n_trained_rows)
    return FittedModel(key, stored, posterior, data.obs_names, counts, arrays if keep_arrays else None)


def open_models(
    adata: AnnData | MuData, key: str | None, *, verb: str, mod: object = None, **options: Any
) -> dict[str, FittedModel]:
    """`open_model` for each modality that `mod` lists, by its name: all of one network, asked at the same positions.

    A single name, or None, gives a single one.
    """
    if mod is None or isinstance(mod, str):
        return {mod or "": open_model(adata, key, verb=verb, mod=mod, **options)}
    names = list(mod) if isinstance(mod, Iterable) else [mod]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"mod={mod!r} must be the name of a modality, or a list of names.")
    if len(set(names)) < len(names):
        raise InputError(f"mod names a modality twice: {listing(names, quoted=True)}.")
    first = open_model(adata, key, verb=verb, mod=names[0], **options)
    return {names[0]: first, **{name: first.beside(name, stream) for stream, name in enumerate(names[1:], 1)}}


def columns_of_each(
    models: Mapping[str, FittedModel], **given: Sequence[str] | str | None
) -> dict[str, np.ndarray | None]:
    """Where the features that are named, as `genes`, `regions` or `proteins`, stand in each model; None: all of it."""
    if len(models) == 1:
        return {mod: model.columns(**given) for mod, model in models.items()}  # type: ignore[arg-type]
    kinds = [model.kind for model in models.values()]
    for word, names in given.items():
        if names is not None and word not in kinds:
            raise InputError(f"{word} are named, and {listing(kinds)} are asked about. Leave them out, or name mod=.")
    asked = {mod: given[model.kind] for mod, model in models.items()}
    return {mod: None if asked[mod] is None else model.places(model.kind, asked[mod]) for mod, model in models.items()}  # type: ignore[arg-type]


def names_in_one_table(names: Mapping[str, Sequence[str]]) -> list[str]:
    """Features of several modalities one after the other; if two share a name, with the modality in front of all."""
    plain = [name for of_modality in names.values() for name in of_modality]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{mod}:{name}" for mod, of_modality in names.items() for name in of_modality]


def modality_of(uns: Mapping[str, Any], key: str | None, part: Literal["accessibility", "protein"]) -> str | None:
    """The modality of chromatin or of proteins of a model of several; None of other models."""
    source = from_record(uns, model_key(uns, key)).sources.get(part)
    return source.modality if isinstance(source, ModalityCounts) else None


def part_of(stored: Fitted, key: str, mod: str | None) -> str:
    """The source of the counts of a modality; the first there is, if none is named."""
    if stored.model not in MULTIMODAL:
        if mod is not None:
            msg = f"mod is for models of several modalities: uns['{key}'] is a {stored.model} of one. Leave it out."
            raise InputError(msg)
        return "counts"
    named = ((part, stored.sources.get(part)) for part in KINDS)
    names = {source.modality: part for part, source in named if isinstance(source, ModalityCounts)}
    if mod is None:
        return next(iter(names.values()))
    if mod not in names:
        msg = f"mod={mod!r} is no modality of uns['{key}'].{did_you_mean(mod, names)} It has {listing(names, quoted=True)}."
        raise InputError(msg)
    return names[mod]


def rebuilt(stored: Fitted, key: str) -> tuple[Any, Any, int]:
    """The network of a stored model, on the CPU, its sources, and the rows that it was trained on."""
    from scvi_pp._backend import device as devices
    from scvi_pp._backend import models, weights

    model = models.named(stored.model)
    try:
        sources = model.Inputs(**stored.sources)
        hyperparameters = models.restored(model.Hyperparameters, stored.hyperparameters)
        with devices.private_random(devices.choose("cpu"), 0):
            network = weights.rebuild(lambda: model.build(hyperparameters), stored.weights)
        return network, sources, stored.n_trained_rows
    except (TypeError, ValueError, RuntimeError, KeyError) as error:  # what a foreign description can cause
        msg = f"uns['{key}']: the stored model does not describe a {stored.model} network ({error}). Fit again."
        raise ModelRecordError(msg) from error


def _modality_counts(stored: Fitted) -> list[ModalityCounts]:
    """The source of each modality."""
    return [source for source in stored.sources.values() if isinstance(source, ModalityCounts)]


def _read(data: AnnData | MuData, sources: Any, stored: Fitted, verb: str, name: str) -> Any:
    """What the fit read, of these cells."""
    with as_read(data, stored, verb, name) as modalities:
        return read(modalities, sources, verb=verb)


@contextmanager
def as_read(data: AnnData | MuData, stored: Fitted, verb: str, name: str) -> Iterator[AnnData | MuData]:
    """The object as the sources of a model read it.

    An error in reading it then says that it is the question, not the fit, that lacks something.
    """
    try:
        if stored.model in MULTIMODAL and isinstance(data, AnnData):
            sources = _modality_counts(stored)
            with said_of_adata({source.modality: source.obsm for source in sources if source.obsm is not None}):
                yield modalities_of(data, sources)
        else:
            yield data
    except (InputError, MissingKeyError) as error:
        places = [source.place for source in stored.sources.values() if isinstance(source, Counts | ModalityCounts)]
        place = next((place for place in places if f"{place} holds" in str(error)), places[0])
        changed = f" The model was fitted to {place}: has it changed since? Put the counts back there."
        hint = changed if f"{place} holds" in str(error) else ""
        raise type(error)(f"{verb} reads {name} as the fit did, but {error}{hint}") from error
