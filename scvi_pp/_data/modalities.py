"""A MuData of modalities, the same with every version of mudata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mudata
import pandas as pd
from anndata import AnnData
from mudata import MuData


def multimodal(modalities: Mapping[str, AnnData], obs: pd.DataFrame, obsm: Mapping[str, Any] | None = None) -> MuData:
    """Return a MuData whose table of cells is `obs` and no more.

    Each cell of `obs` is in one modality at least, and `obsmap` says where. Let cells be in the order in which the
    modalities bring them up: mudata 0.3 puts them into that order when it copies.
    """
    with no_columns_pulled():
        mdata = MuData(dict(modalities), obs=pd.DataFrame(index=obs.index))
    mdata.obs = obs.copy()  # not to the constructor, which would convert the types of the columns
    for key, values in (obsm or {}).items():
        mdata.obsm[key] = values
    return mdata


@contextmanager
def no_columns_pulled() -> Iterator[None]:
    """Keep mudata from copying the modalities' columns into its own tables as 'rna:batch', 'atac:batch', ...

    mudata 0.4 does not, and 0.3 warns that it will not. Its `set_options` is not used as a context here, as that logs
    to the root logger and thereby gives it a handler.
    """
    set_options = getattr(mudata, "set_options", None)  # gone in mudata 0.4
    before = set_options(pull_on_update=False).opts if set_options else {}
    try:
        yield
    finally:
        if set_options:
            set_options(**before)
