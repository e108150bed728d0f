"""scVI on real blood cells, from counts to a saved study, in one go.

    python tutorials/quickstart.py [--out FOLDER]

Writes quickstart.h5ad, and figures/quickstart.png, into the folder (the current one by default). Needs no download.
The same story step by step, for newcomers: tutorials/quickstart.ipynb.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from time import perf_counter

warnings.simplefilter("ignore")  # remarks among the libraries that scanpy stands on; nothing to be done about them here

import matplotlib  # noqa: E402

matplotlib.use("Agg")  # draw into files: no window is needed

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import scanpy as sc  # noqa: E402
from matplotlib.collections import PathCollection  # noqa: E402
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score  # noqa: E402

import scvi_pp as svp  # noqa: E402

GENE = "IL7R"  # marks naive and memory T cells; caught in one cell of five
COLOURS = {
    "CD34+": "#4a4a4a",
    "CD4+/CD45RA+/CD25- Naive T": "#9ecae1",
    "CD4+/CD45RO+ Memory": "#4292c6",
    "CD4+/CD25 T Reg": "#08519c",
    "CD8+/CD45RA+ Naive Cytotoxic": "#74c476",
    "CD8+ Cytotoxic T": "#238b45",
    "CD56+ NK": "#8c6bb1",
    "CD19+ B": "#e7298a",
    "CD14+ Monocyte": "#e6550d",
    "Dendritic": "#fdae6b",
}


def main(out: Path) -> None:
    """Fit, cluster, compare, draw, save, open again."""
    started = perf_counter()
    adata = svp.datasets.pbmc68k()
    print(f"{adata.n_obs} blood cells x {adata.n_vars} genes, {int(adata.X.sum()):,} counts, one run of 10x Genomics")

    print("\nFit scVI: one call, the results are written to adata")
    svp.tl.scvi(adata)

    print("\nCluster in its latent space, and in that of PCA")
    sc.pp.neighbors(adata, use_rep="X_scvi")
    sc.tl.umap(adata, gamma=0.3)  # weaker repulsion: distant types stay in the picture
    cluster(adata, "leiden")
    agreement = {"scVI": agree(adata.obs["leiden"], adata.obs["bulk_labels"])}
    agreement["PCA"] = agree(pca_clusters(adata), adata.obs["bulk_labels"])
    print("agreement of Leiden clusters with the cell types of sorted cells (1 is perfect, 0 is chance):")
    for name, (ari, nmi) in agreement.items():
        print(f"  {name:<5} ARI {ari:.2f}  NMI {nmi:.2f}")
    print("  (on few cells of a single run PCA is hard to beat; see the notebook for what scVI does with batches)")

    out.joinpath("figures").mkdir(parents=True, exist_ok=True)
    figure, study = out / "figures" / "quickstart.png", out / "quickstart.h5ad"
    draw(adata, figure)

    print("\nSave, open again, and go on: the file is the saved model")
    before = svp.get.denoised(adata, genes=GENE, library_size=1e4)
    adata.write_h5ad(study)
    again = sc.read_h5ad(study)
    after = svp.get.denoised(again, genes=GENE, library_size=1e4)
    assert after.equals(before), "the opened model answers differently"
    seen = np.mean(adata[:, GENE].X.toarray() > 0)
    low, high = np.quantile(after, [0.05, 0.95])
    print(f"denoised {GENE}: the same to the last bit in all {len(after)} cells")
    print(f"  it was caught in {seen:.0%} of cells; expected per 10,000 counts: {low:.1f} to {high:.1f} (5% to 95%)")
    print(f"\nWrote {study} and {figure} in {perf_counter() - started:.0f} s. Welcome to scvi_pp!")


def cluster(adata: sc.AnnData, key: str) -> None:
    """Leiden, to the end and at the usual resolution."""
    sc.tl.leiden(adata, key_added=key, flavor="igraph", directed=False, n_iterations=-1)


def pca_clusters(adata: sc.AnnData) -> np.ndarray:
    """Clusters by the usual way without a model: normalise, log, PCA. On a copy, adata stays as it is."""
    usual = sc.AnnData(adata.X.copy(), obs=adata.obs[[]], var=adata.var[[]])
    sc.pp.normalize_total(usual, target_sum=1e4)
    sc.pp.log1p(usual)
    sc.pp.pca(usual)
    sc.pp.neighbors(usual)
    cluster(usual, "leiden")
    return usual.obs["leiden"].to_numpy()


def agree(clusters: object, labels: object) -> tuple[float, float]:
    """Adjusted Rand index and normalised mutual information."""
    return adjusted_rand_score(labels, clusters), normalized_mutual_info_score(labels, clusters)


def draw(adata: sc.AnnData, path: Path) -> None:
    """What one call gives: a latent space, denoised genes, curves of training, and counts as the model makes them."""
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(11, 5.2), layout="constrained")
    places = [["types", "counted", "denoised"], ["types", "history", "zeros"]]
    axes = figure.subplot_mosaic(places, width_ratios=[1.75, 1, 1])
    draw_types(axes["types"], adata)
    counted = np.log1p(1e4 * adata[:, GENE].X.toarray().ravel() / adata.X.sum(1).A1)
    denoised = np.log1p(svp.get.denoised(adata, genes=GENE, library_size=1e4)[GENE].to_numpy())
    draw_gene(axes["counted"], adata, counted, f"{GENE}, as counted", highest=counted.max())
    points = draw_gene(axes["denoised"], adata, denoised, f"{GENE}, denoised", highest=counted.max())
    bar = figure.colorbar(points, ax=axes["denoised"], shrink=0.8, aspect=18, label="log(1 + count per 10,000)")
    bar.outline.set_visible(False)
    svp.pl.history(adata, ax=axes["history"])
    axes["history"].set_title("training history")
    draw_zeros(axes["zeros"], adata)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_types(ax: plt.Axes, adata: sc.AnnData) -> None:
    """UMAP of the latent space by cell type."""
    for label, colour in COLOURS.items():
        ax.scatter(*adata.obsm["X_umap"][adata.obs["bulk_labels"] == label].T, s=13, lw=0, color=colour, label=label)
    ax.set_title("700 blood cells in the latent space of scVI (UMAP)")
    ax.set_axis_off()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, frameon=False, fontsize=7.5, markerscale=1.6)


def draw_gene(ax: plt.Axes, adata: sc.AnnData, values: np.ndarray, title: str, *, highest: float) -> PathCollection:
    """UMAP coloured by a gene, high values on top."""
    order = np.argsort(values, kind="stable")
    ax.set_title(title)
    ax.set_axis_off()
    return ax.scatter(*adata.obsm["X_umap"][order].T, c=values[order], s=6, lw=0, cmap="viridis", vmin=0, vmax=highest)


def draw_zeros(ax: plt.Axes, adata: sc.AnnData) -> None:
    """The share of cells without each gene: in the data, and in counts that the model draws for the same cells."""
    real, drawn = (1 - np.diff(x.tocsc().indptr) / adata.n_obs for x in (adata.X, svp.get.samples(adata)))
    ax.axline((0, 0), slope=1, color="0.7", lw=1)
    ax.scatter(real, drawn, s=5, lw=0, color="#08519c", alpha=0.5)
    ax.set(title="share of zeros, by gene", xlabel="in the data", ylabel="in counts drawn", aspect="equal")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="scVI on real blood cells, from counts to a saved study.")
    parser.add_argument("--out", type=Path, default=Path(), help="where to write (the current folder by default)")
    main(parser.parse_args().out)
