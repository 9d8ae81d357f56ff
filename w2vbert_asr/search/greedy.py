"""Greedy search: at every step the most probable symbol, blank or token; all utterances of a batch together.

Label looping: as long as an utterance takes blanks its decoder vector stays, so the joiner looks at several of its
frames at once and the utterance goes straight to the first that emits a token; then one decoder step serves all
utterances that have found theirs. Source: Bataev et al. 2024, arXiv 2406.06220.

Dimension letters: B batch, T frames, E encoder, N utterances still going, W frames looked at together, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import Searchable

LOOKAHEAD = 8  # W; about one token's worth of frames, so that few are looked at in vain


@torch.no_grad()
def greedy(model: Searchable, encoder_out: Tensor, encoder_out_lens: Tensor, config: SearchConfig) -> list[Hypothesis]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> the best path of each utterance.

    A frame that has emitted `max_symbols_per_frame` tokens takes blank, whatever the model says; so does an utterance
    that has `max_length_ratio` tokens for each of its frames.
    """
    batch, device = len(encoder_out), encoder_out.device
    lens = encoder_out_lens.to(device)
    encoder_proj = model.joiner.project_encoder(encoder_out)
    starts = torch.full((batch,), model.blank_id, dtype=torch.long, device=device)
    decoder_out, state = model.decoder.step(starts, model.decoder.initial_state(batch, device))
    decoder_proj = model.joiner.project_decoder(decoder_out)

    frame = torch.zeros_like(starts)  # the frame that each utterance has come to
    emitted = torch.zeros_like(starts)  # tokens that this frame has emitted
    left = config.max_tokens(lens)  # tokens that the utterance may still have
    score = torch.zeros(batch, dtype=torch.float64, device=device)
    capped = torch.zeros(batch, dtype=torch.bool, device=device)
    events: list[Tensor] = []  # (3, n): utterance, token, frame
    while len(going := (frame < lens).nonzero()[:, 0]):
        frames = frame[going, None] + torch.arange(LOOKAHEAD, device=device)  # (N, W)
        valid = frames < lens[going, None]
        encoder_rows = encoder_proj[going[:, None], frames.clamp(max=encoder_out.shape[1] - 1)]
        logits = model.joiner(encoder_rows, decoder_proj[going, None])
        log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        token_score, token = log_probs.max(-1)
        emits = (token != model.blank_id) & valid & (left[going, None] > 0)
        emits[:, 0] &= emitted[going] < config.max_symbols_per_frame

        blanks = valid & (emits.cumsum(1) == 0)  # the frames passed before the first that emits
        num_blanks = blanks.sum(1)
        score[going] += log_probs[..., model.blank_id].double().masked_fill(~blanks, 0.0).sum(1)
        frame[going] += num_blanks
        emitted[going] = emitted[going].masked_fill(num_blanks > 0, 0)

        found = emits.any(1)
        rows, at = going[found], num_blanks[found, None]
        if len(rows) == 0:
            continue
        tokens = token[found].gather(1, at)[:, 0]
        score[rows] += token_score[found].gather(1, at)[:, 0].double()
        emitted[rows] += 1
        left[rows] -= 1
        capped[rows] |= (emitted[rows] == config.max_symbols_per_frame) | (left[rows] == 0)
        events.append(torch.stack([rows, tokens, frame[rows]]))
        decoder_out, new_state = model.decoder.step(tokens, state.select(rows))
        decoder_proj[rows] = model.joiner.project_decoder(decoder_out)
        state.put(rows, new_state)
    return _hypotheses(events, score.tolist(), capped.tolist())


def _hypotheses(events: list[Tensor], scores: list[float], capped: list[bool]) -> list[Hypothesis]:
    tokens: list[list[int]] = [[] for _ in scores]
    times: list[list[int]] = [[] for _ in scores]
    for utterance, token, frame in torch.cat(events, 1).T.tolist() if events else []:
        tokens[utterance].append(token)
        times[utterance].append(frame)
    parts = zip(tokens, scores, times, capped, strict=True)
    return [Hypothesis(tuple(own), score, tuple(when), cap) for own, score, when, cap in parts]
