"""Every question that can be asked of a fitted model, and of which models it can be asked.

What follows from these answers, as the statistics of a differential test or densities of samples, is numpy on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from scvi_pp._backend.answering import Labelling, Loaded, Proteinic, Regional
from scvi_pp._backend.criticism import whole_draws
from scvi_pp._backend.labels import label_probabilities
from scvi_pp._backend.modality_view import ModalityView
from scvi_pp._backend.population import drawn_expression
from scvi_pp._backend.query import Posterior, region_factors
from scvi_pp._backend.simulation import simulated

COLUMNS, BATCHES, ROWS = np.array([3, 0]), [0, 1], np.arange(50)


class Question(NamedTuple):
    """What is asked, and whether a network knows an answer; an answer may be the same whatever modality is asked."""

    ask: Callable[[Posterior], Any]
    knows: Callable[[Any], bool] = lambda network: True
    is_of_modality: bool = True


def _denoised(posterior: Posterior, **options: Any) -> Any:
    asked: dict[str, Any] = {"columns": None, "library_size": 1.0, "batches": None, "n_samples": None, **options}
    width = posterior.n_features if asked["columns"] is None else len(asked["columns"])
    return posterior.denoised(np.empty((posterior.cells.n_cells, width), np.float32), **asked)


def _of(protocol: type) -> Callable[[Any], bool]:
    return lambda network: isinstance(network, protocol)


def _can_be_weighted(network: Any) -> bool:
    """Importance weights are there for models of one modality alone."""
    return not isinstance(network, ModalityView) and not hasattr(network, "about")


def _draws_of_cells(posterior: Posterior) -> Any:
    with posterior.asking():
        return whole_draws(posterior, ROWS, 1)


BATCH_OF_DRAWS = np.resize(BATCHES, len(ROWS))
QUESTIONS: dict[str, Question] = {
    "latent mean": Question(Posterior.latent_mean),
    "latent distribution": Question(Posterior.latent_distribution, is_of_modality=False),
    "latent samples": Question(lambda p: p.latent_samples(1), is_of_modality=False),
    "denoised mean": Question(_denoised),
    "denoised mean over draws and batches": Question(
        lambda p: _denoised(p, columns=COLUMNS, library_size=None, batches=BATCHES, n_samples=1)
    ),
    "denoised above a threshold": Question(
        lambda p: p.denoised_above(
            0.1, n_columns=p.n_features, columns=None, library_size=1.0, batches=None, n_samples=None
        )
    ),
    "expression with regions": Question(
        lambda p: _denoised(p, columns=COLUMNS, value="expression_with_regions"), _of(Regional)
    ),
    "expression with background": Question(
        lambda p: _denoised(p, columns=COLUMNS, value="expression_with_background"), _of(Proteinic)
    ),
    "foreground probability": Question(lambda p: _denoised(p, value="foreground_probability"), _of(Proteinic)),
    "parameters": Question(lambda p: p.parameters(columns=COLUMNS, n_samples=1)),
    "predictive draws": Question(lambda p: p.predictive(1, columns=COLUMNS, batches=BATCHES)),
    "predictive draws of some cells": Question(_draws_of_cells),
    "denoised draws": Question(lambda p: p.denoised_draws(1, columns=COLUMNS, batch=1, library_size=100.0)),
    "library size": Question(Posterior.library_size),
    "evidence lower bound": Question(lambda p: p.elbo(1), is_of_modality=False),
    "marginal log likelihood": Question(lambda p: p.marginal_log_likelihood(1), is_of_modality=False),
    "factors of regions": Question(lambda p: region_factors(p.network), _of(Regional)),
    "loadings": Question(lambda p: p.network.loadings().detach().cpu().numpy(), _of(Loaded)),
    "label probabilities": Question(lambda p: label_probabilities(p, 1), _of(Labelling)),
    "expression of populations": Question(lambda p: drawn_expression(p, ROWS, BATCH_OF_DRAWS, columns=COLUMNS)),
    "expression of populations, by importance": Question(
        lambda p: drawn_expression(p, ROWS, weighted=True), _can_be_weighted
    ),
    "simulated cells": Question(lambda p: simulated(p, ROWS, BATCH_OF_DRAWS)),
    "simulated cells from the prior": Question(lambda p: simulated(p, ROWS, from_prior=True)),
}


def askable(network: Any) -> Iterator[tuple[str, Any, Question]]:
    """All that can be asked of a network, or of each of its modalities: a name, who is asked, and the question."""
    views = {name: network.about(name) for name in network.parts()} if hasattr(network, "about") else {}
    for name, question in QUESTIONS.items():
        asked = views if views and question.is_of_modality else {"cells": network}
        yield from ((f"{name}, {what}", who, question) for what, who in asked.items() if question.knows(who))
    if hasattr(network, "said_by"):
        for name in views:
            yield f"latent mean, {name} by itself", network.about(name, name), QUESTIONS["latent mean"]
