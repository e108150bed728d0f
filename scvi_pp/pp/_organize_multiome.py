"""One MuData from cells with RNA and chromatin, cells with RNA alone and cells with chromatin alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import pandas as pd
from mudata import MuData

from scvi_pp import _logging
from scvi_pp._data.feature_types import FEATURE_TYPES
from scvi_pp._data.modalities import multimodal
from scvi_pp._data.read import check_anndata
from scvi_pp._errors import InputError, listing, missing_key
from scvi_pp.pp._joining import Source, agreeing_columns, joined_modality, joined_tables

if TYPE_CHECKING:
    from anndata import AnnData

VERB = "pp.organize_multiome"
ORIGINS = ("paired", "expression", "accessibility")
NOUNS = {"rna": "genes", "atac": "regions"}

Matching = Literal["equal", "intersection"]


def organize_multiome(
    multiome: AnnData | MuData | None = None,
    *,
    rna: AnnData | None = None,
    atac: AnnData | None = None,
    genes: Matching = "equal",
    regions: Matching = "equal",
) -> MuData:
    """Join paired and unpaired cells into one MuData, as a model of both modalities reads it.

    Cells in which RNA and chromatin were measured together tie the two modalities to each other; with them, cells that
    have only one can be placed in the same latent space. This brings the three kinds together: it matches genes and
    regions by name, keeps cells apart that have the same name, and writes down what each cell was measured in. A cell
    that lacks a modality is missing from it: no zeros are made up. Your objects are left as they are.

    Parameters
    ----------
    multiome
        Cells with both: an AnnData whose `var['feature_types']` says `'Gene Expression'` or `'Peaks'` (and perhaps
        `'Antibody Capture'`), as 10x writes it, or a MuData with the modalities `'rna'` and `'atac'`, in which some cells
        may lack one. Other modalities of a MuData are carried along.
    rna
        Cells with RNA alone.
    atac
        Cells with chromatin alone. Fragments have to be counted in the same regions.
    genes, regions
        `"equal"`: all inputs must have the same, in any order. `"intersection"`: keep those that all inputs have. The
        order is that of the first input.

    Returns
    -------
    A new MuData with the modalities `'rna'` and `'atac'` (and `'protein'`, or what else was in `multiome`), and the
    columns

    `.obs['modality']` : categorical
        `'paired'`, `'expression'` or `'accessibility'`: what the cell was measured in. Also in `obs` of each modality.
    `.obs`
        Those of all inputs; missing where an input lacks one. Of a MuData its own columns, and those of its modalities
        that do not contradict each other.

    Where a modality comes from several inputs, it has `.X`, the layers that all of them have, their columns of `obs`
    and those of `var`; where these differ, `var` is that of the first input. Embeddings and graphs are left out, as those
    of one input mean nothing in another. Where it comes from one input, it is a copy with all that is there but `.raw`.

    If two inputs share names of cells, `'_paired'`, `'_expression'` or `'_accessibility'` is appended to all names, and
    this is logged.

    Raises
    ------
    InputError
        A modality is in no input, genes or regions differ or have no unique names, or a gene and a region share a name.
    MissingKeyError
        `var['feature_types']` is missing.

    See Also
    --------
    scvi_pp.datasets.simulate_multiome : paired and unpaired cells with known truth.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> mdata = svp.datasets.simulate_multiome(100, 50, n_regions=80)
    >>> rna, atac = mdata["rna"][60:80], mdata["atac"][80:]
    >>> joined = svp.pp.organize_multiome(mdata[:60], rna=rna, atac=atac)
    >>> joined["rna"].shape, joined["atac"].shape
    ((80, 50), (80, 80))
    >>> joined.obs["modality"].value_counts().to_dict()
    {'paired': 60, 'expression': 20, 'accessibility': 20}
    """
    chosen = {"rna": _checked("genes", genes), "atac": _checked("regions", regions)}
    sources = _sources(multiome, rna, atac)
    for name, noun in NOUNS.items():
        if not any(name in source.modalities for source in sources):
            raise InputError(f"No input has {noun}. Pass cells that have them as multiome= or {name}=.")
    if not any(len(source.obs) for source in sources):
        raise InputError("The inputs have no cells. Pass one with at least one cell.")
    sources = _with_unique_names(sources)

    origin = pd.concat([source.named(source.origin) for source in sources])
    origin = origin.astype(pd.CategoricalDtype([name for name in ORIGINS if (origin == name).any()]))
    names = dict.fromkeys([*NOUNS, *(name for source in sources for name in source.modalities)])
    modalities = {
        name: joined_modality(name, sources, noun=NOUNS.get(name, "features"), matching=chosen.get(name, "equal"))
        for name in names
    }
    _check_apart(modalities)
    for modality in modalities.values():
        modality.obs["modality"] = origin.loc[modality.obs_names]
    in_rna, in_atac = modalities["rna"].obs_names, modalities["atac"].obs_names
    cells = in_rna.append(in_atac.difference(in_rna, sort=False))
    obs = joined_tables([source.named(source.obs) for source in sources]).assign(modality=origin).loc[cells]
    _report(obs, modalities)
    return multimodal(modalities, obs)


def _checked(argument: str, matching: Matching) -> Matching:
    if matching not in ("equal", "intersection"):
        raise InputError(f"{argument}={matching!r} cannot be. Choose 'equal' or 'intersection'.")
    return matching


def _sources(multiome: AnnData | MuData | None, rna: AnnData | None, atac: AnnData | None) -> list[Source]:
    """What was given, in the order of the arguments."""
    found = []
    if isinstance(multiome, MuData):
        found.append(_from_mudata(multiome))
    elif multiome is not None:
        check_anndata(multiome, verb=VERB)
        found.append(_from_anndata(multiome))
    for name, origin, alone in (("rna", "expression", rna), ("atac", "accessibility", atac)):
        if alone is not None:
            check_anndata(alone, verb=f"{VERB}({name}=...)")
            found.append(Source(name, {name: alone}, alone.obs, pd.Series(origin, index=alone.obs_names, dtype=object)))
    for source in found:
        source.check_unique()
    return found


def _from_anndata(multiome: AnnData) -> Source:
    if "feature_types" not in multiome.var:
        known = [str(name) for name in multiome.var.columns]
        way_out = "It tells genes ('Gene Expression') from regions ('Peaks'): add it, or pass a MuData."
        raise missing_key("multiome.var", "column", "feature_types", known, way_out=way_out)
    types = multiome.var["feature_types"].astype(str)
    present = types.unique()
    lacking = [FEATURE_TYPES[name] for name in NOUNS if FEATURE_TYPES[name] not in present]
    if lacking:
        raise InputError(
            f"multiome.var['feature_types'] does not hold {listing(lacking, quoted=True)}, only "
            f"{listing(present, quoted=True)}. Rename the types, or pass cells with one modality as rna= or atac=."
        )
    others = sorted(set(present) - set(FEATURE_TYPES.values()))
    if others:
        n_others = int(types.isin(others).sum())
        _logging.warning(f"{VERB}: left out {n_others:,} features of other types: {listing(others, quoted=True)}.")
    modalities = {
        name: multiome[:, (types == feature_type).to_numpy()]
        for name, feature_type in FEATURE_TYPES.items()
        if feature_type in present
    }
    return Source("multiome", modalities, multiome.obs, pd.Series("paired", index=multiome.obs_names, dtype=object))


def _from_mudata(multiome: MuData) -> Source:
    modalities = dict(multiome.mod)
    for name, noun in NOUNS.items():
        if name not in modalities:
            raise InputError(
                f"multiome has no modality '{name}'. Modalities: {listing(modalities)}. Say which one holds the {noun}: "
                f"MuData({{'{name}': mdata['...'], ...}})."
            )
    cells = multiome.obs_names
    has_rna, has_atac = (cells.isin(modalities[name].obs_names) for name in NOUNS)
    origin = pd.Series("paired", index=cells, dtype=object)
    origin[~has_atac], origin[~has_rna] = "expression", "accessibility"
    neither = ~(has_rna | has_atac)
    if neither.any():
        raise InputError(
            f"{int(neither.sum()):,} cells of multiome are neither in 'rna' nor in 'atac': "
            f"{listing(cells[neither], limit=3)}. Leave them out: "
            "mdata[(mdata.obsmap['rna'] > 0) | (mdata.obsmap['atac'] > 0)]."
        )
    pulled = {f"{name}:{column}" for name, modality in modalities.items() for column in modality.obs}
    table = multiome.obs.loc[:, [column not in pulled for column in multiome.obs]]
    columns = agreeing_columns([modality.obs for modality in modalities.values()])
    more = columns.columns.difference(table.columns, sort=False)
    return Source("multiome", modalities, table.join(columns[more]), origin)


def _with_unique_names(sources: list[Source]) -> list[Source]:
    """With the origin appended to all names of cells if two inputs share one."""
    names = _names_of(sources)
    if names.is_unique:
        return sources
    clashing = names[names.duplicated()].unique()
    renamed = [replace(source, origin_in_names=True) for source in sources]
    names = _names_of(renamed)
    if not names.is_unique:
        twice = listing(names[names.duplicated()].unique(), limit=3)
        raise InputError(
            f"Two inputs share names of cells of the same kind, such as {twice}. Give the cells of each input names of "
            "their own: adata.obs_names = 'sample1_' + adata.obs_names."
        )
    _logging.warning(
        f"{VERB}: inputs share {len(clashing):,} names of cells ({listing(clashing, limit=3)}), so '_paired', "
        "'_expression' or '_accessibility' was appended to all. If these are the same cells, join them first and pass "
        "them as multiome."
    )
    return renamed


def _names_of(sources: list[Source]) -> pd.Index:
    return pd.Index([name for source in sources for name in source.named(source.origin).index])


def _check_apart(modalities: dict[str, AnnData]) -> None:
    for (one, first), (other, second) in combinations(modalities.items(), 2):
        shared = first.var_names.intersection(second.var_names)
        if len(shared):
            raise InputError(
                f"'{one}' and '{other}' share {len(shared):,} names of features: {listing(shared, limit=3)}. Rename them "
                "in one: atac.var_names = 'peak_' + atac.var_names."
            )


def _report(obs: pd.DataFrame, modalities: dict[str, AnnData]) -> None:
    counts = obs["modality"].value_counts(sort=False)
    cells = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    features = ", ".join(f"{modality.n_vars:,} in '{name}'" for name, modality in modalities.items())
    _logging.info(f"{VERB}: {len(obs):,} cells ({cells}); features: {features}.")
