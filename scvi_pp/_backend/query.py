"""What a fitted network says of cells, a block at a time.

`Posterior` needs nothing of a network but encode, latent, decode and expression. Results do not depend on `batch_size`:
draws of a latent position belong to the cell, whichever block it is in, and where a network draws by itself the blocks
are those of its own size, whatever was asked for.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from scvi_pp._backend import kernels, noise
from scvi_pp._backend.answering import Partial, Regional, values_of
from scvi_pp._backend.counterfactual import in_batch, in_one_of
from scvi_pp._backend.crew import crew, working_together
from scvi_pp._backend.device import private_random, sent
from scvi_pp._backend.rows_above import RowsAbove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor
    from torch.distributions import Normal

    from scvi_pp._backend.answering import Answering, Value
    from scvi_pp._backend.measured import Modality
    from scvi_pp._backend.streams import Cells

# entries of the arrays of a block, a few of which are alive at a time: 16 MB in all, near the size of a cache
BLOCK_ENTRIES = 4_000_000
LARGEST_BLOCK = 4096
# entries of a tile of dense rows on their way into a sparse matrix: 128 MB
TILE_ENTRIES = 32_000_000
SIMPLEX_DRAWS = 1000


class Posterior:
    """A network and the cells it is asked about.

    `n_samples=None` takes the posterior mean of the latent position, a number that many draws of it. `n_trained_rows`
    are the rows that training took, over all epochs: the code it had compiled answers too. Two that differ in `stream`
    alone have the same draws of the latent position, and noise of their own about it.
    """

    def __init__(
        self,
        network: Answering,
        cells: Cells,
        seed: int = 0,
        batch_size: int | None = None,
        n_trained_rows: int = 0,
        stream: int = 0,
    ) -> None:
        self.network, self.cells, self.seed, self.batch_size = network, cells, seed, batch_size
        self.stream, self.n_trained_rows = stream, n_trained_rows
        self.n_latent: int = network.hyperparameters.n_latent
        self.n_features: int = network.n_features

    @property
    def n_entries(self) -> int:
        """Entries that were gone through by training, or are by a question: whether compiled code is worth it."""
        n: int = max(self.cells.n_cells, self.n_trained_rows) * self.cells.n_columns
        return n

    def about(self, modality: Modality, stream: int) -> Posterior:
        """The same cells and positions, asked about another modality of the network."""
        network = self.network.network.about(modality)  # type: ignore[attr-defined]
        of_self = (self.seed, self.batch_size, self.n_trained_rows)
        return Posterior(network, self.cells, *of_self, stream)

    # ---- where cells are

    def latent_mean(self) -> np.ndarray:
        """Posterior mean of the latent position, float32 (cells, n_latent)."""
        out = np.empty((self.cells.n_cells, self.n_latent), dtype=np.float32)

        def fill(where: slice, cells: Any) -> None:
            out[where] = _host(self._mean_position(self.network.encode(cells).q_z))

        with self.asking():
            self._each_block(fill, decoded=False)
        return out

    def latent_distribution(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of q(z | x), before the softmax of "ln", (cells, n_latent) each."""
        mean = np.empty((self.cells.n_cells, self.n_latent), dtype=np.float32)
        variance = np.empty_like(mean)

        def fill(where: slice, cells: Any) -> None:
            q_z = self.network.encode(cells).q_z
            mean[where], variance[where] = _host(q_z.mean), _host(q_z.variance)

        with self.asking():
            self._each_block(fill, decoded=False)
        return mean, variance

    def latent_samples(self, n_samples: int) -> np.ndarray:
        """Draws of the latent position, float32 (n_samples, cells, n_latent)."""
        out = np.empty((n_samples, self.cells.n_cells, self.n_latent), dtype=np.float32)
        with self.asking():
            for sample in range(n_samples):
                for where, _, z, _ in self._positions(sample, decoded=False):
                    out[sample, where] = _host(z)
        return out

    # ---- what they express

    def denoised(
        self,
        out: np.ndarray,
        *,
        columns: np.ndarray | None,
        into: np.ndarray | None = None,
        to_rows: np.ndarray | None = None,
        library_size: float | None,
        batches: Sequence[int] | None,
        n_samples: int | None,
        value: Value = "expression",
    ) -> np.ndarray:
        """Fill `out` (cells, width) with expression at a library size (None: that of the cell).

        `value` says what else than expression: with what is peculiar to each region, or with background, or the chance
        of foreground. `columns` are the genes asked for (None: all), `into` the columns of `out` they go to (None: all, in
        order), `to_rows` the row that each cell goes to (None: all, in order; -1: none). Means over draws and batches are
        kept running, so memory does not grow with either.
        """
        mean_of = self._mean_expression(columns, library_size, batches, n_samples, value)
        with self.asking():
            self._accumulate(mean_of, out, slice(None) if into is None else into, n_samples, to_rows=to_rows)
        return out

    def denoised_above(
        self,
        threshold: float,
        *,
        n_columns: int,
        columns: np.ndarray | None,
        into: np.ndarray | None = None,
        library_size: float | None,
        batches: Sequence[int] | None,
        n_samples: int | None,
        value: Value = "expression",
    ) -> csr_matrix:
        """The same as a sparse matrix (cells, n_columns) without means below the threshold, a tile of rows at a time."""
        mean_of = self._mean_expression(columns, library_size, batches, n_samples, value)
        width = self.n_features if columns is None else len(columns)
        out = RowsAbove(threshold, n_columns, into=into)
        with self.asking():
            for rows in self._tiles(width):
                tile = np.empty((rows.stop - rows.start, width), dtype=np.float32)
                self._accumulate(mean_of, tile, slice(None), n_samples, rows)
                out.add(tile)
        return out.matrix()

    def _mean_expression(
        self,
        columns: np.ndarray | None,
        library_size: float | None,
        batches: Sequence[int] | None,
        n_samples: int | None,
        value: Value,
    ) -> Callable[[Any, Tensor | None], np.ndarray]:
        """What one draw (None: the posterior mean) adds to the mean over draws and batches, for some cells."""
        passes = list(batches) if batches is not None else [None]
        share = 1 / (len(passes) * (n_samples or 1))
        wanted, expression = sent(columns, self.cells.device), values_of(self.network, value)

        def mean_of(cells: Any, drawn: Tensor | None) -> np.ndarray:
            z, library = self.position(cells, drawn)
            size = library.exp() if library_size is None else torch.full_like(library, library_size)
            total: Any = 0.0
            for batch in passes:
                total = total + expression(z, in_batch(cells, batch), wanted)
            return _host(total.mul_(size * share))

        return mean_of

    def _accumulate(
        self,
        mean_of: Callable[[Any, Tensor | None], np.ndarray],
        out: np.ndarray,
        target: slice | np.ndarray,
        n_samples: int | None,
        rows: slice | None = None,
        to_rows: np.ndarray | None = None,
    ) -> None:
        """Sum what every draw says of these rows into the columns `target` of `out`."""
        first = 0 if rows is None else rows.start

        def fill(sample: int | None, drawn: Tensor | None, where: slice, cells: Any) -> None:
            here = slice(where.start - first, where.stop - first)
            values = mean_of(cells, None if drawn is None else drawn[here])
            place: Any = (here, target)
            if to_rows is not None:
                kept = to_rows[here] >= 0
                values, at = values[kept], to_rows[here][kept]
                place = (at, target) if isinstance(target, slice) else np.ix_(at, target)
            if sample in (None, 0):
                out[place] = values
            else:
                out[place] += values

        for sample in self._samples(n_samples):
            drawn = None if sample is None else self._noise(sample, rows)
            self._each_block(partial(fill, sample, drawn), rows=rows)

    def _tiles(self, width: int) -> Iterator[slice]:
        """All rows, as many whole blocks at a time as there is work in for every thread."""
        block, n = self.block_size(decoded=True), self.cells.n_cells
        size = block * max(1, TILE_ENTRIES // (block * width))
        for start in range(0, n, size):
            yield slice(start, min(start + size, n))

    def parameters(self, *, columns: np.ndarray | None, n_samples: int | None) -> dict[str, np.ndarray]:
        """The parameters of p(x | z), averaged over draws, name -> (cells, genes)."""
        out: dict[str, np.ndarray] = {}
        wanted = sent(columns, self.cells.device)
        with self.asking():
            for sample in self._samples(n_samples):
                for where, cells, z, library in self._positions(sample):
                    for name, value in self.network.decode(z, library, cells).parameters().items():
                        picked = _host(_pick(value, wanted)) / (n_samples or 1)
                        whole = out.setdefault(name, np.zeros((self.cells.n_cells, picked.shape[1]), np.float32))
                        whole[where] += picked
        return out

    def predictive(
        self, n_samples: int, *, columns: np.ndarray | None, batches: Sequence[int] | None
    ) -> list[csr_matrix]:
        """Posterior predictive draws, one sparse (cells, genes) matrix each; with batches, one of them by chance."""
        out, wanted, choices = [], sent(columns, self.cells.device), sent(batches, self.cells.device)
        with self.asking():
            for sample in range(n_samples):
                blocks = []
                for _, cells, z, library in self._positions(sample, drawing=True):
                    p_x = self.network.decode(z, library, in_one_of(cells, choices))
                    blocks.append(csr_matrix(_host(_pick(p_x.sample(), wanted))))
                out.append(vstack(blocks, format="csr"))
        return out

    def denoised_draws(
        self, n_samples: int, *, columns: np.ndarray | None, batch: int | None, library_size: float
    ) -> np.ndarray:
        """Draws of the rate behind the counts at one library size, (n_samples * cells, genes)."""
        n_cells, wanted = self.cells.n_cells, sent(columns, self.cells.device)
        out = np.empty((n_samples * n_cells, self.n_features if columns is None else len(columns)), np.float32)
        with self.asking():
            for sample in range(n_samples):
                for where, cells, z, library in self._positions(sample, drawing=True):
                    fixed = torch.full_like(library, library_size).log()
                    p_x = self.network.decode(z, fixed, in_batch(cells, batch))
                    rows = slice(sample * n_cells + where.start, sample * n_cells + where.stop)
                    out[rows] = _host(_pick(p_x.sample_denoised(), wanted))
        return out

    def library_size(self) -> np.ndarray:
        """Expected library size, (cells,): observed, given, or the mean of its log-normal posterior.

        NaN for a cell in which nothing of it was measured.
        """
        out = np.empty(self.cells.n_cells, dtype=np.float32)
        with self.asking():
            for where, cells in self._blocks(decoded=False):
                posterior = self.network.encode(cells)
                out[where] = _host(_log_expected_library(posterior).exp())[:, 0]
                if isinstance(self.network, Partial):
                    out[where][~_host(self.network.measured(cells))] = np.nan
        return out

    # ---- how well they are explained

    def elbo(self, n_samples: int) -> dict[str, np.ndarray]:
        """The bound of each cell and its reconstruction term, mean over draws, float64 (cells,)."""
        out = {name: np.zeros(self.cells.n_cells) for name in ("bound", "reconstruction")}
        with self.asking():
            for _ in range(n_samples):
                for where, cells in self._blocks(drawing=True):
                    elbo = self.network.elbo(cells)
                    out["bound"][where] += _host(elbo.bound) / n_samples
                    out["reconstruction"][where] += _host(elbo.reconstruction) / n_samples
        return out

    def marginal_log_likelihood(self, n_samples: int) -> np.ndarray:
        """log p(x) of each cell by importance sampling from the posterior, float64 (cells,)."""
        out = np.full(self.cells.n_cells, -np.inf)
        with self.asking():
            for where, cells in self._blocks(drawing=True):
                posterior = self.network.encode(cells)
                total = torch.full_like(posterior.library[:, 0], -torch.inf, dtype=torch.float64)
                for _ in range(n_samples):
                    weight = self.network.log_importance_weight(posterior, cells)
                    total = torch.logaddexp(total, weight.double())
                out[where] = _host(total) - np.log(n_samples)
        return out

    # ---- how blocks are walked through

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The network in the state in which it answers: nothing is learned, no global random state is touched."""
        self.network.eval()
        compiled = kernels.use_for(self.n_entries)
        threads = working_together(self.cells.n_cells)
        alone = private_random(self.cells.device, noise.seed_of(self.seed, self.stream))
        with compiled, threads, alone, torch.inference_mode():
            yield

    def _blocks(self, *, decoded: bool = True, drawing: bool = False) -> Iterator[tuple[slice, Any]]:
        return self.cells.blocks(self.block_size(decoded=decoded, drawing=drawing))

    def block_size(self, *, decoded: bool, drawing: bool = False) -> int:
        """Cells that are looked at together."""
        entries = self.n_features * (4 if decoded else 1)
        own = max(2, min(LARGEST_BLOCK, BLOCK_ENTRIES // entries))
        return own if drawing else self.batch_size or own

    def _each_block(
        self, work: Callable[[slice, Any], None], *, decoded: bool = True, rows: slice | None = None
    ) -> None:
        """Call `work` with every block of the rows, several threads each taking the next; nothing may be drawn in it."""
        size = self.block_size(decoded=decoded)
        first, last = (0, self.cells.n_cells) if rows is None else (rows.start, rows.stop)
        index = torch.arange(first, last, device=self.cells.index_device)

        def one(number: int) -> None:
            start, stop = number * size, min((number + 1) * size, last - first)
            work(slice(first + start, first + stop), self.cells.minibatch(index[start:stop]))

        crew().each(-(-(last - first) // size), one)

    def _samples(self, n_samples: int | None) -> Sequence[int | None]:
        return [None] if n_samples is None else range(n_samples)

    def _positions(
        self, sample: int | None, *, decoded: bool = True, drawing: bool = False
    ) -> Iterator[tuple[slice, Any, Tensor, Tensor]]:
        """Each block with its latent position and log library size: posterior means, or the draw of that number.

        `drawing` draws the library size too, where it is hidden.
        """
        drawn = None if sample is None else self._noise(sample)
        for where, cells in self._blocks(decoded=decoded, drawing=drawing):
            yield where, cells, *self.position(cells, None if drawn is None else drawn[where], drawing=drawing)

    def position(self, cells: Any, drawn: Tensor | None, *, drawing: bool = False) -> tuple[Tensor, Tensor]:
        """Latent positions (None: their mean) and log library sizes of cells."""
        posterior = self.network.encode(cells)
        if drawn is None:
            z = self._mean_position(posterior.q_z)
        else:
            z = self.network.latent(posterior.q_z.loc + posterior.q_z.scale * drawn)
        hidden = drawing and posterior.q_library is not None
        return z, posterior.q_library.sample() if hidden else _log_expected_library(posterior)

    def _noise(self, sample: int, rows: slice | None = None) -> Tensor:
        """Standard normal draws for these rows, or for all: the same whatever the blocks are."""
        n, rows = self.cells.n_cells, rows or slice(0, self.cells.n_cells)
        drawn = noise.standard_normal(n, self.n_latent, seed=self.seed, sample=sample, rows=rows)
        return drawn.to(self.cells.device)

    def _mean_position(self, q_z: Normal) -> Tensor:
        """The mean of the latent position; that of a softmax is taken over draws shared by all cells."""
        if self.network.hyperparameters.latent_distribution == "normal":
            return q_z.loc
        generator = torch.Generator().manual_seed(0)
        half = torch.randn(SIMPLEX_DRAWS // 2, self.n_latent, generator=generator).to(q_z.loc.device)
        mean = torch.zeros_like(q_z.loc)
        for draw in torch.cat([half, -half]).split(50):
            mean += self.network.latent(q_z.loc[:, None] + q_z.scale[:, None] * draw).sum(1)
        return mean / SIMPLEX_DRAWS


def region_factors(network: Answering) -> np.ndarray | None:
    """What is peculiar to each region of chromatin, (regions,); None of a model without regions."""
    if not isinstance(network, Regional):
        return None
    with torch.inference_mode():
        return _host(network.factor_of_regions())


def _log_expected_library(posterior: Any) -> Tensor:
    """The log of the expected library size: where it is hidden, the mean of a log-normal."""
    hidden = posterior.q_library
    library: Tensor = posterior.library if hidden is None else hidden.loc + hidden.variance / 2
    return library


def _host(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array


def _pick(values: Tensor, columns: Tensor | None) -> Tensor:
    return values if columns is None else values[:, columns]
