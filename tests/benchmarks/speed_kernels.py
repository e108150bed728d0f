"""Likelihoods, forward and backward, of one minibatch on one thread."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from machine import limit_threads
from paired import Row, Target, compared, in_turn
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from simulated import simulated
from speed_records import Section, section_of
from torch import Tensor

from scvi_pp._backend.kernels import negative_binomial, zero_inflated_negative_binomial
from scvi_pp._backend.sparse import SparseRows

N_CELLS, N_GENES, NONZERO_SHARE = 128, 2000, 0.10
SECONDS_A_TURN = 0.5
TARGET = Target("value", 1.8)


def measure(asked: argparse.Namespace) -> Section:
    """ZINB and NB."""
    limit_threads(1)
    counts = simulated(N_CELLS, N_GENES, NONZERO_SHARE).toarray()
    random = torch.Generator().manual_seed(0)
    log_mean = torch.from_numpy(np.log(counts.mean(0) + 0.01)) + 0.5 * torch.randn(counts.shape, generator=random)
    log_dispersion = 0.5 * torch.randn(N_GENES, generator=random)
    dropout_logits = torch.randn(counts.shape, generator=random) - 2
    zinb = (log_mean, log_dispersion, dropout_logits)
    rows = [
        row("ZINB", peer_zinb(counts, *zinb), ours_zinb(counts, *zinb), TARGET, asked),
        row("NB", peer_nb(counts, *zinb[:2]), ours_nb(counts, *zinb[:2]), None, asked),
    ]
    how = (
        f"log-likelihood of {N_CELLS} cells x {N_GENES:,} genes, {np.mean(counts > 0):.0%} not zero, summed, and its "
        "gradients with respect to mean, dispersion (one for each gene) and dropout; float32, CPU, one thread whatever "
        "is asked for. scvi-tools: `ZeroInflatedNegativeBinomial(mu, theta, zi_logits).log_prob(x)` as its model calls "
        f"it. A turn is a mean over {SECONDS_A_TURN:g} s of calls."
    )
    return section_of("kernels", how, rows, threads=1, device="cpu")


def row(
    name: str, peer: Callable[[], None], ours: Callable[[], None], target: Target | None, asked: argparse.Namespace
) -> Row:
    """Milliseconds of one kernel."""
    seconds = SECONDS_A_TURN * asked.scale
    contestants = {"peer": lambda: milliseconds(peer, seconds), "ours": lambda: milliseconds(ours, seconds)}
    figures = in_turn(name, contestants, repeats=asked.repeats, unit="ms")
    return compared(f"{name} log-likelihood and gradients", "ms", "lower", figures["peer"], figures["ours"], target)


def milliseconds(call: Callable[[], None], at_least: float) -> float:
    """Mean over as many calls as fit into so many seconds."""
    n_calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < at_least or not n_calls:
        call()
        n_calls += 1
    return 1000 * elapsed / n_calls


def minibatch_of_ours(counts: np.ndarray) -> SparseRows:
    """The counts in the form in which our training loop hands them to the kernels."""
    return SparseRows.of(torch.from_numpy(counts))


def peer_zinb(
    counts: np.ndarray, log_mean: Tensor, log_dispersion: Tensor, dropout_logits: Tensor
) -> Callable[[], None]:
    x, mu, theta, logits = torch.from_numpy(counts), *leaves(log_mean.exp(), log_dispersion.exp(), dropout_logits)
    return differentiated(
        lambda: ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=logits).log_prob(x), mu, theta, logits
    )


def ours_zinb(counts: np.ndarray, *parameters: Tensor) -> Callable[[], None]:
    x, parameters = minibatch_of_ours(counts), leaves(*parameters)
    return differentiated(lambda: zero_inflated_negative_binomial.log_likelihood(x, *parameters), *parameters)


def peer_nb(counts: np.ndarray, log_mean: Tensor, log_dispersion: Tensor) -> Callable[[], None]:
    x, mu, theta = torch.from_numpy(counts), *leaves(log_mean.exp(), log_dispersion.exp())
    return differentiated(lambda: NegativeBinomial(mu=mu, theta=theta).log_prob(x), mu, theta)


def ours_nb(counts: np.ndarray, *parameters: Tensor) -> Callable[[], None]:
    x, parameters = minibatch_of_ours(counts), leaves(*parameters)
    return differentiated(lambda: negative_binomial.log_likelihood(x, *parameters), *parameters)


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What a gradient is asked of."""
    return tuple(tensor.clone().requires_grad_() for tensor in tensors)


def differentiated(log_likelihood: Callable[[], Tensor], *parameters: Tensor) -> Callable[[], None]:
    """A call that sums and differentiates, and forgets the gradients of the call before."""

    def call() -> None:
        for parameter in parameters:
            parameter.grad = None
        log_likelihood().sum().backward()

    return call
