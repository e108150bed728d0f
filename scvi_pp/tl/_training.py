"""The training options that every model shares, checked before anything is read."""

from __future__ import annotations

import difflib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from scvi_pp import _docs
from scvi_pp._errors import InputError
from scvi_pp._settings import settings
from scvi_pp.tl._options import check_choices

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from scvi_pp._backend.fit import Plan


Precision = Literal["float32", "tf32", "bf16"]


class Training(TypedDict, total=False):
    """How long, how fast, on which cells; each model verb says what they mean and what it takes by default."""

    max_epochs: int | None
    batch_size: int
    learning_rate: float
    weight_decay: float
    kl_warmup: float
    kl_weight: float
    early_stopping: bool
    patience: int | None
    validation_size: float
    validation_indices: ArrayLike | None
    precision: Precision
    checkpoint: str | Path | None


# where a model is not named below, or says nothing of an option
DEFAULTS = Training(
    max_epochs=None,
    batch_size=128,
    learning_rate=1e-2,
    weight_decay=1e-4,
    kl_warmup=0.1,
    kl_weight=1.0,
    early_stopping=True,
    patience=None,
    validation_size=0.1,
    validation_indices=None,
    precision="float32",
    checkpoint=None,
)

# a cell's few open regions say little of each weight: a strong penalty, and a KL term that comes late, keep the
# position from being left unused (docs/benchmarks.md)
CHROMATIN = Training(batch_size=128, learning_rate=3e-3, weight_decay=5e-2, kl_warmup=0.5)
DEFAULTS_OF_MODEL: dict[str, Training] = {
    "scvi": Training(batch_size=128, learning_rate=3e-2, weight_decay=3e-4),
    "scanvi": Training(batch_size=128, learning_rate=2e-2, weight_decay=3e-4),
    "linear_scvi": Training(batch_size=128, learning_rate=3e-2, weight_decay=1e-3),
    "peakvi": CHROMATIN,
    "poissonvi": CHROMATIN,
    "multivi": Training(batch_size=128, learning_rate=1e-2, weight_decay=1e-2, kl_warmup=0.65),
    "totalvi": Training(batch_size=128, learning_rate=1e-2, weight_decay=1e-4, kl_warmup=0.1),
}

# passes and least number of steps of a run whose max_epochs is not given, where they are not those of scVI
BUDGETS: dict[str, dict[str, int]] = {
    "peakvi": {"usual": 40, "fewest_steps": 600},
    "poissonvi": {"usual": 40, "fewest_steps": 600},
    "multivi": {"usual": 40, "fewest_steps": 600},
    "totalvi": {"usual": 60, "fewest_steps": 1200},
}

# name: (smallest, whether it itself is allowed, largest)
RANGES: dict[str, tuple[float, bool, float]] = {
    "max_epochs": (1, True, math.inf),
    "batch_size": (2, True, math.inf),
    "learning_rate": (0, False, math.inf),
    "weight_decay": (0, True, math.inf),
    "kl_warmup": (0, True, 1),
    "kl_weight": (0, True, math.inf),
    "patience": (1, True, math.inf),
    "validation_size": (0, True, 0.9),
}
WHOLE = ("max_epochs", "batch_size", "patience")


def defaults(model: str) -> Training:
    """What a model takes for the options that it is not given."""
    return {**DEFAULTS, **DEFAULTS_OF_MODEL.get(model, Training())}


def documented_for(model: str) -> str:
    """The part of a docstring that explains the options, with the model's defaults."""
    return _docs.TRAINING.format_map(defaults(model))


def checked(training: Training, *, model: str) -> Training:
    """The options with the model's defaults filled in; unknown names and impossible values are refused."""
    for name in training:
        if name not in DEFAULTS:
            near = difflib.get_close_matches(name, DEFAULTS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Training options: {', '.join(DEFAULTS)}."
            raise TypeError(f"tl.{model} got an unexpected argument {name!r}.{hint}")
    options: Training = {**defaults(model), **training}
    for name, bounds in RANGES.items():
        _check_range(name, options[name], *bounds)  # type: ignore[literal-required]
    if not isinstance(options["early_stopping"], bool):
        raise InputError(f"early_stopping={options['early_stopping']!r} must be True or False.")
    check_choices(options, {"precision": Precision})
    if options["checkpoint"] is not None and not isinstance(options["checkpoint"], str | Path):
        raise InputError(f"checkpoint={options['checkpoint']!r} must be a path.")
    return options


def _check_range(name: str, value: Any, smallest: float, allowed: bool, largest: float) -> None:
    if value is None and DEFAULTS[name] is None:  # type: ignore[literal-required]
        return
    kind = "a whole number" if name in WHOLE else "a number"
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
    fits = is_number and smallest <= value <= largest and (allowed or value > smallest)
    if not fits or (name in WHOLE and value != int(value)):
        bound = f"of at least {smallest:g}" if allowed else f"above {smallest:g}"
        top = "" if largest == math.inf else f" and at most {largest:g}"
        raise InputError(f"{name}={value!r} must be {kind} {bound}{top}.")


def plan(options: Training, *, n_cells: int, seed: int, model: str) -> Plan:
    """The plan of a run on this many cells."""
    from scvi_pp._backend.fit import Plan, split
    from scvi_pp._backend.schedule import default_epochs

    batch_size = int(options["batch_size"])
    epochs = options["max_epochs"]
    epochs = default_epochs(n_cells, batch_size, **BUDGETS.get(model, {})) if epochs is None else int(epochs)
    held_out = options["validation_indices"]
    if held_out is None:
        training_rows, validation_rows = split(n_cells, float(options["validation_size"]), seed)
    else:
        training_rows, validation_rows = _given_split(held_out, n_cells)
    path = options["checkpoint"]
    return Plan(
        max_epochs=epochs,
        batch_size=batch_size,
        learning_rate=float(options["learning_rate"]),
        weight_decay=float(options["weight_decay"]),
        kl_warmup=float(options["kl_warmup"]),
        kl_weight=float(options["kl_weight"]),
        early_stopping=options["early_stopping"],
        patience=int(options["patience"] or max(10, epochs // 5)),
        seed=seed,
        training_rows=training_rows,
        validation_rows=validation_rows,
        precision=options["precision"],
        checkpoint=None if path is None else Path(path).expanduser().absolute(),
        progress_bar=model if _shows_progress() else None,
    )


def _given_split(held_out: ArrayLike, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.asarray(held_out)
    if chosen.dtype == bool:
        if chosen.shape != (n_cells,):
            raise InputError(f"validation_indices is a mask of shape {chosen.shape}; there are {n_cells} cells.")
        chosen = np.flatnonzero(chosen)
    if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
        raise InputError("validation_indices must be a list of positions (whole numbers) or a boolean mask.")
    chosen = chosen.astype(np.int64)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= n_cells):
        raise InputError(f"validation_indices holds positions outside 0..{n_cells - 1}.")
    rest = np.setdiff1d(np.arange(n_cells), chosen)
    if len(rest) < 2:
        raise InputError(f"validation_indices leaves {len(rest)} cells to train on; at least 2 are needed.")
    return rest, np.unique(chosen)


def _shows_progress() -> bool:
    """By default in a terminal or a notebook only: in a log file a bar is litter."""
    if settings.verbosity == 0 or settings.progress is False:
        return False
    return settings.progress is True or sys.stderr.isatty() or "ipykernel" in sys.modules
