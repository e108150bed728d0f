"""Differential abundance by a fitted model: where cells of some samples are denser than those of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData

from scvi_pp import _docs, _logging
from scvi_pp._data.columns import groups_of_column
from scvi_pp._data.multiome import copied, observations
from scvi_pp._data.read import check_annotated
from scvi_pp._data.write import check_any_writable, check_key, write_to_cells
from scvi_pp._errors import InputError, did_you_mean, listing
from scvi_pp._fitted_model import open_model
from scvi_pp._seed import seed_from
from scvi_pp.get._options import checked_count, checked_flag, is_number

if TYPE_CHECKING:
    from anndata import AnnData

    from scvi_pp._seed import Seed

FEWEST_SAMPLES = 2  # of a condition, for a test


@_docs.documented(KEY=_docs.KEY, RANDOM=_docs.RANDOM)
def differential_abundance(
    adata: AnnData | MuData,
    sample_key: str,
    *,
    condition_key: str | None = None,
    condition: str | None = None,
    reference: str | None = None,
    key: str | None = None,
    dof: float | None = None,
    n_cells: int | None = None,
    leave_one_out: bool = True,
    key_added: str | None = None,
    rng: Seed = None,
    random_state: Seed = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Find where in the latent space samples differ in how many cells they have, without clusters [Boyeau24]_.

    The posteriors of a sample's cells together are a density over the latent space. Its log is taken at every cell, for
    every sample: which samples have cells like this one. Between two conditions it is compared cell by cell, with samples
    as the units.

    Parameters
    ----------
    adata
        The object a model was fitted to.
    sample_key
        Column of `.obs` with the sample of each cell.
    condition_key
        Column of `.obs` with the condition, the same for all cells of a sample; without it densities alone are written.
    condition, reference
        The conditions that are compared, of which there may be more: the log ratio is positive where `condition` is
        denser than `reference`. By default the second and the first of two.
    {KEY}
    dof
        Take a Student t with these degrees of freedom around each cell instead of a normal: smoother where a sample has
        few cells. 3 is usual.
    n_cells
        Of each sample at most so many cells, by chance, make up its density. Time grows with cells times this.
    leave_one_out
        A cell does not count for the density of its own sample, which it would otherwise raise where it is alone.
    key_added
        Under which name results are written, f"{key}_da" by default.
    {RANDOM}
    copy
        Return a copy instead of writing to the object.

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `.obsm['scvi_da' | key_added]` : :class:`pandas.DataFrame` (dtype `float64`, a column for each sample)
        Log density of the sample around each cell. To be compared between samples, not between models.
    `.obs['scvi_da_log_ratio']`, `.obs['scvi_da_pval']`, `.obs['scvi_da_padj']`
        With `condition_key`: the natural log of the mean density of the condition's samples over that of the
        reference's; the p-value of Welch's test between the samples' log densities; and that corrected for the number
        of cells by Benjamini and Hochberg.
    `.uns['scvi_da' | key_added]` : :class:`dict`
        The settings.

    Raises
    ------
    InputError
        A sample is in two conditions, a condition has one sample, a value is missing.
    MissingKeyError
        A column or the model is not there. In each case the object is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> adata = svp.datasets.simulate_rna(200, 50, n_batches=4)
    >>> svp.tl.scvi(adata, max_epochs=1, denoise=False)
    >>> svp.tl.differential_abundance(adata, "batch")
    >>> adata.obsm["scvi_da"].shape
    (200, 4)
    """
    check_annotated(adata, verb="tl.differential_abundance")
    if copy:
        adata = copied(adata)
    check_any_writable(adata)
    if dof is not None and not (is_number(dof) and 0 < dof < np.inf):
        raise InputError(f"dof={dof!r} must be a positive number, or None for a normal.")
    most = None if n_cells is None else checked_count("n_cells", n_cells)
    alone = checked_flag("leave_one_out", leave_one_out)
    if key_added is not None:
        check_key(key_added)
    seed = seed_from(rng, random_state)
    keys = [sample_key] if condition_key is None else [sample_key, condition_key]
    table: Any = observations(adata, keys) if isinstance(adata, MuData) else adata
    codes, samples = groups_of_column(table, sample_key)
    sides = None if condition_key is None else _sides(table, codes, samples, condition_key, condition, reference)
    model = open_model(adata, key, verb="tl.differential_abundance", seed=seed)
    name = key_added or f"{model.key}_da"
    densities = _densities(model, codes, samples, dof=dof, most=most, leave_one_out=alone, seed=seed)
    obs = {} if sides is None else _compared(densities, sides, name)
    index = adata.obs_names
    params = {"model": model.key, "sample_key": sample_key, "leave_one_out": alone, "seed": seed}
    if sides is not None:
        params |= {"condition_key": condition_key, "condition": sides[2], "reference": sides[3]}
    params |= {word: value for word, value in (("dof", dof), ("n_cells", most)) if value is not None}
    entries: dict[str, Any] = {
        "obsm": {name: pd.DataFrame(densities, index=index, columns=list(samples))},
        "uns": {name: {"params": params}},
        "obs": {column: pd.Series(values, index=index) for column, values in obs.items()},
    }
    write_to_cells(adata, **entries)
    written = [f"obsm['{name}']", *(f"obs['{column}']" for column in obs), f"uns['{name}']"]
    _logging.info(f"tl.differential_abundance: {len(samples)} samples. Added {', '.join(written)}.")
    return adata if copy else None


def _densities(
    model: Any,
    codes: np.ndarray,
    samples: tuple[str, ...],
    *,
    dof: float | None,
    most: int | None,
    leave_one_out: bool,
    seed: int,
) -> np.ndarray:
    from scvi_pp._backend.densities import log_densities

    random = np.random.default_rng(seed)
    rows = [np.flatnonzero(codes == code) for code in range(len(samples))]
    few = [name for name, found in zip(samples, rows, strict=True) if len(found) < 2]
    if few and leave_one_out:
        raise InputError(
            f"Samples {listing(few, quoted=True)} have one cell. Leave them out, or set leave_one_out=False."
        )
    if most is not None:
        rows = [np.sort(random.choice(found, most, replace=False)) if len(found) > most else found for found in rows]
    mean, variance = model.posterior.latent_distribution()
    own = np.arange(len(codes)) if leave_one_out else None
    return log_densities(mean, mean, variance, rows, dof=dof, own_rows=own)


def _sides(
    table: Any,
    codes: np.ndarray,
    samples: tuple[str, ...],
    condition_key: str,
    condition: str | None,
    reference: str | None,
) -> tuple[np.ndarray, np.ndarray, str, str]:
    """Which samples are of the condition and which of the reference, and the names of both."""
    of_cells, names = groups_of_column(table, condition_key)
    of_samples = np.empty(len(samples), dtype=np.int64)
    for code, sample in enumerate(samples):
        found = np.unique(of_cells[codes == code])
        if len(found) > 1:
            both = listing([names[each] for each in found], quoted=True)
            msg = f"Sample '{sample}' is in several conditions of obs['{condition_key}']: {both}."
            raise InputError(f"{msg} Make samples of them: one for each condition.")
        of_samples[code] = found[0]
    asked = {"condition": condition, "reference": reference}
    for argument, name in asked.items():
        if name is not None and str(name) not in names:
            near = did_you_mean(str(name), names)
            msg = f"{argument}={name!r} is no group of obs['{condition_key}'].{near} Groups: {listing(names, quoted=True)}."
            raise InputError(msg)
    if (condition is None or reference is None) and len(names) != 2:
        msg = f"obs['{condition_key}'] has {len(names)} groups: {listing(names, quoted=True)}."
        raise InputError(f"{msg} Say which to compare: condition=..., reference=...")
    second = str(reference) if reference is not None else next(name for name in names if name != str(condition))
    first = str(condition) if condition is not None else next(name for name in names if name != second)
    if first == second:
        raise InputError(f"condition and reference are both '{first}': a condition does not differ from itself.")
    chosen = [of_samples == names.index(name) for name in (first, second)]
    for name, which in zip((first, second), chosen, strict=True):
        if which.sum() < FEWEST_SAMPLES:
            msg = f"Condition '{name}' has {int(which.sum())} samples, and a test between conditions needs two of each."
            raise InputError(f"{msg} Without condition_key densities alone are written.")
    return chosen[0], chosen[1], first, second


def _compared(
    densities: np.ndarray, sides: tuple[np.ndarray, np.ndarray, str, str], name: str
) -> dict[str, np.ndarray]:
    from scipy.stats import false_discovery_control

    from scvi_pp._backend.densities import log_ratio, welch

    p = welch(densities, sides[0], sides[1])
    p = np.where(np.isnan(p), 1.0, p)  # all densities alike: nothing differs
    return {
        f"{name}_log_ratio": log_ratio(densities, sides[0], sides[1]),
        f"{name}_pval": p,
        f"{name}_padj": false_discovery_control(p),
    }
