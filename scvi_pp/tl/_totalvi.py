"""totalVI: the call, what it reads and what it writes. What is assumed is in `_backend/models/totalvi.py`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from mudata import MuData

from scvi_pp import _docs, _logging
from scvi_pp._data.columns import as_keys
from scvi_pp._data.counts import Counts
from scvi_pp._data.feature_types import by_feature_type, modalities_of_features, said_of_adata
from scvi_pp._data.multiome import ModalityCounts, Present, copied, observations
from scvi_pp._data.obsm_features import beside_genes
from scvi_pp._data.panels import panels
from scvi_pp._data.read import check_annotated, learn
from scvi_pp._data.sources import Categories, Category, Numbers, Positive
from scvi_pp._errors import InputError, listing
from scvi_pp._seed import seed_from
from scvi_pp.tl import _chromatin
from scvi_pp.tl._fitting import Call
from scvi_pp.tl._fitting_multimodal import fit_and_write_multimodal
from scvi_pp.tl._inputs_of_counts import numbers_of_levels
from scvi_pp.tl._modalities import modalities, saying_which_layer
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
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from scvi_pp._seed import Seed
    from scvi_pp.tl._training import Training

GeneLikelihood = Literal["nb", "zinb"]
Dispersion = Literal["gene", "gene-batch"]
ProteinDispersion = Literal["protein", "protein-batch"]
CHOICES = {
    "gene_likelihood": GeneLikelihood,
    "dispersion": Dispersion,
    "protein_dispersion": ProteinDispersion,
    "latent_distribution": LatentDistribution,
    "use_batch_norm": Where,
    "use_layer_norm": Where,
}
SIZES = ("n_latent", "n_hidden", "n_layers_encoder", "n_layers_decoder")
FLAGS = ("empirical_background", "use_observed_lib_size", "encode_covariates")


@_docs.documented(RESULTS=_chromatin.RESULTS, RANDOM=_docs.RANDOM, TRAINING=documented_for("totalvi"))
def totalvi(
    data: MuData | AnnData,
    *,
    rna: str | None = None,
    protein: str | None = None,
    protein_obsm: str | None = None,
    protein_names_uns_key: str | None = None,
    rna_layer: str | None = None,
    protein_layer: str | None = None,
    rna_mask_var: str | None = None,
    batch_key: str | Sequence[str] | None = None,
    categorical_covariate_keys: str | Sequence[str] | None = None,
    continuous_covariate_keys: str | Sequence[str] | None = None,
    rna_size_factor_key: str | None = None,
    missing_proteins: Mapping[Any, Sequence[str]] | Literal["zeros"] | None = "zeros",
    n_latent: int = 20,
    n_hidden: int = 256,
    n_layers_encoder: int = 2,
    n_layers_decoder: int = 1,
    dropout_rate: float = 0.2,
    gene_likelihood: GeneLikelihood = "nb",
    dispersion: Dispersion = "gene",
    protein_dispersion: ProteinDispersion = "protein",
    empirical_background: bool = True,
    use_observed_lib_size: bool = True,
    adversarial_mixing: bool | None = None,
    latent_distribution: LatentDistribution = "normal",
    encode_covariates: bool = True,
    use_batch_norm: Where = "both",
    use_layer_norm: Where = "none",
    denoise: bool | None = None,
    key_added: str | None = None,
    save_model: bool | str | Path = True,
    rng: Seed = None,
    random_state: Seed = None,
    device: str | None = None,
    copy: bool = False,
    **training: Unpack[Training],
) -> MuData | AnnData | None:
    """Embed cells with RNA and surface proteins in one latent space, and free proteins of their background [Gayoso21]_.

    A variational autoencoder of the raw counts of CITE-seq. Of each protein it tells the background, which antibodies
    leave on any cell, from the foreground of cells that have it (`get.foreground_probability`). Batches may be measured
    with different panels, or without proteins: what a batch lacks is imputed from its RNA. The latent space goes into
    `sc.pp.neighbors(mdata, use_rep="X_totalvi")`.

    Parameters
    ----------
    data
        Raw counts of both: a `MuData`; an `AnnData` of genes whose proteins lie in `.obsm` (`protein_obsm`); or an `AnnData`
        of all features, as 10x files have them, if `.var['feature_types']` says what each is. In an `AnnData` proteins
        were measured in the cells that have a count of any; of a `MuData` in those that the modality holds.
    rna, protein
        Names of the modalities of a `MuData`. By default they are found by name or by `.var['feature_types']`.
    protein_obsm
        Where in `.obsm` of an `AnnData` the counts of proteins lie: a table, an array or a sparse matrix.
    protein_names_uns_key
        Where in `.uns` their names are. By default the columns of the table, or `protein_0`, `protein_1`, ...
    rna_layer, protein_layer
        Layers with the counts; `.X` by default.
    rna_mask_var
        Boolean column of `.var` that chooses genes to model, as `"highly_variable"`.
    batch_key
        Column(s) of `.obs` that name the batch, whose effect is to be removed. Several columns count as one, with a
        batch for every combination.
    categorical_covariate_keys, continuous_covariate_keys
        Further columns whose effects are to be removed.
    rna_size_factor_key
        Column with a positive size factor for each cell, instead of the total count of its RNA.
    missing_proteins
        What batches did not measure: names of proteins by batch, whose counts there are not looked at. `"zeros"`: a
        protein of which a batch of 10 cells or more has no count at all, and another batch has, was not measured there;
        which these are is said. `None`: zeros are zeros.
    n_latent, n_hidden
        Dimensions of the latent space, and units of each hidden layer.
    n_layers_encoder, n_layers_decoder
        Hidden layers of the encoder and of each decoder.
    dropout_rate
        Dropout in all of them.
    gene_likelihood
        How counts of RNA scatter: negative binomial, or zero-inflated negative binomial.
    dispersion, protein_dispersion
        Whether overdispersion is constant per gene (protein), or differs between batches.
    empirical_background
        Begin with the background that the proteins of each batch show: the lower of two levels of their counts. `False`
        begins with that of twenty counts, whatever the data.
    use_observed_lib_size
        Take the total count of a cell's RNA as its library size; `False` infers one.
    adversarial_mixing
        Train against a classifier that tells batches apart by the latent position. By default if a batch lacks proteins
        that another has, since without it such a batch may lie by itself. It costs biology too.
    latent_distribution
        `"normal"`, or `"ln"` for a latent space on the simplex.
    encode_covariates
        Show batch and covariates to the encoder too.
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

    `.obsm['X_totalvi' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_latent)`)
        Posterior mean of each cell's latent position, from all that was measured of it.
    `.mod[...].layers['totalvi_denoised' | f'{key_added}_denoised']` : :class:`numpy.ndarray` (dtype `float32`)
        For the modality's own cells: share of each gene (NaN outside the mask), expected foreground of each protein, also
        of those that a batch did not measure. In an `AnnData` of all features one layer, for all cells.
    `.obsm['totalvi_protein' | f'{key_added}_protein']` : :class:`pandas.DataFrame` (`float32`, cells x proteins)
        The foreground, after a fit with `protein_obsm`; `.layers['totalvi_denoised']` then has the genes.
    `.uns['totalvi' | key_added]` : :class:`dict`
        `'params'`: the settings, and what each batch did not measure; `'history'`: curves by epoch; `'model'`: the fitted
        model itself.

    Raises
    ------
    InputError
        The values are no counts, RNA or proteins are not there, a column has missing values.
    MissingKeyError
        A modality, layer, column or entry of `.obsm` is not there.
    TrainingError
        The loss was never finite. In each case the object is left as it was.

    Examples
    --------
    >>> import scvi_pp as svp
    >>> svp.settings.verbosity = 0
    >>> mdata = svp.datasets.simulate_multiome(200, 50, n_regions=10, n_proteins=6)
    >>> svp.tl.totalvi(mdata, batch_key="batch", n_latent=5, n_hidden=16, max_epochs=2)
    >>> mdata.obsm["X_totalvi"].shape, mdata["protein"].layers["totalvi_denoised"].shape
    ((200, 5), (200, 6))
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
        "empirical_background": empirical_background,
        "use_observed_lib_size": use_observed_lib_size,
        "adversarial_mixing": adversarial_mixing,
        "latent_distribution": latent_distribution,
        "encode_covariates": encode_covariates,
        "use_batch_norm": use_batch_norm,
        "use_layer_norm": use_layer_norm,
    }
    options = _checked(options)
    keys = {
        "protein_obsm": protein_obsm,
        "protein_names_uns_key": protein_names_uns_key,
        "rna_layer": rna_layer,
        "protein_layer": protein_layer,
        "rna_mask_var": rna_mask_var,
        "batch_key": as_keys(batch_key, "batch_key"),
        "rna_size_factor_key": rna_size_factor_key,
        "categorical_covariate_keys": as_keys(categorical_covariate_keys, "categorical_covariate_keys"),
        "continuous_covariate_keys": as_keys(continuous_covariate_keys, "continuous_covariate_keys"),
    }
    check_names(keys, "rna_size_factor_key")
    seed = seed_from(rng, random_state)
    check_annotated(data, verb="tl.totalvi")
    _check_places(data, keys)
    target = copied(data) if copy else data
    call = Call(target, "totalvi", seed, key_added, denoise, save_model, device, training)
    with _said_of(target, keys):
        mdata = target if isinstance(target, MuData) else _split(target, keys)
        found = _found(mdata, rna, protein)
        sources = _sources(mdata, found, keys, missing_proteins)
        options["adversarial_mixing"] = _mixes(options["adversarial_mixing"], mdata, sources)
        params = {**found, **keys, **options, **_said_of_panels(sources.panel)}
        fit_and_write_multimodal(call, mdata, sources, _hyperparameters(sources, options), params)
    return target if copy else None


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options in plain Python types, after every check that needs no data."""
    check_choices(options, CHOICES)
    check_sizes(options, *SIZES)
    check_flags(options, *FLAGS)
    if options["adversarial_mixing"] is not None:
        check_flags(options, "adversarial_mixing")
    check_rate(options, "dropout_rate")
    return {**options, **{name: int(options[name]) for name in SIZES}, "dropout_rate": float(options["dropout_rate"])}


def _check_places(data: MuData | AnnData, keys: dict[str, Any]) -> None:
    """Refuse what says where proteins are in two ways, or in one that the object does not know."""
    for name in ("protein_obsm", "protein_names_uns_key"):
        if keys[name] is not None and not isinstance(keys[name], str):
            raise InputError(f"{name}={keys[name]!r} must be a name.")
    if keys["protein_names_uns_key"] is not None and keys["protein_obsm"] is None:
        raise InputError("protein_names_uns_key names proteins of obsm, and needs protein_obsm.")
    if keys["protein_obsm"] is None:
        return
    if isinstance(data, MuData):
        raise InputError("protein_obsm is for an AnnData, and this is a MuData. Name the modality: protein=...")
    if keys["protein_layer"] is not None:
        raise InputError("protein_obsm and protein_layer both say where proteins are: give one of the two.")


def _said_of(data: MuData | AnnData, keys: dict[str, Any]) -> Any:
    """Errors that speak of the object that was passed."""
    if isinstance(data, MuData):
        return nullcontext()
    return said_of_adata(None if keys["protein_obsm"] is None else {"protein": keys["protein_obsm"]})


def _split(adata: AnnData, keys: dict[str, Any]) -> MuData:
    """The modalities of an AnnData; values of a layer are looked at before they are taken apart."""
    if keys["protein_obsm"] is not None:
        return beside_genes(adata, _genes("rna", keys), _proteins("protein", keys))
    types = modalities_of_features(adata)
    for name in ("rna", "protein"):
        layer = keys[f"{name}_layer"]
        if name in types:
            with saying_which_layer({name: name}):
                ModalityCounts(name, Counts(layer)).telling_where(Counts(layer).learn, adata[:, types == name])
    return by_feature_type(adata, {name: keys[f"{name}_layer"] for name in ("rna", "protein")})


def _found(mdata: MuData, rna: str | None, protein: str | None) -> dict[str, str | None]:
    """The names of both modalities, which there have to be."""
    found = modalities(mdata, rna=rna, protein=protein)
    if found["protein"] is None:
        known = listing(mdata.mod, quoted=True)
        msg = (
            f"mdata has modalities {known}, of which none is known as proteins. Name it: protein=..., or for RNA alone"
        )
        raise InputError(f"{msg} use tl.scvi.")
    return found


def _genes(name: str, keys: dict[str, Any]) -> ModalityCounts:
    return ModalityCounts(name, Counts(keys["rna_layer"], keys["rna_mask_var"]))


def _proteins(name: str, keys: dict[str, Any]) -> ModalityCounts:
    beside = {"obsm": keys["protein_obsm"], "names_key": keys["protein_names_uns_key"]}
    return ModalityCounts(name, Counts(keys["protein_layer"]), **beside)


def _sources(mdata: MuData, found: dict[str, Any], keys: dict[str, Any], missing_proteins: object) -> Any:
    """What the model reads, learned from these cells."""
    from scvi_pp._backend.models.totalvi import Inputs

    proteins = _proteins(found["protein"], keys)
    with saying_which_layer(found):
        return learn(
            mdata,
            Inputs(
                expression=_genes(found["rna"], keys),
                protein=proteins,
                present=Present((found["rna"], None, found["protein"])),
                panel=panels(proteins, keys["batch_key"], missing_proteins),
                batch=Category(keys["batch_key"]),
                categories=Categories(keys["categorical_covariate_keys"]),
                numbers=Numbers(keys["continuous_covariate_keys"]),
                expression_size_factor=Positive(keys["rna_size_factor_key"]),
            ),
            verb="tl.totalvi",
        )


def _mixes(wanted: bool | None, mdata: MuData, sources: Any) -> bool:
    """Whether batches are to be mixed by an adversary: if it is not said, where one lacks proteins that another has."""
    if wanted is not None or not sources.batch.keys:
        return bool(wanted)
    has_proteins = sources.present.read(mdata)[:, -1]
    batch = sources.batch.read(observations(mdata, sources.batch.keys))
    return bool(sources.panel.lacking) or len(np.unique(batch[has_proteins])) < len(sources.batch.levels)


def _said_of_panels(panel: Any) -> dict[str, Any]:
    """What batches did not measure, for the record; what was concluded from zeros is said aloud."""
    for batch, names in panel.lacking.items():
        if panel.rule == "zeros":
            _logging.warning(
                f"Batch '{batch}' has no count of {len(names)} proteins that other batches have: {listing(names)}. They are "
                "taken for not measured there, and imputed. missing_proteins=None takes zeros for zeros."
            )
    lacking = "; ".join(f"{batch}: {', '.join(names)}" for batch, names in panel.lacking.items())
    return {"missing_proteins": panel.rule, "proteins_not_measured": lacking}


def _hyperparameters(sources: Any, options: dict[str, Any]) -> Any:
    """The network that follows from what is read."""
    from scvi_pp._backend.models.totalvi import Hyperparameters

    return Hyperparameters(
        n_genes=len(sources.expression.var_names),
        n_proteins=len(sources.protein.var_names),
        **numbers_of_levels(sources),
        n_numbers=len(sources.numbers.keys),
        has_expression_size_factor=sources.expression_size_factor.key is not None,
        **options,
    )
