"""Which label a cell has, by a network that says it, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from scvi_pp._backend import noise

if TYPE_CHECKING:
    from scvi_pp._backend.query import Posterior

# a temperature of one is believed in as far as a few labels can say otherwise: standard deviation of its log
SPREAD_OF_LOG_TEMPERATURE = 0.5
LARGEST_LOG_TEMPERATURE = 3.0


def label_probabilities(posterior: Posterior, n_samples: int | None = None) -> npt.NDArray[np.float32]:
    """The chance of each label, (cells, n_labels), at the posterior mean of each cell or as the mean over draws."""
    logits = label_logits(posterior, n_samples)
    shares: npt.NDArray[np.float32] = softmax(logits, axis=-1).mean(0)
    return shares


def label_logits(posterior: Posterior, n_samples: int | None = None) -> npt.NDArray[np.float32]:
    """Logits of labels, (draws, cells, n_labels); without `n_samples` one draw, which is the posterior mean."""
    network: Any = posterior.network
    samples = [None] if n_samples is None else list(range(n_samples))
    n_labels = network.hyperparameters.n_labels
    out = np.empty((len(samples), posterior.cells.n_cells, n_labels), dtype=np.float32)
    with posterior.asking():
        for row, sample in enumerate(samples):
            for where, cells in posterior.cells.blocks(posterior.block_size(decoded=False)):
                q_z = network.encode(cells).q_z
                position = q_z.loc if sample is None else q_z.loc + q_z.scale * _drawn(posterior, sample, where)
                out[row, where] = network.label_logits(position).cpu().numpy()
    return out


def _drawn(posterior: Posterior, sample: int, where: slice) -> torch.Tensor:
    n_cells, width = posterior.cells.n_cells, posterior.n_latent
    return noise.standard_normal(n_cells, width, seed=posterior.seed, sample=sample, rows=where).to(
        posterior.cells.device
    )


def calibrate(posterior: Posterior, rows: np.ndarray, labels: np.ndarray) -> None:
    """Scale the logits of the network to what is right of labels that training has not seen (Guo et al. 2017).

    The temperature is the one under which the labels of these rows are likeliest, and near one if they are few.
    """
    network: Any = posterior.network
    logits = label_logits(posterior)[0][rows].astype(np.float64) * float(network.get_buffer("temperature"))
    network.get_buffer("temperature").fill_(temperature(logits, labels))


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """By how much logits (cells, n_labels) are to be divided for these labels (cells,)."""

    def cost(log_temperature: float) -> float:
        of_labels = log_softmax(logits * np.exp(-log_temperature), axis=1)[np.arange(len(labels)), labels]
        return float(0.5 * (log_temperature / SPREAD_OF_LOG_TEMPERATURE) ** 2 - of_labels.sum())

    bounds = (-LARGEST_LOG_TEMPERATURE, LARGEST_LOG_TEMPERATURE)
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x))
