"""Beam search: seconds, memory and exact log P of the best hypotheses, against torchaudio's and against greedy search.

    python tools/bench/search.py [--beams 4 8 16] [--rounds N] [--threads N] [--searches alsd maes] [--sharpness S]
      [--peer-max-symbols N] [--growth] [--json]

The model has 12 conformer blocks of 256, an LSTM decoder 2 x 640 and 1024 word pieces. Its weights are random; encoder
and decoder have an equal say in the joiner, whose output is scaled so that the best hypotheses have a log P of some -10
("log P"). With flatter distributions, such as --sharpness 10, hypotheses are as good as one another, and more of them
are tried. The blank bias is set so that about 4 tokens a second come out of a beam of 4. The data are 16 utterances of
10 s of noise. Every case has a process of its own:

 * encoder: the encoder alone, over the whole batch;
 * greedy, ours:K, alsd:K, maes:K: the search alone over the whole batch, on given encoder output;
 * torchaudio:K: its RNNTBeamSearch over `--peer-utterances` of them, one after another (it knows no batches), its
   seconds scaled to all. It takes the last index for blank, so our joiner's output is permuted for it.

Both rank by the raw score. log P is exact, over all alignments (search/exact.py), a mean over the utterances that the
peer has decoded; "below" is the share of those in which ours is less probable than the peer's. Seconds are medians over
rounds, memory is the peak beyond the model and its input.

`--growth` measures instead how ours grows with beam, vocabulary, length and batch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tools.bench import isolated

if TYPE_CHECKING:
    from torch import Tensor

    from w2vbert_asr.models.transducer import Transducer

UTTERANCES, SECONDS, VOCAB, TOKENS_PER_SECOND, SHARPNESS = 16, 10.0, 1024, 4.0, 30.0
MAX_SYMBOLS = 10  # a frame; ours and, unless told otherwise, the peer's
FRAMES_PER_SECOND = 25  # of encoder output
GROWTH = {  # changed alone
    "beam": (1, 2, 4, 8, 16, 32),
    "vocab": (256, 1024, 4096),
    "seconds": (5.0, 10.0, 20.0, 40.0),
    "utterances": (1, 4, 16, 64),
}


def make(vocab: int, utterances: int, seconds: float, sharpness: float) -> tuple[Transducer, Tensor, Tensor]:
    """The model, its features (B, T, F) and their lengths."""
    import torch

    from w2vbert_asr.models.transducer import Transducer, TransducerConfig

    torch.manual_seed(0)
    model = Transducer(TransducerConfig(), vocab, 0).eval()
    generator = torch.Generator().manual_seed(1)
    feats = [torch.randn(round(seconds * 100), 80, generator=generator.manual_seed(n)) for n in range(utterances)]
    with torch.no_grad():
        probe = torch.randn(1, 500, 80, generator=generator.manual_seed(1000))
        encoder_out, _ = model.encode(probe, torch.tensor([500]))
        model.joiner.encoder_projection.weight.div_(model.joiner.project_encoder(encoder_out).std(1).mean())
        drawn = torch.randint(1, vocab, (64, 3), generator=generator)
        predicted = model.decoder(drawn, torch.full((64,), 3))[:, -1]
        model.joiner.decoder_projection.weight.div_(model.joiner.project_decoder(predicted).std(0).mean())
        model.joiner.output.weight.normal_(generator=generator)
        hidden = torch.tanh(model.joiner.project_encoder(encoder_out))
        model.joiner.output.weight.mul_(sharpness / (hidden @ model.joiner.output.weight.T).std())
        model.joiner.output.bias.zero_()
    return model, torch.stack(feats), torch.full((utterances,), len(feats[0]))


def calibrate(sharpness: float) -> float:
    """The blank bias, from 5 s of two utterances, by bisection."""
    import torch

    from w2vbert_asr.search import SearchConfig, search

    model, feats, lens = make(VOCAB, 2, SECONDS, sharpness)
    low, high = 2 * sharpness, 6 * sharpness
    with torch.inference_mode():
        encoded = model.encode(feats[:, :500], lens.clamp(max=500))
        for _ in range(6):
            model.joiner.output.bias[0] = (low + high) / 2
            found = search(model, *encoded, SearchConfig(beam_size=4))
            if sum(len(own[0].tokens) for own in found) > 2 * 5.0 * TOKENS_PER_SECOND:
                low = (low + high) / 2
            else:
                high = (low + high) / 2
    return high


def measure(case: str) -> dict[str, Any]:
    """Figures of a case: NAME:BEAM:BIAS:VOCAB:UTTERANCES:SECONDS:PEER_UTTERANCES:PEER_MAX_SYMBOLS:SHARPNESS."""
    import torch

    from w2vbert_asr.search import SearchConfig, exact_log_probs, search

    name, *numbers = case.split(":")
    if name == "calibrate":
        return {"bias": calibrate(float(numbers[0]))}
    beam, bias, vocab, utterances, seconds, peer_utterances, peer_max_symbols, sharpness = map(float, numbers)
    model, feats, lens = make(int(vocab), int(utterances), seconds, sharpness)
    with torch.inference_mode():
        model.joiner.output.bias[0] = bias
        model.encode(feats[:1, :200], torch.tensor([200]))
        if name == "encoder":
            return isolated.time_and_memory(lambda: model.encode(feats, lens), 1)
        encoder_out, encoder_out_lens = model.encode(feats, lens)
        found: list[list[int]] = []
        if name == "torchaudio":
            encoder_out = encoder_out[: int(peer_utterances)]
            peer = Peer(model, int(beam), int(peer_max_symbols))
            peer.run(encoder_out[:, :10])
            figures = isolated.time_and_memory(lambda: found.__setitem__(slice(None), peer.run(encoder_out)), 1)
        else:
            config = SearchConfig(
                name="beam" if name == "ours" else name,  # type: ignore[arg-type]
                beam_size=int(beam),
                max_symbols_per_frame=MAX_SYMBOLS,
            )
            search(model, encoder_out[:, :20], encoder_out_lens.clamp(max=20), config)

            def run() -> None:
                best = search(model, encoder_out, encoder_out_lens, config)
                found[:] = [list(own[0].tokens) for own in best]

            figures = isolated.time_and_memory(run, 3)
        own = [[tokens] for tokens in found]
        exact = exact_log_probs(model, encoder_out, encoder_out_lens[: len(found)], own)
    figures["log_probs"] = [one[0] for one in exact]
    figures["tokens_per_second"] = statistics.mean(map(len, found)) / seconds
    if name == "torchaudio":
        figures["seconds"] = peer.seconds * utterances / len(found)
    return figures


class Peer:
    """torchaudio's search over our model."""

    def __init__(self, model: Transducer, beam: int, max_symbols: int) -> None:
        from torchaudio.models import RNNTBeamSearch

        self.beam = beam
        self.blank = model.joiner.output.out_features - 1
        self.search = RNNTBeamSearch(
            Adapter(model), self.blank, hypo_sort_key=lambda hypothesis: hypothesis[3], step_max_tokens=max_symbols
        )
        self.seconds = 0.0

    def run(self, encoder_out: Tensor) -> list[list[int]]:
        """The best tokens of each utterance, with our ids."""
        import time

        import torch

        began = time.perf_counter()
        found = [self.search(one, torch.tensor(len(one)), self.beam)[0][0][1:] for one in encoder_out]
        self.seconds = time.perf_counter() - began
        return [[token + 1 for token in tokens] for tokens in found]


def Adapter(model: Transducer) -> Any:
    """Our model in the form of torchaudio's RNNT, blank (our index 0) behind all others."""
    import torch
    from torch import nn

    from w2vbert_asr.models.decoder import DecoderState

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            joiner = model.joiner
            self.register_buffer("weight", torch.roll(joiner.output.weight.detach(), -1, 0).contiguous())
            self.register_buffer("bias", torch.roll(joiner.output.bias.detach(), -1, 0).contiguous())

        def transcribe(self, frames: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
            return model.joiner.project_encoder(frames), lens

        def predict(
            self, tokens: Tensor, lens: Tensor, state: list[list[Tensor]] | None
        ) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
            ids = (tokens[:, 0] + 1) % len(self.bias)
            if state is None:
                before = model.decoder.initial_state(len(ids), ids.device)
            else:  # a row of its lists is a hypothesis
                before = DecoderState(*(part.transpose(0, 1).contiguous() for part in state[0]))
            out, after = model.decoder.step(ids, before)
            parts = [after.hidden.transpose(0, 1), after.cell.transpose(0, 1)]
            return model.joiner.project_decoder(out)[:, None], lens, [parts]

        def join(
            self, frames: Tensor, lens: Tensor, predicted: Tensor, predicted_lens: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            hidden = torch.tanh(frames[:, :, None] + predicted[:, None])
            return nn.functional.linear(hidden, self.weight, self.bias), lens, predicted_lens

    return Adapted()


def compare(options: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Figures by beam, and a table."""
    bias = isolated.in_own_process(__file__, f"calibrate:{options.sharpness}", options.threads, 300)["bias"]

    def case(name: str, beam: int) -> str:
        peer = f"{options.peer_utterances}:{options.peer_max_symbols}"
        return f"{name}:{beam}:{bias}:{VOCAB}:{UTTERANCES}:{SECONDS}:{peer}:{options.sharpness}"

    names = {("encoder", 1), ("greedy", 1)}
    names |= {(name, beam) for beam in options.beams for name in ("ours", "torchaudio", *options.searches)}
    cases = {pair: case(*pair) for pair in sorted(names, key=lambda pair: (pair[1], pair[0]))}
    once = [text for (name, _), text in cases.items() if name == "torchaudio"]
    often = [text for text in cases.values() if text not in once]
    found = isolated.in_turns(__file__, often, options.rounds, options.threads)
    found |= isolated.in_turns(__file__, once, 1, options.threads)
    heads = ("seconds", "x real time", "extra MB", "tokens/s", "log P", "below")
    lines = ["  ".join(["case".ljust(14), *(f"{head:>11}" for head in heads)])]
    figures: dict[str, dict[str, Any]] = {}
    for (name, beam), text in cases.items():
        if "failed" in found[text][0]:
            lines.append(f"{name}:{beam}".ljust(16) + found[text][0]["failed"])
            continue
        seconds = isolated.median(found[text], "seconds") or 0.0
        memory = isolated.median(found[text], "extra_mb") or 0.0
        peer = found[cases["torchaudio", beam if beam > 1 else options.beams[0]]][0].get("log_probs", [])
        own = found[text][0].get("log_probs", [])
        cells = [f"{seconds:11.2f}", f"{UTTERANCES * SECONDS / seconds:11.1f}", f"{memory:11.1f}"]
        result = {"s": round(seconds, 3), "mb": memory}
        if own:
            pairs = list(zip(own, peer, strict=False)) or [(one, one) for one in own]
            result["logp"] = statistics.mean(one for one, _ in pairs)
            result["below"] = statistics.mean(one < other - 1e-3 for one, other in pairs)
            result["tokens"] = round(found[text][0]["tokens_per_second"], 2)
            cells += [f"{result['tokens']:11.2f}", f"{result['logp']:11.3f}", f"{result['below']:11.2f}"]
        lines.append("  ".join([f"{name}:{beam}".ljust(14), *cells]))
        for wanted in options.beams if beam == 1 else [beam]:
            row = figures.setdefault(str(wanted), {})
            row |= {f"{name}_{key}": value for key, value in result.items()}
    return figures, lines


def growth(options: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Seconds and memory of ours with one size changed at a time."""
    bias = isolated.in_own_process(__file__, f"calibrate:{options.sharpness}", options.threads, 300)["bias"]
    usual = {"beam": 8, "vocab": VOCAB, "seconds": SECONDS, "utterances": UTTERANCES}
    cases = {}
    for what, sizes in GROWTH.items():
        for size in sizes:
            now = usual | {what: size}
            shape = f"{now['vocab']}:{now['utterances']}:{now['seconds']}:0:0:{options.sharpness}"
            cases[f"{what} {size:g}"] = f"ours:{now['beam']}:{bias}:{shape}"
    found = isolated.in_turns(__file__, list(dict.fromkeys(cases.values())), options.rounds, options.threads)
    lines, figures = ["what                 seconds     extra MB     tokens/s"], {}
    for what, text in cases.items():
        if "failed" in found[text][0]:
            lines.append(what.ljust(16) + found[text][0]["failed"])
            continue
        seconds, memory = isolated.median(found[text], "seconds") or 0.0, isolated.median(found[text], "extra_mb")
        tokens = found[text][0]["tokens_per_second"]
        figures[what] = {"seconds": round(seconds, 3), "extra_mb": memory, "tokens_per_second": round(tokens, 2)}
        lines.append(f"{what:16}{seconds:12.2f}{memory or 0.0:13.1f}{tokens:13.2f}")
    return figures, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beams", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--searches", nargs="*", default=[], help="further ones: alsd, maes")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer-utterances", type=int, default=2)
    parser.add_argument("--peer-max-symbols", type=int, default=MAX_SYMBOLS, help="a frame; its own default is 100")
    parser.add_argument("--sharpness", type=float, default=SHARPNESS, help="standard deviation of the joiner's output")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", options.threads)))
        print(json.dumps(measure(options.case)))
        return
    figures, lines = growth(options) if options.growth else compare(options)
    print("\n".join([json.dumps(isolated.machine(options.threads)), *lines]))
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
