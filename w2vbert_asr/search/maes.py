"""Modified adaptive expansion search, frame by frame (see frame_sync): few symbols are tried, and few times a frame.

Of every hypothesis the symbols within `maes_gamma` of its best one are tried, in at most `maes_steps` steps a frame
(few in the paper, for encoders that hear a frame at a time); then blank alone.
What is kept is what the beam search keeps.

Source: Kim and Lee 2020 ("Accelerating RNN Transducer Inference via Adaptive Expansion Search"); "modified" as in
ESPnet: a fixed number of steps. Here hypotheses are merged when they end the frame, in place of the sum over prefixes
before it, and no more than K go on to the next step.
Dimension letters: B batch, T frames, K beam.
"""

from __future__ import annotations

from torch import Tensor

from w2vbert_asr.search.beam import best_of_each
from w2vbert_asr.search.frame_sync import Rules, search_frames
from w2vbert_asr.search.fusion import Fusion
from w2vbert_asr.search.hypothesis import Hypothesis, SearchConfig
from w2vbert_asr.search.interface import Searchable


def maes(
    model: Searchable,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    config: SearchConfig,
    fusion: Fusion | None = None,
) -> list[list[Hypothesis]]:
    """encoder_out (B, T, E), encoder_out_lens (B,) -> up to `beam_size` hypotheses of each utterance, best first."""
    rules = Rules(
        select=best_of_each, places=2 * config.beam_size, max_symbols=config.maes_steps, gamma=config.maes_gamma
    )
    return search_frames(model, encoder_out, encoder_out_lens, config, rules, fusion)
