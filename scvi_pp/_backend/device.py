"""Where tensors live, and a random stream of our own there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

# products of one training step; about a thousand genes at the default width and batch size
WORTH_SHARING = 50_000_000


def torch_version() -> str:
    """The version of torch that computes."""
    return str(torch.__version__)


def choose(device: str) -> torch.device:
    """The device a name stands for; "auto" is the first CUDA device where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        msg = f"device={device!r} cannot be used here: {reason} Use device='auto' or device='cpu'."
        raise InputError(msg) from error
    return chosen


@contextmanager
def private_random(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the draws of the block, and leave the user's random state as it was.

    The block runs with torch's own defaults too, whatever a notebook has set: float32, and gradients recorded.
    """
    cuda = [torch.cuda._utils._get_device_index(device, optional=True)] if device.type == "cuda" else []
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=cuda), torch.inference_mode(False), torch.enable_grad():
        torch.set_default_dtype(torch.float32)
        try:
            reseed(device, seed)
            yield
        finally:
            torch.set_default_dtype(dtype)


def reseed(device: torch.device, seed: int) -> None:
    """Restart the random streams that draws on this device take from; only inside `private_random`."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def threads_for(products: int) -> Iterator[None]:
    """One thread inside the block if a step has fewer products than pay for sharing it.

    On a busy machine the threads of a small step wait for each other far longer than they work.
    """
    before = torch.get_num_threads()
    if products < WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
