"""Which modality is which: by name, by what its features are, or as it was said."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scvi_pp._data.feature_types import USUAL_NAMES
from scvi_pp._data.modalities import multimodal
from scvi_pp._errors import InputError
from scvi_pp.tl._modalities import modalities, refuse_shared_names


def mudata_with(**feature_types: str | list[str] | None):
    """A MuData with these modalities, None for one that says nothing of its features."""
    held = {}
    for name, types in feature_types.items():
        var = pd.DataFrame(index=[f"{name}{i}" for i in range(2)])
        if types is not None:
            var["feature_types"] = types
        held[name] = ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame(index=list("abc")), var=var)
    return multimodal(held, pd.DataFrame(index=list("abc")))


def found(mdata, **given) -> tuple[str | None, ...]:
    names = modalities(mdata, **{"rna": None, "atac": None, "protein": None, **given})
    assert list(names) == ["rna", "atac", "protein"]
    return tuple(names.values())


@pytest.mark.parametrize("what", USUAL_NAMES)
def test_usual_names_are_known_in_any_case(what: str):
    for name in USUAL_NAMES[what]:
        for spelled in (name, name.upper(), name.title()):
            assert (
                modalities(
                    mudata_with(**{"rna": None, spelled: None} if what == "protein" else {spelled: None}),
                    **{what: None, **({"rna": None} if what == "protein" else {})},
                )[what]
                == spelled
            )


def test_order_of_modalities_does_not_matter():
    assert found(mudata_with(adt=None, atac=None, rna=None)) == ("rna", "atac", "adt")


def test_names_that_say_nothing_are_told_by_their_features():
    mdata = mudata_with(one="Peaks", two="Gene Expression", three="Antibody Capture")
    assert found(mdata) == ("two", "one", "three")


def test_a_usual_name_comes_before_what_the_features_are():
    assert found(mudata_with(rna="Gene Expression", spliced="Gene Expression")) == ("rna", None, None)


def test_categories_and_mixed_features_are_looked_at():
    mdata = mudata_with(one="Gene Expression", two=["Gene Expression", "Peaks"])
    mdata["one"].var["feature_types"] = mdata["one"].var["feature_types"].astype("category")
    assert found(mdata) == ("one", None, None)


def test_what_is_not_there_is_none():
    assert found(mudata_with(rna=None)) == ("rna", None, None)
    assert found(mudata_with(atac=None)) == (None, "atac", None)


def test_false_leaves_a_modality_out():
    mdata = mudata_with(rna=None, atac=None, protein=None)
    assert found(mdata, protein=False) == ("rna", "atac", None)
    assert found(mdata, rna=False) == (None, "atac", "protein")


def test_a_name_that_is_given_is_taken():
    mdata = mudata_with(rna=None, spliced=None, atac=None)
    assert found(mdata, rna="spliced") == ("spliced", "atac", None)
    assert found(mudata_with(a=None, b=None), rna="b", atac="a") == ("b", "a", None)


@pytest.mark.parametrize("name", ["rnaa", "", 3, True, ("rna",)], ids=repr)
def test_a_name_that_is_no_modality_is_refused_with_those_there_are(name):
    with pytest.raises(InputError, match=r"rna=.* is no modality of mdata\. Modalities: 'rna', 'atac'"):
        found(mudata_with(rna=None, atac=None), rna=name)


def test_two_that_may_be_meant_are_both_named():
    message = r"'rna', 'gex' may all be rna\. Name the one that is meant: rna='rna'"
    with pytest.raises(InputError, match=message):
        found(mudata_with(rna=None, gex=None))
    assert found(mudata_with(rna=None, gex=None), rna="gex") == ("gex", None, None)
    with pytest.raises(InputError, match="'one', 'two' may all be atac"):
        found(mudata_with(rna=None, one="Peaks", two="Peaks"))


def test_rna_or_atac_there_must_be():
    for mdata in (mudata_with(protein=None), mudata_with(a=None, b=None)):
        with pytest.raises(InputError, match=r"none is known as RNA or ATAC\. Name them: rna=\.\.\., atac=\.\.\."):
            found(mdata)
    with pytest.raises(InputError, match="none is known as RNA or ATAC"):
        found(mudata_with(rna=None), rna=False)


def test_one_modality_is_not_two_things():
    with pytest.raises(InputError, match="The modality 'rna' cannot be two things at once"):
        found(mudata_with(rna=None, atac=None), atac="rna")


def test_features_of_one_name_in_two_modalities_are_refused_with_a_way_out():
    refuse_shared_names({"rna": ("a", "b"), "atac": ("c",)})
    with pytest.raises(InputError) as caught:
        refuse_shared_names({"rna": ("a", "b"), "atac": ("c",), "protein": ("b", "a", "d")})
    assert str(caught.value) == (
        "2 features of mdata['protein'] have the name of one in mdata['rna']: 'b', 'a'. Rename them, such as "
        "mdata['protein'].var_names = 'protein:' + mdata['protein'].var_names."
    )
