"""The softmax of a row of logits as machine code: its normaliser, and how a gradient passes through it."""

from __future__ import annotations

import numba

from scvi_pp._backend.kernels.arithmetic import ONE, ZERO, exp_negative, inlined, log


@numba.njit(fastmath=True, nogil=True, forceinline=True)
def largest(values):  # type: ignore[no-untyped-def]
    """The largest value; any, if one is not a number. Only with that freedom is a maximum vectorised."""
    found = values[0]
    for j in range(values.shape[0]):
        found = max(found, values[j])
    return found


@inlined
def normalise(logits, shares):  # type: ignore[no-untyped-def]
    """Fill `shares` with softmax(logits); log sum_j e^logit_j."""
    top, total = largest(logits), ZERO
    for j in range(logits.shape[0]):
        e = exp_negative(logits[j] - top)
        shares[j] = e
        total += e
    scale = ONE / total
    for j in range(logits.shape[0]):
        shares[j] *= scale
    return top + log(total)


@inlined
def close(gradient, slopes, shares, total, normalised):  # type: ignore[no-untyped-def]
    """The gradient by the logits, slope - share * total, where they were normalised; else the slopes as they are."""
    pulled = total if normalised else ZERO
    for j in range(gradient.shape[0]):
        gradient[j] = slopes[j] - shares[j] * pulled
