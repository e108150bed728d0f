"""What is no stored model, or a damaged or forged one: it raises our error, and nothing else ever happens."""

import copy
import hashlib
import json
import struct
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scvi_pp._data.blob import pack, unpack
from scvi_pp._data.fitted import FORMAT, Fitted, from_record, history_from_record, to_record
from scvi_pp._data.sources import Categories, Category, Counts, Numbers, Positive
from scvi_pp._errors import MissingKeyError, ModelRecordError, ScviPPError


def fitted() -> Fitted:
    weights = {name: np.arange(6, dtype=name).reshape(2, 3) for name in ("float32", "float16", "int64", "uint8")}
    return Fitted(
        model="scvi",
        sources={
            "counts": Counts(layer="counts", var_names=("gene0", "gene1", "gene2")),
            "batch": Category(("donor",), ("d1", "d2")),
            "covariates": Categories(("site", "phase"), (("x",), ("G1", "S"))),
            "numbers": Numbers(("age",), (60.5,), (12.25,)),
            "size_factor": Positive(None),
        },
        hyperparameters={"n_latent": 3, "dropout": 0.1, "layers": [4, 4], "prior": None},
        weights={**weights, "mask": np.array([True, False]), "none": np.zeros((0, 5)), "n": np.array(7)},
        facts={"seed": 0, "versions": {"torch": "2.13"}},
        history={"elbo_train": np.array([3.0, 2.0, 1.5])},
        params={"n_latent": 3, "lr": 1e-3, "likelihood": "zinb", "early": True},
    )


def sha256(blob: np.ndarray) -> str:
    return hashlib.sha256(blob.tobytes()).hexdigest()


# ---- what is no model


@pytest.mark.parametrize(
    ("uns", "message"),
    [
        ({}, r"uns has no key 'scvi'\. It holds no fitted model: fit one \(tl\.scvi\)\. A concat drops uns"),
        ({"scvi2": "ours", "pca": {}}, r"uns has no key 'scvi'\. Did you mean 'scvi2'\? Models here: scvi2\."),
        ({"pca": {"params": {}}}, r"uns has no key 'scvi'\. It holds no fitted model"),
    ],
    ids=str,
)
def test_missing_key_is_named_with_the_models_there_are(uns: dict[str, Any], message: str) -> None:
    uns = {name: to_record(fitted()) if entry == "ours" else entry for name, entry in uns.items()}
    with pytest.raises(MissingKeyError, match=message):
        from_record(uns, "scvi")
    with pytest.raises(MissingKeyError, match=message):
        history_from_record(uns, "scvi")


def test_entries_of_others_are_told_apart() -> None:
    neighbors = {"params": {"n_neighbors": 15}, "connectivities_key": "connectivities"}
    uns = {"neighbors": neighbors, "scvi": to_record(fitted())}
    with pytest.raises(ModelRecordError, match=r"uns\['neighbors'\] was not written by scvi_pp.* Models here: scvi\."):
        from_record(uns, "neighbors")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("scvi_pp/2", r"newer scvi_pp \(scvi_pp/2; this one reads scvi_pp/1\)\. Update scvi_pp\."),
        ("scvi_pp/0", "unknown format 'scvi_pp/0'"),
        ("scvi_pp/1.5", "unknown format"),
        ("scvi_pp/9999999999", "unknown format"),
        ("scvi_pp/\u0662", "unknown format"),
        ("x" * 10_000, "unknown format"),
        (None, "unknown format"),
    ],
)
def test_other_formats_are_refused(found: Any, message: str) -> None:
    record = to_record(fitted())
    record["model"]["format"] = found
    with pytest.raises(ModelRecordError, match=message) as caught:
        from_record({"scvi": record}, "scvi")
    assert len(str(caught.value)) < 300


# ---- junk in the entry


JUNK: list[Any] = [None, True, 0, -1.5, float("nan"), "", "junk", b"junk", [], {}, {"a": {"b": 1}}, {1: 2}]
JUNK += [set(), object(), lambda: None, pd.DataFrame([[1]]), pd.Series([1]), np.array("text"), np.array(None)]
JUNK += [np.zeros(0), np.zeros((2, 2), np.uint8), np.zeros(3, np.uint8), np.array(["a"], object), np.ones(3, bool)]
READABLE = [("params",), ("history",), ("history", "elbo_train"), ("model", "more")]  # the model does not need these
PLACES = [*READABLE, (), *(("model", name) for name in ("format", "sha256", "blob", "path")), ("model",)]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("junk", range(len(JUNK)), ids=lambda i: f"{i}_{type(JUNK[i]).__name__}")
def test_junk_in_any_field_gives_the_model_or_our_error(junk: int, place: tuple[str, ...]) -> None:
    uns: dict[str, Any] = {"scvi": to_record(fitted()), "other": JUNK[junk]}
    target, last = uns, "scvi"
    for step in place:
        target, last = target[last], step
    target[last] = JUNK[junk]
    try:
        assert from_record(uns, "scvi").sources == fitted().sources
    except ScviPPError as error:
        assert "uns['scvi']" in str(error)
        assert place not in READABLE
    try:
        history_from_record(uns, "scvi")
    except ScviPPError as error:
        assert "uns['scvi']" in str(error)


@pytest.mark.parametrize("junk", range(len(JUNK)), ids=lambda i: f"{i}_{type(JUNK[i]).__name__}")
def test_junk_as_uns_or_key_gives_our_error(junk: int) -> None:
    with pytest.raises(ScviPPError):
        from_record(JUNK[junk], "scvi")
    with pytest.raises(ScviPPError):
        from_record({"scvi": to_record(fitted())}, JUNK[junk])


@pytest.mark.parametrize("lost", ["format", "sha256", "blob"])
def test_lost_field_gives_our_error(lost: str) -> None:
    record = to_record(fitted())
    del record["model"][lost]
    with pytest.raises(ModelRecordError):
        from_record({"scvi": record}, "scvi")


# ---- changed bytes


def mutated(blob: np.ndarray, rng: np.random.Generator, first: int) -> np.ndarray:
    """Return the blob with one to eight bytes changed, cut, repeated, inserted, or zeroed, from byte `first` % size."""
    made = blob.copy()
    at = int(rng.integers(0, min(first, made.size)))
    n = int(rng.integers(1, 9))
    match int(rng.integers(0, 7)):
        case 0:
            made[at : at + n] = rng.integers(0, 256, made[at : at + n].size)
        case 1:
            made[at] ^= np.uint8(1 << int(rng.integers(0, 8)))
        case 2:
            made = made[:at]
        case 3:
            made = np.delete(made, slice(at, at + n))
        case 4:
            made = np.insert(made, at, rng.integers(0, 256, n).astype(np.uint8))
        case 5:
            made = np.concatenate([made[:at], made[at : at + n], made[at:]])
        case _:
            made[at : at + n] = 0 if rng.random() < 0.5 else ord(rng.choice(list('0123456789[]{}",:-')))
    return made


@pytest.mark.parametrize("honest_checksum", [False, True])
@pytest.mark.parametrize("region", ["length", "header", "anywhere"])
def test_a_thousand_mutations_raise_only_our_errors(region: str, honest_checksum: bool) -> None:
    rng = np.random.default_rng({"length": 1, "header": 2, "anywhere": 3}[region])
    record = to_record(fitted())
    blob = record["model"]["blob"]
    first = {"length": 8, "header": 8 + int.from_bytes(blob[:8].tobytes(), "little"), "anywhere": blob.size}[region]
    refused = 0
    for _ in range(1000):
        other = mutated(blob, rng, first)
        checksum = sha256(other) if honest_checksum else record["model"]["sha256"]
        attack = {**record, "model": {"format": FORMAT, "sha256": checksum, "blob": other}}
        try:
            found = from_record({"scvi": attack}, "scvi")
            assert honest_checksum or np.array_equal(other, blob)
            assert isinstance(found, Fitted)
        except ModelRecordError as error:
            refused += 1
            assert "uns['scvi']" in str(error)
            assert len(str(error)) < 1000
    assert refused > (950 if not honest_checksum or region == "length" else 300)


def packed(header: object, data: bytes = b"") -> np.ndarray:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return np.frombuffer(struct.pack("<Q", len(text)) + text + data, dtype=np.uint8)


def parts() -> tuple[dict[str, Any], bytes]:
    """Return the header of a real blob with its description as an object, and the bytes after it."""
    blob = to_record(fitted())["model"]["blob"].tobytes()
    length = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8 : 8 + length])
    header["__metadata__"]["scvi_pp"] = json.loads(header["__metadata__"]["scvi_pp"])
    return header, blob[8 + length :]


def joined(header: dict[str, Any], data: bytes) -> np.ndarray:
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and "scvi_pp" in metadata and not isinstance(metadata["scvi_pp"], str):
        header = {**header, "__metadata__": {**metadata, "scvi_pp": json.dumps(metadata["scvi_pp"])}}
    return packed(header, data)


JSON_JUNK = [None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, float("nan"), float("inf")]
JSON_JUNK += ["", "x", "\ud800", "F32", "BOOL", "Counts", [], [0], [[]], [0, 4], [2**62, 2**62, 2**62], {}, {"a": 1}]


def test_a_thousand_structural_mutations_raise_only_our_errors() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        header, data = parts()
        for _ in range(int(rng.integers(1, 4))):
            change_somewhere(header, rng)
        blob = joined(header, data)
        attack = {"params": {}, "history": {}, "model": {"format": FORMAT, "sha256": sha256(blob), "blob": blob}}
        try:
            assert isinstance(from_record({"scvi": attack}, "scvi"), Fitted)
        except ModelRecordError:
            refused += 1
    assert refused > 500


def change_somewhere(value: Any, rng: np.random.Generator) -> None:
    """Walk down to a random node of the JSON and replace, remove or repeat it."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.8:
            value = value[key]
            continue
        match int(rng.integers(4)):
            case 0:
                del value[key]
            case 1 if isinstance(value, list):
                value.append(value[key])
            case 2 if isinstance(value, dict):
                value[str(rng.choice(["x", "kind", "dtype", "shape"]))] = value[key]
            case _:
                value[key] = copy.deepcopy(JSON_JUNK[int(rng.integers(len(JSON_JUNK)))])
        return


def array(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


METADATA = {"__metadata__": {"scvi_pp": "{}"}}
ATTACKS: dict[str, np.ndarray] = {
    "nothing": np.zeros(0, np.uint8),
    "seven_bytes": np.zeros(7, np.uint8),
    "length_zero": np.zeros(8, np.uint8),
    "length_too_long_for_the_blob": np.frombuffer(struct.pack("<Q", 3) + b"{}", np.uint8),
    "length_of_exabytes": np.full(16, 255, np.uint8),
    "header_is_no_text": packed(b"\xff\xfe{}"),
    "header_is_no_json": packed(b"{"),
    "header_is_a_list": packed([]),
    "header_is_deep": packed(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "lists_are_deep": packed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "number_is_endless": packed(b'{"a":' + b"9" * 10_000 + b"}"),
    "no_metadata": packed({}),
    "metadata_is_a_list": packed({"__metadata__": []}),
    "description_is_no_text": packed({"__metadata__": {"scvi_pp": {}}}),
    "description_is_no_json": packed({"__metadata__": {"scvi_pp": "}"}}),
    "description_is_deep": packed({"__metadata__": {"scvi_pp": "[" * 100_000}}),
    "entry_is_a_list": packed(METADATA | {"weights.w": []}),
    "entry_lacks_shape": packed(METADATA | {"weights.w": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "unknown_dtype": packed(METADATA | {"weights.w": array(dtype="O")}, bytes(8)),
    "dtype_is_a_list": packed(METADATA | {"weights.w": array(dtype=["F32"])}, bytes(8)),
    "negative_shape": packed(METADATA | {"weights.w": array(shape=[-1, -2])}, bytes(8)),
    "shape_of_bools": packed(METADATA | {"weights.w": array(shape=[2, True])}, bytes(8)),
    "shape_of_floats": packed(METADATA | {"weights.w": array(shape=[2.0])}, bytes(8)),
    "shape_too_large": packed(METADATA | {"weights.w": array(shape=[2**40] * 20)}, bytes(8)),
    "shape_wraps_64_bits": packed(METADATA | {"weights.w": array(shape=[2**40, 2**22 + 1])}, bytes(8)),
    "too_many_dimensions": packed(METADATA | {"weights.w": array(shape=[1] * 100 + [2])}, bytes(8)),
    "empty_but_enormous": packed(METADATA | {"weights.w": array(shape=[0] + [2**40] * 9, data_offsets=[0, 0])}),
    "offsets_backwards": packed(METADATA | {"weights.w": array(data_offsets=[8, 0])}, bytes(8)),
    "offsets_beyond_the_end": packed(METADATA | {"weights.w": array(data_offsets=[8, 16])}, bytes(8)),
    "one_offset": packed(METADATA | {"weights.w": array(data_offsets=[8])}, bytes(8)),
    "hole": packed(METADATA | {"weights.w": array(data_offsets=[4, 12])}, bytes(12)),
    "overlap": packed(METADATA | {"weights.v": array(), "weights.w": array(data_offsets=[4, 12])}, bytes(12)),
    "bytes_left_over": packed(METADATA | {"weights.w": array()}, bytes(9)),
    "truth_is_seven": packed(METADATA | {"weights.w": array(dtype="BOOL", data_offsets=[0, 2])}, b"\x01\x07"),
    "description_is_empty": packed(METADATA),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_crafted_blobs_are_refused_with_our_error(attack: str) -> None:
    blob = ATTACKS[attack]
    record = {"params": {}, "history": {}, "model": {"format": FORMAT, "sha256": sha256(blob), "blob": blob}}
    with pytest.raises(
        ModelRecordError, match=r"uns\['scvi'\]: the stored model cannot be read: .* Take the entry from"
    ):
        from_record({"scvi": record}, "scvi")


def description(**changes: Any) -> dict[str, Any]:
    whole = {"format": FORMAT, "model": "m", "sources": {}, "hyperparameters": {}, "facts": {}, "params": {}}
    return whole | changes


@pytest.mark.parametrize(
    ("description", "arrays", "message"),
    [
        (description(format="scvi_pp/2"), {}, "another format"),
        (description(model=3), {}, "wrong type"),
        (description(more=3), {}, "lacks a field"),
        (description(sources=[]), {}, "wrong type"),
        (description(sources={"counts": {"kind": "Path"}}), {}, "'kind' is one of"),
        (description(params={"a": [1]}), {}, "not flat"),
        (description(), {"other": np.ones(1)}, "neither weights nor history"),
        (description(), {"history.loss": np.ones((1, 1))}, "2 dimensions"),
    ],
)
def test_blobs_of_another_structure_are_refused(description: Any, arrays: Any, message: str) -> None:
    blob = pack(description, arrays)
    record = {"params": {}, "history": {}, "model": {"format": FORMAT, "sha256": sha256(blob), "blob": blob}}
    with pytest.raises(ModelRecordError, match=message):
        from_record({"scvi": record}, "scvi")


def test_smallest_description_is_a_model() -> None:
    blob = pack(description(), {})
    record = {"model": {"format": FORMAT, "sha256": sha256(blob).upper(), "blob": blob}}
    found = from_record({"scvi": record}, "scvi")
    assert found.model == "m"
    assert found.weights == found.history == {}
    assert unpack(blob) == (description(), {})
