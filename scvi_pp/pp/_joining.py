"""How the same modality of several inputs becomes one, and the tables of their cells become one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scvi_pp._data.counts import in_memory
from scvi_pp._errors import InputError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Source:
    """One of the inputs, with the names of cells that it came with."""

    argument: str
    modalities: dict[str, AnnData]
    obs: pd.DataFrame  # of all cells
    origin: pd.Series  # what each cell was measured in
    origin_in_names: bool = False  # of the result

    def check_unique(self) -> None:
        """Refuse names of cells or features that occur twice."""
        for name, modality in self.modalities.items():
            for axis, names in (("obs_names", modality.obs_names), ("var_names", modality.var_names)):
                if not names.is_unique:
                    place = self.argument if self.argument == name else f"{self.argument} ('{name}')"
                    twice = listing(names[names.duplicated()].unique(), limit=3, quoted=True)
                    raise InputError(f"{axis} of {place} hold {twice} more than once. Call {axis}_make_unique().")

    def named(self, table: pd.DataFrame | pd.Series) -> pd.DataFrame | pd.Series:
        """A table of some of the cells, with their names in the result."""
        if not self.origin_in_names:
            return table
        return table.set_axis(table.index + "_" + self.origin.loc[table.index].to_numpy())


def joined_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of different cells, one after the other, with the columns of all: anndata knows how to unify their types."""
    filled = [table for table in tables if len(table)] or list(tables[:1])
    if len(filled) == 1:
        return pd.DataFrame(filled[0]).copy()
    return anndata.concat([AnnData(obs=pd.DataFrame(table)) for table in filled], join="outer").obs


def agreeing_columns(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all cells, which may be in several tables, with the columns in which these do not contradict."""
    merged, differing = tables[0], set()
    for table in tables[1:]:
        both = merged.index.intersection(table.index)
        here, there = merged.loc[both], table.loc[both]
        shared = merged.columns.intersection(table.columns)
        differing |= {name for name in shared if not here[name].astype(object).equals(there[name].astype(object))}
        more = table.columns.difference(merged.columns, sort=False)
        only_here, only_there = merged.index.difference(both, sort=False), table.index.difference(both, sort=False)
        merged = joined_tables([here.join(there[more]), merged.loc[only_here], table.loc[only_there]])
    return merged.drop(columns=list(differing))


def joined_modality(name: str, sources: Sequence[Source], *, noun: str, matching: str) -> AnnData:
    """A modality of all inputs that have it; never the memory of the user."""
    having = [source for source in sources if name in source.modalities]
    parts = [source.modalities[name] for source in having]
    obs = joined_tables([source.named(source.modalities[name].obs) for source in having])
    if len(parts) == 1:
        alone = parts[0].to_memory() if parts[0].isbacked else parts[0].copy()
        alone.raw = None  # of all features, where genes and regions were in one object
        alone.obs = obs
        return alone
    features = _matched(having, [part.var_names for part in parts], noun=noun, matching=matching)
    layers = [key for key in parts[0].layers if isinstance(key, str) and all(key in part.layers for part in parts)]
    return AnnData(
        _stacked([part.X for part in parts], parts, features, [f"X of {source.argument}" for source in having]),
        obs=obs,
        var=_joined_features([part.var for part in parts], features),
        layers={key: _stacked([part.layers[key] for part in parts], parts, features) for key in layers},
    )


def _matched(sources: Sequence[Source], names: Sequence[pd.Index], *, noun: str, matching: str) -> pd.Index:
    """The features of the result, in the order of the first input."""
    first = shared = names[0]
    for others in names[1:]:
        shared = shared[shared.isin(others)]
    if not len(shared):
        examples = "; ".join(
            f"{listing(names_, limit=2)}, ... in {source.argument}"
            for source, names_ in zip(sources, names, strict=True)
        )
        raise InputError(f"The inputs share no {noun}: {examples}. Give them names of the same kind.")
    if matching == "intersection":
        return shared
    for source, others in zip(sources[1:], names[1:], strict=True):
        lacking, added = first[~first.isin(others)], others[~others.isin(first)]
        if len(lacking) or len(added):
            lists = [
                f"{source.argument} lacks {len(lacking):,} of the {noun} of {sources[0].argument}{_some(lacking)}",
                f"has {len(added):,} others{_some(added)}",
            ]
            raise InputError(
                f"{' and '.join(lists)}. Pass {noun}='intersection' to keep the {len(shared):,} that all inputs share, or "
                "count the same ones in all."
            )
    return first


def _some(names: pd.Index) -> str:
    return f" ({listing(names, limit=3)})" if len(names) else ""


def _joined_features(tables: Sequence[pd.DataFrame], features: pd.Index) -> pd.DataFrame:
    """The columns of all inputs, each from the first that has it."""
    joined = pd.DataFrame(tables[0]).loc[features]
    for table in tables[1:]:
        more = table.columns.difference(joined.columns, sort=False)
        joined = joined.join(pd.DataFrame(table)[more])
    return joined


def _stacked(matrices: Sequence[Any], parts: Sequence[AnnData], features: pd.Index, places: Sequence[str] = ()) -> Any:
    """The cells of all inputs, with these features: dense if all are dense, else by rows (CSR)."""
    empty = [matrix is None for matrix in matrices]
    if all(empty):
        return None
    if any(empty):
        raise InputError(f"{places[empty.index(True)]} is empty (None), while others are not. Fill it: adata.X = ...")
    chosen = [
        _columns(in_memory(matrix), part.var_names, features) for matrix, part in zip(matrices, parts, strict=True)
    ]
    if not any(sparse.issparse(matrix) for matrix in chosen):
        return np.concatenate([np.asarray(matrix) for matrix in chosen])
    return sparse.vstack(
        [matrix if sparse.issparse(matrix) else sparse.csr_matrix(matrix) for matrix in chosen], format="csr"
    )


def _columns(matrix: Any, names: pd.Index, features: pd.Index) -> Any:
    return matrix if names.equals(features) else matrix[:, names.get_indexer(features)]
