"""MultiVI: the call, what it reads and what it writes. What is assumed is in `_backend/models/multivi.py`."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, Unpack

from mudata import MuData

from scvi_pp import _docs
from scvi_pp._data.columns import as_keys
from scvi_pp._data.counts import Counts
from scvi_pp._data.feature_types import by_feature_type, modalities_of_features, said_of_adata
from scvi_pp._data.multiome import ModalityCounts, Present, RowNumber, copied
from scvi_pp._data.read import check_annotated, learn
from scvi_pp._data.sources import Categories, Category, Numbers, Positive, Share
from scvi_pp._seed import seed_from
from scvi_pp.tl import _chromatin
from scvi_pp.tl._fitting import Call
from scvi_pp.tl._fitting_multimodal import fit_and_write_multimodal
from scvi_pp.tl._inputs_of_counts import numbers_of_levels
from scvi_pp.tl._modalities import modalities, refuse_shared_names, saying_which_layer
from scvi_pp.tl._options import (
    LatentDistribution,
    Where,
    check_choices,
    check_flags,
    check_names,
    check_rate,
    check_sizes,
)
from scvi_pp.tl._training import documented_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from scvi_pp._seed import Seed
    from scvi_pp.tl._modalities import Name
    from scvi_pp.tl._training import Training

GeneLikelihood = Literal["zinb", "nb", "poisson"]
Dispersion = Literal["gene", "gene-batch", "gene-cell"]
ProteinDispersion = Literal["protein", "protein-batch"]
Weights = Literal["equal", "universal", "cell"]
Penalty = Literal["Jeffreys", "MMD", "none"]
CHOICES = {
    "gene_likelihood": GeneLikelihood,
    "dispersion": Dispersion,
    "protein_dispersion": ProteinDispersion,
    "modality_weights": Weights,
    "modality_penalty": Penalty,
    "latent_distribution": LatentDistribution,
    "use_batch_norm": Where,
    "use_layer_norm": Where,
}
SIZES = ("n_layers_encoder", "n_layers_decoder")
FLAGS = ("region_factors", "adversarial_mixing", "encode_covariates", "deeply_inject_covariates")
WIDEST = 128  # units of a hidden layer that are chosen for you, as in the reference implementation


@_docs.documented(RESULTS=_chromatin.RESULTS, RANDOM=_docs.RANDOM, TRAINING=documented_for("multivi"))
def multivi(
    mdata: MuData | AnnData,
    *,
    rna: Name = None,
    atac: Name = None,
    protein: Name = None,
    rna_layer: str | None = None,
    atac_layer: str | None = None,
    protein_layer: str | None = None,
    rna_mask_var: str | None = None,
    atac_mask_var: str | None = None,
    batch_key: str | Sequence[str] | None = None,
    rna_size_factor_key: str | None = None,
    atac_size_factor_key: str | None = None,
    categorical_covariate_keys: str | Sequence[str] | None = None,
    continuous_covariate_keys: str | Sequence[str] | None = None,
    n_latent: int | None = None,
    n_hidden: int | None = None,
    n_layers_encoder: int = 2,
    n_layers_decoder: int = 2,
    dropout_rate: float = 0.1,
    gene_likelihood: GeneLikelihood = "zinb",
    dispersion: Dispersion = "gene",
    protein_dispersion: ProteinDispersion = "protein",
    region_factors: bool = True,
    modality_weights: Weights = "equal",
    modality_penalty: Penalty = "MMD",
    adversarial_mixing: bool = False,
    latent_distribution: LatentDistribution = "normal",
    encode_covariates: bool = False,
    deeply_inject_covariates: bool = False,
    use_batch_norm: Where = "none",
    use_layer_norm: Where = "both",
    denoise: bool | None = None,
    key_added: str | None = None,
    save_model: bool | str | Path = True,
    rng: Seed = None,
    random_state: Seed = None,
    device: str | None = None,
    copy: bool = False,
    **training: Unpack[Training],
) -> MuData | AnnData | None:
    """Embed cells with RNA, open chromatin or both in one latent space, and impute what was not measured [Ashuach23]_.

    A variational autoencoder of the raw counts of all modalities. Cells may have every modality (paired), one of them,
    or be mixed: which it is follows from the cells that each modality of the object holds, and nothing is padded. Its
    latent space goes into `sc.pp.neighbors(mdata, use_rep="X_multivi")`; expression and accessibility of all cells, also
    of those in which they were not measured, come from `get.denoised(mdata, mod=...)`.

    Parameters
    ----------
    mdata
        Multimodal object with raw counts. :func:`~scvi_pp.pp.organize_multiome` makes one of separate objects. An
        `AnnData` that holds the features of all modalities will do too, as 10x files have them, if
        `.var['feature_types']` (or `'modality'`) says what each is: a cell then was measured in what it has a count of.
    rna, atac, protein
        Names of the modalities. By default they are found by name or by `.var['feature_types']`; `False` leaves one
        out. RNA or ATAC there must be.
    rna_layer, atac_layer, protein_layer
        Where the counts of each are; `.X` by default.
    rna_mask_var, atac_mask_var
        Boolean columns of the modalities' `.var` that choose genes and regions to model, as `"highly_variable"`.
    batch_key
        Column(s) that name the batch, whose effect is to be removed: of `mdata.obs`, or of the modalities' `.obs`.
        Several columns count as one, with a batch for every combination.
    rna_size_factor_key, atac_size_factor_key
        Columns with a size factor for each cell instead of one that is inferred: positive for RNA, above 0 and at most
        1 for ATAC.
    categorical_covariate_keys, continuous_covariate_keys
        Further columns whose effects are to be removed.
    n_latent
        Dimensions of the latent space; by default the root of `n_hidden`, rounded down.
    n_hidden
        Units of each hidden layer; by default the root of the number of regions (without any, of genes), rounded down,
        and at most 128.
    n_layers_encoder, n_layers_decoder
        Hidden layers of each encoder and decoder.
    dropout_rate
        Dropout in the encoders.
    gene_likelihood
        How counts of RNA scatter: zero-inflated negative binomial, negative binomial, Poisson.
    dispersion, protein_dispersion
        Whether overdispersion is constant per gene (protein), or differs between batches (or cells, of genes).
    region_factors
        Learn for each region how well it can be seen.
    modality_weights
        How much each modality counts for a cell's position: all the same, a share that is learned for all cells, or one
        learned for each cell.
    modality_penalty
        What training pays where modalities measured in the same cell disagree about its position: the distance of their
        means (`"MMD"`), the symmetric divergence of their posteriors (`"Jeffreys"`, which asks more of them and may
        leave dimensions of the latent space unused), or nothing.
    adversarial_mixing
        Train against a classifier that tells batches apart by the latent position, where the decoders' knowledge of the
        batch is not enough. It costs biology too. Without batches it has no effect.
    latent_distribution
        `"normal"`, or `"ln"` for a latent space on the simplex.
    encode_covariates
        Show batch and covariates to the encoders too.
    deeply_inject_covariates
        Show categories to every hidden layer of the decoders rather than the first alone.
    use_batch_norm, use_layer_norm
        Where each normalisation is applied.
    {RESULTS}
    {RANDOM}
    device
        `"cpu"`, `"cuda"`, ...; `settings.device` by default, which takes a GPU if there is one.
    copy
        Return a copy instead of writing to the object.
    {TRAINING}

    Returns
    -------
    `None`, or the copy if `copy=True`. Sets the following fields:

    `.obsm['X_multivi' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Posterior mean of each cell's latent position, from all that was measured of it.
    `.mod[...].layers['multivi_denoised' | f'{key_added}_denoised']` : :class:`numpy.ndarray` (dtype `float32`)
        For the modality's own cells: share of each gene, chance that a region is open, expected foreground of a
        protein; NaN outside the mask. In an `AnnData` one layer of all features, for all cells.
    `.uns['multivi' | key_added]` : :class:`dict`
        `'params'`: the settings, and for unpaired cells how well they mix; `'history'`: curves by epoch; `'model'`: the
        fitted model itself.

    Raises
    ------
    InputError
        The values are no counts, a modality has none, names repeat across modalities, a column has missing values.
    MissingKeyError
        A modality, layer or column is not there.
    TrainingError
        The loss was never finite. In each case the object is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> mdata = svp.datasets.simulate_multiome(200, 50, n_regions=100, rna_only=0.2, atac_only=0.2)
    >>> svp.tl.multivi(mdata, batch_key="batch", max_epochs=2)
    >>> mdata.obsm["X_multivi"].shape
    (200, 3)
    """
    options = {
        "n_latent": n_latent,
        "n_hidden": n_hidden,
        "n_layers_encoder": n_layers_encoder,
        "n_layers_decoder": n_layers_decoder,
        "dropout_rate": dropout_rate,
        "gene_likelihood": gene_likelihood,
        "dispersion": dispersion,
        "protein_dispersion": protein_dispersion,
        "region_factors": region_factors,
        "modality_weights": modality_weights,
        "modality_penalty": modality_penalty,
        "adversarial_mixing": adversarial_mixing,
        "latent_distribution": latent_distribution,
        "encode_covariates": encode_covariates,
        "deeply_inject_covariates": deeply_inject_covariates,
        "use_batch_norm": use_batch_norm,
        "use_layer_norm": use_layer_norm,
    }
    options = _checked(options)
    keys = {
        "rna_layer": rna_layer,
        "atac_layer": atac_layer,
        "protein_layer": protein_layer,
        "rna_mask_var": rna_mask_var,
        "atac_mask_var": atac_mask_var,
        "batch_key": as_keys(batch_key, "batch_key"),
        "rna_size_factor_key": rna_size_factor_key,
        "atac_size_factor_key": atac_size_factor_key,
        "categorical_covariate_keys": as_keys(categorical_covariate_keys, "categorical_covariate_keys"),
        "continuous_covariate_keys": as_keys(continuous_covariate_keys, "continuous_covariate_keys"),
    }
    check_names(keys, "rna_size_factor_key", "atac_size_factor_key")
    seed = seed_from(rng, random_state)
    check_annotated(mdata, verb="tl.multivi")
    target = copied(mdata) if copy else mdata
    call = Call(target, "multivi", seed, key_added, denoise, save_model, device, training)
    with nullcontext() if isinstance(target, MuData) else said_of_adata():
        mdata = target if isinstance(target, MuData) else _split(target, keys)
        found = modalities(mdata, rna=rna, atac=atac, protein=protein)
        sources = _sources(mdata, found, keys, remember_cells=modality_weights == "cell")
        hyperparameters = _hyperparameters(mdata, sources, options)
        options |= {"n_hidden": hyperparameters.n_hidden, "n_latent": hyperparameters.n_latent}
        fit_and_write_multimodal(call, mdata, sources, hyperparameters, {**found, **keys, **options})
    return target if copy else None


def _split(adata: AnnData, keys: dict[str, Any]) -> MuData:
    """The modalities of an AnnData that holds all features; its values are looked at before they are taken apart."""
    layers = {name: keys[f"{name}_layer"] for name in ("rna", "atac", "protein")}
    types = modalities_of_features(adata)
    for name, layer in layers.items():
        if name in types:
            with saying_which_layer({name: name}):
                ModalityCounts(name, Counts(layer)).telling_where(Counts(layer).learn, adata[:, types == name])
    return by_feature_type(adata, layers)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options in plain Python types, after every check that needs no data."""
    check_choices(options, CHOICES)
    check_sizes(options, *SIZES, *(name for name in ("n_hidden", "n_latent") if options[name] is not None))
    check_flags(options, *FLAGS)
    check_rate(options, "dropout_rate")
    return {**options, **{name: int(options[name]) for name in SIZES}, "dropout_rate": float(options["dropout_rate"])}


def _sources(mdata: MuData, found: dict[str, str | None], keys: dict[str, Any], *, remember_cells: bool) -> Any:
    """What the model reads, learned from these cells."""
    from scvi_pp._backend.models.multivi import Inputs

    def counts(what: str) -> ModalityCounts | None:
        name = found[what]
        if name is None:
            return None
        return ModalityCounts(name, Counts(keys[f"{what}_layer"], keys.get(f"{what}_mask_var")))

    with saying_which_layer(found):
        sources: Any = learn(
            mdata,
            Inputs(
                expression=counts("rna"),
                accessibility=counts("atac"),
                protein=counts("protein"),
                present=Present((found["rna"], found["atac"], found["protein"])),
                batch=Category(keys["batch_key"]),
                categories=Categories(keys["categorical_covariate_keys"]),
                numbers=Numbers(keys["continuous_covariate_keys"]),
                expression_size_factor=Positive(keys["rna_size_factor_key"]),
                accessibility_size_factor=Share(keys["atac_size_factor_key"]),
                row=RowNumber(remember_cells),
            ),
            verb="tl.multivi",
        )
    refuse_shared_names({source.modality: source.var_names for source in sources[:3] if source is not None})
    return sources


def _hyperparameters(mdata: MuData, sources: Any, options: dict[str, Any]) -> Any:
    """The network that follows from what is read."""
    from scvi_pp._backend.models.multivi import Hyperparameters

    n_genes, n_regions, n_proteins = (0 if source is None else len(source.var_names) for source in sources[:3])
    hidden, latent = options["n_hidden"], options["n_latent"]
    hidden = max(1, min(WIDEST, math.isqrt(n_regions or n_genes))) if hidden is None else int(hidden)
    widths = {"n_hidden": hidden, "n_latent": max(1, math.isqrt(hidden)) if latent is None else int(latent)}
    return Hyperparameters(
        n_genes=n_genes,
        n_regions=n_regions,
        n_proteins=n_proteins,
        n_cells=mdata.n_obs if sources.row.kept else 0,
        **numbers_of_levels(sources),
        n_numbers=len(sources.numbers.keys),
        has_expression_size_factor=sources.expression_size_factor.key is not None,
        has_accessibility_size_factor=sources.accessibility_size_factor.key is not None,
        **{**options, **widths},
    )
