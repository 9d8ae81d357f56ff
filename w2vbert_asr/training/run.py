"""A run in progress: its parts, its state, and what can be done with it (update, log, evaluate, save)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from w2vbert_asr.batch import FRAMES_PER_SECOND, Batch
from w2vbert_asr.errors import ConfigError, NumericsError, ResourceError
from w2vbert_asr.training import checkpoint, memory, nonfinite
from w2vbert_asr.training.checkpoint import Checkpoint
from w2vbert_asr.training.distributed import Parallel, World, gather_bytes, gathered, on_main, whole
from w2vbert_asr.training.evaluation import Measure, evaluate
from w2vbert_asr.training.lock import Lock
from w2vbert_asr.training.metrics import Sums
from w2vbert_asr.training.optimizer import Optimizers
from w2vbert_asr.training.precision import Precision, settle
from w2vbert_asr.training.progress import Progress
from w2vbert_asr.training.records import RecordWriter
from w2vbert_asr.training.signals import StopRequest
from w2vbert_asr.training.state import TrainState
from w2vbert_asr.training.update import Setting, Update, compute_gradients, restore, snapshot

_HIGH_LOSSES = 3
_EMPTY_SHARE = 0.9
_SUMS, _RANDOM = "sums/", "random/"


class BatchSource(Protocol):
    """Batches by position: the number of the global batch since the start of training, over epochs."""

    @property
    def digest(self) -> str:
        """Of what decides order and content."""
        ...

    def iterate(self, start_position: int) -> Iterator[Batch]:
        """This rank's batches from a position on, without end."""
        ...

    def position_to_epoch(self, position: int) -> tuple[int, int]:
        """(epoch, number of the batch in it)."""
        ...

    def dearest(self) -> Batch:
        """This rank's share of the batch that needs most memory."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long, how often and on what a model is trained; steps are optimizer updates.

    keep: newest checkpoints; keep_best: checkpoints with the best `criterion` (a metric of dev), for averaging.
    patience: evaluations without a better one before the run ends; 0 for none. accumulate: global batches an update.
    clip_norm: largest norm of all gradients together. divergence_factor: three log lines in a row with a loss this many
    times that of the first update end the run. precision: auto is bf16 where the device has it, else fp32; what it has
    come to stands in config.yaml. parallel: of several ranks, each has the whole model (ddp) or a part of
    it (fsdp). deterministic: the same bits each time on the same machine, also after a kill; on a GPU attention is
    faster without. compile: the blocks, by torch.compile, which needs a C++ compiler on a CPU; compile_mode:
    reduce-overhead records CUDA graphs, one for each length of a batch. timeout: seconds that ranks wait for one
    another. allow_change: resume although the configuration or the data has changed.
    """

    max_steps: int = 1000
    save_every: int = 500
    eval_every: int = 500
    log_every: int = 50
    keep: int = 2
    keep_best: int = 5
    criterion: str = "loss"
    higher_is_better: bool = False
    patience: int = 0
    seed: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "fp32"
    accumulate: int = 1
    clip_norm: float = 1.0
    divergence_factor: float = 5.0
    tensorboard: bool = True
    parallel: Parallel = "ddp"
    deterministic: bool = True
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead"] = "default"
    timeout: float = 1800.0
    allow_change: bool = False

    def on(self, device: torch.device) -> TrainerConfig:
        """With the precision that it comes to there."""
        return replace(self, precision=settle(self.precision, device))

    def in_bf16(self, device: torch.device) -> bool:
        """Whether products are in bf16 there."""
        return settle(self.precision, device) == "bf16"

    def problems(self) -> list[str]:
        """What is out of range."""
        least = {
            "max_steps": 1, "save_every": 1, "eval_every": 1, "log_every": 1, "keep": 1, "keep_best": 0, "patience": 0,
            "seed": 0, "accumulate": 1,
        }  # fmt: skip
        above = {"clip_norm": 0.0, "divergence_factor": 1.0, "timeout": 0.0}
        values = {key: getattr(self, key) for key in (*least, *above)}
        found = [f"{key}={values[key]}: at least {low}" for key, low in least.items() if values[key] < low]
        return found + [f"{key}={values[key]}: more than {low}" for key, low in above.items() if values[key] <= low]


@dataclass(kw_only=True)
class Run:
    """records and lock: of rank 0. `state` is replaced after each step; everything else stays."""

    config: TrainerConfig
    model: nn.Module
    optimizers: Optimizers
    out: Path
    world: World
    state: TrainState
    dev_loader: Iterable[Batch] | None
    measure: Measure | None
    stop: StopRequest
    progress: Progress
    records: RecordWriter | None
    lock: Lock | None
    wrapped: nn.Module  # as `distributed.wrap` gives it
    sums: Sums = field(init=False)
    setting: Setting = field(init=False)
    saved: TrainState = field(init=False)
    clock: _Clock = field(init=False)

    def __post_init__(self) -> None:
        self.sums = Sums(self.world.device)
        self.setting = Setting(
            seed=self.config.seed,
            bf16=self.config.in_bf16(self.world.device),
            clip_norm=self.config.clip_norm,
            world=self.world,
        )
        self.saved = self.state
        self.clock = _Clock()

    @property
    def at_end(self) -> bool:
        """Whether all steps are done, or too many evaluations brought nothing better."""
        config, state = self.config, self.state
        waited = state.evaluated - state.best_step
        out_of_patience = bool(config.patience) and waited >= config.patience * config.eval_every
        return state.step >= config.max_steps or out_of_patience

    @property
    def evaluation_due(self) -> bool:
        """Whether this step is to be evaluated and has not been."""
        step = self.state.step
        on_schedule = step % self.config.eval_every == 0 or step >= self.config.max_steps
        return self.dev_loader is not None and on_schedule and self.state.evaluated < step

    @property
    def save_due(self) -> bool:
        """Whether a checkpoint is to be written: on schedule, and of each evaluation, if there is anything new."""
        step = self.state.step
        wanted = step % self.config.save_every == 0 or (self.state.evaluated == step)
        return wanted and self.state != self.saved and step > 0

    def rehearse(self, batch: Batch) -> None:
        """A backward pass of the dearest batch that counts for nothing, before the first one that does.

        What does not fit into memory ends the run now and not in the night. And DistributedDataParallel settles the
        order in which it adds gradients in its first pass: as a step of the run, it would make a resumed run of three
        ranks or more differ in the last bits.
        """
        before = snapshot(self.model)
        self._gradients([batch.to(self.world.device)], self.state.step, before)
        self.optimizers.zero_grad()
        restore(self.model, before)

    def update(self, batches: Iterator[Batch], source: BatchSource) -> int:
        """One step; returns the number of the signal that asks for a stop on any rank, 0 for none."""
        config, state, step = self.config, self.state, self.state.step
        before = snapshot(self.model)
        began = time.monotonic()
        micro = [next(batches).to(self.world.device) for _ in range(config.accumulate)]
        self.clock.waited += time.monotonic() - began
        self.world.note_step(step)
        rates = self.optimizers.set_learning_rates(step)
        update, micro = self._gradients(micro, step, before)
        if update.finite:
            self.optimizers.step()
            for output in update.outputs:
                self.sums.add_output(output)
            self.sums.add("grad_norm", update.grad_norm, 1.0)
            state = state if state.first_loss is not None else replace(state, first_loss=update.loss)
        else:
            restore(self.model, before)
        self.optimizers.zero_grad()
        position = state.position + config.accumulate
        self.state = replace(
            state,
            step=step + 1,
            position=position,
            epoch=source.position_to_epoch(position)[0],
            frames=state.frames + update.frames,
            learning_rates=rates,
        )
        self.clock.frames += update.frames
        self.progress.advance()
        if not update.finite:
            self._skip(step, micro, update)
        if (step + 1) % config.log_every == 0 or step + 1 == config.max_steps:
            self._log_train()
        return update.stop

    def _gradients(
        self, micro: list[Batch], step: int, before: Mapping[str, Tensor], again: bool = False
    ) -> tuple[Update, list[Batch]]:
        """The gradients and the micro-batches they are of: halves of those given, if these do not fit into memory."""
        stop = self.stop.signal
        try:
            return compute_gradients(self.wrapped, self.optimizers.parameters, micro, step, stop, self.setting), micro
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
        # Out of the handler, which would keep the tensors of the failed pass alive.
        self.optimizers.zero_grad()
        restore(self.model, before)
        smaller = [half for batch in micro for half in memory.halves(batch)]
        if again or len(smaller) == len(micro) or self.world.size > 1:  # the other ranks are amid their exchange
            raise ResourceError(
                f"{self.out}: out of memory at step {step + 1} with a batch of {memory.describe(micro)}; lower "
                "data.batch_seconds and raise trainer.accumulate, or set model.encoder.checkpoint_blocks=true"
            )
        utt_ids = ", ".join(utt_id for batch in micro for utt_id in batch.utt_ids)
        self.progress.say(f"step {step + 1}: out of memory; tried again in halves: {utt_ids}")
        return self._gradients(smaller, step, before, again=True)

    def evaluate(self) -> int:
        """Evaluate, log and rank this step; returns the number of a signal that cut it short, else 0."""
        assert self.dev_loader is not None
        began = time.monotonic()
        with gathered(self.model):
            metrics = evaluate(
                self.model, self.dev_loader, self.measure, self.config.max_steps, lambda: self.stop.signal, self.setting
            )
        self.clock.left_out += time.monotonic() - began
        if metrics is None:
            return max(int(one) for one in gather_bytes(str(self.stop.signal).encode(), self.world))
        if self.config.criterion not in metrics:
            names = ", ".join(metrics)
            raise ConfigError(f"trainer.criterion: {self.config.criterion!r} is no metric of dev; choose of {names}")
        score = metrics[self.config.criterion]
        ranked = [*self.state.best, (score, self.state.step)] if math.isfinite(score) else self.state.best
        sign = -1.0 if self.config.higher_is_better else 1.0
        best = tuple(sorted(ranked, key=lambda one: (sign * one[0], one[1]))[: max(self.config.keep_best, 1)])
        best_step = best[0][1] if best else 0
        self.state = replace(self.state, evaluated=self.state.step, best=best, best_step=best_step)
        self._record("dev", metrics)
        if metrics.get("empty_share", 0.0) > _EMPTY_SHARE and self.state.step * 2 >= self.config.max_steps:
            self.progress.say(
                f"warning: after half of the run {metrics['empty_share']:.0%} of the dev hypotheses are empty: the "
                "model has learnt to emit blank only; train longer, in smaller batches, with a larger "
                "model.ctc_weight, or with fewer word pieces"
            )
        return 0

    def save(self, finished: bool) -> None:
        """Write a checkpoint and, when it has been read back whole, remove those that are not kept."""
        self.state = replace(self.state, finished=finished)
        mine = {_RANDOM + "cpu": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            mine[_RANDOM + "cuda"] = torch.cuda.get_rng_state(self.world.device)
        mine |= {_SUMS + name: pair.cpu() for name, pair in self.sums.state().items()}
        ranks = gather_bytes(safetensors.torch.save(mine), self.world)
        weights, moments = self._gather(self.model.state_dict()), self._gather(self.optimizers.state())

        def write() -> None:
            assert self.records is not None and self.lock is not None
            self.lock.check()
            self.state = replace(self.state, log_size=self.records.sync())
            checkpoint.save(
                self.out,
                Checkpoint(
                    state=self.state,
                    model=weights,
                    optimizer=moments,
                    ranks=[safetensors.torch.load(one) for one in ranks],
                ),
            )
            steps = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(self.out)]
            newest = [step for step in steps if step <= self.state.step][-self.config.keep :]
            checkpoint.prune(self.out, {*newest, *self._best_steps()})

        began = time.monotonic()
        on_main(self.world, write)
        self.saved = self.state
        self.clock.left_out += time.monotonic() - began

    def _gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors for the rank that writes; where they are sharded, one at a time is gathered, and kept there."""
        if self.config.parallel == "ddp" or self.world.size == 1:
            return dict(tensors)
        kept = {}
        for name, tensor in tensors.items():
            one = whole(tensor)
            if self.world.is_main:
                kept[name] = one.cpu()
        return kept

    def load_rank(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `save` wrote of this rank."""
        torch.set_rng_state(tensors[_RANDOM + "cpu"].clone())
        if self.world.device.type == "cuda" and _RANDOM + "cuda" in tensors:
            torch.cuda.set_rng_state(tensors[_RANDOM + "cuda"].clone(), self.world.device)
        self.sums.load_state({n.removeprefix(_SUMS): pair for n, pair in tensors.items() if n.startswith(_SUMS)})

    def _best_steps(self) -> list[int]:
        return [step for _, step in self.state.best[: self.config.keep_best]]

    def _skip(self, step: int, batches: list[Batch], update: Update) -> None:
        """The policy for what is not finite: keep the batch, count, and give up when it happens too often."""
        path = nonfinite.write_bundle(self.out, step, self.config.seed, self.world.rank, batches, update)
        skipped = (*(one for one in self.state.skipped if one > step - nonfinite.WINDOW), step)
        self.state = replace(self.state, skipped=skipped)
        self.progress.say(f"step {step + 1}: loss or gradient is not finite, update skipped; the batch is in {path}")
        if len(skipped) > nonfinite.LIMIT:
            raise NumericsError(
                f"{self.out}: {len(skipped)} of the last {nonfinite.WINDOW} steps were not finite, the last at step "
                f"{step + 1}; {nonfinite.ADVICE}"
            )

    def _log_train(self) -> None:
        state = self.state
        since = state.step - 1 - (state.step - 1) % self.config.log_every
        metrics = self.sums.take(self.world)
        self._record(
            "train",
            {
                "epoch": state.epoch,
                "hours": state.frames / FRAMES_PER_SECOND / 3600.0,
                **metrics,
                **state.learning_rates,
                "skipped": sum(1 for step in state.skipped if step >= since),
            },
        )
        if self.records is not None:
            self.records.write_timing(state.step, self.clock.read())
        if "loss" in metrics:
            self._watch(metrics["loss"])

    def _watch(self, loss: float) -> None:
        """End a run whose loss stands far above where it began."""
        first = self.state.first_loss
        is_high = first is not None and loss > self.config.divergence_factor * first > 0
        high_losses = self.state.high_losses + 1 if is_high else 0
        self.state = replace(self.state, high_losses=high_losses)
        if is_high:
            alarm = f"the loss, {loss:.4g} at step {self.state.step}, stands far above where it began, {first:.4g}"
            self.progress.say(f"warning: {alarm}")
            if high_losses >= _HIGH_LOSSES:
                raise NumericsError(f"{self.out}: {alarm}, for the last {high_losses} log lines; {nonfinite.ADVICE}")

    def _record(self, split: str, metrics: Mapping[str, float]) -> None:
        if self.records is not None:
            self.records.write(self.state.step, split, metrics)
        self.progress.report(self.state.step, split, metrics)


class _Clock:
    """Time between two log lines. waited: for data. left_out: for evaluation and checkpoints. frames: seen."""

    def __init__(self) -> None:
        self.began, self.waited, self.left_out, self.frames = time.monotonic(), 0.0, 0.0, 0

    def read(self) -> dict[str, float]:
        """A line of timing.jsonl, and start anew."""
        seconds = max(time.monotonic() - self.began - self.left_out, 1e-9)
        audio = self.frames / FRAMES_PER_SECOND
        line = {
            "seconds": seconds,
            "audio_seconds_per_second": audio / seconds,
            "data_wait_share": self.waited / seconds,
        }
        self.__init__()  # type: ignore[misc]
        return line
