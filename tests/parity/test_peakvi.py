"""PeakVI against scvi-tools: its weights copied in, the same minibatch, the same noise.

Three things differ on purpose, and each is pinned here: the peer's loss is another combination of the same terms, its
encoder sees counts where ours sees what is open, and its posterior may collapse to a point. The last is switched off
below, so that what is left must be equal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from scvi_pp._backend import encoders, kernels
from scvi_pp._backend.models.peakvi import Hyperparameters, Inputs, Network, build
from tests.parity.agreement import FORMS, agree, agree_each, agree_in_every_gradient, make_non_trivial, using
from tests.parity.weights import copy_weights, pairs_of_peakvi

pytest.importorskip("scvi")

from scvi.module import PEAKVAE

pytestmark = pytest.mark.parity

N_CELLS, N_REGIONS, N_BATCHES, N_LEVELS = 24, 60, 3, (2, 5)
KL_WEIGHT = 0.3
VALUE = 1e-5  # relative

# every way in which covariates, factors and layers are put together
COVARIATES = {"n_levels": N_LEVELS, "n_numbers": 2}
ENCODED = {**COVARIATES, "encode_covariates": True}
DEEP = {"deeply_inject_covariates": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "no covariates": {"n_batches": 1},
    "batch": {},
    "batch, categories and numbers": COVARIATES,
    "a category with one level": {"n_levels": (1, 3)},
    "encoded covariates": ENCODED,
    "deeply injected covariates": {**COVARIATES, **DEEP},
    "encoded and deeply injected covariates": {**ENCODED, **DEEP},
    "no cell factors": {**COVARIATES, "cell_factors": False},
    "no region factors": {**COVARIATES, "region_factors": False},
    "no factors": {**COVARIATES, "cell_factors": False, "region_factors": False},
    "ln": {**COVARIATES, "latent_distribution": "ln"},
    "batch norm": {**ENCODED, "use_batch_norm": "both", "use_layer_norm": "none"},
    "both norms": {**ENCODED, "use_batch_norm": "both"},
    "norms apart": {**ENCODED, "use_batch_norm": "encoder", "use_layer_norm": "decoder"},
    "no norms": {**ENCODED, "use_layer_norm": "none"},
    "one layer": {**ENCODED, "n_layers_encoder": 1, "n_layers_decoder": 1},
    "three layers": {**ENCODED, **DEEP, "n_layers_encoder": 3, "n_layers_decoder": 3},
    "one layer in, three out": {**ENCODED, "n_layers_encoder": 1, "n_layers_decoder": 3},
}
every_setting = pytest.mark.parametrize("setting", SETTINGS)
every_form = pytest.mark.parametrize("form", FORMS)


class Twins(NamedTuple):
    """Both networks with the same weights, in eval mode, and the same cells for each."""

    network: Network
    vae: PEAKVAE
    cells: Inputs[torch.Tensor]
    tensors: dict[str, torch.Tensor]

    def peers_forward(self, seed: int = 7) -> tuple[dict[str, Any], dict[str, Any], Any]:
        torch.manual_seed(seed)
        return self.vae(self.tensors, loss_kwargs={"kl_weight": KL_WEIGHT})


def twins(setting: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Twins:
    hp = _hyperparameters(setting)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = _peer(hp).to(dtype).eval()
        if dtype == torch.float64:
            vae.get_reconstruction_loss = _reconstruction_in_float64
        make_non_trivial(vae)
        if vae.region_factors is not None:
            torch.nn.init.normal_(vae.region_factors)
        network = build(hp).to(dtype).eval()
    copy_weights(network, vae, pairs_of_peakvi)
    cells = _cells(hp, seed, dtype)
    return Twins(network, vae, cells, _as_peers(cells, hp))


@pytest.fixture
def without_smallest_variance(monkeypatch: pytest.MonkeyPatch):
    """The peer's posterior has none."""
    monkeypatch.setattr(encoders, "SMALLEST_VARIANCE", 0.0)


@every_setting
@every_form
@pytest.mark.usefixtures("without_smallest_variance")
def test_every_term_of_the_bound_is_the_peers(form: str, setting: str):
    two = twins(setting)
    _, _, loss = two.peers_forward()

    torch.manual_seed(7)
    with using(form, two.cells) as cells:
        elbo = two.network.elbo(cells)

    agree_each(-elbo.reconstruction, _reconstruction(loss), VALUE)
    agree_each(elbo.divergence, _divergence(loss), VALUE)
    assert not elbo.fixed_divergence.any()


@every_setting
@pytest.mark.usefixtures("without_smallest_variance")
def test_our_loss_is_the_mean_and_the_peers_weighs_cells_with_each_other(setting: str):
    """The peer adds the sum over all cells to each of them: its KL weight is what it says over the batch size."""
    two = twins(setting)
    _, _, loss = two.peers_forward()
    torch.manual_seed(7)
    elbo = two.network.elbo(two.cells)
    agree_each(elbo.loss(KL_WEIGHT), (-elbo.reconstruction + KL_WEIGHT * elbo.divergence).mean(), 1e-6)
    agree_each(-N_CELLS * elbo.reconstruction.sum() + KL_WEIGHT * elbo.divergence.sum(), loss.loss, VALUE)
    in_proportion = N_CELLS**2 * elbo.loss(KL_WEIGHT / N_CELLS)
    agree_each(in_proportion, loss.loss, VALUE)


@every_setting
@every_form
@pytest.mark.usefixtures("without_smallest_variance")
def test_posterior_accessibility_and_factors_are_the_peers(form: str, setting: str):
    two = twins(setting)
    inferred, generated, _ = two.peers_forward()

    torch.manual_seed(7)
    with using(form, two.cells) as cells:
        posterior = two.network.encode(cells)
        z = two.network.latent(posterior.q_z.rsample())
        accessibility = two.network.expression(z, cells)
        p_x = two.network.decode(z, posterior.library, cells)

    agree(posterior.q_z.mean, inferred["qz"].loc, VALUE)
    agree_each(posterior.q_z.variance, inferred["qz"].variance, VALUE)
    agree(z, inferred["z"], VALUE)
    agree_each(accessibility, generated["px"], VALUE)
    if two.network.hyperparameters.cell_factors:
        agree_each(posterior.library.exp(), inferred["d"], VALUE)
    of_regions = 1 if two.vae.region_factors is None else torch.sigmoid(two.vae.region_factors)
    agree_each(two.network.factor_of_regions(), torch.ones(N_REGIONS) * of_regions, VALUE)
    agree_each(p_x.mean, generated["px"] * inferred["d"] * of_regions, VALUE)


@every_setting
@every_form
@pytest.mark.usefixtures("without_smallest_variance")
def test_every_gradient_is_that_of_the_mean_of_the_peers_terms(form: str, setting: str):
    two = twins(setting)
    _, _, loss = two.peers_forward()
    (_reconstruction(loss) + KL_WEIGHT * _divergence(loss)).mean().backward()

    torch.manual_seed(7)
    with using(form, two.cells) as cells:
        two.network.elbo(cells).loss(KL_WEIGHT).backward()

    agree_in_every_gradient(two.network, two.vae, pairs_of_peakvi)


@every_setting
@pytest.mark.parametrize("form", ["auto", "reference"])
@pytest.mark.usefixtures("without_smallest_variance")
def test_in_float64_all_of_it_is_the_peers_to_twelve_digits(form: str, setting: str):
    two = twins(setting, dtype=torch.float64)
    _, _, loss = two.peers_forward()
    torch.manual_seed(7)
    with kernels.use(form):
        elbo = two.network.elbo(two.cells)
    agree_each(-elbo.reconstruction, _reconstruction(loss), 1e-12)
    agree_each(elbo.divergence, _divergence(loss), 1e-12)


@every_form
def test_of_a_count_ours_sees_only_that_the_region_is_open(form: str):
    """The peer's encoder is handed counts as they are, and says something else of them."""
    two = twins("encoded covariates")
    more = two.cells.counts * torch.randint(1, 6, two.cells.counts.shape, generator=torch.Generator().manual_seed(0))
    assert more.max() > 1
    with using(form, two.cells._replace(counts=more)) as cells:
        ours = two.network.encode(cells).q_z.loc
        bound = _bound(two.network, cells)
    with using(form, two.cells) as cells:
        assert torch.equal(bound, _bound(two.network, cells))
    of_counts, of_binary = (
        two.vae.z_encoder(torch.cat([x, two.cells.numbers], 1), *_codes(two.cells))[0].loc
        for x in (more, two.cells.counts)
    )
    agree(ours, of_binary, VALUE)
    assert not torch.allclose(of_counts, of_binary, rtol=0.1)


def test_a_posterior_keeps_the_smallest_variance_that_the_peers_lacks():
    two = twins("batch")
    inferred, _, _ = two.peers_forward()
    ours = two.network.encode(two.cells).q_z.variance
    agree_each(ours, inferred["qz"].variance + encoders.SMALLEST_VARIANCE, VALUE)


@pytest.mark.parametrize("setting", ["batch", "encoded covariates", "no factors"])
def test_a_region_that_is_certainly_open_but_was_not_seen_costs_a_hundred_as_the_peers(setting: str):
    """torch ends the logarithm there; ours does the same, and no gradient is not-a-number."""
    two = twins(setting)
    with torch.no_grad():
        for module in (two.network.decoder.logits, two.vae.z_decoder.output[0]):
            module.bias.fill_(300.0)
    x = two.cells._replace(counts=torch.zeros_like(two.cells.counts))
    tensors = {**two.tensors, "X": x.counts}
    torch.manual_seed(7)
    loss = two.vae(tensors)[2]
    torch.manual_seed(7)
    elbo = two.network.elbo(x)
    agree_each(-elbo.reconstruction, _reconstruction(loss), VALUE)
    elbo.loss(1.0).backward()
    assert all(torch.isfinite(p.grad).all() for p in two.network.parameters() if p.grad is not None)


def _bound(network: Network, cells: Inputs[torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(7)
    with torch.no_grad():
        return network.elbo(cells).bound


def _reconstruction_in_float64(p: torch.Tensor, d: Any, f: Any, x: torch.Tensor) -> torch.Tensor:
    """As the peer has it, whose target is float32 whatever the rest is."""
    return torch.nn.BCELoss(reduction="none")(p * d * f, (x > 0).double()).sum(-1)


def _reconstruction(loss: Any) -> torch.Tensor:
    return loss.reconstruction_loss["reconstruction_loss"]


def _divergence(loss: Any) -> torch.Tensor:
    return loss.kl_local["kl_local"]


def _hyperparameters(setting: str) -> Hyperparameters:
    given = {"n_batches": N_BATCHES, "n_levels": (), "n_numbers": 0, "has_size_factor": False, **SETTINGS[setting]}
    return Hyperparameters(n_regions=N_REGIONS, n_latent=5, n_hidden=16, **given)


def _peer(hp: Hyperparameters) -> PEAKVAE:
    return PEAKVAE(
        hp.n_regions,
        n_batch=hp.n_batches,
        n_hidden=hp.n_hidden,
        n_latent=hp.n_latent,
        n_layers_encoder=hp.n_layers_encoder,
        n_layers_decoder=hp.n_layers_decoder,
        n_continuous_cov=hp.n_numbers,
        n_cats_per_cov=list(hp.n_levels),
        dropout_rate=hp.dropout_rate,
        model_depth=hp.cell_factors,
        region_factors=hp.region_factors,
        use_batch_norm=hp.use_batch_norm,
        use_layer_norm=hp.use_layer_norm,
        latent_distribution=hp.latent_distribution,
        deeply_inject_covariates=hp.deeply_inject_covariates,
        encode_covariates=hp.encode_covariates,
    )


def _cells(hp: Hyperparameters, seed: int, dtype: torch.dtype) -> Inputs[torch.Tensor]:
    """Binary, a cell without any open region and a region that is never open among them."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(1, 4, N_REGIONS) * rng.beta(5, 2, (N_CELLS, 1))
    is_open = rng.random((N_CELLS, N_REGIONS)) < chance
    is_open[5], is_open[:, 7] = False, False
    return Inputs(
        counts=torch.tensor(is_open, dtype=dtype),
        batch=torch.tensor(rng.integers(hp.n_batches, size=N_CELLS)),
        categories=torch.tensor(np.stack([rng.integers(n, size=N_CELLS) for n in (1, *hp.n_levels)], axis=1)[:, 1:]),
        numbers=torch.tensor(rng.normal(size=(N_CELLS, hp.n_numbers)), dtype=dtype),
        size_factor=None,
    )


def _codes(cells: Inputs[torch.Tensor]) -> list[torch.Tensor]:
    return [cells.batch[:, None], *cells.categories.split(1, dim=1)]


def _as_peers(cells: Inputs[torch.Tensor], hp: Hyperparameters) -> dict[str, torch.Tensor]:
    tensors = {"X": cells.counts, "batch": cells.batch[:, None], "labels": torch.zeros_like(cells.batch[:, None])}
    if hp.n_levels:
        tensors["extra_categorical_covs"] = cells.categories
    if hp.n_numbers:
        tensors["extra_continuous_covs"] = cells.numbers
    return tensors
