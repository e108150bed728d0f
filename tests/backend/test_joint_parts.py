"""Parts of a model that reads RNA and proteins together: what was not measured, and where they begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scvi_pp._backend.joint_parts import JointProteins
from tests.backend import cite


@pytest.fixture(scope="module")
def inputs() -> Any:
    return cite.arrays()


def proteins(inputs: Any, **options: Any) -> JointProteins:
    return cite.network(inputs, **options).eval().protein_part


def positions(seed: int = 0) -> torch.Tensor:
    return torch.randn(cite.N_CELLS, 3, generator=torch.Generator().manual_seed(seed))


def test_proteins_that_were_not_measured_add_nothing_whatever_their_counts(inputs: Any):
    part, cells, z = proteins(inputs), cite.everything(inputs), positions()
    counts = cells.protein.dense()
    unmeasured = ~(cells.panel & cells.present[:, [2]])
    found = []
    for other in (0.0, 7.0):
        torch.manual_seed(0)
        found.append(part.terms(z, cells._replace(protein=torch.where(unmeasured, other, counts))))
    torch.testing.assert_close(*found)
    assert all((values[cells.batch == 2] == 0).all() for values in found[0])


def test_a_panel_costs_as_much_as_its_proteins_one_by_one(inputs: Any):
    part, cells, z = proteins(inputs), cite.everything(inputs), positions()
    total: Any = 0.0
    for column in range(cite.N_PROTEINS):
        alone = torch.zeros_like(cells.panel)
        alone[:, column] = cells.panel[:, column]
        torch.manual_seed(0)
        total = total + torch.stack(part.terms(z, cells._replace(panel=alone)))
    torch.manual_seed(0)
    torch.testing.assert_close(total, torch.stack(part.terms(z, cells)))


def test_without_panels_that_differ_none_need_be_told():
    inputs = cite.arrays(panels=None)
    part, cells, z = proteins(inputs), cite.everything(inputs), positions()
    torch.manual_seed(0)
    one = part.terms(z, cells)
    torch.manual_seed(0)
    other = part.terms(z, cells._replace(panel=torch.ones(cite.N_CELLS, cite.N_PROTEINS, dtype=torch.bool)))
    torch.testing.assert_close(one, other)


def test_what_a_batch_did_not_measure_is_said_by_those_that_did(inputs: Any):
    part, cells, z = proteins(inputs, protein_dispersion="protein-batch"), cite.everything(inputs), positions()
    there = cells._replace(batch=torch.zeros_like(cells.batch))
    with torch.no_grad():
        found, in_first = part.foreground_probability(z, cells), part.foreground_probability(z, there)
        own = part._here(z, cells)[0].foreground_probability
    torch.testing.assert_close(found[:, 1][cells.batch == 1], in_first[:, 1][cells.batch == 1])
    torch.testing.assert_close(found[:, 1][cells.batch == 2], in_first[:, 1][cells.batch == 2])
    measured = torch.tensor(cite.PANELS)[cells.batch]
    torch.testing.assert_close(found[measured], own[measured])
    assert not torch.allclose(found[~measured], own[~measured])


def test_means_of_counts_have_the_efficiency_of_the_batch_and_denoised_values_have_not(inputs: Any):
    part, cells, z = proteins(inputs), cite.everything(inputs), positions()
    with torch.no_grad():
        before, counted = part.expression_with_background(z, cells), part.decode(z, z[:, :1], cells).mean
        torch.testing.assert_close(counted, before)
        part.log_efficiency[0] = np.log(0.5)
        after, halved = part.expression_with_background(z, cells), part.decode(z, z[:, :1], cells).mean
    here = cells.batch == 0
    torch.testing.assert_close(after[here], before[here])
    torch.testing.assert_close(halved[here], before[here] / 2)


def test_proteins_begin_at_their_two_levels():
    inputs = cite.arrays(panels=None)
    part = proteins(inputs)
    assert part.prior_mean.exp().detach().mean() == pytest.approx(5, rel=0.3)
    head = part.decoder
    foreground = (1 + head.excess.linear.bias) * head.log_background.linear.bias.exp()
    assert foreground.detach().mean() == pytest.approx(60, rel=0.3)
    share = torch.sigmoid(-head.background_logits.linear.bias).detach()
    np.testing.assert_allclose(share, 0.5, atol=0.2)


def test_the_prior_of_the_background_is_that_of_the_batch_or_of_all_if_it_is_not_asked_for():
    inputs = cite.arrays(panels=None)
    counts = inputs.protein.toarray()
    counts[inputs.batch == 1] *= 4
    inputs = inputs._replace(protein=type(inputs.protein)(counts))
    level = proteins(inputs).prior_mean.exp().detach().mean(1)
    assert level[1] > 2.5 * level[0]
    assert (proteins(inputs, empirical_background=False).prior_mean == 3.0).all()


def test_the_number_of_cells_that_measured_each_protein_is_known(inputs: Any):
    part = proteins(inputs)
    counted = part.get_buffer("n_measured")
    expected = [(cite.PANELS[b] * (inputs.present[inputs.batch == b, 2]).sum()) for b in range(cite.N_BATCHES)]
    np.testing.assert_array_equal(counted, expected)
