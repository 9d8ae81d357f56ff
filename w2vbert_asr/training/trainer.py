"""The one training loop, for pre-training and fine-tuning. It sees a model as Batch -> LossOutput.

Nothing random outlives a step and the order of the data is a function of the position, so that a run that was killed
and started again ends with the same bits as one that was not: same machine type, torch build, threads and world size.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from w2vbert_asr.batch import Batch
from w2vbert_asr.data.files import atomic_write
from w2vbert_asr.errors import Preempted
from w2vbert_asr.training import checkpoint, experiment, lock, optimizer
from w2vbert_asr.training.checkpoint import Checkpoint
from w2vbert_asr.training.distributed import World, blocks, name_lost_ranks, on_main, require_agreement, wrap
from w2vbert_asr.training.evaluation import Measure
from w2vbert_asr.training.numerics import numerics
from w2vbert_asr.training.optimizer import Part
from w2vbert_asr.training.progress import Progress
from w2vbert_asr.training.records import RecordWriter
from w2vbert_asr.training.run import BatchSource, Run
from w2vbert_asr.training.run import TrainerConfig as TrainerConfig
from w2vbert_asr.training.signals import catch_signals
from w2vbert_asr.training.state import TrainState

_PREEMPTED = "preempted.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended. resumed_from: step, or None. best: (score by the criterion, step), best first."""

    step: int
    resumed_from: int | None
    already_finished: bool
    best: tuple[tuple[float, int], ...]
    checkpoint: Path


def train(
    model: nn.Module,
    loader: BatchSource,
    dev_loader: Iterable[Batch] | None,
    *,
    config: TrainerConfig,
    optimizers: Mapping[str, Part],
    out: Path,
    resolved: Mapping[str, Any],
    digests: Mapping[str, str] | None = None,
    measure: Measure | None = None,
    prepare: Callable[[], None] | None = None,
    world: World | None = None,
) -> TrainResult:
    """Train `model` from where the experiment `out` stands to `config.max_steps`.

    model: called as `model(batch, seed=seed, step=step) -> LossOutput`; step counts from 0, and is max_steps in
    evaluation mode. loader: this rank's batches by position. dev_loader: one pass over dev an iteration. optimizers:
    the parts of the parameters. resolved: the whole configuration as plain data; digests: of what else decides the run
    (tokenizer, dev set); a run resumes only if both are as before. measure: further metrics of a dev batch. prepare:
    writes further files of the experiment, on rank 0, when it is sure that the run goes on. world: of `open_world`.

    Raises Preempted after SIGTERM or SIGUSR1 and KeyboardInterrupt after SIGINT, the state saved; ConfigError for a
    changed run, DataError where every checkpoint is damaged, ResourceError for a full disk or an experiment that
    another process owns, NumericsError for a run that left the range of sensible numbers.
    """
    world = world or World(device=torch.device("cpu"))
    resolved = json.loads(json.dumps(resolved))
    known = {"train": loader.digest, **(digests or {})}
    with ExitStack() as stack:
        held: list[lock.Lock] = []
        on_main(world, lambda: held.append(stack.enter_context(lock.own(out))))
        stop = stack.enter_context(catch_signals())
        stack.enter_context(numerics(world.device, config.in_bf16(world.device), config.deterministic))
        require_agreement(world, {"config": resolved, "digests": known})
        model.to(world.device).train()
        optimizer.assign(model, optimizers)  # says what does not fit before anything is written
        found = on_main(world, lambda: _find(out, config, resolved, known, prepare, world))
        saved = load_model(model, Path(found)) if found else None
        if config.compile:
            for block in blocks(model):
                block.compile(dynamic=True, mode=config.compile_mode)  # lengths differ from batch to batch
        wrapped = wrap(model, world, config.parallel)
        groups = optimizer.build(model, optimizers, config.max_steps)
        if saved is not None:
            groups.load_state(saved.optimizer, found)
        state = saved.state if saved else TrainState()
        state = replace(
            state,
            config={key: value for key, value in resolved.items() if key != "out"},  # the folder may be moved
            digests=known,
            versions=experiment.versions(),
            world_size=world.size,
        )
        progress = Progress(state.step, config.max_steps, world.is_main)
        stack.callback(progress.close)
        records = RecordWriter(out, state.log_size, state.step, config.tensorboard) if world.is_main else None
        if records is not None:
            stack.callback(records.close)
        run = Run(
            config=config, model=model, wrapped=wrapped, optimizers=groups, out=out, world=world, state=state,
            dev_loader=dev_loader, measure=measure, stop=stop, progress=progress, records=records,
            lock=held[0] if held else None,
        )  # fmt: skip
        if saved is not None and len(saved.ranks) == world.size:
            run.load_rank(saved.ranks[world.rank])
        resumed_from = state.step if saved else None
        already_finished = state.finished and run.at_end
        if already_finished:
            progress.say(f"{out}: finished at step {state.step}; nothing left to do")
        else:
            batches: Iterator[Batch] = stack.enter_context(closing(cast(Any, loader.iterate(state.position))))
            with name_lost_ranks(world, str(out)):
                run.rehearse(loader.dearest())
                _loop(run, batches, loader)
        return TrainResult(
            step=run.state.step,
            resumed_from=resumed_from,
            already_finished=already_finished,
            best=run.state.best,
            checkpoint=checkpoint.path_of(out, run.state.step),
        )


def _loop(run: Run, batches: Iterator[Batch], loader: BatchSource) -> None:
    """Evaluate, save, update, until the end or a signal. A resumed run enters where it was left."""
    stop = 0
    while True:
        if not stop and run.evaluation_due:
            stop = run.evaluate()
        finished = run.at_end and not stop
        if stop or finished or run.save_due:
            run.save(finished)
        if stop:
            _end_early(run, stop)
        if finished:
            return
        stop = run.update(batches, loader)


def _find(
    out: Path,
    config: TrainerConfig,
    resolved: Mapping[str, Any],
    digests: Mapping[str, str],
    prepare: Callable[[], None] | None,
    world: World,
) -> str | None:
    """The newest whole checkpoint, if it may be resumed, or None where there is none; the start is written down."""
    checkpoint.clean(out)
    (out / _PREEMPTED).unlink(missing_ok=True)
    path = checkpoint.newest(out) if checkpoint.list_checkpoints(out) else None
    changed: list[str] = []
    if path is not None:
        state = checkpoint.read_state(path)
        changed = experiment.changes(state, resolved, digests, config.allow_change)
        experiment.note_other_versions(state, world)
        for line in changed:
            _log.warning("changed since step %d: %s", state.step, line)
    start = {"resumed_from": path.name if path else None, "changed": changed}
    experiment.write_down(out, resolved, world, start)
    if prepare is not None:
        prepare()
    return str(path) if path else None


def load_model(model: nn.Module, path: Path) -> Checkpoint:
    """Load a checkpoint, and its weights into a model that is not wrapped yet."""
    saved = checkpoint.load(path)
    checkpoint.require_match(path, saved.model, model.state_dict())
    model.load_state_dict(dict(saved.model))
    return saved


def _end_early(run: Run, number: int) -> None:
    """After a signal, the state saved: say so, and raise what becomes the exit code."""
    step, name = run.state.step, signal.Signals(number).name
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if run.world.is_main and "TORCHELASTIC_RUN_ID" in os.environ:
        with atomic_write(run.out / _PREEMPTED) as handle:
            handle.write(json.dumps({"step": step, "signal": name, "exit_code": Preempted.exit_code}) + "\n")
    raise Preempted(f"{run.out}: {name}: saved at step {step}; run the same again to go on")
