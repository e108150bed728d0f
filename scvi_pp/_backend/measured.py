"""In which cells a modality was measured, and how the others are left out of the work.

Whether it was is said, never guessed: a cell without any count of a modality may have been measured all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from scvi_pp._backend.sparse import SparseRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scvi_pp._backend.streams import Cells

Modality = Literal["expression", "accessibility", "protein"]
MODALITIES: tuple[Modality, ...] = ("expression", "accessibility", "protein")  # the columns of `cells.present`


def measured_in(cells: Any, modality: Modality) -> Tensor:
    """In which cells the modality was measured, bool (cells,)."""
    measured: Tensor = cells.present[:, MODALITIES.index(modality)]
    return measured


def proteins_measured(cells: Any) -> Tensor:
    """Which proteins were measured in which cells, bool (cells, proteins), or (cells, 1) if panels are all alike."""
    here = measured_in(cells, "protein")[:, None]
    return here if cells.panel is None else here & cells.panel


def of_measured(measured: Tensor, evaluate: Callable[[Tensor | None], Tensor]) -> Tensor:
    """What `evaluate` says of the cells that were measured, (cells,), and zero of the others.

    On a CPU it is asked about the rows of an index, and the others cost nothing. Elsewhere it is asked about all rows,
    by None: in a CUDA graph no shape may depend on a value.
    """
    if measured.device.type != "cpu" or bool(measured.all()):
        return torch.where(measured, evaluate(None), 0.0)
    index = measured.nonzero()[:, 0]
    if not len(index):
        return torch.zeros(len(measured))
    values = evaluate(index)
    return values.new_zeros(len(measured)).index_copy(0, index, values)


def rows_of(x: Any, index: Tensor | None) -> Any:
    """Some rows of a tensor or of counts; all of them without an index."""
    if index is None:
        return x
    return x.rows(index) if isinstance(x, SparseRows) else x[index]


def log_of_measured(size_factor: Tensor, measured: Tensor) -> Tensor:
    """Log size factors, (cells, 1); of cells that were not measured the log of one, whatever theirs is."""
    return torch.where(measured, size_factor, 1.0).log()[:, None]


def present_in(cells: Cells, rows: Tensor) -> Tensor:
    """What was measured in the cells of these rows, bool (rows, 3)."""
    present: Tensor = cells.field("present", rows)
    return present


class Counted(NamedTuple):
    """One modality of some cells, as a model of that modality alone reads them."""

    counts: Tensor | SparseRows
    size_factor: Tensor | None
    batch: Tensor  # the same of all cells, unless they are told apart


@dataclass(frozen=True)
class OneModality:
    """Cells of which one modality is called `counts`: what their moments are asked of."""

    cells: Cells
    modality: Modality
    by_batch: bool = False  # tell batches apart

    @property
    def device(self) -> torch.device:
        return self.cells.device

    def minibatch(self, index: Tensor) -> Counted:
        """The modality of these rows."""
        return self._counted(self.cells.minibatch(index))

    def blocks(self, batch_size: int, rows: Tensor) -> Iterator[tuple[slice, Counted]]:
        """The same a block at a time."""
        return ((where, self._counted(block)) for where, block in self.cells.blocks(batch_size, rows))

    def _counted(self, cells: Any) -> Counted:
        match self.modality:
            case "expression":
                counts, size_factor = cells.expression, cells.expression_size_factor
            case "accessibility":
                counts, size_factor = cells.accessibility, cells.accessibility_size_factor
            case "protein":
                counts, size_factor = cells.protein, None
        return Counted(counts, size_factor, cells.batch if self.by_batch else torch.zeros_like(cells.batch))


def of_modality(cells: Cells, modality: Modality, *, by_batch: bool = False) -> Any:
    """The cells with that modality as their `counts`, of one batch unless they are told apart `by_batch`."""
    return OneModality(cells, modality, by_batch)
