"""The calls whose peak of memory is measured. Each function is the whole of a process."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
from machine import limit_threads
from memory_peak import MEGABYTE, PeakMemory
from simulated import simulated

WARM_UP_CELLS = 256


def peak(call: Callable[[ad.AnnData], object], *cells: ad.AnnData) -> float:
    """Megabytes of the last call; those before it load what is loaded at first use."""
    for adata in cells[:-1]:
        call(adata)
    with PeakMemory() as memory:
        kept = call(cells[-1])
    del kept  # until here: what the call returns is part of its peak
    return memory.megabytes


def denoise_peer(n_cells: int, n_samples: int | None, n_genes: int, nonzero_share: float, threads: int) -> float:
    """Of `get_normalized_expression`."""
    import peer_models

    limit_threads(threads)
    models = {}

    def fitted(n: int) -> ad.AnnData:
        adata = ad.AnnData(simulated(n, n_genes, nonzero_share))
        models[n] = peer_models.new_model(adata)
        peer_models.train(models[n], 1, "cpu")
        return adata

    def call(adata: ad.AnnData) -> object:
        return models[adata.n_obs].get_normalized_expression(return_numpy=True, n_samples=n_samples or 1)

    return peak(call, fitted(WARM_UP_CELLS - 1), fitted(n_cells))


def denoise_ours(n_cells: int, n_samples: int | None, n_genes: int, nonzero_share: float, threads: int) -> float:
    """Of `tl.denoise`."""
    import scvi_pp as svp

    limit_threads(threads)
    svp.settings.verbosity, svp.settings.device = 0, "cpu"

    def fitted(n: int) -> ad.AnnData:
        adata = ad.AnnData(simulated(n, n_genes, nonzero_share))
        svp.tl.scvi(adata, max_epochs=1, denoise=False)
        return adata

    return peak(lambda adata: svp.tl.denoise(adata, n_samples=n_samples), fitted(WARM_UP_CELLS - 1), fitted(n_cells))


def train_peer(n_cells: int, n_genes: int, nonzero_share: float, threads: int) -> float:
    """Of setting up, `train` and `get_latent_representation`."""
    import peer_models

    limit_threads(threads)

    def call(adata: ad.AnnData) -> object:
        model = peer_models.new_model(adata)
        peer_models.train(model, 1, "cpu")
        return model, model.get_latent_representation()

    return peak(call, *(ad.AnnData(simulated(n, n_genes, nonzero_share)) for n in (WARM_UP_CELLS, n_cells)))


def train_ours(n_cells: int, n_genes: int, nonzero_share: float, threads: int) -> float:
    """Of `tl.scvi`."""
    import scvi_pp as svp

    limit_threads(threads)
    svp.settings.verbosity, svp.settings.device = 0, "cpu"
    cells = (ad.AnnData(simulated(n, n_genes, nonzero_share)) for n in (WARM_UP_CELLS, n_cells))
    return peak(lambda adata: svp.tl.scvi(adata, max_epochs=1, denoise=False), *cells)


def train_peakvi(n_cells: int, n_regions: int, open_share: float, threads: int) -> float:
    """Of `tl.peakvi`, the input included."""
    import scvi_pp as svp

    limit_threads(threads)
    svp.settings.verbosity, svp.settings.device = 0, "cpu"
    cells = [ad.AnnData(simulated(n, n_regions, open_share)) for n in (WARM_UP_CELLS, n_cells)]
    counts = cells[-1].X
    held = (counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes) / MEGABYTE
    return held + peak(lambda adata: svp.tl.peakvi(adata, max_epochs=1, denoise=False), *cells)
