"""Which weight of scvi-tools' MULTIVAE is which of our network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.parity.weights import (
    Pair,
    _as_is,
    _body,
    _conditional_linear,
    _encoder,
    _linear,
    _one_row_per_group,
)


def pairs_of_multivi(network: Any, vae: Any) -> Iterator[Pair]:
    """Every parameter beside its twin; of weights that cells have of their own, those of the cells."""
    if network.expression_part is not None:
        yield from _of_expression(network.expression_part, vae)
    if network.accessibility_part is not None:
        yield from _of_accessibility(network.accessibility_part, vae)
    if network.protein_part is not None:
        yield from _of_proteins(network.protein_part, vae)
    mixed, columns = network.weights, network.columns
    if mixed.own is not None:
        yield Pair("weights.own", mixed.own, vae.mod_weights, lambda table: table[:, columns])
    elif mixed.shared is not None:
        yield Pair("weights.shared", mixed.shared, vae.mod_weights, lambda row: row[columns])


@torch.no_grad()
def copy_weights_of_multivi(network: Any, vae: Any) -> None:
    """Fill our network. The peer's weights of cells start from nothing that they share."""
    found = list(pairs_of_multivi(network, vae))
    lone = network.state_dict().keys() - {pair.name for pair in found}
    assert lone == ({"weights.shared"} if network.weights.own is not None else set())
    for pair in found:
        pair.ours.copy_(pair.view(pair.peers))
    for name in lone:
        network.get_parameter(name).zero_()


def _of_expression(part: Any, vae: Any) -> Iterator[Pair]:
    name, decoder, peers = "expression_part", part.decoder, vae.z_decoder_expression
    yield from _encoder(f"{name}.encoder", part.encoder, vae.z_encoder_expression)
    if part.library is not None:
        yield from _body(f"{name}.library.body", part.library.body, vae.l_encoder_expression.px_decoder)
        yield from _linear(f"{name}.library.number", part.library.number, vae.l_encoder_expression.output[0])
    yield from _body(f"{name}.decoder.body", decoder.body, peers.px_decoder)
    yield from _linear(f"{name}.decoder.scale", decoder.scale, peers.px_scale_decoder[0])
    if decoder.dropout_logits is not None:
        yield from _linear(f"{name}.decoder.dropout_logits", decoder.dropout_logits, peers.px_dropout_decoder)
    if decoder.log_dispersion is not None:
        yield from _linear(f"{name}.decoder.log_dispersion", decoder.log_dispersion, peers.px_r_decoder)
    if part.dispersion is not None:
        yield Pair(f"{name}.dispersion.log_dispersion", part.dispersion.log_dispersion, vae.px_r, _one_row_per_group)


def _of_accessibility(part: Any, vae: Any) -> Iterator[Pair]:
    name = "accessibility_part"
    yield from _encoder(f"{name}.encoder", part.encoder, vae.z_encoder_accessibility)
    if part.cell_factor is not None:
        yield from _body(f"{name}.cell_factor.body", part.cell_factor.body, vae.l_encoder_accessibility.px_decoder)
        yield from _linear(f"{name}.cell_factor.number", part.cell_factor.number, vae.l_encoder_accessibility.output[0])
    yield from _body(f"{name}.decoder.body", part.decoder.body, vae.z_decoder_accessibility.px_decoder)
    yield from _linear(f"{name}.decoder.logits", part.decoder.logits, vae.z_decoder_accessibility.output[0])
    if part.region_factors is not None:
        yield Pair(f"{name}.region_factors", part.region_factors, vae.region_factors, _as_is)


def _of_proteins(part: Any, vae: Any) -> Iterator[Pair]:
    name, decoder, peers = "protein_part.decoder", part.decoder, vae.z_decoder_pro
    yield from _encoder("protein_part.encoder", part.encoder, vae.z_encoder_protein)
    bodies = {
        "background_body": peers.py_back_decoder,
        "foreground_body": peers.py_fore_decoder,
        "mixing_body": peers.sigmoid_decoder,
    }
    heads = {
        "log_background": peers.py_back_mean_log_alpha,
        "log_background_deviation": peers.py_back_mean_log_beta,
        "excess": peers.py_fore_scale_decoder,
        "background_logits": peers.py_background_decoder,
    }
    for own, body in bodies.items():
        yield from _body(f"{name}.{own}", getattr(decoder, own), body)
    for own, head in heads.items():
        yield from _conditional_linear(f"{name}.{own}", getattr(decoder, own), head.fc_layers[0][0])
    table = part.dispersion.log_dispersion
    yield Pair("protein_part.dispersion.log_dispersion", table, vae.py_r, _one_row_per_group)
