"""A model spread over the processes of a group, from outside: by DDP or by FSDP2, PyTorch's own.

In: a model that is the same in all processes. Out: the same model, whose gradients are means over the processes once
the last backward pass of an update is over. With DDP each process holds all weights. With FSDP each holds a share of
every weight, its gradient and the optimizer's state (DTensors); a block's weights are put together while it works.

Whoever keeps or reads weights asks here: `whole` puts them together, `put` takes whole ones apart again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from kiara_cli.config.schema import Config
from kiara_cli.core.model.count import count
from kiara_cli.core.model.points import OWN
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import pick_device
from kiara_cli.core.runtime.memory import read_memory
from kiara_cli.core.runtime.parallel import World
from kiara_cli.errors import KiaraError

Parallel: TypeAlias = Literal["auto", "ddp", "fsdp"]
BYTES = 16  # of a weight, its gradient and two moments, in float32
SHARE = 0.6  # of a process's memory that these may take under DDP; the rest is for activations (a guess)


def decide_parallel(config: Config, world: World) -> Parallel:
    """Decide runtime.parallel for several processes: ddp, unless the weights would not fit into one of them.

    Raises KiaraError for what FSDP cannot do.
    """
    device, wanted = pick_device(config.runtime.device), config.runtime.parallel
    if device == "mps":
        raise KiaraError(f"{world.size} processes cannot share the device mps", "use runtime.device=cpu")
    against = _against_fsdp(config)
    if wanted == "fsdp" and against is not None:
        raise KiaraError(f"runtime.parallel=fsdp: {against}", "use runtime.parallel=ddp", key="runtime.parallel")
    if wanted != "auto":
        return wanted
    most = _memory(device, world)
    too_large = most is not None and BYTES * count(config.model).parameters > SHARE * most
    return "fsdp" if too_large and against is None else "ddp"


def shares_in_words(config: Config, places: int, world: World) -> str:
    """Say how many processes there are, how they share the model, and how the rows of an update.

    Raises KiaraError where there is not a row for each; `places` are those of a batch, a row each, of pairs two.
    """
    train = config.train
    count_of_rows = places * train.accumulation
    least, rest = divmod(count_of_rows, world.size)
    if not least:
        each = "pair of rows" if places < train.batch_size else "row"
        raise KiaraError(
            f"{world.size} processes, and an update of train.batch_size={train.batch_size} × "
            f"train.accumulation={train.accumulation} has not a {each} for each",
            f"start fewer, or set train.batch_size={train.batch_size * world.size}",
        )
    rows = f"{least} or {least + 1}" if rest else f"{least}"
    return f"{world.size} ranks, {config.runtime.parallel}, {rows} of {count_of_rows} rows each: "


def spread(model: Transformer, parallel: str, device: torch.device) -> Transformer:
    """Spread a model as runtime.parallel says."""
    return {"ddp": with_ddp, "fsdp": with_fsdp}[parallel](model, device)


def with_ddp(model: Transformer, device: torch.device) -> Transformer:
    """Average gradients by DistributedDataParallel, around the way from ids to the last hidden states.

    The head's gradient comes with the others: DDP waits for every weight, wherever it is used.
    """
    from torch.nn.parallel import DistributedDataParallel

    plain = model.states
    ddp = DistributedDataParallel(States(model, plain), process_group=_group(device), forward_sync_buffers=False)
    model.states = functools.partial(_states, model, plain, ddp)  # type: ignore[method-assign]
    object.__setattr__(model, "ddp", ddp)
    return model


def with_fsdp(model: Transformer, device: torch.device) -> Transformer:
    """Share out every block's weights, and those around the blocks, by `fully_shard` (FSDP2)."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = DeviceMesh.from_group(_group(device) or dist.group.WORLD, device.type)  # type: ignore[arg-type]
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)
    register_fsdp_forward_method(model, "states")
    return model


class States(nn.Module):
    """The way from ids to the last hidden states as a module's forward pass, which is what DDP wraps."""

    def __init__(self, model: Transformer, plain: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.plain = model, plain

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return self.plain(*inputs, **named)


def _states(
    model: Transformer, plain: Callable[..., Tensor], ddp: Callable[..., Tensor], *inputs: Any, **named: Any
) -> Tensor:
    return (ddp if model.training else plain)(*inputs, **named)


OWN.add(_states)


def last_of_update(model: Transformer, last: bool) -> None:
    """Say whether the coming backward pass is the last one of an update: only then DDP averages gradients."""
    if (ddp := vars(model).get("ddp")) is not None:
        ddp.require_backward_grad_sync = last


def is_shared_out(model: nn.Module) -> bool:
    """Say whether each process holds only a share of the weights."""
    return any(is_share(parameter) for parameter in model.parameters())


def let_go(model: Transformer) -> None:
    """Give up the weights that FSDP has put together outside of training: they are going to change."""
    if is_shared_out(model):
        model.reshard()  # type: ignore[operator]


def is_share(value: object) -> bool:
    """Say whether a tensor is one process's share of a larger one."""
    return hasattr(value, "full_tensor")  # a DTensor's; without loading torch.distributed, which takes 0.2 s


def whole(value: Any, keep: bool = True) -> Any:
    """Return a tensor, or a tree of dicts and lists, with each share put together; with `keep` false without numbers.

    Every process of the group has to ask for the same.
    """
    if is_share(value):
        full = value.detach().full_tensor()
        return full if keep else full.new_empty(0)
    if isinstance(value, Mapping):
        return {key: whole(each, keep) for key, each in value.items()}
    return type(value)(whole(each, keep) for each in value) if isinstance(value, list | tuple) else value


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one of the same shape, or this process's part of it into a share."""
    target.copy_(share_like([target], [value.to(target.device)])[0])


def share_like(targets: Sequence[Tensor], wholes: Sequence[Tensor]) -> list[Tensor]:
    """Return this process's share of whole tensors, where the targets are shares; nothing is sent."""
    if not targets or not is_share(targets[0]):
        return list(wholes)
    from torch.distributed.tensor import distribute_tensor

    places = [(target.device_mesh, target.placements) for target in targets]  # type: ignore[attr-defined]
    return [distribute_tensor(x, *place, src_data_rank=None) for x, place in zip(wholes, places, strict=True)]


def tensors_in(tree: Any, at: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a tree of dicts and lists with their places in it, such as optimizer.state.0.momentum."""
    if isinstance(tree, Tensor):
        yield at, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from tensors_in(value, f"{at}.{key}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from tensors_in(value, f"{at}.{number}")


def _against_fsdp(config: Config) -> str | None:
    """Return why the weights cannot be shared out, or None."""
    if config.hooks:
        return f"hooks.{next(iter(config.hooks))} is to see weights and gradients whole"
    if config.train.lora.rank:
        return f"train.lora.rank={config.train.lora.rank} trains few weights, which need not be shared out"
    return None


def _memory(device: str, world: World) -> int | None:
    """Return how many bytes one process may have."""
    if device == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    most = read_memory().most
    return None if most is None else most // world.local_size


def add_up_on_device(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, in the group that gradients travel in."""
    import torch.distributed as dist

    dist.all_reduce(values, group=_group(values.device))
    return values


@functools.cache
def _group(device: torch.device) -> Any:
    """Return the group that gradients travel in: NCCL's on CUDA; None is the one that there is, gloo's."""
    import torch.distributed as dist

    return dist.new_group(backend="nccl") if device.type == "cuda" else None
