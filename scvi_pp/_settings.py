"""The settings of scvi_pp, as the object `scvi_pp.settings`.

The file has an underscore so that no import can put a module where the object should be.
"""

from __future__ import annotations

import operator
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, SupportsIndex

from scvi_pp._errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Settings", "settings"]

VERBOSITY_NAMES = {"silent": 0, "error": 0, "warning": 1, "info": 2, "hint": 2, "debug": 3}
DEVICE_PATTERN = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")
MAX_SEED = 2**32 - 1  # what every generator in use accepts: numpy's legacy RandomState is the narrowest


class Settings:
    """What holds for every call: how much is said, where models run, what is random.

    Use the object `scvi_pp.settings`; there is one. Every value is checked when it is set.

    Attributes
    ----------
    verbosity
        What is logged to stderr: 0 nothing, 1 warnings, 2 also what was done (the default), 3 also details.
        The names `"silent"`, `"warning"`, `"info"` and `"debug"` are accepted too. At 0 there is no progress bar.
    device
        Where models are trained: `"auto"` (the default: a GPU if there is one), `"cpu"`, `"mps"`, `"cuda"`,
        `"cuda:1"`, `"xpu"`.
    seed
        The seed of calls that are given none, 0 by default. Global random states are never touched.
    progress
        `True` or `False` to always or never show a progress bar, `"auto"` (the default) to show it in a terminal or a
        notebook. At verbosity 0 there is none.
    max_layer_bytes
        The largest dense layer that is written to an object without being asked for, 2 GB by default.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> with svp.settings.override(verbosity="silent", seed=7):
    ...     print(svp.settings.verbosity, svp.settings.seed)
    0 7
    >>> svp.settings.seed
    0
    """

    __slots__ = ("_device", "_max_layer_bytes", "_progress", "_seed", "_verbosity")

    _verbosity: int
    _device: str
    _seed: int
    _progress: bool | Literal["auto"]
    _max_layer_bytes: int

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Put every setting back to its default."""
        self._verbosity = 2
        self._device = "auto"
        self._seed = 0
        self._progress = "auto"
        self._max_layer_bytes = 2_000_000_000

    @property
    def verbosity(self) -> int:
        """What is logged: 0 nothing, 1 warnings, 2 also what was done, 3 also details."""
        return self._verbosity

    @verbosity.setter
    def verbosity(self, value: int | str) -> None:
        level = VERBOSITY_NAMES.get(value.lower(), -1) if isinstance(value, str) else _whole(value)
        if level is None or not 0 <= level <= 3:
            names = "'silent' (0), 'warning' (1), 'info' (2), 'debug' (3)"
            raise InputError(f"settings.verbosity cannot be {value!r}. Choose one of {names}.")
        self._verbosity = level

    @property
    def device(self) -> str:
        """Where models are trained: 'auto', 'cpu', 'mps', 'cuda', 'cuda:1', 'xpu'."""
        return self._device

    @device.setter
    def device(self, value: str) -> None:
        name = str(value).lower()  # a torch.device prints as its name
        if not DEVICE_PATTERN.fullmatch(name):
            choices = "'auto', 'cpu', 'mps', 'cuda', 'cuda:<number>', 'xpu'"
            raise InputError(f"settings.device cannot be {value!r}. Choose one of {choices}.")
        self._device = name

    @property
    def seed(self) -> int:
        """The seed of calls that are given none."""
        return self._seed

    @seed.setter
    def seed(self, value: SupportsIndex) -> None:
        seed = _whole(value)
        if seed is None or not 0 <= seed <= MAX_SEED:
            raise InputError(f"settings.seed cannot be {value!r}. Give a whole number from 0 to {MAX_SEED}.")
        self._seed = seed

    @property
    def progress(self) -> bool | Literal["auto"]:
        """Whether a progress bar is shown; 'auto' shows one in a terminal or a notebook."""
        return self._progress

    @progress.setter
    def progress(self, value: bool | Literal["auto"]) -> None:
        if value is True or value is False:
            self._progress = value
        elif isinstance(value, str) and value == "auto":
            self._progress = "auto"
        else:
            raise InputError(f"settings.progress cannot be {value!r}. Choose True, False or 'auto'.")

    @property
    def max_layer_bytes(self) -> int:
        """The largest dense layer that is written without being asked for, in bytes."""
        return self._max_layer_bytes

    @max_layer_bytes.setter
    def max_layer_bytes(self, value: SupportsIndex | float) -> None:
        # 2e9 is how people write it
        size = int(value) if isinstance(value, float) and value.is_integer() else _whole(value)
        if size is None or size < 0:
            raise InputError(f"settings.max_layer_bytes cannot be {value!r}. Give a whole number of bytes, 0 or more.")
        self._max_layer_bytes = size

    @contextmanager
    def override(
        self,
        *,
        verbosity: int | str | None = None,
        device: str | None = None,
        seed: int | None = None,
        progress: bool | Literal["auto"] | None = None,
        max_layer_bytes: int | float | None = None,
    ) -> Iterator[Settings]:
        """Change settings for the length of a `with` block; those left at `None` stay as they are."""
        wanted = {
            "verbosity": verbosity,
            "device": device,
            "seed": seed,
            "progress": progress,
            "max_layer_bytes": max_layer_bytes,
        }
        before = {name: getattr(self, name) for name in wanted}
        try:
            for name, value in wanted.items():
                if value is not None:
                    setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name not in PUBLIC_NAMES:
            near = did_you_mean(name, PUBLIC_NAMES)
            raise AttributeError(f"settings has no '{name}'.{near} Settings: {', '.join(PUBLIC_NAMES)}.")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        lines = (f"  {name} = {getattr(self, name)!r}" for name in PUBLIC_NAMES)
        return "\n".join(["scvi_pp.settings", *lines])


PUBLIC_NAMES = ("verbosity", "device", "seed", "progress", "max_layer_bytes")


def _whole(value: object) -> int | None:
    """`value` as an int if it is a whole number (numpy's too), else None. A bool is not a number here."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # an array has __index__ but is not a number
        return None


settings = Settings()
"""The settings, the only instance."""
