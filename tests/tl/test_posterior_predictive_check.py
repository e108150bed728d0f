"""tl.posterior_predictive_check: models against the counts they were fitted to."""

from __future__ import annotations

from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvi_pp as svp
from scvi_pp import get, tl
from scvi_pp._data.multiome import copied
from scvi_pp._errors import InputError, MissingKeyError
from tests.contract import QUICK, assert_only_added, contents, small_counts
from tests.fits import CHROMATIN, MODELS, fit
from tests.studies import Judge, seeds

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:From 0.4 .update\\(\\) will not pull:FutureWarning"),  # mudata 0.3
]

FEW = {"n_samples": 5}


@cache
def _fitted() -> ad.AnnData:
    adata = small_counts(100, 20)
    tl.scvi(adata, denoise=False, **QUICK)
    adata.var["chosen"] = np.arange(20) > 3
    tl.scvi(adata, gene_likelihood="poisson", mask_var="chosen", key_added="poisson", denoise=False, **QUICK)
    return adata


def fitted() -> ad.AnnData:
    return _fitted().copy()


def test_all_models_are_checked_and_nothing_else_is_written():
    adata = fitted()
    before = contents(adata)
    assert tl.posterior_predictive_check(adata, **FEW) is None
    assert_only_added(before, adata, {"uns[posterior_predictive_check]"})
    summary = get.posterior_predictive_check(adata)
    assert list(summary.index) == ["scvi", "poisson"]
    assert np.isfinite(summary).all().all()
    assert summary["coverage_50"].between(0, 1).all()
    one = tl.posterior_predictive_check(fitted(), "poisson", key_added="mine", copy=True, **FEW)
    assert list(get.posterior_predictive_check(one, key="mine").index) == ["poisson"]


def test_measured_statistics_are_those_of_the_counts():
    adata = fitted()
    tl.posterior_predictive_check(adata, n_cells=None, **FEW)
    x, genes = adata.X.toarray(), get.posterior_predictive_check(adata, "genes")
    assert list(genes.index) == list(adata.var_names)
    np.testing.assert_allclose(genes["mean_measured"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(genes["variance_measured"], x.var(0), rtol=1e-4)
    np.testing.assert_allclose(genes["zero_fraction_measured"], (x == 0).mean(0), atol=1e-6)
    assert genes["mean_poisson"].isna().sum() == 4  # not modelled
    cells = get.posterior_predictive_check(adata, "cells")
    assert list(cells.index) == list(adata.obs_names)
    some = fitted()
    tl.posterior_predictive_check(some, n_cells=30, **FEW)
    assert len(get.posterior_predictive_check(some, "cells")) == 30


def test_draws_have_the_mean_that_the_model_expects(judge: Judge):
    """Z statistics of the mean of 300 draws of 100 cells, by the variances that the model expects of counts.

    Both means are over draws of the latent position too, 300 and 100 of them, whose own scatter is part of neither
    variance. So the statistics scatter by a bit more than 1; a mean of 20 genes by 0.22 and more. A bias of 1 % would be
    some 1.5 for a gene with a mean of 5.
    """
    adata = fitted()
    tl.posterior_predictive_check(adata, "scvi", n_samples=300, n_cells=None, rng=seeds(1)[0])
    expected = get.likelihood_parameters(adata, key="scvi", n_samples=100, rng=seeds(1)[0])
    mean, kept = expected["mean"].to_numpy(), 1 - expected["dropout"].to_numpy()
    variance = kept * (mean + mean**2 / expected["dispersion"].to_numpy()) + kept * (1 - kept) * mean**2
    error = get.posterior_predictive_check(adata, "genes")["mean_scvi"] - (mean * kept).mean(0)
    z = error / np.sqrt(variance.mean(0) / (300 * len(mean)))
    judge("draws: mean z statistic of the means of genes", z.mean(), above=-2, below=2)
    judge("draws: mean squared z statistic of the means of genes", (z**2).mean(), below=6)


def test_the_seed_decides_and_files_keep_the_results(tmp_path):
    tables = []
    for seed in (1, 1, 2):
        adata = fitted()
        tl.posterior_predictive_check(adata, rng=seed, **FEW)
        tables.append(get.posterior_predictive_check(adata, "genes"))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(get.posterior_predictive_check(again, "genes"), tables[2])


@pytest.mark.parametrize("name", [*MODELS, *CHROMATIN])
def test_every_kind_of_model_is_checked(name: str):
    adata = fit(name).copy()
    tl.posterior_predictive_check(adata, **FEW)
    assert get.posterior_predictive_check(adata)["calibration_error"].between(0, 0.5).all()


def test_coverage_is_told_by_level():
    adata = fitted()
    tl.posterior_predictive_check(adata, **FEW)
    table, summary = (get.posterior_predictive_check(adata, what) for what in ("coverage", "summary"))
    assert list(table.index) == [f"0.{tenth}" for tenth in range(1, 10)] and list(table) == ["scvi", "poisson"]
    np.testing.assert_allclose(table.loc["0.5"], summary["coverage_50"])
    levels = np.arange(1, 10) / 10
    np.testing.assert_allclose(table.sub(levels, axis=0).abs().mean(), summary["calibration_error"])


def test_groups_differ_in_the_data_by_what_their_counts_say(tmp_path):
    adata = fitted()
    tl.posterior_predictive_check(adata, groupby="group", n_cells=None, **FEW)
    table = get.posterior_predictive_check(adata, "groups")
    assert list(table["group"]) == ["False", "True"] * 2 and list(table["model"]) == ["scvi"] * 2 + ["poisson"] * 2
    assert table["n_cells"].tolist() == [int((~adata.obs["group"]).sum()), int(adata.obs["group"].sum())] * 2
    assert table["top_genes"].between(0, 1).all() and table["lfc_pearson"].between(-1, 1).all()
    # two groups mirror each other
    assert table["lfc_mae"].iloc[0] == pytest.approx(table["lfc_mae"].iloc[1])
    assert adata.uns["posterior_predictive_check"]["params"]["groupby"] == "group"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(get.posterior_predictive_check(again, "groups"), table, check_dtype=False)


@pytest.mark.parametrize("name", ["normal", "some genes", "peakvi", "poissonvi"])
def test_groups_are_compared_whatever_the_model(name: str):
    adata = fit(name).copy()
    tl.posterior_predictive_check(adata, groupby="type", **FEW)
    table = get.posterior_predictive_check(adata, "groups")
    assert np.isfinite(table[["top_genes", "lfc_pearson", "lfc_slope", "lfc_mae"]]).all().all()


def test_groups_without_cells_enough_are_left_out():
    adata = fitted()
    adata.obs["group"] = ["alone", *("a" if i % 2 else "b" for i in range(99))]
    tl.posterior_predictive_check(adata, "scvi", groupby="group", n_cells=None, **FEW)
    assert get.posterior_predictive_check(adata, "groups")["group"].tolist() == ["a", "b"]


def test_each_modality_of_a_mudata_by_the_cells_in_which_it_was_measured():
    mdata = svp.datasets.simulate_multiome(60, 20, n_regions=40, rna_only=0.2, atac_only=0.3)
    tl.multivi(mdata, denoise=False, **QUICK)
    mdata = copied(mdata)
    tl.posterior_predictive_check(mdata, mod="atac", **FEW)
    assert len(get.posterior_predictive_check(mdata, "genes")) == 40
    assert set(get.posterior_predictive_check(mdata, "cells").index) == set(mdata["atac"].obs_names)


def test_what_cannot_be_is_refused():
    adata = fitted()
    with pytest.raises(MissingKeyError, match="no check under 'posterior_predictive_check'"):
        get.posterior_predictive_check(adata)
    for options, message in (
        ({"keys": ["scvii"]}, "scvii"),
        ({"keys": []}, "keys is empty"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"n_cells": 0}, "n_cells=0"),
        ({"key_added": "a/b"}, "cannot be a key"),
        ({"groupby": "grop"}, "obs has no column 'grop'"),
        ({"groupby": "one"}, r"obs\['one'\] has one group, 'all'"),
    ):
        adata.obs["one"] = "all"
        before = set(adata.uns)
        with pytest.raises((InputError, MissingKeyError), match=message):
            tl.posterior_predictive_check(adata, **{**FEW, **options})
        assert set(adata.uns) == before
    with pytest.raises(MissingKeyError, match="uns holds no fitted model"):
        tl.posterior_predictive_check(small_counts(20, 5))
    tl.posterior_predictive_check(adata, **FEW)
    with pytest.raises(InputError, match="what='gene' is none of"):
        get.posterior_predictive_check(adata, "gene")
    with pytest.raises(MissingKeyError, match="compares no groups. Call .* with groupby="):
        get.posterior_predictive_check(adata, "groups")


@pytest.mark.slow
def test_overdispersed_counts_are_explained_by_a_negative_binomial_and_not_by_a_poisson(judge: Judge):
    tables = [_checks_of_overdispersed_counts(seed) for seed in seeds(2)]
    summaries = [summary for summary, _ in tables]
    of_nb, of_poisson = (pd.DataFrame([summary.loc[name] for summary in summaries]) for name in ("nb", "poisson"))
    ratio = of_poisson["calibration_error"].to_numpy() / of_nb["calibration_error"].to_numpy()
    judge("nb: calibration error", of_nb["calibration_error"], below=0.02)
    judge("poisson: calibration error, over that of nb", ratio, above=2)
    judge("nb: correlation of coefficients of variation", of_nb["cv_gene_pearson"], above=0.7)
    for level in (50, 90):
        expected = level / 100
        judge(f"nb: coverage of {level} %", of_nb[f"coverage_{level}"], above=expected - 0.03, below=expected + 0.03)
    judge("nb: ratio of variances", of_nb["variance_ratio"], above=0.8, below=1.4)
    less = of_nb["variance_ratio"].to_numpy() - of_poisson["variance_ratio"].to_numpy()
    judge("poisson: ratio of variances, below that of nb", less, above=0)
    groups = [groups[groups["model"] == "nb"] for _, groups in tables]
    judge("nb: correlation of fold changes, worst group", [table["lfc_pearson"].min() for table in groups], above=0.7)
    slopes = [table["lfc_slope"].mean() for table in groups]
    judge("nb: slope of fold changes", slopes, above=0.6, below=1.1)  # below 1 by the noise of the counts too


def _checks_of_overdispersed_counts(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    adata = svp.datasets.simulate_rna(800, 200, dispersion=1.0, library_size=2000, rng=seed)
    for name in ("nb", "poisson"):
        tl.scvi(adata, batch_key="batch", gene_likelihood=name, denoise=False, key_added=name, rng=seed)
    tl.posterior_predictive_check(adata, groupby="cell_type", rng=seed)
    return get.posterior_predictive_check(adata), get.posterior_predictive_check(adata, "groups")
