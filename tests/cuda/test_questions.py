"""Every question of every model: no minibatch reads a value, and all of it stays on the device but the answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scvi_pp._backend import population, query
from scvi_pp._backend.joint_parts import JointProteins
from scvi_pp._backend.query import Posterior
from scvi_pp._backend.streams import Cells
from tests.cuda.every_model import CASES, Case, first_of_each, name_of
from tests.cuda.every_question import QUESTIONS, askable
from tests.cuda.fake_device import DEVICE, fake_device, moved
from tests.cuda.without_host import noting_what_is_asked

every_model = pytest.mark.parametrize("case", first_of_each(CASES), ids=name_of)
every_answer = pytest.mark.parametrize(
    "case", [case for case in CASES if case.is_asked or case in first_of_each(CASES)], ids=name_of
)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population, "PARTICLES", 1)
    monkeypatch.setattr(query, "SIMPLEX_DRAWS", 100)


def reads_which_rows_lack_proteins(network: Any) -> bool:
    """totalVI's answers about proteins that the batch of a cell did not measure are means over the other batches.

    Each of those takes a pass through the decoder, of the rows that lack proteins alone. Which rows these are is read
    once in a block, whose answer the host then waits for anyway; without it every block would take as many passes as
    there are batches, and most data sets lack nothing.
    """
    return isinstance(getattr(network, "part", None), JointProteins)


def test_every_question_is_asked_of_some_model():
    asked = [question for case in first_of_each(CASES) for _, _, question in askable(case.make().network)]
    assert all(question in asked for question in QUESTIONS.values())


@every_model
@pytest.mark.usefixtures("as_on_a_device")
def test_no_block_of_a_question_asks_the_host(case: Case):
    """What is asked of it does not grow with the number of blocks: at most columns and batches are sent beforehand."""
    made, found = case.make(), {}
    network, cells = made.on(torch.device("cpu"))
    for name, asked, question in askable(network):
        if reads_which_rows_lack_proteins(asked):
            continue
        of_blocks = []
        for size in (100, 30):
            with pytest.MonkeyPatch.context() as patch, noting_what_is_asked() as noted:
                patch.setattr(query, "LARGEST_BLOCK", size)
                question.ask(Posterior(asked, cells))
            of_blocks.append(list(noted))
        if of_blocks[0] != of_blocks[1] or set(noted) - {"lift_fresh waits for the device"}:
            found[name] = noted
    assert not found


@every_answer
def test_a_question_stays_on_a_fake_cuda_device(case: Case):
    """A copy of the answer to the host is the only one that is allowed, and there are no values to read."""
    network, inputs = case.make()
    with fake_device(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(JointProteins, "_anywhere", JointProteins._here)  # see `reads_which_rows_lack_proteins`
        network, cells = moved(network), _gathered_once(Cells(inputs, DEVICE))
        for _, asked, question in askable(network):
            question.ask(Posterior(asked, cells))


def _gathered_once(cells: Cells) -> Any:
    """Cells without values: any two minibatches of as many rows are the same one, which saves time."""
    plain, known = cells.minibatch, {}

    def minibatch(index: Tensor) -> Any:
        assert index.device == cells.index_device
        if len(index) not in known:
            known[len(index)] = plain(index)
        return known[len(index)]

    vars(cells)["minibatch"] = minibatch
    return cells
