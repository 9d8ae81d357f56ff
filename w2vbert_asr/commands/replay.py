"""`w2vbert replay`: a past step of a training, made again and opened.

Order, masks, noise and distractors are functions of (seed, step, utterance), so a step is that of the run, bit for bit,
once the updates since the nearest checkpoint before it have been made again (same machine type, threads and ranks).
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from w2vbert_asr import config as configuration
from w2vbert_asr import model_folder
from w2vbert_asr.batch import FRAMES_PER_SECOND, Batch
from w2vbert_asr.commands import finetune, pretrain
from w2vbert_asr.commands.experiment import Assembly
from w2vbert_asr.data.corpus import Corpus
from w2vbert_asr.data.files import atomic_dir
from w2vbert_asr.errors import ConfigError, DataError
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.models.w2vbert import W2VBert
from w2vbert_asr.training import checkpoint, nonfinite, optimizer
from w2vbert_asr.training.distributed import World, open_world, whole, wrap
from w2vbert_asr.training.experiment import CONFIG
from w2vbert_asr.training.numerics import numerics
from w2vbert_asr.training.progress import Progress
from w2vbert_asr.training.run import Run, TrainerConfig
from w2vbert_asr.training.signals import StopRequest
from w2vbert_asr.training.state import TrainState
from w2vbert_asr.training.trainer import load_model
from w2vbert_asr.training.update import Update, autocast, compute_gradients, seed_draws, snapshot
from w2vbert_asr.training.update import restore as restore_buffers

_SHOWN_PARAMETERS = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """exp: the experiment. step: as in its log, 1 is the first update. bundle: a folder of `nonfinite/`, in place of
    step, whose batches are taken as they were. out: folder to write, by default `replay/step-*` in the experiment.
    """

    exp: Path
    step: int = 0
    bundle: Path | None = None
    out: Path | None = None
    device: str = "auto"

    def problems(self) -> list[str]:
        """What is wrong with the fields together."""
        if (self.step > 0) == (self.bundle is not None):
            return ["give step (1 or more, as in log.jsonl) or bundle (a folder of nonfinite/), one of them"]
        return []


def run(config: Config) -> dict[str, object]:
    """Make the step again; write `replay.json` and the tensors, print a line an utterance."""
    step, bundled = config.step, None
    if config.bundle is not None:
        number, bundled = nonfinite.read_bundle(config.bundle)
        step = number + 1
    with ExitStack() as stack:
        world = stack.enter_context(open_world(config.device))
        start = _nearest(config.exp, step - 1)
        assembly, trainer = _assemble(config.exp, step, start is not None, world)
        stack.enter_context(numerics(world.device, trainer.in_bf16(world.device), trainer.deterministic))
        again = stack.enter_context(closing(_Repeated(config.exp, assembly, trainer, world)))
        again.go_to(step - 1, start)
        batches, pieces = again.batches(bundled)
        update = again.gradients(batches)
        found = _describe(again.run, update, batches, pieces, step)
        tensors = [_tensors(again.run, assembly.model, batch, step - 1, micro) for micro, batch in enumerate(batches)]
    out = config.out or config.exp / "replay" / f"step-{step:08d}"
    if world.size > 1:
        out = out / f"rank-{world.rank:05d}"
    with atomic_dir(out) as folder:
        for micro, one in enumerate(tensors):
            safetensors.torch.save_file(one, folder / f"micro-{micro:03d}.safetensors")
        (folder / "replay.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _show(found, out)
    return found


class _Repeated:
    """A run of the trainer that writes nothing into the experiment."""

    def __init__(self, exp: Path, assembly: Assembly, trainer: TrainerConfig, world: World) -> None:
        self.assembly, self.trainer, self.world = assembly, trainer, world
        self.exp = exp
        self._scratch = tempfile.TemporaryDirectory()
        assembly.model.to(world.device).train()
        self.run: Run

    def close(self) -> None:
        self._scratch.cleanup()

    def go_to(self, step: int, path: Path | None) -> None:
        """The state after `step` updates: that of checkpoint `path`, or of the start, and the updates since."""
        saved = load_model(self.assembly.model, path) if path else None
        wrapped = wrap(self.assembly.model, self.world, self.trainer.parallel)
        groups = optimizer.build(self.assembly.model, self.assembly.parts, self.trainer.max_steps)
        if saved is not None:
            groups.load_state(saved.optimizer, str(path))
        state = saved.state if saved else TrainState()
        progress = Progress(state.step, step, self.world.is_main)
        self.run = Run(
            config=replace(self.trainer, tensorboard=False), model=self.assembly.model, wrapped=wrapped,
            optimizers=groups, out=Path(self._scratch.name), world=self.world, state=state, dev_loader=None,
            measure=None, stop=StopRequest(), progress=progress, records=None, lock=None,
        )  # fmt: skip
        if saved is not None and len(saved.ranks) == self.world.size:
            self.run.load_rank(saved.ranks[self.world.rank])
        if saved is not None and state.world_size != self.world.size:
            message = "%s: was trained on %d ranks: start this by torchrun with as many to have the same bits"
            _log.warning(message, self.exp, state.world_size)
        start = f"checkpoint of step {state.step}" if path else "the starting weights"
        _log.info("%s: from %s, %d update(s) to make again", self.exp, start, step - state.step)
        if self.world.size > 1:
            self.run.rehearse(self.assembly.loader.dearest())
        if state.step < step:
            with closing(self.assembly.loader.iterate(state.position)) as batches:  # type: ignore[type-var]
                while self.run.state.step < step:
                    self.run.update(batches, self.assembly.loader)
        progress.close()

    def batches(self, bundled: Sequence[Batch] | None) -> tuple[list[Batch], list[list[list[dict[str, object]]]]]:
        """The micro-batches of the step, and of what each item is made; of a bundle nothing more is known."""
        loader, position = self.assembly.loader, self.run.state.position
        positions = range(position, position + self.trainer.accumulate)
        micro = list(bundled) if bundled is not None else [loader[one] for one in positions]
        pieces = [[_pieces(loader.corpus, item) for item in loader.items(one)] for one in positions]
        if bundled is not None and [batch.utt_ids for batch in micro] != [loader[one].utt_ids for one in positions]:
            pieces = [[[] for _ in batch.utt_ids] for batch in micro]
        return [batch.to(self.world.device) for batch in micro], pieces

    def gradients(self, batches: list[Batch]) -> Update:
        """Those of the step, left in the parameters. Running statistics are as before the step."""
        run = self.run
        before = snapshot(run.model)
        run.optimizers.set_learning_rates(run.state.step)
        update = compute_gradients(run.wrapped, run.optimizers.parameters, batches, run.state.step, 0, run.setting)
        restore_buffers(run.model, before)
        return update


def _assemble(exp: Path, step: int, from_checkpoint: bool, world: World) -> tuple[Assembly, TrainerConfig]:
    """The training of an experiment, from its own configuration, statistics and word pieces."""
    tree = configuration.read_yaml(exp / CONFIG) if (exp / CONFIG).is_file() else None
    if not isinstance(tree, Mapping):
        raise DataError(f"{exp / CONFIG}: missing; --exp is the folder of a pre-training or a fine-tuning")
    stats = FeatureStats.load(exp / model_folder.STATS)
    command = finetune if "tokenizer" in tree else pretrain
    config = configuration.from_dict(command.Config, tree, str(exp / CONFIG))
    if step > config.trainer.max_steps:
        raise ConfigError(f"step={step}: the run of {exp} has {config.trainer.max_steps} steps")
    if from_checkpoint:
        config = replace(config, init=None)  # its weights come from the checkpoint
    if command is finetune and (exp / model_folder.BPE).is_file():
        config = replace(config, tokenizer=exp / model_folder.BPE)
    return command.assemble(config, world, stats), config.trainer


def _nearest(exp: Path, step: int) -> Path | None:
    """The newest whole checkpoint at or before `step`; None: there is none."""
    for path in reversed(checkpoint.list_checkpoints(exp)):
        if checkpoint.step_of(path) <= step and not checkpoint.problems(path):
            return path
    return None


def _pieces(corpus: Corpus, item: Sequence[Any]) -> list[dict[str, object]]:
    return [
        {
            "utt_id": corpus.utt_ids[piece.index],
            "start": piece.start / FRAMES_PER_SECOND,
            "end": piece.end / FRAMES_PER_SECOND,
        }
        for piece in item
    ]


def _describe(
    run: Run, update: Update, batches: Sequence[Batch], pieces: list[list[list[dict[str, object]]]], step: int
) -> dict[str, Any]:
    """What is to be known of the step, as plain data."""
    micro = []
    for batch, output, made_of in zip(batches, update.outputs, pieces, strict=True):
        items: list[dict[str, object]] = []
        for row, utt_id in enumerate(batch.utt_ids):
            losses = {
                name: nonfinite.shown(float(term.by_utterance[row]))
                for name, term in output.terms.items()
                if term.by_utterance is not None
            }
            duration = int(batch.feat_lens[row]) / FRAMES_PER_SECOND
            tokens = int(batch.token_lens[row])
            items.append(
                {"utt_id": utt_id, "duration": duration, "tokens": tokens, "losses": losses, "pieces": made_of[row]}
            )
        micro.append({"items": items, "terms": nonfinite.terms(output)})
    norms = {
        name: whole(parameter.grad.detach()).double().norm().item()
        for name, parameter in run.model.named_parameters()
        if parameter.grad is not None
    }
    largest = sorted(norms, key=lambda name: -norms[name] if norms[name] == norms[name] else float("-inf"))
    return {
        "step": step,
        "loss": nonfinite.shown(update.loss),
        "grad_norm": nonfinite.shown(update.grad_norm),
        "finite": update.finite,
        "learning_rates": run.optimizers.set_learning_rates(run.state.step),
        "position": run.state.position,
        "epoch": run.state.epoch,
        "largest_gradients": {name: nonfinite.shown(norms[name]) for name in largest[:_SHOWN_PARAMETERS]},
        "micro_batches": micro,
    }


@torch.no_grad()
def _tensors(run: Run, model: nn.Module, batch: Batch, step: int, micro: int) -> dict[str, Tensor]:
    """The batch, and of pre-training what is masked (B, T), the codes (B, T, G) and the distractors (B, M, M)."""
    found = {name: getattr(batch, name) for name in ("feats", "feat_lens", "tokens", "token_lens")}
    if isinstance(model, W2VBert):
        before = snapshot(model)
        seed_draws(run.config.seed, step, run.world.rank, micro)
        with autocast(run.world, run.setting.bf16):
            targets = model.targets(batch, run.config.seed, step)
            drawn = model.distractors(targets.span_mask, batch, run.config.seed, step)
        restore_buffers(model, before)
        found |= {
            "span_mask": targets.span_mask,
            "codes": targets.quantized.ids,
            "sampled_codes": targets.quantized.sampled_ids,
            "masked_frames": drawn.frames.masked_fill(~drawn.valid, -1),
            "distractors": drawn.chosen,
        }
    return {name: tensor.cpu().contiguous() for name, tensor in found.items()}


def _show(found: Mapping[str, Any], out: Path) -> None:
    """The step as a table."""
    rates = ", ".join(f"{name} {rate:.4g}" for name, rate in found["learning_rates"].items())
    print(f"step {found['step']}: loss {found['loss']}, gradient norm {found['grad_norm']}, {rates}")
    for micro, one in enumerate(found["micro_batches"]):
        names = [name for name in one["terms"] if name in one["items"][0]["losses"]]
        print(
            f"micro-batch {micro}: " + "  ".join(f"{n} {t['total']} of {t['count']}" for n, t in one["terms"].items())
        )
        print("  ".join(["  seconds", "tokens", *(f"{name:>20}" for name in names), "utterance"]))
        for item in one["items"]:
            losses = "  ".join(f"{item['losses'][name]!s:>20.12}" for name in names)
            print(f"  {item['duration']:7.2f}  {item['tokens']:6d}  {losses}  {item['utt_id']}")
    print("largest gradients: " + ", ".join(f"{name} {norm}" for name, norm in found["largest_gradients"].items()))
    print(f"{out}: replay.json and the batch with its masks")
