"""Getters: answers of a fitted model, returned and never written."""

from __future__ import annotations

from scvi_pp.get._batch_representation import batch_representation
from scvi_pp.get._denoised import denoised
from scvi_pp.get._differential_accessibility import differential_accessibility
from scvi_pp.get._differential_expression import differential_expression
from scvi_pp.get._elbo import elbo
from scvi_pp.get._feature_correlation import feature_correlation
from scvi_pp.get._foreground_probability import foreground_probability
from scvi_pp.get._history import history
from scvi_pp.get._latent import latent
from scvi_pp.get._library_size import library_size
from scvi_pp.get._likelihood_parameters import likelihood_parameters
from scvi_pp.get._loadings import loadings
from scvi_pp.get._marginal_log_likelihood import marginal_log_likelihood
from scvi_pp.get._model_info import model_info
from scvi_pp.get._posterior_predictive_check import posterior_predictive_check
from scvi_pp.get._reconstruction_error import reconstruction_error
from scvi_pp.get._region_factors import region_factors
from scvi_pp.get._samples import samples

__all__ = [
    "batch_representation",
    "denoised",
    "differential_accessibility",
    "differential_expression",
    "elbo",
    "feature_correlation",
    "foreground_probability",
    "history",
    "latent",
    "library_size",
    "likelihood_parameters",
    "loadings",
    "marginal_log_likelihood",
    "model_info",
    "posterior_predictive_check",
    "reconstruction_error",
    "region_factors",
    "samples",
]
