"""totalVI term by term: what was measured counts, what was not does not, and the bound is one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend import kernels
from scvi_pp._backend.answering import Proteinic, Regional
from scvi_pp._backend.fit import fit
from scvi_pp._backend.models import restored
from scvi_pp._backend.models.totalvi import Hyperparameters, Network
from scvi_pp._backend.query import Posterior
from scvi_pp._backend.sparse import SparseRows
from tests.backend import cite, small
from tests.studies import Judge, seeds

OPTIONS: list[dict[str, Any]] = [
    {},
    {"gene_likelihood": "zinb"},
    {"dispersion": "gene-batch", "protein_dispersion": "protein-batch"},
    {"use_observed_lib_size": False},
    {"latent_distribution": "ln"},
    {"encode_covariates": False},
    {"adversarial_mixing": True},
    {"use_batch_norm": "none", "use_layer_norm": "both", "n_layers_encoder": 1, "n_layers_decoder": 2},
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


@pytest.fixture(scope="module")
def inputs() -> Any:
    return cite.arrays()


def asked(network: Network, inputs: Any) -> Posterior:
    return Posterior(network, cite.cells(inputs))


@pytest.mark.parametrize("form", ["auto", "reference"])
def test_gradients_lie_in_memory_as_their_parameters_do(form: str, inputs: Any):
    """Otherwise the optimizer copies them, at every step."""
    network = cite.network(inputs).train()
    with kernels.use(form):
        network.elbo(cite.everything(inputs)).loss(1.0).backward()
    for name in ("encoder.body.blocks.0.linear.linear.weight", "expression_part.decoder.last.scale.linear.weight"):
        parameter = network.get_parameter(name)
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


@every_option
def test_bound_and_every_gradient_are_finite(options: dict, inputs: Any):
    network = cite.network(inputs, **options)
    elbo = network.elbo(cite.everything(inputs))
    elbo.loss(0.5).backward()
    assert torch.isfinite(elbo.bound).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    named = {name for name, p in network.named_parameters() if p.grad is None}
    assert not named


@every_option
def test_a_cell_is_worth_the_same_whatever_else_is_in_the_minibatch(options: dict, inputs: Any):
    network = cite.network(inputs, **options).eval()
    whole, some = cite.everything(inputs), torch.tensor([3, 12, 40])
    with torch.no_grad():
        z = network.encode(whole).q_z.loc
        few = cite.cells(inputs).minibatch(some)
        torch.testing.assert_close(network.encode(few).q_z.loc, z[some])
        likelihood = network.expression_part.log_likelihood(z, network.encode(whole).library, whole)
        alone = network.expression_part.log_likelihood(z[some], network.encode(few).library, few)
    torch.testing.assert_close(alone, likelihood[some])


@pytest.mark.parametrize("form", ["auto", "analytic", "reference"])
def test_packed_rows_and_dense_counts_are_the_same_cells(form: str, inputs: Any):
    network, rows = cite.network(inputs).eval(), cite.everything(inputs)
    assert isinstance(rows.expression, SparseRows)
    dense = rows._replace(expression=rows.expression.dense(), protein=rows.protein.dense())
    found = []
    for cells in (rows, dense):
        torch.manual_seed(0)
        with kernels.use(form), torch.no_grad():
            found.append(network.elbo(cells).bound)
    torch.testing.assert_close(*found)


def test_counts_that_were_not_measured_are_not_seen(inputs: Any):
    network, cells = cite.network(inputs).eval(), cite.everything(inputs)
    unmeasured = ~(cells.panel & cells.present[:, [2]])
    other = cells._replace(protein=torch.where(unmeasured, 9.0, cells.protein.dense()))
    torch.testing.assert_close(network.encode(other).q_z.loc, network.encode(cells).q_z.loc)


def test_depth_is_hardly_seen_by_the_encoder():
    """Counts are seen beside the mean of their cell: ten times as many say the same."""
    inputs = cite.arrays(panels=None)
    network = cite.network(inputs).eval()
    cells = cite.everything(inputs)
    deep, deeper = (
        cells._replace(expression=cells.expression.dense() * by, protein=cells.protein.dense() * by)
        for by in (100, 1000)
    )
    torch.testing.assert_close(network.encode(deeper).q_z.loc, network.encode(deep).q_z.loc, rtol=0.02, atol=0.02)


def test_cells_without_rna_have_its_likelihood_and_library_for_nothing(inputs: Any):
    network, cells = cite.network(inputs, use_observed_lib_size=False).eval(), cite.everything(inputs)
    lacks = ~cells.present[:, 0]
    assert lacks.any()
    posterior = network.encode(cells)
    _, divergence = network._drawn_library(posterior, cells)
    assert (divergence[lacks] == 0).all() and (divergence[~lacks] > 0).all()
    assert (network.expression_part.log_likelihood(posterior.q_z.loc, posterior.library, cells)[lacks] == 0).all()


@pytest.mark.parametrize("options", [{}, {"use_observed_lib_size": False}], ids=str)
def test_the_bound_is_below_the_marginal_likelihood(options: dict, inputs: Any, judge: Judge):
    network = cite.network(inputs, **options)
    fit(network, cite.cells(inputs), small.plan(cite.N_CELLS, seed=seeds(1)[0]))
    found = asked(network, inputs)
    bound, explained = found.elbo(30)["bound"], found.marginal_log_likelihood(100)
    judge(f"totalvi {options}: share of cells with a bound below", bound < explained + 0.5, above=0.8)
    judge(f"totalvi {options}: marginal log likelihood above the bound", (explained - bound).mean(), above=0)


def test_training_raises_the_bound(inputs: Any):
    network = cite.network(inputs)
    before = asked(network, inputs).elbo(5)["bound"].mean()
    fit(network, cite.cells(inputs), small.plan(cite.N_CELLS, max_epochs=20))
    assert asked(network, inputs).elbo(5)["bound"].mean() > before + 2


def test_views_of_proteins_know_proteins_and_those_of_genes_do_not(inputs: Any):
    network = cite.network(inputs).eval()
    assert isinstance(network.about("protein"), Proteinic)
    assert not isinstance(network.about("expression"), Proteinic | Regional)
    out = np.empty((cite.N_CELLS, cite.N_GENES), np.float32)
    options = {"columns": None, "library_size": 1.0, "batches": None, "n_samples": None}
    with pytest.raises(TypeError, match="has no proteins"):
        asked(network.about("expression"), inputs).denoised(out, value="foreground_probability", **options)


def test_a_library_that_is_hidden_is_that_of_rna_alone(inputs: Any):
    network = cite.network(inputs, use_observed_lib_size=False)
    of_rna = asked(network.about("expression"), inputs).library_size()
    of_proteins = asked(network.about("protein"), inputs).library_size()
    assert (of_rna[inputs.present[:, 0]] > 1).all() and np.isnan(of_rna[~inputs.present[:, 0]]).all()
    np.testing.assert_array_equal(of_proteins[inputs.present[:, 2]], 1)


def test_one_modality_by_itself_says_what_a_cell_with_it_alone_would(inputs: Any):
    network = cite.network(inputs).eval()
    alone = inputs.present.copy()
    alone[:, 0] = False
    bare = inputs._replace(present=alone, expression=type(inputs.expression)(inputs.expression.shape, dtype=np.float32))
    expected = asked(network, bare).latent_mean()
    found = asked(network.about("protein", "protein"), inputs).latent_mean()
    measured = inputs.present[:, 2]
    np.testing.assert_allclose(found[measured], expected[measured], rtol=1e-5, atol=1e-6)
    assert (found[~measured] == 0).all()


def test_hyperparameters_survive_json(inputs: Any):
    hyperparameters = cite.network(inputs).hyperparameters
    assert restored(Hyperparameters, json.loads(json.dumps(asdict(hyperparameters)))) == hyperparameters
