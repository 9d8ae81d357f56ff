"""The joiner against its formula, written out."""

from __future__ import annotations

import math

import torch

from w2vbert_asr.models.joiner import Joiner, JoinerConfig


def test_logits_are_the_formula_in_every_cell() -> None:
    torch.manual_seed(0)
    joiner = Joiner(3, 2, 5, JoinerConfig(joiner_dim=4)).double()
    encoder_out, decoder_out = torch.randn(2, 3, 3).double(), torch.randn(2, 4, 2).double()
    encoder_proj, decoder_proj = joiner.project_encoder(encoder_out), joiner.project_decoder(decoder_out)
    logits = joiner(encoder_proj[:, :, None], decoder_proj[:, None])
    assert logits.shape == (2, 3, 4, 5)
    by_encoder, by_decoder = joiner.encoder_projection, joiner.decoder_projection
    for b, t, u, v in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3)]:
        total = joiner.output.bias[v].item()
        for j in range(4):
            inner = by_encoder.bias[j].item()
            inner += sum(by_encoder.weight[j, e].item() * encoder_out[b, t, e].item() for e in range(3))
            inner += sum(by_decoder.weight[j, d].item() * decoder_out[b, u, d].item() for d in range(2))
            total += joiner.output.weight[v, j].item() * math.tanh(inner)
        assert abs(logits[b, t, u, v].item() - total) < 1e-12


def test_settings_out_of_range_are_named() -> None:
    assert JoinerConfig(joiner_dim=0).problems() == ["joiner_dim: expected at least 1, found 0"]
