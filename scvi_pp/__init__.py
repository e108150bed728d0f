"""Probabilistic models of single-cell and spatial omics, as scanpy verbs.

Call a verb on your `AnnData` or `MuData`; its results, and the fitted model itself, are written to that object.

==================  ==============================================================================
`scvi_pp.tl`        fit a model, and ask a fitted model: `tl.scvi`, `tl.differential_expression`, ...
`scvi_pp.get`       return what a fitted model knows, without writing: `get.latent`, `get.elbo`, ...
`scvi_pp.pl`        draw what is stored
`scvi_pp.pp`        preprocessing that neither scanpy nor muon has
`scvi_pp.datasets`  real counts that need no download, and simulations with known truth
`scvi_pp.settings`  verbosity, device, seed, progress, max_layer_bytes
==================  ==============================================================================
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from scvi_pp._settings import settings

if TYPE_CHECKING:
    from types import ModuleType

    from scvi_pp import datasets, get, pl, pp, tl

__all__ = ["__version__", "datasets", "get", "pl", "pp", "settings", "tl"]

NAMESPACES = frozenset({"datasets", "get", "pl", "pp", "tl"})

try:
    __version__ = version("scvi_pp")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> ModuleType:
    """Import a namespace when it is first used: `import scvi_pp` alone loads nothing heavy."""
    if name in NAMESPACES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
