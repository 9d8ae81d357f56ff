"""The exact log probability of token sequences, over all alignments: what searches can be compared by.

Dimension letters: B batch, T frames, E encoder, N hypotheses of all utterances, U tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from w2vbert_asr.losses.transducer import joint_transducer_loss
from w2vbert_asr.search.interface import Searchable

MAX_CELLS = 1 << 18  # of the lattices that are looked at together


@torch.no_grad()
def exact_log_probs(
    model: Searchable, encoder_out: Tensor, encoder_out_lens: Tensor, tokens: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """encoder_out (B, T, E), lengths (B,), each utterance's token sequences -> natural log P(tokens | frames) of each.

    The model must be in evaluation mode. ValueError for an utterance without frames.
    """
    device = encoder_out.device
    lens = encoder_out_lens.to(device)
    encoder_proj = model.joiner.project_encoder(encoder_out)
    pairs = [(utterance, list(ids)) for utterance, own in enumerate(tokens) for ids in own]
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][1]))
    found = [0.0] * len(pairs)
    while order:
        longest = len(pairs[order[-1]][1])
        count = max(1, MAX_CELLS // ((longest + 1) * encoder_out.shape[1]))
        order, group = order[:-count], order[-count:]
        rows = torch.tensor([pairs[index][0] for index in group], device=device)
        ids = [torch.tensor(pairs[index][1], dtype=torch.long, device=device) for index in group]
        token_lens = torch.tensor([len(one) for one in ids], device=device)
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=model.blank_id)
        decoder_proj = model.joiner.project_decoder(model.decoder(padded, token_lens))
        output = model.joiner.output
        loss = joint_transducer_loss(
            encoder_proj[rows], decoder_proj, output.weight, output.bias, padded, lens[rows], token_lens, model.blank_id
        )
        for index, value in zip(group, (-loss).tolist(), strict=True):
            found[index] = value
    values = iter(found)
    return [[next(values) for _ in own] for own in tokens]
