"""The one settings object: what it accepts, what it refuses, and that no import hides it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import scvi_pp
from scvi_pp import settings
from scvi_pp._errors import ScviPPError

DEFAULTS = {"verbosity": 2, "device": "auto", "seed": 0, "progress": "auto", "max_layer_bytes": 2_000_000_000}


def values() -> dict:
    return {name: getattr(settings, name) for name in DEFAULTS}


def test_defaults_are_what_the_docs_say():
    assert values() == DEFAULTS


def test_every_public_import_gives_the_one_object():
    code = (
        "import scvi_pp, scvi_pp.datasets, scvi_pp._settings; from scvi_pp import settings; "
        "print(scvi_pp.settings is settings is scvi_pp._settings.settings, type(settings).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["True", "Settings"], done.stderr


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("verbosity", "silent", 0),
        ("verbosity", "WARNING", 1),
        ("verbosity", np.int64(3), 3),
        ("device", "cuda:1", "cuda:1"),
        ("device", "CPU", "cpu"),
        ("seed", np.uint8(7), 7),
        ("seed", 2**32 - 1, 2**32 - 1),
        ("progress", True, True),
        ("progress", "auto", "auto"),
        ("max_layer_bytes", 1e9, 1_000_000_000),
        ("max_layer_bytes", 0, 0),
    ],
)
def test_value_is_kept_in_its_plain_form(name: str, given: object, kept: object):
    setattr(settings, name, given)
    assert getattr(settings, name) == kept
    assert type(getattr(settings, name)) is type(kept)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("verbosity", value) for value in (-1, 4, 1.5, "loud", None, True, [1])),
        *(("device", value) for value in ("gpu", "cuda:", "cuda:x", "", None, 0)),
        *(("seed", value) for value in (-1, 2**32, 0.5, "1", None, False, np.arange(2))),
        *(("progress", value) for value in (1, 0, "yes", None, np.arange(2))),
        *(("max_layer_bytes", value) for value in (-1, 0.5, float("nan"), float("inf"), "2GB", None, True)),
    ],
)
def test_impossible_value_is_refused_by_name_and_nothing_changes(name: str, value: object):
    with pytest.raises(ValueError, match=f"settings.{name} cannot be") as caught:
        setattr(settings, name, value)
    assert isinstance(caught.value, ScviPPError)
    assert values() == DEFAULTS


def test_misspelt_setting_is_refused_with_the_near_name():
    with pytest.raises(AttributeError, match="no 'verbosty'. Did you mean 'verbosity'"):
        settings.verbosty = 0


def test_override_holds_for_the_block_only_even_if_it_fails():
    with pytest.raises(RuntimeError), settings.override(verbosity=0, seed=5, progress=False):
        assert (settings.verbosity, settings.seed, settings.progress, settings.device) == (0, 5, False, "auto")
        raise RuntimeError
    assert values() == DEFAULTS


def test_override_with_one_bad_value_changes_nothing():
    with pytest.raises(ValueError, match="device"), settings.override(verbosity=0, device="gpu"):
        pass
    assert values() == DEFAULTS


def test_overrides_nest():
    with settings.override(seed=1):
        with settings.override(seed=2, verbosity=3):
            assert settings.seed == 2
        assert (settings.seed, settings.verbosity) == (1, 2)


def test_reset_gives_the_defaults_back():
    settings.verbosity, settings.seed, settings.device = 0, 9, "cpu"
    settings.reset()
    assert values() == DEFAULTS


def test_repr_shows_every_value():
    settings.seed = 1234
    assert all(f"{name} = {value!r}" in repr(settings) for name, value in values().items())


def test_package_says_its_version_and_lists_its_namespaces():
    assert scvi_pp.__version__[0].isdigit()
    assert set(dir(scvi_pp)) == {"__version__", "datasets", "get", "pl", "pp", "settings", "tl"}
    with pytest.raises(AttributeError, match="no attribute 'tools'"):
        scvi_pp.tools  # noqa: B018
