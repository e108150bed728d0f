"""Waiting for a number in memory to change, as machine code: no call of the system, no lock of the interpreter."""

from __future__ import annotations

# shared code: bef550407b83
from typing import Any

from numba.extending import intrinsic

from scvi_pp._backend.kernels.arithmetic import compiled


@intrinsic
def _as_it_is_now(typing_context: Any, signal: Any) -> Any:
    """The first item of an int64 array, read from memory each time: a plain read would be moved out of the loop."""

    def read(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load_atomic(array.data, "acquire", 8)

    return signal.dtype(signal), read


@compiled
def reaches(signal, value, tries):  # type: ignore[no-untyped-def]
    """Whether signal[0] is at least `value` within sixteen times so many looks at it."""
    for _ in range(16 * tries):
        if _as_it_is_now(signal) >= value:  # type: ignore[call-arg]
            return True
    return False
