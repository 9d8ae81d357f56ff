"""Beam search: seconds, memory and exact log P of the best hypotheses, against torchaudio's and against greedy search.

    python tools/bench/search.py [--beams 4 8 16] [--rounds N] [--threads N] [--searches alsd maes] [--sharpness S]
      [--max-symbols N] [--model FOLDER --data DUMP] [--growth] [--json]

The model has 12 conformer blocks of 256, an LSTM decoder 2 x 640 and 1024 word pieces. Its weights are random; encoder
and decoder have an equal say in the joiner, whose output is scaled so that the best hypotheses have a log P of some -10
("log P"). With flatter distributions, such as --sharpness 10, hypotheses are as good as one another, and more of them
are tried. The blank bias is set so that about 4 tokens a second come out of a beam of 4. The data are 16 utterances of
10 s of noise. With --model and --data they are a trained model, as it is, and speech: the features of a speaker's
utterances in the dump folder, one behind another, cut to 10 s; in turns of every speaker. Every case has a process of
its own:

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
import itertools
import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tools.bench import isolated

if TYPE_CHECKING:
    from torch import Tensor

    from w2vbert_asr.models.transducer import Transducer

UTTERANCES, SECONDS, VOCAB, TOKENS_PER_SECOND, SHARPNESS = 16, 10.0, 1024, 4.0, 30.0
MAX_SYMBOLS = 100  # a frame; the default of both
MAX_SYMBOLS_AT_RANDOM = 10  # random weights emit as many as they may, which with 100 takes minutes
GROWTH: dict[str, tuple[Any, ...]] = {  # changed alone
    "beam": (1, 2, 4, 8, 16, 32),
    "vocab": (256, 1024, 4096),
    "seconds": (5.0, 10.0, 20.0, 40.0),
    "utterances": (1, 4, 16, 64),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one process measures; it travels as JSON. `bias` is that of blank; with `model` it is the model's own."""

    name: str  # calibrate, encoder, greedy, ours, alsd, maes or torchaudio
    beam: int = 1
    bias: float = 0.0
    sharpness: float = SHARPNESS
    vocab: int = VOCAB
    utterances: int = UTTERANCES
    seconds: float = SECONDS
    peer_utterances: int = 2
    max_symbols: int = MAX_SYMBOLS
    model: str | None = None
    data: str | None = None

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    def make(self) -> tuple[Transducer, Tensor, Tensor]:
        """The model, its features (B, T, F) and their lengths."""
        if self.model is None or self.data is None:
            return random_model(self.vocab, self.utterances, self.seconds, self.sharpness, self.bias)
        return trained_model(Path(self.model), Path(self.data), self.utterances, self.seconds)


def trained_model(folder: Path, dump: Path, utterances: int, seconds: float) -> tuple[Transducer, Tensor, Tensor]:
    """A model folder and what its encoder hears of joined utterances, `seconds` of each."""
    import torch

    from w2vbert_asr import model_folder
    from w2vbert_asr.batch import FRAMES_PER_SECOND
    from w2vbert_asr.data.features import FeatureReader

    saved, reader = model_folder.read(folder), FeatureReader([dump], online=False)
    length = round(seconds * FRAMES_PER_SECOND)
    of_speakers: dict[int, list[Tensor]] = {}
    for number, speaker in enumerate(reader.speakers.tolist()):
        of_speakers.setdefault(speaker, []).append(saved.stats.normalize(reader.load(number)))
    pieces = [torch.cat(feats).split(length) for feats in of_speakers.values()]
    in_turns = [piece for turn in itertools.zip_longest(*pieces) for piece in turn if piece is not None]
    whole = [piece for piece in in_turns if len(piece) == length]
    if len(whole) < utterances:
        raise SystemExit(f"{dump}: has {len(whole)} pieces of {seconds} s, {utterances} are asked for")
    return saved.transducer(), torch.stack(whole[:utterances]), torch.full((utterances,), length)


def random_model(
    vocab: int, utterances: int, seconds: float, sharpness: float, bias: float
) -> tuple[Transducer, Tensor, Tensor]:
    """The model with random weights, noise, and its lengths."""
    import torch

    from w2vbert_asr.batch import FRAMES_PER_SECOND
    from w2vbert_asr.models.transducer import Transducer, TransducerConfig

    torch.manual_seed(0)
    model = Transducer(TransducerConfig(), vocab, 0).eval()
    generator = torch.Generator().manual_seed(1)
    feats = [
        torch.randn(round(seconds * FRAMES_PER_SECOND), 80, generator=generator.manual_seed(n))
        for n in range(utterances)
    ]
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
        model.joiner.output.bias[0] = bias
    return model, torch.stack(feats), torch.full((utterances,), len(feats[0]))


def calibrate(sharpness: float) -> float:
    """The blank bias, from 5 s of two utterances, by bisection."""
    import torch

    from w2vbert_asr.search import SearchConfig, search

    model, feats, lens = random_model(VOCAB, 2, SECONDS, sharpness, 0.0)
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


def measure(case: Case) -> dict[str, Any]:
    """Figures of a case."""
    import torch

    from w2vbert_asr.search import SearchConfig, exact_log_probs, search

    name = case.name
    if name == "calibrate":
        return {"bias": calibrate(case.sharpness)}
    model, feats, lens = case.make()
    with torch.inference_mode():
        model.encode(feats[:1, :200], torch.tensor([200]))
        if name == "encoder":
            return isolated.time_and_memory(lambda: model.encode(feats, lens), 1)
        encoder_out, encoder_out_lens = model.encode(feats, lens)
        found: list[list[int]] = []
        if name == "torchaudio":
            encoder_out = encoder_out[: case.peer_utterances]
            peer = Peer(model, case.beam, case.max_symbols)
            peer.run(encoder_out[:, :10])
            figures = isolated.time_and_memory(lambda: found.__setitem__(slice(None), peer.run(encoder_out)), 1)
        else:
            config = SearchConfig(
                name="beam" if name == "ours" else name,  # type: ignore[arg-type]
                beam_size=case.beam,
                max_symbols_per_frame=case.max_symbols,
                maes_steps=case.max_symbols,
            )
            search(model, encoder_out[:, :20], encoder_out_lens.clamp(max=20), config)

            def run() -> None:
                best = search(model, encoder_out, encoder_out_lens, config)
                found[:] = [list(own[0].tokens) for own in best]

            figures = isolated.time_and_memory(run, 3)
        own = [[tokens] for tokens in found]
        exact = exact_log_probs(model, encoder_out, encoder_out_lens[: len(found)], own)
    figures["log_probs"] = [one[0] for one in exact]
    figures["tokens_per_second"] = statistics.mean(map(len, found)) / case.seconds
    if name == "torchaudio":
        figures["seconds"] = peer.seconds * case.utterances / len(found)
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


def usual_case(options: argparse.Namespace) -> Case:
    """The model and data of all cases."""
    case = Case(
        name="calibrate",
        sharpness=options.sharpness,
        peer_utterances=options.peer_utterances,
        max_symbols=options.max_symbols or (MAX_SYMBOLS if options.model else MAX_SYMBOLS_AT_RANDOM),
        model=options.model and str(options.model.resolve()),
        data=options.data and str(options.data.resolve()),
    )
    if case.model:
        return case
    return replace(case, bias=isolated.in_own_process(__file__, str(case), options.threads, 300)["bias"])


def compare(options: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Figures by beam, and a table."""
    usual = usual_case(options)
    names = {("encoder", 1), ("greedy", 1)}
    names |= {(name, beam) for beam in options.beams for name in ("ours", "torchaudio", *options.searches)}
    pairs = sorted(names, key=lambda pair: (pair[1], pair[0]))
    cases = {(name, beam): str(replace(usual, name=name, beam=beam)) for name, beam in pairs}
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
        result: dict[str, Any] = {"s": round(seconds, 3), "mb": memory}
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
    usual = replace(usual_case(options), name="ours", beam=8)
    cases: dict[str, str] = {}
    for what, sizes in GROWTH.items():
        cases |= {f"{what} {size:g}": str(replace(usual, **{what: size})) for size in sizes}
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
    parser.add_argument("--max-symbols", type=int, help="tokens that a frame may emit; 100, or 10 with random weights")
    parser.add_argument("--sharpness", type=float, default=SHARPNESS, help="standard deviation of the joiner's output")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model", type=Path, help="a trained model folder, in place of random weights")
    parser.add_argument("--data", type=Path, help="with --model: a dump folder of stage 1")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", options.threads)))
        print(json.dumps(measure(Case(**json.loads(options.case)))))
        return
    if (options.model is None) != (options.data is None):
        parser.error("--model and --data belong together")
    if options.growth and options.model:
        parser.error("--growth has random weights; leave --model out")
    figures, lines = growth(options) if options.growth else compare(options)
    print("\n".join([json.dumps(isolated.machine(options.threads)), *lines]))
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
