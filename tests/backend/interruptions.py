"""Ways in which training is disturbed: what happens at one of the losses that it computes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch


class Killed(BaseException):
    """Nothing may catch this: what a kill looks like from inside."""


def kill() -> None:
    raise Killed


def press_stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def at_losses(network: Any, *steps: int, do: Callable[[], None]) -> None:
    """Call `do` before the losses of these numbers, counted from 1 over training and validation alike."""
    original, n_losses = network.elbo, 0

    def elbo(*arguments: Any) -> Any:
        nonlocal n_losses
        n_losses += 1
        if n_losses in steps:
            do()
        return original(*arguments)

    network.elbo = elbo


def not_finite_at(network: Any, *steps: int) -> None:
    """Make the losses of these numbers NaN, counted from 1 over training and validation alike."""
    original, n_losses = network.elbo, 0

    def elbo(*arguments: Any) -> Any:
        nonlocal n_losses
        n_losses += 1
        found = original(*arguments)
        return found._replace(reconstruction=found.reconstruction * torch.nan) if n_losses in steps else found

    network.elbo = elbo


def not_finite_for(network: Any, is_bad: Callable[[Any], Any]) -> None:
    """Make the bound of some cells NaN, always."""
    original = network.elbo

    def elbo(*arguments: Any) -> Any:
        found = original(*arguments)
        bad = is_bad(arguments[-1])
        return found._replace(reconstruction=torch.where(bad, torch.nan, found.reconstruction))

    network.elbo = elbo


def worse_after(network: Any, n_validations: int) -> None:
    """Let held-out cells be explained far worse from then on: the best epoch is one of the first."""
    original, n_seen = network.elbo, 0

    def elbo(*arguments: Any) -> Any:
        nonlocal n_seen
        n_seen += not network.training
        found = original(*arguments)
        is_worse = not network.training and n_seen > n_validations
        return found._replace(reconstruction=found.reconstruction - 1e4 * is_worse)

    network.elbo = elbo
