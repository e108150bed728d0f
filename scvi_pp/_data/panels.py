"""Which proteins were measured in which cells: those of the antibody panel of their batch.

A count of zero and no antibody look the same in a matrix. What was decided at the fit is remembered by batch, so that a
model that is asked later reads the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from mudata import MuData

from scvi_pp._data.columns import SEPARATOR, check_texts, groups, label
from scvi_pp._data.multiome import ModalityCounts, observations, rows_of_modality
from scvi_pp._errors import InputError, did_you_mean, listing

RULES = ("zeros", "given", "none")
FEWEST_CELLS = 10  # of a batch: that fewer have no count of a protein may be by chance


@dataclass(frozen=True)
class Panels:
    """The proteins that each batch did not measure.

    By the rule `"zeros"` those of which it has no count while another batch has; `"given"` by hand; or `"none"`.
    """

    proteins: ModalityCounts
    keys: tuple[str, ...]  # of the batch
    rule: str
    batches: tuple[str, ...] = ()
    unmeasured: tuple[tuple[str, ...], ...] = ()  # of each batch

    def __post_init__(self) -> None:
        if not isinstance(self.proteins, ModalityCounts) or self.rule not in RULES:
            msg = f"Panels holds the ModalityCounts of proteins, and a rule out of {listing(RULES)}."
            raise InputError(msg)
        check_texts(self.keys, "Panels.keys")
        check_texts(self.batches, "Panels.batches")
        if not isinstance(self.unmeasured, tuple) or len(self.unmeasured) != len(self.batches):
            msg = "Panels.unmeasured is a tuple with the names of proteins for each batch."
            raise InputError(msg)
        for names in self.unmeasured:
            check_texts(names, "Panels.unmeasured, for each batch,")

    @property
    def lacking(self) -> dict[str, tuple[str, ...]]:
        """Of the batches that did not measure everything: what they did not."""
        return {batch: names for batch, names in zip(self.batches, self.unmeasured, strict=True) if names}

    def learn(self, data: MuData) -> Self:
        """Return a copy that knows what each batch of these cells measured."""
        proteins = self.proteins.learn(data)
        codes, batches = self._batches(data)
        learned = replace(self, proteins=proteins)
        if self.rule == "zeros":
            return replace(learned, batches=batches, unmeasured=_without_counts(proteins, data, codes, len(batches)))
        if self.rule == "none":
            return replace(learned, batches=batches, unmeasured=((),) * len(batches))
        return replace(learned, batches=batches, unmeasured=learned._as_given(batches))

    def read(self, data: MuData) -> npt.NDArray[np.bool_] | None:
        """Return bool (n_obs, n_proteins); None if everything was measured wherever proteins were."""
        names, lacking = self.proteins.var_names or (), self.lacking
        here = data.mod[self.proteins.modality].var_names if self.proteins.modality in data.mod else names
        absent = [name for name in self.proteins.counts.absent if name not in here]
        if not lacking and not absent:
            return None
        codes, batches = self._batches(data)
        table = np.array([[name not in lacking.get(batch, ()) for name in names] for batch in batches], dtype=bool)
        table &= ~np.isin(names, absent)
        found: npt.NDArray[np.bool_] = table[codes]
        return found

    def extended(self, data: MuData, proteins: ModalityCounts) -> Self:
        """Return a copy that knows the batches of a query too, whose proteins are read by `proteins`."""
        codes, batches = self._batches(data)
        found: tuple[tuple[str, ...], ...] = ((),) * len(batches)
        if self.rule == "zeros":
            found = _without_counts(proteins, data, codes, len(batches), seen_before=True)
        new = [(batch, names) for batch, names in zip(batches, found, strict=True) if batch not in self.batches]
        return replace(
            self,
            proteins=proteins,
            batches=(*self.batches, *(batch for batch, _ in new)),
            unmeasured=(*self.unmeasured, *(names for _, names in new)),
        )

    def _batches(self, data: MuData) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
        """Return the batch of each cell, as a code, and the names of the batches."""
        if not self.keys:
            return np.zeros(data.n_obs, dtype=np.int64), ("all",)
        return groups(observations(data, self.keys), self.keys)

    def _as_given(self, batches: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """Return what was given, in the order of the batches, after a look at every name."""
        for batch in self.batches:
            if batch not in batches:
                msg = f"missing_proteins names the batch '{batch}', which no cell is of.{did_you_mean(batch, batches)}"
                raise InputError(f"{msg} Batches: {listing(batches, limit=20)}.")
        names = self.proteins.var_names or ()
        known, lacking = set(names), self.lacking
        for batch, of_batch in lacking.items():
            unknown = [name for name in of_batch if name not in known]
            if unknown:
                msg = f"missing_proteins names {listing(unknown, quoted=True)} for '{batch}', which are no proteins of"
                raise InputError(f"{msg} {self.proteins.place}.{did_you_mean(unknown[0], names)}")
        nowhere = [name for name in names if all(name in lacking.get(batch, ()) for batch in batches)]
        if nowhere:
            msg = f"missing_proteins leaves no batch in which {listing(nowhere, quoted=True)} were measured."
            raise InputError(f"{msg} Take these proteins out of the data.")
        return tuple(lacking.get(batch, ()) for batch in batches)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "kind": "Panels",
            "proteins": self.proteins.to_dict(),
            "keys": self.keys,
            "rule": self.rule,
            "batches": self.batches,
            "unmeasured": self.unmeasured,
        }


def panels(proteins: ModalityCounts, keys: tuple[str, ...], missing: object) -> Panels:
    """Return the source that `missing_proteins` asks for: `"zeros"`, None, or names of proteins by batch."""
    if missing == "zeros" or missing is None:
        return Panels(proteins, keys, "zeros" if missing else "none")
    if not isinstance(missing, Mapping):
        msg = f"missing_proteins={missing!r} must be 'zeros', None, or the names of proteins by batch, such as"
        raise InputError(f"{msg} {{'batch1': ['CD3', 'CD4']}}.")
    if not keys:
        msg = "missing_proteins says what batches did not measure, and needs batch_key."
        raise InputError(msg)
    given = {_name(batch): (names,) if isinstance(names, str) else tuple(names) for batch, names in missing.items()}
    return Panels(proteins, keys, "given", tuple(given), tuple(tuple(map(str, names)) for names in given.values()))


def _name(batch: object) -> str:
    """Return the name of a batch; of joined columns a tuple of values will do."""
    return SEPARATOR.join(map(label, batch)) if isinstance(batch, list | tuple) else label(batch)


def _without_counts(
    proteins: ModalityCounts,
    data: MuData,
    codes: npt.NDArray[np.int64],
    n_batches: int,
    *,
    seen_before: bool = False,
) -> tuple[tuple[str, ...], ...]:
    """Return, of each batch, the proteins of which it has no count while another has, or the fit had."""
    names = np.array(proteins.var_names or ())
    if proteins.is_absent:
        return ((),) * n_batches
    counts, rows = proteins.read(data).tocoo(), rows_of_modality(data, proteins.modality)
    seen = np.zeros((n_batches, len(names)), dtype=bool)
    seen[codes[counts.row], counts.col] = True
    n_cells = np.bincount(codes[rows >= 0], minlength=n_batches)
    lacks = ~seen & (seen.any(0) | seen_before) & (n_cells >= FEWEST_CELLS)[:, None]
    return tuple(tuple(map(str, names[row])) for row in lacks)
