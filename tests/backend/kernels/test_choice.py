"""Which form of a kernel runs, and that training goes the same way with each."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from scvi_pp._backend import kernels
from scvi_pp._backend.fit import fit
from scvi_pp._backend.kernels import row_likelihood, softmax_heads
from tests.backend import small
from tests.backend.kernels.extremes import KERNELS, N_ARGUMENTS

every_kernel = pytest.mark.parametrize("name", KERNELS)


@every_kernel
def test_use_chooses_the_form_for_its_block_alone(name: str, monkeypatch: pytest.MonkeyPatch):
    kernel, asked = KERNELS[name], []
    for form in ("analytic", "reference"):
        monkeypatch.setattr(getattr(kernel, form), "log_likelihood", lambda *_, form=form: asked.append(form))
    monkeypatch.setattr(row_likelihood, "log_likelihood", lambda *_: asked.append("compiled"))
    arguments = [torch.zeros(1, 1)] * N_ARGUMENTS[name]
    kernel.log_likelihood(*arguments)
    with kernels.use("reference"):
        kernel.log_likelihood(*arguments)
        with kernels.use("analytic"):
            kernel.log_likelihood(*arguments)
        with kernels.use("auto"):
            kernel.log_likelihood(*arguments)
        kernel.log_likelihood(*arguments)
    kernel.log_likelihood(*arguments)
    assert asked == ["compiled", "reference", "analytic", "compiled", "reference", "compiled"]


@every_kernel
def test_machine_code_is_for_float32_alone(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(row_likelihood, "log_likelihood")
    arguments = [torch.zeros(1, 1, dtype=torch.float64)] * N_ARGUMENTS[name]
    assert KERNELS[name].log_likelihood(*arguments).dtype == torch.float64


def test_the_choice_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), kernels.use("reference"):
        raise ZeroDivisionError
    assert kernels.chosen() == "auto"


def test_little_work_does_not_wait_for_a_compiler():
    few, many = kernels.WORTH_COMPILING - 1, kernels.WORTH_COMPILING
    with kernels.use_for(few):
        assert (kernels.chosen(), kernels.compiles()) == ("analytic", False)
    with kernels.use_for(many):
        assert (kernels.chosen(), kernels.compiles()) == ("auto", True)
    with kernels.use("reference"), kernels.use_for(many):
        assert (kernels.chosen(), kernels.compiles()) == ("reference", False)
    assert kernels.compiles()


def test_another_thread_has_a_choice_of_its_own():
    found = []
    with kernels.use("reference"):
        thread = threading.Thread(target=lambda: found.append(kernels.chosen()))
        thread.start()
        thread.join()
    assert found == ["auto"]


def test_every_kernel_folder_is_tested():
    folders = {path.parent.name for path in Path(kernels.__file__).parent.glob("*/reference.py")}
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parents[1].rglob("test_*.py")}
    assert not folders - set(KERNELS) - tested


@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("norm", ["both", "none"])
def test_training_goes_the_same_way_with_every_form(
    norm: str, likelihood: str, dispersion: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    inputs = small.arrays()
    histories = {}
    for form in ("reference", "analytic", "auto"):
        network = small.network(inputs, gene_likelihood=likelihood, dispersion=dispersion, use_batch_norm=norm)
        with kernels.use(form):
            outcome = fit(network, small.cells(inputs), small.plan(max_epochs=4))
        histories[form] = outcome.history
    # the bias before a batch norm has a gradient of rounding alone, which Adam turns into steps of full size; only the
    # running mean, which follows with a delay, shows them, and only to the held-out cells
    compared = [name for name in histories["reference"] if norm == "none" or "validation" not in name]
    for form in ("analytic", "auto"):
        for name in compared:
            np.testing.assert_allclose(histories[form][name], histories["reference"][name], rtol=1e-4)


def test_a_fit_with_machine_code_does_not_fall_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    monkeypatch.setattr(softmax_heads.reference, "log_likelihood", lambda *_: pytest.fail("not the compiled form"))
    inputs = small.arrays()
    fit(small.network(inputs), small.cells(inputs), small.plan(max_epochs=1))
