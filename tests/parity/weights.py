"""Which weight of scvi-tools' module is which of our network: one list a model, to copy and to compare gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    """The same numbers in both networks; `view` picks ours out of the peer's tensor."""

    name: str  # of ours
    ours: Tensor
    peers: Tensor
    view: Callable[[Tensor], Tensor]


# buffers of ours without a twin: how a run weighs cells, and what it calibrates
OF_TRAINING = {"bound_weight", "label_weight", "classifier_reach", "temperature"}
Pairs = Callable[[Any, Any], Iterable[Pair]]  # of our network and the peer's module


def pairs(network: Any, vae: Any) -> Iterator[Pair]:
    """Of scVI: every parameter and buffer of our network beside its twin."""
    yield from _encoders(network, vae)
    decoder, peers = network.decoder, vae.decoder
    yield from _body("decoder.body", decoder.body, peers.px_decoder)
    yield from _linear("decoder.scale", decoder.scale, peers.px_scale_decoder[0])
    if decoder.log_dispersion is not None:
        yield from _linear("decoder.log_dispersion", decoder.log_dispersion, peers.px_r_decoder)
    if decoder.dropout_logits is not None:
        yield from _linear("decoder.dropout_logits", decoder.dropout_logits, peers.px_dropout_decoder)
    if network.log_dispersion is not None:
        yield Pair("log_dispersion", network.log_dispersion, vae.px_r, _one_row_per_group)
    if network.batch_embedding is not None:
        yield Pair("batch_embedding.weight", network.batch_embedding.weight, vae.get_embedding("batch").weight, _as_is)


def _encoders(network: Any, vae: Any) -> Iterator[Pair]:
    """Of position and library, and the prior of the latter."""
    yield from _encoder("encoder", network.encoder, vae.z_encoder)
    if network.library_encoder is not None:
        yield from _encoder("library_encoder", network.library_encoder, vae.l_encoder)
        yield Pair("library_mean", network.library_mean, vae.library_log_means, lambda row: row[0])
        yield Pair("library_variance", network.library_variance, vae.library_log_vars, lambda row: row[0])


@torch.no_grad()
def copy_encoders(network: Any, vae: Any) -> None:
    """Fill the encoders alone, where decoders are not built alike."""
    for pair in _encoders(network, vae):
        pair.ours.copy_(pair.view(pair.peers))


def pairs_of_peakvi(network: Any, vae: Any) -> Iterator[Pair]:
    """Of PeakVI: the peer makes the factors of cells with a decoder."""
    yield from _encoder("encoder", network.encoder, vae.z_encoder)
    yield from _body("decoder.body", network.decoder.body, vae.z_decoder.px_decoder)
    yield from _linear("decoder.logits", network.decoder.logits, vae.z_decoder.output[0])
    if network.cell_factor is not None:
        yield from _body("cell_factor.body", network.cell_factor.body, vae.d_encoder.px_decoder)
        yield from _linear("cell_factor.number", network.cell_factor.number, vae.d_encoder.output[0])
    if network.region_factors is not None:
        yield Pair("region_factors", network.region_factors, vae.region_factors, _as_is)


def pairs_of_poissonvi(network: Any, vae: Any) -> Iterator[Pair]:
    """Of PoissonVI: those of the scVI that it holds."""
    for pair in pairs(network.scvi, vae):
        yield pair._replace(name=f"scvi.{pair.name}")


def pairs_of_scanvi(network: Any, vae: Any) -> Iterator[Pair]:
    """Of scANVI: those of the scVI that it holds, of the classifier, and of what lies above the position."""
    for pair in pairs(network.scvi, vae):
        yield pair._replace(name=f"scvi.{pair.name}")
    ours, peers = network.classifier, vae.classifier.classifier
    if network.hyperparameters.linear_classifier:
        yield from _linear("classifier", ours, peers[0])
    else:
        yield from _body("classifier.0", ours[0], peers[0])
        yield from _linear("classifier.1", ours[1], peers[1])
    above, decoder = network.position_of_label, vae.decoder_z1_z2
    yield from _encoder("position_of_label.encoder", above.encoder, vae.encoder_z2_z1)
    yield from _body("position_of_label.decoder.body", above.decoder.body, decoder.decoder)
    yield from _linear("position_of_label.decoder.mean", above.decoder.mean, decoder.mean_decoder)
    yield from _linear("position_of_label.decoder.log_variance", above.decoder.log_variance, decoder.var_decoder)


@torch.no_grad()
def copy_weights(network: Any, vae: Any, of_both: Pairs = pairs) -> None:
    """Fill our network with the peer's weights; every tensor of ours must have a twin."""
    found = list(of_both(network, vae))
    assert {pair.name for pair in found} == network.state_dict().keys() - OF_TRAINING
    for pair in found:
        pair.ours.copy_(pair.view(pair.peers))


def _encoder(name: str, ours: Any, peers: Any) -> Iterator[Pair]:
    yield from _body(f"{name}.body", ours.body, peers.encoder)
    yield from _linear(f"{name}.mean", ours.mean, peers.mean_encoder)
    yield from _linear(f"{name}.log_variance", ours.log_variance, peers.var_encoder)


def _body(name: str, ours: Any, peers: Any) -> Iterator[Pair]:
    for depth, block in enumerate(ours.blocks):
        linear, batch_norm = peers.fc_layers[depth][:2]
        here = f"{name}.blocks.{depth}"
        yield from _conditional_linear(f"{here}.linear", block.linear, linear)
        if block.batch_norm is not None:
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                yield Pair(
                    f"{here}.batch_norm.{part}", getattr(block.batch_norm, part), getattr(batch_norm, part), _as_is
                )


def _conditional_linear(name: str, ours: Any, peers: Any) -> Iterator[Pair]:
    """The peer appends one-hot codes to the input: their columns are our shifts."""
    stop = ours.linear.in_features
    yield Pair(f"{name}.linear.weight", ours.linear.weight, peers.weight, _columns(0, stop))
    yield Pair(f"{name}.linear.bias", ours.linear.bias, peers.bias, _as_is)
    for number, shift in enumerate(ours.shifts):
        start, stop = stop, stop + shift.num_embeddings
        yield Pair(f"{name}.shifts.{number}.weight", shift.weight, peers.weight, _transposed_columns(start, stop))
    assert stop == peers.in_features


def _linear(name: str, ours: Any, peers: Any) -> Iterator[Pair]:
    yield Pair(f"{name}.weight", ours.weight, peers.weight, _as_is)
    yield Pair(f"{name}.bias", ours.bias, peers.bias, _as_is)


def _as_is(tensor: Tensor) -> Tensor:
    return tensor


def _columns(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight[:, start:stop]


def _transposed_columns(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight[:, start:stop].T


def _one_row_per_group(dispersion: Tensor) -> Tensor:
    """(genes,) or (genes, groups) -> (groups, genes)."""
    return dispersion[None] if dispersion.ndim == 1 else dispersion.T
