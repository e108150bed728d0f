"""Networks with more batches and categories than they were fitted with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend.fit import fit
from scvi_pp._backend.models import multivi, peakvi, poissonvi, scvi
from scvi_pp._backend.surgery import mapping
from tests.backend import mosaic, small

# two batches, and categories of 3, 1 and 2 levels; what is mapped has 4 batches, and 3, 3 and 4 levels
LEVELS, MORE = (3, 1, 2), (3, 3, 4)
SCVI: dict[str, dict[str, Any]] = {
    "plain": {},
    "encoded": {"encode_covariates": True, "n_layers": 2},
    "embedding": {"batch_representation": "embedding", "n_batch_embedding": 3, "encode_covariates": True},
    "gene-batch": {"dispersion": "gene-batch", "gene_likelihood": "nb"},
    "latent library": {"use_observed_lib_size": False},
}
NETWORKS = [*SCVI, "peakvi", "poissonvi", "multivi"]


def inputs(name: str, n_batches: int = 2, n_levels: tuple[int, ...] = LEVELS, seed: int = 0) -> Any:
    if name == "multivi":
        found = mosaic.arrays(n_levels=n_levels, n_numbers=1, seed=seed)
        batch = np.random.default_rng(seed).integers(n_batches, size=len(found.batch))
        return found._replace(batch=batch, row=np.full(len(batch), -1))
    make = small.regions if name == "peakvi" else small.arrays
    return make(n_batches=n_batches, n_levels=n_levels, n_numbers=1, seed=seed)


def fitted(name: str) -> Any:
    """A network whose every weight, buffer and running statistic is not as it was made."""
    found = inputs(name)
    if name == "multivi":
        options = {"dispersion": "gene-batch", "protein_dispersion": "protein-batch", "encode_covariates": True}
        network = mosaic.network(found, adversarial_mixing=True, **options)
    elif name in SCVI:
        network = small.network(found, **SCVI[name])
    else:
        make = small.peakvi_network if name == "peakvi" else small.poissonvi_network
        network = make(found, encode_covariates=True, deeply_inject_covariates=True)
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return network.eval()


def grown(name: str, network: Any, how: str = "new") -> Any:
    build = {"peakvi": peakvi, "poissonvi": poissonvi, "multivi": multivi}.get(name, scvi).build
    more = replace(network.hyperparameters, n_batches=4, n_levels=MORE)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return mapping(network, build(more), how)


def said(network: Any, cells: Any) -> list[torch.Tensor]:
    """What a network says of cells: where they are, and what is expected of them."""
    with torch.no_grad():
        posterior = network.encode(cells)
        z = network.latent(posterior.q_z.loc)
        library = posterior.library
        return [
            posterior.q_z.loc,
            posterior.q_z.scale,
            library,
            *network.decode(z, library, cells).parameters().values(),
        ]


def with_codes(cells: Any, *, batch: int | None = None, level: tuple[int, int] | None = None) -> Any:
    """The same cells in another batch, or with another level of a category."""
    if batch is not None:
        cells = cells._replace(batch=torch.full_like(cells.batch, batch))
    if level is not None:
        categories = cells.categories.clone()
        categories[:, level[0]] = level[1]
        cells = cells._replace(categories=categories)
    return cells


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_known_is_answered_as_before_to_the_last_bit(name: str):
    network = fitted(name)
    cells = small.cells(inputs(name)).minibatch(torch.arange(60))
    larger = grown(name, network).eval()
    for before, after in zip(said(network, cells), said(larger.network, cells), strict=True):
        assert torch.equal(before, after)
    for before, after in zip(said(network, cells), said(larger.finished(), cells), strict=True):
        assert torch.equal(before, after)


def test_a_new_batch_and_a_new_level_begin_in_the_middle_of_those_that_are_known():
    """Tables are told apart by their category: the middle of the third is not that of the batch."""
    network = fitted("plain")
    larger = grown("plain", network).finished()
    block, before = larger.decoder.body.blocks[0].linear, network.decoder.body.blocks[0].linear
    assert (before.informative, block.informative) == ([0, 1, 3], [0, 1, 2, 3])
    batch, first, single, last = (table.weight for table in block.shifts)
    torch.testing.assert_close(batch[2:], before.shifts[0].weight.mean(0).expand(2, -1))
    assert torch.equal(first, before.shifts[1].weight)
    torch.testing.assert_close(last[2:], before.shifts[2].weight.mean(0).expand(2, -1))
    assert not single.any()


def test_a_category_that_had_one_level_says_nothing_until_it_is_learned():
    network = fitted("encoded")
    cells = small.cells(inputs("encoded")).minibatch(torch.arange(60))
    larger = grown("encoded", network).eval().finished()
    for before, after in zip(said(network, cells), said(larger, with_codes(cells, level=(1, 2))), strict=True):
        torch.testing.assert_close(before, after)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_mapping_moves_rows_of_what_is_new_and_nothing_else(name: str):
    network = fitted(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items() if not key.startswith("adversary")}
    query = small.cells(inputs(name, 4, MORE, seed=1))
    larger = grown(name, network)
    untouched = {key: tensor.clone() for key, tensor in grown(name, network).finished().state_dict().items()}
    # a strong penalty would be the first to move what has no gradient
    fit(larger, query, small.plan(query.n_cells, learning_rate=0.05, weight_decay=0.1, max_epochs=4))
    after = larger.finished().state_dict()
    moved = [key for key in after if not torch.equal(after[key], untouched[key])]
    assert moved and all(len(after[key]) > 2 for key in moved)
    known = small.cells(inputs(name)).minibatch(torch.arange(60))
    for one, other in zip(said(network, known), said(larger.network.eval(), known), strict=True):
        assert torch.equal(one, other)
    same = [key for key in before if key in after and after[key].shape == before[key].shape]
    kept = [key for key in same if "shifts" not in key]  # of which the number counts, and one may be new
    assert len(kept) > 5
    assert all(torch.equal(after[key], before[key]) for key in kept)


@pytest.mark.parametrize("name", ["plain", "encoded", "multivi"])
def test_the_first_layers_are_learned_on_request(name: str):
    network = fitted(name)
    before = {key: tensor.clone() for key, tensor in grown(name, network).finished().state_dict().items()}
    larger = grown(name, network, "inputs")
    query = small.cells(inputs(name, 4, MORE, seed=1))
    fit(larger, query, small.plan(query.n_cells, max_epochs=2))
    after = larger.finished().state_dict()
    moved = {key for key in before if not torch.equal(after[key], before[key])}
    assert all(".blocks.0.linear.linear." in key or len(after[key]) > 2 for key in moved)
    assert any(key.endswith("encoder.body.blocks.0.linear.linear.weight") for key in moved)


def test_everything_is_learned_on_request_running_statistics_too():
    network = fitted("plain")
    before = {key: tensor.clone() for key, tensor in grown("plain", network).finished().state_dict().items()}
    larger = grown("plain", network, "all")
    query = small.cells(inputs("plain", 4, MORE, seed=1))
    fit(larger, query, small.plan(query.n_cells, max_epochs=2))
    after = larger.finished().state_dict()
    assert not [key for key in before if torch.equal(after[key], before[key]) and after[key].is_floating_point()]


@pytest.mark.parametrize("how", ["new", "inputs", "all"])
def test_a_finished_network_is_like_any_other(how: str):
    network = fitted("plain")
    larger = grown("plain", network, how)
    rebuilt = scvi.build(larger.network.hyperparameters)
    rebuilt.load_state_dict(larger.finished().state_dict())
    assert all(parameter.requires_grad for parameter in larger.network.parameters())
    assert type(larger.network) is scvi.Network


def test_the_library_of_a_new_batch_comes_from_its_own_cells():
    network = fitted("latent library")
    query = inputs("latent library", 4, MORE, seed=1)
    larger = grown("latent library", network)
    larger.start_from(small.cells(query), None)
    total = np.log(np.asarray(query.counts.sum(1)).ravel())
    for batch in (2, 3):
        own = total[query.batch == batch]
        assert float(larger.network.library_mean[batch]) == pytest.approx(own.mean(), rel=1e-5)
        assert float(larger.network.library_variance[batch]) == pytest.approx(own.var(), rel=1e-4)
    assert torch.equal(larger.network.library_mean[:2], network.library_mean)


def test_the_bound_of_new_batches_improves():
    found = inputs("plain", 4, MORE, seed=1)
    larger = grown("plain", fitted("plain"))
    outcome = fit(larger, small.cells(found), small.plan(max_epochs=30, learning_rate=0.03, kl_warmup=0.0))
    curve = outcome.history["elbo_validation"]
    assert curve.max() > curve[0] + 1
