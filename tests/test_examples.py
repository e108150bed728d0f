"""The examples in the docstrings run as they are printed."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from scvi_pp import settings

NAMESPACES = ("tl", "get", "pl", "pp", "datasets")
PUBLIC = {
    f"{namespace}.{name}": getattr(module, name)
    for namespace in NAMESPACES
    for module in [import_module(f"scvi_pp.{namespace}")]
    for name in module.__all__
}


@pytest.mark.parametrize("name", [*PUBLIC, "settings"])
def test_example_runs(name: str, quiet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    documented = type(settings) if name == "settings" else PUBLIC[name]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    examples = doctest.DocTestFinder(recurse=False).find(documented, name, globs={})
    for example in examples:
        runner.run(example)
    assert runner.tries, f"{name} has no example"
    assert not runner.failures
