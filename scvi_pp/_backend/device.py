"""Where tensors live, and a random stream of our own there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from scvi_pp._errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from torch import Tensor

Precision = Literal["float32", "tf32", "bf16"]


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


def free_memory(device: torch.device) -> int | None:
    """Bytes that a CUDA device has left, what torch keeps for reuse included; None where the host's memory is used."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def sent(numbers: np.ndarray | Sequence[int] | None, device: torch.device) -> Tensor | None:
    """Numbers of columns or batches on the device, to be sent once for all blocks; None stays none."""
    return None if numbers is None else torch.as_tensor(numbers, device=device)


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
def matrix_products(precision: Precision) -> Iterator[None]:
    """Inside the block float32 matrices are multiplied so, where the hardware can; sums are float32 in any case."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision({"float32": "highest", "tf32": "high", "bf16": "medium"}[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
