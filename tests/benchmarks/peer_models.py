"""scvi-tools as the speed benchmark asks it: silent, with its default network."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import anndata as ad
import numpy as np
import scvi


def be_silent() -> None:
    """No log lines, bars or advice: they cost time, and a benchmark has lines of its own."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    scvi.settings.verbosity = logging.ERROR
    warnings.filterwarnings("ignore", module="lightning|scvi")


def new_model(adata: ad.AnnData, *, batch_key: str | None = None) -> scvi.model.SCVI:
    """An untrained model with default settings."""
    be_silent()
    scvi.model.SCVI.setup_anndata(adata, batch_key=batch_key)
    return scvi.model.SCVI(adata)


def train(model: scvi.model.SCVI, max_epochs: int, device: str, **options: Any) -> None:
    """`train()` with its defaults, on every cell unless the options say otherwise."""
    cells = {} if "datasplitter_kwargs" in options else {"train_size": 1.0}
    accelerator = "gpu" if device.startswith("cuda") else "cpu"
    model.train(max_epochs=max_epochs, accelerator=accelerator, enable_progress_bar=False, **cells, **options)


def training_on(inside: np.ndarray, outside: np.ndarray) -> dict[str, Any]:
    """Options of `train` that keep the outside cells out of it."""
    return {"datasplitter_kwargs": {"external_indexing": [inside, outside, np.array([], dtype=int)]}}
