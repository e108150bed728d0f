"""Machine code that is kept on disk is that of the source as it is now, whichever file of it was changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scvi_pp._backend import kernels

SOURCE = Path(kernels.__file__).parent
VALUE = """
import numpy as np
from scvi_pp._backend.kernels.poisson.cpu import rows

starts, columns, counts = np.array([0, 1], np.int32), np.zeros(1, np.int32), np.ones(1, np.float32)
offsets, logits, value, total = (np.zeros(shape, np.float32) for shape in (1, (1, 3), 1, 1))
rows(starts, columns, counts, offsets, logits, logits, logits, logits, logits, value, total, True)
print(value[0], rows.py_func.__code__.co_filename)
"""


def test_a_change_in_what_kernels_share_is_seen_by_the_next_process(tmp_path: Path):
    """An update of the package is such a change. numba itself looks at the file of the kernel alone, at its content."""
    folder = tmp_path / "scvi_pp" / "_backend" / "kernels"
    (folder / "poisson").mkdir(parents=True)
    for package in (folder / "poisson", folder, folder.parent, folder.parents[1]):
        (package / "__init__.py").touch()
    for name in ("arithmetic.py", "softmax_row.py", "poisson/cpu.py"):
        shutil.copy(SOURCE / name, folder / name)
    values = [_value(tmp_path)]
    for name, old, new in (
        ("arithmetic.py", "HALF_LOG_TWO_PI = f(0.5 * np.log(2 * np.pi))", "HALF_LOG_TWO_PI = f(100)"),
        ("softmax_row.py", "return top + log(total)", "return top + log(total) - ONE"),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        values.append(_value(tmp_path))
    assert len(set(values)) == 3


def _value(folder: Path) -> float:
    done = subprocess.run([sys.executable, "-c", VALUE], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    value, file = done.stdout.split()
    assert Path(file).is_relative_to(folder)
    return float(value)
