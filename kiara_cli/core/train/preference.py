"""Training on pairs of replies: the reference's scores, the batches and what is measured of them.

In: a training of `dpo` or `simpo`. Out: for dpo, how likely the weights that it began with find each reply, computed
once and kept in the run's folder; and how many pairs a model gets right, on the held-out split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kiara_cli.config.schema import Config, TrainConfig
from kiara_cli.core.checkpoint.atomic import replacing
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.pairs import PairBatcher
from kiara_cli.core.loss import Preference, segment_scores
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.runtime.ranks import add_up, in_step
from kiara_cli.errors import KiaraError

FILE = "reference.safetensors"  # in the run's folder
BETA = {"dpo": 0.1, "simpo": 2.0}  # usual ones of the two papers


@dataclass(frozen=True)
class PairMetrics:
    """Sums over pairs, and what follows from them."""

    nats: float
    right: int  # pairs whose preferred reply has the higher reward
    ahead: float  # by how much, all together
    pairs: int

    @property
    def loss(self) -> float:
        return self.nats / max(1, self.pairs)

    @property
    def accuracy(self) -> float:
        return self.right / max(1, self.pairs)

    @property
    def margin(self) -> float:
        return self.ahead / max(1, self.pairs)

    @property
    def tokens(self) -> int:
        """What was measured, counted: pairs."""
        return self.pairs


def preference_of(train: TrainConfig) -> Preference | None:
    """Return the objective of a training on pairs, None for one on tokens."""
    if train.objective == "next_token":
        return None
    beta = train.preference.beta or BETA[train.objective]
    return Preference(train.objective, beta, train.preference.margin, train.loss_chunk)


def check_pairs(config: Config, data: Prepared) -> None:
    """Raise KiaraError if the data is pairs and the objective is not for them, or the other way."""
    meta, objective = data.meta, config.train.objective
    pairs, source = meta.train_pairs + meta.val_pairs, config.data.source
    if objective == "next_token":
        if pairs:
            raise KiaraError(
                f"{source} holds pairs of replies, of which one is not to be learned",
                "write train.objective=dpo or simpo, or give the preferred replies alone",
            )
        return
    if not pairs or meta.conversations != 2 * pairs or meta.documents != pairs:
        cause = "no pairs of replies" if not pairs else "other texts beside pairs of replies"
        raise KiaraError(
            f"train.objective={objective}: {source} holds {cause}",
            'give records with "prompt", "chosen" and "rejected", or write train.objective=next_token',
        )


def batcher_of(config: Config, data: Prepared, held_out: bool = False) -> PairBatcher:
    """Cut a split into batches of pairs. Raises KiaraError if no pair fits into a row."""
    context, size = config.model.context_length, config.train.batch_size
    tokens = data.val if held_out else data.train
    seed = 0 if held_out else config.runtime.seed
    batcher = PairBatcher(tokens, data.tokenizer.specials, context, size, seed)
    if not batcher.rows:
        raise KiaraError(
            f"{'what is held out of ' if held_out else ''}{config.data.source} holds no pair whose sides fit into "
            f"model.context_length={context} ({batcher.count:,} are longer)",
            "give more or shorter ones",
        )
    return batcher


@torch.no_grad()
def score_reference(
    model: Transformer, batchers: dict[str, PairBatcher], runtime: Runtime, folder: Path | None
) -> None:
    """Fill in what the model, as it is now, gives all replies, and keep it in the run's folder, if one is given."""
    was_training = model.training
    model.eval()
    for batcher in batchers.values():
        for batch, rows in batcher.in_order():
            batch = batch.to(runtime.device)
            with runtime.precision():
                states = model.states(batch.inputs, segments=batch.segments)
                scores = segment_scores(states, model.unembed, batch)[0].cpu().numpy()
            for number, pairs in enumerate(rows):
                batcher.scores[pairs] = scores[2 * number : 2 * number + 2, : len(pairs)].T
    model.train(was_training)
    if folder is None:
        return
    with replacing(folder / FILE) as partial:
        save_file({name: batcher.scores for name, batcher in batchers.items()}, partial)


def load_reference(batchers: dict[str, PairBatcher], folder: Path) -> None:
    """Read what `score_reference` kept. Raises KiaraError if it is not there or of other pairs."""
    try:
        kept = load_file(folder / FILE)
        for name, batcher in batchers.items():
            np.copyto(batcher.scores, kept[name], casting="no")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        raise KiaraError(
            f"{folder / FILE}, what the weights at the beginning gave these pairs, is not there as it was",
            "restore it, or start a new run",
        ) from None


@torch.no_grad()
def measure_pairs(
    model: Transformer,
    batcher: PairBatcher,
    objective: Preference,
    runtime: Runtime,
    limit: int | None,
    world: World = ALONE,
) -> PairMetrics:
    """Measure a model on pairs: all, or about as many as have `limit` tokens; each process of a `world` its share."""
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    for batch, counts in in_step(up_to(batcher, limit), world):
        batch = batch.to(runtime.device)
        with runtime.precision():
            states = model.states(batch.inputs, segments=batch.segments)
            found = objective(states, model.unembed, batch)[1].cpu()
        if counts:
            sums += torch.cat((found, found.new_tensor([batch.target_count])))
    model.train(was_training)
    nats, right, ahead, pairs = add_up(sums.numpy(), world).tolist()
    return PairMetrics(nats, int(right), ahead, int(pairs))


def up_to(batcher: PairBatcher, limit: int | None) -> Iterator[Batch]:
    """Yield the batches of all pairs, or the first ones of them that have `limit` tokens together."""
    seen = 0
    for batch, _ in batcher.in_order():
        if limit is not None and seen >= limit:
            return
        seen += batch.inputs.numel()
        yield batch
