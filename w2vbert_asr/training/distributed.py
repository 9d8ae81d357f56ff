"""The ranks of a run: torchrun's environment, process groups, and agreement between ranks.

A run without torchrun is a world of one, in which all of this costs nothing.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from w2vbert_asr import errors
from w2vbert_asr.errors import ConfigError, ResourceError, SetupError, UserError

_LOST = ("timed out", "timeout", "connection closed", "connection reset", "broken pipe", "connection refused")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the ranks of a run, and the device that it trains on. store: where ranks leave notes."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store | None = None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    def note_step(self, step: int) -> None:
        """Leave a note for the other ranks that this one has its batches of a step and begins it."""
        if self.store is not None:
            self.store.set(f"step/{self.rank}", str(step))

    def last_steps(self) -> list[int | None]:
        """The step that each rank has begun last, by the notes; None: no note can be had."""
        return [self._step_of(rank) for rank in range(self.size)]

    def _step_of(self, rank: int) -> int | None:
        try:
            if self.store is None or not self.store.check([f"step/{rank}"]):
                return None
            return int(self.store.get(f"step/{rank}"))
        except RuntimeError:  # the process that held the notes has gone
            return None


@contextmanager
def open_world(device: str = "auto", timeout: float = 1800.0) -> Iterator[World]:
    """Join the ranks that torchrun started (a world of one without it), with NCCL on GPUs, gloo on CPUs.

    device: cpu, cuda or auto. timeout: seconds that ranks wait for one another. Raises SetupError without a GPU where
    one is asked for.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SetupError("device cuda: torch sees no GPU; use --device cpu, or install torch for this GPU's driver")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    if size == 1 or dist.is_initialized():
        here = dist.get_rank() if dist.is_initialized() else 0
        yield World(rank=here, size=dist.get_world_size() if dist.is_initialized() else 1, device=place)
        return
    limit = timedelta(seconds=timeout)
    store, rank, size = next(rendezvous("env://", timeout=limit))
    store.set_timeout(limit)
    store = store_of_this_start(store, rank, size, timeout)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    try:
        yield World(rank=rank, size=size, device=place, store=PrefixStore("notes", store))
    finally:
        dist.destroy_process_group()


def store_of_this_start(store: Store, rank: int, size: int, timeout: float) -> Store:
    """A part of the store that no earlier start has written to; all ranks call this.

    torchrun's agents share one store with all starts of their ranks (torch 2.14): after a restart a rank could read
    the address of one that is gone, and wait for it for ever. Nor do agents agree on the number of a start. So rank 0
    names this one, and every other rank asks by a word that it has never used, until it is answered. Raises
    ResourceError when a rank does not ask within `timeout` seconds, RuntimeError when rank 0 does not answer.
    """
    own = uuid.uuid4().hex
    if rank != 0:
        store.set(f"start/asks/{rank}", own)
        name = store.get(f"start/answer/{own}").decode()
        store.add(f"start/{name}/ranks", 1)
        return PrefixStore(name, store)
    deadline = time.monotonic() + timeout
    while store.add(f"start/{own}/ranks", 0) < size - 1:
        if time.monotonic() > deadline:
            raise ResourceError(f"not all of {size} ranks started within {timeout:g} s; look at the logs of the others")
        for other in range(1, size):
            if store.check([f"start/asks/{other}"]):  # of this start or of an earlier one: it does not matter
                store.set(f"start/answer/{store.get(f'start/asks/{other}').decode()}", own)
        time.sleep(0.02)
    return PrefixStore(own, store)


Parallel = Literal["ddp", "fsdp"]


def wrap(model: nn.Module, world: World, parallel: Parallel) -> nn.Module:
    """The model with gradients averaged over ranks; itself in a world of one.

    ddp: every rank holds everything. fsdp: weights, gradients and optimizer are sharded (FSDP2), and the weights are
    gathered for each block of a ModuleList in turn; the parameters become DTensors, so that the optimizers are to be
    built afterwards.
    """
    if world.size == 1:
        return model
    if parallel == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """What a model is stacked of: the modules in its ModuleLists."""
    return [block for stack in model.modules() if isinstance(stack, nn.ModuleList) for block in stack]


@contextmanager
def without_sync(model: nn.Module) -> Iterator[None]:
    """Leave the gradients of a backward pass on this rank: all but the last of an accumulation."""
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        yield


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """All weights on every rank, so that the model can be used in other ways than by its forward pass."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(module is not model, recurse=False)
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which every rank may hold only a part, as a whole, on every rank; all ranks call this alike."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor of an optimizer's state, held as its parameter is: in parts where it has its shape."""
    if not isinstance(parameter, DTensor) or value.ndim == 0:
        return value
    if value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return distribute_tensor(value, parameter.device_mesh)


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """The sum of `values` over all ranks, without gradient."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def gather_bytes(data: bytes, world: World) -> list[bytes]:
    """What every rank gave, in the order of ranks, on every rank."""
    if world.size == 1:
        return [data]
    sizes = torch.zeros(world.size, dtype=torch.int64, device=world.device)
    sizes[world.rank] = len(data)
    lengths: list[int] = sum_over_ranks(sizes, world).tolist()
    padded = torch.zeros(max(lengths), dtype=torch.uint8, device=world.device)
    padded[: len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return [one[:length].cpu().numpy().tobytes() for one, length in zip(gathered, lengths, strict=True)]


def on_main(world: World, action: Callable[[], Any]) -> Any:
    """Do `action` on rank 0 only and give its result (plain data) to all; a UserError is raised on every rank."""
    if world.size == 1:
        return action()
    answer: dict[str, Any] = {}
    if world.is_main:
        try:
            answer["result"] = action()
        except UserError as error:
            answer = {"kind": type(error).__name__, "message": str(error)}
    answer = json.loads(gather_bytes(json.dumps(answer).encode(), world)[0])
    if "kind" in answer:
        raise getattr(errors, answer["kind"])(answer["message"])
    return answer["result"]


@contextmanager
def name_lost_ranks(world: World, where: str) -> Iterator[None]:
    """Turn a wait in vain for other ranks into a ResourceError that names those that stand behind."""
    try:
        yield
    except RuntimeError as error:
        words = str(error).lower()
        if world.size == 1 or not any(word in words for word in _LOST):
            raise
        steps = world.last_steps()
        known = [step for step in steps if step is not None]
        behind = [rank for rank, step in enumerate(steps) if step is None or (step < max(known) and rank != world.rank)]
        named = ", ".join(f"rank {rank}" for rank in behind) or "another rank"
        table = ", ".join(f"rank {rank} at {'?' if step is None else step + 1}" for rank, step in enumerate(steps))
        raise ResourceError(
            f"{where}: rank {world.rank} waited in vain for {named} (steps begun: {table}); it is dead, or slower than "
            "trainer.timeout: look at its log and its machine, then run the same again"
        ) from error


def require_agreement(world: World, facts: dict[str, Any]) -> None:
    """Raises ConfigError on every rank if the ranks were started with different `facts` (plain data)."""
    given = [json.loads(one) for one in gather_bytes(json.dumps(facts, sort_keys=True).encode(), world)]
    values = {key: [one.get(key) for one in given] for key in facts}
    odd = [f"{key}: {found}" for key, found in values.items() if any(one != found[0] for one in found)]
    if odd:
        raise ConfigError("the ranks differ (values in the order of ranks); start all alike:\n" + errors.summarize(odd))
