"""The table of a test between populations, out of `uns`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scvi_pp._data.read import check_annotated
from scvi_pp._errors import InputError, MissingKeyError, did_you_mean, listing

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

CALLED = ("is_de_fdr_", "is_da_fdr_")  # how the column begins that says what is called


def statistics(adata: AnnData | MuData, key: str, group: str | None, *, only_called: bool, verb: str) -> pd.DataFrame:
    """Return a copy of the table of `uns[key]`: all of it, or a group with features as the index."""
    check_annotated(adata, verb=verb)
    entry = adata.uns.get(key)
    table = entry.get("statistics") if isinstance(entry, dict) else None
    if not isinstance(table, pd.DataFrame):
        known = [name for name, value in adata.uns.items() if isinstance(value, dict) and "statistics" in value]
        there = f"Results: {listing(known, quoted=True)}." if known else f"Call {verb.replace('get.', 'tl.')} first."
        raise MissingKeyError(f"uns has no results of a test by a model under '{key}'. {there}")
    table = table.copy()
    flag = next((name for name in table if name.startswith(CALLED)), None)
    if only_called:
        if flag is None:
            raise InputError("only_called needs a test in mode 'change': in 'vanilla' nothing is called.")
        table = table[table[flag]]
    if group is None:
        return table
    groups = list(table["group"].cat.categories)
    if group not in groups:
        near = did_you_mean(group, groups)
        raise InputError(f"group={group!r} was not tested.{near} Groups: {listing(groups, quoted=True)}.")
    of_group = table[table["group"] == group]
    return of_group.set_index(pd.Index(of_group["feature"].astype(str), name=None)).drop(columns="feature")
