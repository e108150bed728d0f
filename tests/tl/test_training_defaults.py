"""What a model trains with when it is not told: its own numbers, which its docstring gives."""

from __future__ import annotations

import re

import pytest

from scvi_pp._errors import InputError
from scvi_pp.tl._training import DEFAULTS, DEFAULTS_OF_MODEL, checked, defaults
from tests.contract import VERBS, Verb

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.parametrize("verb", VERBS, ids=str)]
NUMBERS = ("batch_size", "learning_rate", "weight_decay", "kl_warmup", "kl_weight")


class Asked(Exception):
    """Training was about to begin with this plan."""


def planned(verb: Verb, monkeypatch: pytest.MonkeyPatch, **options) -> dict[str, float]:
    def ask(_network, _cells, plan, **_options):
        raise Asked(plan)

    monkeypatch.setattr("scvi_pp._backend.fit.fit", ask)
    with pytest.raises(Asked) as asked:
        verb(verb.data(), **options)
    (plan,) = asked.value.args
    return {name: getattr(plan, name) for name in NUMBERS}


def test_the_numbers_of_the_model_are_used(verb: Verb, monkeypatch):
    own = defaults(verb.name)
    assert planned(verb, monkeypatch) == {name: own[name] for name in NUMBERS}
    assert {**DEFAULTS, **DEFAULTS_OF_MODEL[verb.name]} == own


def test_what_is_given_is_used_instead(verb: Verb, monkeypatch):
    found = planned(verb, monkeypatch, learning_rate=0.5, weight_decay=0.0)
    own = defaults(verb.name)
    assert found == {**{name: own[name] for name in NUMBERS}, "learning_rate": 0.5, "weight_decay": 0.0}


def test_the_docstring_gives_them(verb: Verb):
    text = " ".join((verb.call.__doc__ or "").split())
    own = defaults(verb.name)
    for pattern, name in (
        (r"Cells per training step, (\S+) by default", "batch_size"),
        (r"The largest step size of Adam, (\S+) by default", "learning_rate"),
        (r"L2 penalty on .*?, (\S+) by default", "weight_decay"),
        (r"rises from 0 to `kl_weight`, (\S+) by default", "kl_warmup"),
        (r"final weight of the KL term, (\S+) by default", "kl_weight"),
        (r"held out to measure the ELBO, (\S+) by default", "validation_size"),
    ):
        (said,) = re.findall(pattern, text)
        assert float(said) == own[name]
    assert not re.search(r"\{[A-Z_]+\}|\{\w+:g\}", text), "a place that was not filled in"


def test_they_are_checked_like_any_others(verb: Verb):
    assert checked(defaults(verb.name), model=verb.name) == defaults(verb.name)
    with pytest.raises(InputError, match="learning_rate=0 must be a number above 0"):
        checked({"learning_rate": 0}, model=verb.name)
