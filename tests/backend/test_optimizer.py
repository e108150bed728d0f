"""Adam over several threads is Adam, to the bit, and continues where it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scvi_pp._backend import optimizer as optimizer_module
from scvi_pp._backend.crew import crew, working_together
from scvi_pp._backend.layers import Block, Norms
from scvi_pp._backend.optimizer import SharedAdam
from scvi_pp._backend.scratch import borrow, give_back, keeping_scratch

N_STEPS, PENALTY = 20, 0.03
X = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
CODES = torch.arange(9)[:, None] % 2

every_crew = pytest.mark.parametrize("n_threads", [1, 2, 3, 50])


@pytest.fixture(autouse=True)
def _torch_has_one_thread_as_in_a_fit() -> Iterator[None]:
    """Several would cut a parameter elsewhere, and what is left over of a vectorised loop rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Network(nn.Module):
    """A parameter of every kind: by input and by output in memory, of norms, of categories, and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Block(6, 8, (2,), Norms(batch=True, layer=False), 0.0)
        self.head = nn.Linear(8, 5)
        self.table = nn.Parameter(torch.randn(1, 5))
        self.unused = nn.Parameter(torch.randn(3))

    def loss(self) -> Tensor:
        return (self.head(self.body(X, CODES)) + self.table).square().mean()


def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network()


def learning_rate(step: int) -> float:
    return 1e-2 / (1 + step)


def take_steps(optimizer: SharedAdam, trained: Network, start: int, stop: int) -> None:
    for step in range(start, stop):
        trained.loss().backward()
        optimizer.step(learning_rate(step))


def crew_of(n: int, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[None]:
    monkeypatch.setattr("scvi_pp._backend.crew.available_threads", lambda: n)
    return working_together(10_000)


def assert_same_bits(first: nn.Module, second: nn.Module) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@every_crew
def test_it_is_the_adam_of_torch(n_threads: int, monkeypatch: pytest.MonkeyPatch):
    expected, trained = network(), network()
    biases = [value for name, value in expected.named_parameters() if name.endswith("bias")]
    others = [value for name, value in expected.named_parameters() if not name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": biases}, {"params": others, "weight_decay": PENALTY}]
    of_torch = torch.optim.Adam(groups, fused=True)
    for step in range(N_STEPS):
        expected.loss().backward()
        for group in of_torch.param_groups:
            group["lr"] = learning_rate(step)
        of_torch.step()
        of_torch.zero_grad()
    with crew_of(n_threads, monkeypatch):
        assert crew().n == n_threads
        take_steps(SharedAdam(trained, weight_decay=PENALTY), trained, 0, N_STEPS)
    assert_same_bits(trained, expected)


@pytest.mark.parametrize("then", [1, 2, 3])
@pytest.mark.parametrize("first", [1, 2, 3])
def test_it_continues_where_it_was_whatever_the_threads(first: int, then: int, monkeypatch: pytest.MonkeyPatch):
    expected, trained, again = network(), network(), network()
    take_steps(SharedAdam(expected, weight_decay=PENALTY), expected, 0, N_STEPS)
    with crew_of(first, monkeypatch):
        optimizer = SharedAdam(trained, weight_decay=PENALTY)
        take_steps(optimizer, trained, 0, 7)
        state, weights = optimizer.state(), {name: value.clone() for name, value in trained.state_dict().items()}
        take_steps(optimizer, trained, 7, 9)  # what was told does not follow
    with crew_of(then, monkeypatch):
        optimizer = SharedAdam(again, weight_decay=PENALTY)
        take_steps(optimizer, again, 0, 3)  # what was there before is forgotten
        again.load_state_dict(weights)
        optimizer.restore(state)
        take_steps(optimizer, again, 7, N_STEPS)
    assert_same_bits(again, expected)


def test_its_state_is_the_same_whatever_the_threads(monkeypatch: pytest.MonkeyPatch):
    states = []
    for n_threads in (1, 2, 3):
        trained = network()
        with crew_of(n_threads, monkeypatch):
            optimizer = SharedAdam(trained, weight_decay=PENALTY)
            take_steps(optimizer, trained, 0, 3)
            states.append(optimizer.state())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_a_fresh_state_starts_anew():
    first, second = network(), network()
    optimizer = SharedAdam(first, weight_decay=0.0)
    nothing = optimizer.state()
    take_steps(optimizer, first, 0, 3)
    first.load_state_dict(network().state_dict())
    optimizer.restore(nothing)
    take_steps(optimizer, first, 0, 3)
    take_steps(SharedAdam(second, weight_decay=0.0), second, 0, 3)
    assert_same_bits(first, second)


def test_a_step_forgets_the_gradients_and_leaves_alone_what_had_none():
    trained = network()
    optimizer = SharedAdam(trained, weight_decay=PENALTY)
    take_steps(optimizer, trained, 0, 2)
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert torch.equal(trained.unused, network().unused)
    assert not any(name.startswith("unused") for name in optimizer.state())


def test_the_penalty_spares_biases_and_nothing_else():
    """Without a gradient but that of the penalty, all others are drawn towards zero."""
    trained, before = network(), network()
    optimizer = SharedAdam(trained, weight_decay=PENALTY)
    for parameter in trained.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1e-4)
    for name, value in trained.named_parameters():
        old = before.get_parameter(name)
        closer = (value.detach().abs() < old.detach().abs()).all()
        assert torch.equal(value, old) if name.endswith("bias") else closer, name


@every_crew
@pytest.mark.parametrize("piece", [4, 1 << 20], ids=["in pieces", "whole"])
def test_every_weight_belongs_to_one_thread(n_threads: int, piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimizer_module, "PIECE", piece)
    trained = network()
    with crew_of(n_threads, monkeypatch):
        optimizer = SharedAdam(trained, weight_decay=0.0)
    held = [weights for part in optimizer.parts for group in part.param_groups for weights in group["params"]]
    places = [place for weights in held for place in range(weights.data_ptr(), weights.data_ptr() + weights.nbytes, 4)]
    assert len(set(places)) == len(places) == sum(value.numel() for value in trained.parameters())
    assert len(optimizer.parts) == min(n_threads, len(held))


@every_crew
def test_parameters_in_pieces_move_as_whole_ones(n_threads: int, monkeypatch: pytest.MonkeyPatch):
    whole, cut, again = network(), network(), network()
    expected = SharedAdam(whole, weight_decay=PENALTY)
    take_steps(expected, whole, 0, N_STEPS)
    monkeypatch.setattr(optimizer_module, "PIECE", 16)  # a vector at a time, so that sums round alike
    with crew_of(n_threads, monkeypatch):
        optimizer = SharedAdam(cut, weight_decay=PENALTY)
        take_steps(optimizer, cut, 0, 7)
        again.load_state_dict(cut.state_dict())
        continued = SharedAdam(again, weight_decay=PENALTY)
        continued.restore(optimizer.state())
        take_steps(continued, again, 7, N_STEPS)
    assert_same_bits(again, whole)
    for name, value in continued.state().items():
        assert torch.equal(value, expected.state()[name]), name


def test_a_gradient_laid_out_otherwise_is_read_as_it_should(monkeypatch: pytest.MonkeyPatch):
    whole, cut = network(), network()
    for each, piece in ((whole, 1 << 20), (cut, 4)):
        monkeypatch.setattr(optimizer_module, "PIECE", piece)
        optimizer = SharedAdam(each, weight_decay=0.0)
        each.loss().backward()
        weight = each.body.linear.linear.weight
        weight.grad = weight.grad.contiguous()  # the weight itself lies in memory the other way round
        optimizer.step(1e-2)
    torch.testing.assert_close(cut.body.linear.linear.weight, whole.body.linear.linear.weight, rtol=1e-6, atol=1e-7)


# ---- memory of gradients


def test_memory_that_is_given_back_is_lent_again():
    with keeping_scratch():
        first = borrow(600, 500)
        place = first.data_ptr()
        assert borrow(600, 500).data_ptr() != place
        give_back(first)
        del first
        assert borrow(500, 600).data_ptr() != place
        assert borrow(600, 500).data_ptr() == place


def test_memory_that_was_not_lent_is_left_alone():
    with keeping_scratch():
        own = torch.empty(600, 500)
        give_back(own)
        assert borrow(600, 500).data_ptr() != own.data_ptr()


def test_nothing_is_kept_outside_of_a_fit():
    with keeping_scratch():
        give_back(borrow(600, 500))
    kept = borrow(600, 500)
    give_back(kept)
    assert borrow(600, 500).data_ptr() != kept.data_ptr()


def test_memory_that_is_never_given_back_is_not_held():
    with keeping_scratch():
        lost = borrow(600, 500)
        watched = lost.untyped_storage()._weak_ref()
        del lost
        gc.collect()
        assert torch.UntypedStorage._expired(watched)
