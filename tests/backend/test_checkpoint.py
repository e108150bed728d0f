"""A run that was killed continues, to the bits of one that was not; what is no checkpoint of it is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import scvi_pp as svp
from scvi_pp._backend import checkpoint
from scvi_pp._backend import fit as fitting
from scvi_pp._backend.fit import fit
from scvi_pp._errors import InputError
from tests.backend import interruptions, small

pytestmark = pytest.mark.usefixtures("quiet")

ROOT = Path(__file__).parents[2]
N_CELLS, N_STEPS = 60, 4  # losses of an epoch: three minibatches of 16, and the held-out cells


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where checkpoints go, after every epoch."""
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    return tmp_path / "runs" / "run.safetensors"


def train(
    path: Path | None, *, killed_at: int | None = None, good: int | None = None, **options: Any
) -> tuple[Any, Any]:
    """The network and how it was trained; `killed_at` counts losses, `good` the epochs before all are worse."""
    inputs = small.arrays(N_CELLS)
    network = small.network(inputs)
    if good is not None:
        interruptions.worse_after(network, good)
    if killed_at is not None:
        interruptions.at_losses(network, killed_at, do=interruptions.kill)
    outcome = fit(
        network, small.cells(inputs), small.plan(N_CELLS, checkpoint=path, **options), facts={"model": "scvi"}
    )
    return network, outcome


def assert_same_run(first: tuple[Any, Any], second: tuple[Any, Any]) -> None:
    (network, outcome), (other, expected) = first, second
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert outcome.history.keys() == expected.history.keys()
    for name, values in outcome.history.items():
        np.testing.assert_array_equal(values, expected.history[name])
    for name in ("n_epochs", "best_epoch", "best_elbo", "ended"):
        assert getattr(outcome, name) == getattr(expected, name)


# ---- to continue


def test_checkpoints_do_not_change_a_run(path: Path):
    assert_same_run(train(path), train(None))


@pytest.mark.parametrize("killed_at", [1, N_STEPS + 1, 3 * N_STEPS + 2, 6 * N_STEPS])
def test_a_killed_run_continues_to_the_bit(path: Path, killed_at: int):
    with pytest.raises(interruptions.Killed):
        train(path, killed_at=killed_at)
    assert path.exists() == (killed_at > N_STEPS)
    assert_same_run(train(path), train(None))


def test_a_run_killed_again_and_again_continues_to_the_bit(path: Path):
    for _ in range(5):  # each gets one epoch further
        with pytest.raises(interruptions.Killed):
            train(path, killed_at=N_STEPS + 2)
    assert checkpoint.read(path)[1]["run"]["epoch"] == 5
    assert_same_run(train(path), train(None))


def test_only_what_is_missing_is_computed(path: Path):
    with pytest.raises(interruptions.Killed):
        train(path, killed_at=4 * N_STEPS + 1)
    network, n_losses = small.network(small.arrays(N_CELLS)), []
    interruptions.at_losses(network, *range(1, 100), do=lambda: n_losses.append(1))
    fit(network, small.cells(small.arrays(N_CELLS)), small.plan(N_CELLS, checkpoint=path), facts={"model": "scvi"})
    assert len(n_losses) == 2 * N_STEPS


def test_a_run_that_is_done_is_not_repeated(path: Path):
    expected = train(path)
    assert_same_run(train(path, killed_at=1), expected)


def test_a_run_that_had_converged_stays_converged(path: Path):
    options = {"max_epochs": 40, "patience": 3}
    expected = train(path, good=2, **options)
    assert expected[1].ended == "converged"
    assert_same_run(train(path, killed_at=1, **options), expected)


def test_the_best_weights_survive_a_kill(path: Path):
    """The best epoch lies before the kill, and nothing after it is better."""
    expected = train(None, good=2)
    assert expected[1].best_epoch <= 2
    with pytest.raises(interruptions.Killed):
        train(path, killed_at=4 * N_STEPS + 1, good=2)
    assert_same_run(train(path, good=0), expected)


def test_a_setback_survives_a_kill(path: Path):
    inputs = small.arrays(N_CELLS)

    def disturbed(path: Path | None, *, killed_at: int | None = None, done: int = 0) -> tuple[Any, Any]:
        network = small.network(inputs)
        interruptions.not_finite_at(network, N_STEPS + 2 - done)
        if killed_at is not None:
            interruptions.at_losses(network, killed_at, do=interruptions.kill)
        return network, fit(network, small.cells(inputs), small.plan(N_CELLS, checkpoint=path))

    expected = disturbed(None)
    with pytest.raises(interruptions.Killed):
        disturbed(path, killed_at=4 * N_STEPS + 1)
    assert_same_run(disturbed(path, done=1000), expected)


def test_a_stopped_run_continues_from_its_last_whole_epoch(path: Path):
    inputs = small.arrays(N_CELLS)
    network = small.network(inputs)
    interruptions.at_losses(network, 2 * N_STEPS + 2, do=interruptions.press_stop)
    plan = small.plan(N_CELLS, checkpoint=path)
    assert fit(network, small.cells(inputs), plan, facts={"model": "scvi"}).ended == "stopped"
    assert_same_run(train(path), train(None))


def test_checkpoints_are_some_seconds_apart_and_one_is_written_at_the_end(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 1e6)
    epochs, write = [], checkpoint.write

    def counting(path: Path, tensors: Any, facts: Mapping[str, Any]) -> None:
        epochs.append(facts["run"]["epoch"])
        write(path, tensors, facts)

    monkeypatch.setattr(checkpoint, "write", counting)
    train(path)
    assert epochs == [6]


def test_nothing_but_the_checkpoint_is_left_behind(path: Path):
    train(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_the_old_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint.write(path, {"a": torch.zeros(2)}, {"n": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, {"a": torch.ones(2)}, {"n": 2})
    assert checkpoint.read(path)[1] == {"n": 1}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
import anndata as ad
import scvi_pp as svp
from scvi_pp._backend import fit
from scvi_pp._backend.models.scvi import Network

fit.CHECKPOINT_SECONDS = 0.0
elbo, n_losses = Network.elbo, 0

def killing(network, cells):
    global n_losses
    n_losses += 1
    if n_losses == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return elbo(network, cells)

Network.elbo = killing
svp.settings.verbosity = 0
svp.tl.scvi(ad.read_h5ad(sys.argv[1]), checkpoint=sys.argv[2], max_epochs=5, batch_size=16, n_hidden=8, device="cpu")
"""


@pytest.mark.slow
def test_the_same_call_after_kill_9_continues_to_the_bit(path: Path, tmp_path: Path):
    data, call = tmp_path / "cells.h5ad", {"max_epochs": 5, "batch_size": 16, "n_hidden": 8, "device": "cpu"}
    adata = _adata()
    adata.write_h5ad(data)
    command = [sys.executable, "-c", KILLED, str(data), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for killed_at in (8, 8):  # losses of an epoch: four minibatches, and the held-out cells
        done = subprocess.run([*command, str(killed_at)], cwd=ROOT, env=environment, check=False)
        assert done.returncode == -signal.SIGKILL
    assert checkpoint.read(path)[1]["run"]["epoch"] == 2

    expected = adata.copy()
    svp.tl.scvi(adata, checkpoint=path, **call)
    svp.tl.scvi(expected, **call)
    np.testing.assert_array_equal(adata.obsm["X_scvi"], expected.obsm["X_scvi"])
    np.testing.assert_array_equal(adata.layers["scvi_denoised"], expected.layers["scvi_denoised"])
    for name, values in adata.uns["scvi"]["history"].items():
        np.testing.assert_array_equal(values, expected.uns["scvi"]["history"][name])


# ---- to refuse


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_latent": 5}, "n_latent was 10, now 5"),
        ({"max_epochs": 9}, "max_epochs was 2, now 9"),
        ({"random_state": 4}, "seed was 0, now 4|rows was"),
        ({"gene_likelihood": "nb"}, "gene_likelihood was 'zinb', now 'nb'"),
        ({"validation_indices": [1, 2, 3]}, "rows was"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_call_is_refused_with_what_changed(path: Path, change: dict[str, Any], message: str):
    call = {"max_epochs": 2, "n_hidden": 8, "checkpoint": path, "device": "cpu"}
    svp.tl.scvi(_adata(), **call)
    adata = _adata()
    with pytest.raises(InputError, match=rf"is of another run: ({message}).*Delete it or name another file"):
        svp.tl.scvi(adata, **{**call, **change})
    assert not adata.obsm.keys() | adata.uns.keys()


def test_a_checkpoint_of_other_data_is_refused(path: Path):
    call = {"max_epochs": 2, "n_hidden": 8, "checkpoint": path}
    svp.tl.scvi(_adata(), **call)
    with pytest.raises(InputError, match="is of another run: the data differ"):
        svp.tl.scvi(_adata(seed=1), **call)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(path: Path, share: float):
    train(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"is no checkpoint of scvi_pp .*Delete it or name another file"):
        train(path)


def test_a_file_of_another_kind_is_refused(path: Path):
    path.parent.mkdir()
    path.write_text("epoch,elbo\n1,-300\n" * 10)
    with pytest.raises(InputError, match="is no checkpoint of scvi_pp"):
        train(path)


def test_a_folder_is_refused(path: Path):
    path.mkdir(parents=True)
    with pytest.raises(InputError, match="is no checkpoint of scvi_pp"):
        train(path)


@pytest.mark.parametrize(
    "header",
    [
        None,
        {},
        {"format": "scvi_pp-checkpoint/2", "facts": "{}"},
        {"format": checkpoint.FORMAT},
        {"format": checkpoint.FORMAT, "facts": "{"},
    ],
)
def test_safetensors_of_others_are_refused(path: Path, header: dict[str, str] | None):
    path.parent.mkdir()
    save_file({"a": torch.zeros(2)}, path, header)
    with pytest.raises(InputError, match="is no checkpoint of scvi_pp"):
        train(path)


# ---- what is in it


def test_what_is_written_is_read(path: Path):
    tensors = {"a": torch.randn(3, 2), "b.c": torch.tensor(7), "t": torch.randn(2, 3).T}
    facts = {"run": {"best_elbo": -1.5, "history": {"x": [0.1, 1 / 3]}}, "call": {"n_levels": [2, 3]}}
    checkpoint.write(path, tensors, facts)
    found, read_facts = checkpoint.read(path)
    assert read_facts == facts
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_number_that_is_not_finite_survives_too(path: Path):
    checkpoint.write(path, {}, {"best_elbo": -np.inf})
    assert checkpoint.read(path)[1] == {"best_elbo": -np.inf}


def test_a_digest_tells_data_apart():
    inputs = small.arrays(N_CELLS, n_numbers=1)
    assert checkpoint.digest(inputs) == checkpoint.digest(small.arrays(N_CELLS, n_numbers=1))
    changed = inputs.counts.copy()
    changed.data[0] += 1
    others = [
        inputs._replace(counts=changed),
        inputs._replace(batch=1 - inputs.batch),
        inputs._replace(numbers=inputs.numbers.astype(np.float64)),
        inputs._replace(size_factor=np.ones(N_CELLS, np.float32)),
    ]
    assert len({checkpoint.digest(each) for each in (inputs, *others)}) == 5


def test_facts_of_a_run_go_through_json():
    run = fitting.Run(epoch=3, best_elbo=-1 / 3, history={"elbo_train": [0.1, -1e300]})
    assert fitting.Run(**json.loads(json.dumps(dataclasses.asdict(run)))) == run


def _adata(seed: int = 0) -> ad.AnnData:
    adata = ad.AnnData(small.arrays(N_CELLS, seed=seed).counts)
    adata.obs_names = [f"cell{i}" for i in range(N_CELLS)]
    return adata
