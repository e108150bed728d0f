"""What is written of labels that a network gave to cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import entr

if TYPE_CHECKING:
    from collections.abc import Sequence


def label_results(
    name: str, probabilities: np.ndarray, levels: Sequence[str], index: pd.Index
) -> tuple[dict[str, pd.Series], dict[str, np.ndarray]]:
    """The columns of `obs` and the entry of `obsm`, by name, for probabilities (n_obs, n_labels)."""
    labels = pd.Categorical.from_codes(probabilities.argmax(1), categories=list(levels))
    entropy = entr(probabilities.astype(np.float64)).sum(1)
    obs = {name: pd.Series(labels, index=index), f"{name}_entropy": pd.Series(entropy, index=index)}
    return obs, {f"{name}_probabilities": probabilities.astype(np.float32)}
