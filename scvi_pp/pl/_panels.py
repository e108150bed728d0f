"""Several panels in one figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def panels(n: int, *, in_a_row: int, size: tuple[float, float]) -> list[Axes]:
    """Return the axes of so many panels, each of that width and height in inches, in rows of a new figure."""
    import matplotlib.pyplot as plt

    n_rows, n_columns = -(-n // in_a_row), min(n, in_a_row)
    figsize = (size[0] * n_columns, size[1] * n_rows)
    _, grid = plt.subplots(n_rows, n_columns, figsize=figsize, layout="constrained", squeeze=False)
    axes = list(grid.flat)
    for left_over in axes[n:]:
        left_over.remove()
    return axes[:n]
