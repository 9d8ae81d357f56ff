"""A plan as text."""

from __future__ import annotations

from collections.abc import Iterator

from w2vbert_asr.batch import FRAMES_PER_SECOND
from w2vbert_asr.models.w2vbert import W2VBertConfig
from w2vbert_asr.planning.plan import USABLE_SHARE, Plan

_GIB = 2.0**30


def plan_text(plan: Plan) -> str:
    """Lines for a terminal: a title, then sections with a row for each thing and its numbers aligned."""
    return "\n".join([*_title(plan), "", *_parameters(plan), "", *_step(plan), "", *_memory(plan), "", *_time(plan)])


def _title(plan: Plan) -> Iterator[str]:
    trainer, is_pretraining = plan.training.trainer, isinstance(plan.training.model, W2VBertConfig)
    place = ("CPU" if trainer.device == "cpu" else "GPU") + ("s" if plan.gpus > 1 else "")
    yield f"{'pre-training' if is_pretraining else 'fine-tuning'} on {plan.gpus} {place}, {trainer.precision}"
    if not is_pretraining:
        yield (
            f"assumed: {plan.training.vocab_size} word pieces, utterances of {plan.training.utterance_seconds:g} s "
            f"with {plan.training.tokens_per_second:g} tokens a second"
        )


def _parameters(plan: Plan) -> Iterator[str]:
    yield "parameters"
    for part, count in plan.parameters.items():
        yield f"  {part:<24}{count:>16,}"
    total = sum(plan.parameters.values())
    yield f"  {'total':<24}{total:>16,}  ({total / 1e9:.3f} B)"


def _step(plan: Plan) -> Iterator[str]:
    training, batch = plan.training, plan.batch
    times = f", {training.trainer.accumulate} times" if training.trainer.accumulate > 1 else ""
    items = f"{batch.items} of {batch.feat_frames / FRAMES_PER_SECOND:g} s{times}"
    yield "a step"
    yield f"  {'hours of audio':<24}{training.audio_seconds / 3600:>16,.2f}  ({items})"
    yield f"  {'FLOPs':<24}{plan.flops_per_step:>16.3e}  (three forward passes)"
    if plan.repeated_flops_per_step:
        yield f"  {'FLOPs repeated':<24}{plan.repeated_flops_per_step:>16.3e}  (forward passes made again)"


def _memory(plan: Plan) -> Iterator[str]:
    ddp, fsdp = plan.ddp.to_dict(), plan.fsdp.to_dict()
    yield f"{'memory of a GPU, GiB':<26}{'DDP':>16}{'FSDP':>12}"
    for kind in ddp:
        label, note = ("peak", "  (the kinds are not at their largest together)") if kind == "total" else (kind, "")
        yield f"  {label:<24}{ddp[kind] / _GIB:>16.2f}{fsdp[kind] / _GIB:>12.2f}{note}"
    if plan.longest_lattice > plan.ddp.most.lattice:
        label = f"lattice of {plan.training.data.max_seconds:g} s"
        yield f"  {label:<24}{plan.longest_lattice / _GIB:>16.2f}  (one utterance of data.max_seconds)"
    limit = plan.usable_memory
    words = ["yes" if memory["total"] <= limit else "no" for memory in (ddp, fsdp)]
    room = f"(of {plan.gpu.memory / _GIB:g} GiB, {USABLE_SHARE:.0%} for tensors)"
    yield f"  {'fits':<24}{words[0]:>16}{words[1]:>12}  {room}"
    for place, knob in enumerate(plan.knobs):
        label = "helps most" if place == 0 else "then" if place == 1 else ""
        fits = "fits" if knob.total <= limit else "does not fit"
        yield f"  {label:<24}{knob.total / _GIB:>16.2f}  {fits} with {knob.setting}"


def _time(plan: Plan) -> Iterator[str]:
    steps, gpu = plan.training.trainer.max_steps, plan.gpu
    rate = f"{100 * gpu.utilisation:g}% of {gpu.peak_flops / 1e12:g} TFLOP/s a GPU"
    yield f"{f'days for {steps:,} steps':<26}{_number(plan.days):>16}  ({rate})"
    if plan.repeated_flops_per_step:
        yield f"{'with what is repeated':<26}{_number(plan.days_with_repeated):>16}  (where that share counts it, too)"


def _number(value: float) -> str:
    """Two decimals, or three digits of a small number."""
    return f"{value:,.2f}" if value >= 1.0 else f"{value:.3g}"
