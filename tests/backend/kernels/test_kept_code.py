"""Machine code that is kept on disk is that of the source as it is now.

numba keeps it by the content of the file of the compiled function alone. So each of these files says in a line what the
files that it shares with others contain; an update that changes one of those changes that line, and all is compiled anew.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from scvi_pp._backend import kernels

SOURCE = Path(kernels.__file__).parent
STAMP = re.compile(r"^# shared code: (\w*)$", re.MULTILINE)
COMPILED = sorted(path for path in SOURCE.rglob("*.py") if re.search(r"^@compiled$", path.read_text(), re.MULTILINE))


def shared_code() -> str:
    """A fingerprint of every file that defines an inlined function, without the lines that hold it."""
    sha = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        if re.search(r"^@inlined$|forceinline=True", text, re.MULTILINE):
            sha.update(STAMP.sub("", text).encode())
    return sha.hexdigest()[:12]


def test_some_files_are_compiled():
    assert len(COMPILED) >= 6


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_compiled_file_says_what_the_files_it_shares_contain(path: Path):
    assert STAMP.findall(path.read_text()) == [shared_code()], f"put the line '# shared code: {shared_code()}' into it"
