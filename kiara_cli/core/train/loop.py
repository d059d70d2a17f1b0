"""READ SECOND. The training loop: batch, forward, loss, backward, clip, step, log, evaluate, save.

In: a `Training`. Out: events, ending with `Finished`; the run's folder is written on the way.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kiara_cli.core.eval.metrics import Metrics, batch_loss, evaluate
from kiara_cli.core.generate.text import complete, make_engine, stream_text
from kiara_cli.core.tokenizer.chat_format import encode_prompt, stop_ids
from kiara_cli.core.train.events import Evaluated, Event, Finished, Sampled, Saved, Status, Stepped
from kiara_cli.core.train.meter import Meter
from kiara_cli.core.train.schedule import learning_rate
from kiara_cli.core.train.start import Training

FIRST_WORDS = "Tell me a story."  # what a chat is asked where the config names nothing

log = logging.getLogger("kiara.train")


def train(training: Training, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Train to the end, or until `should_stop` says so between two steps; save in either case."""
    config, progress, total = training.config.train, training.progress, training.total_steps
    meter = Meter()
    status: Status = "finished"
    losses: list[torch.Tensor] = []
    metrics: dict[str, Any] = {}
    training.model.train()
    meter.start()

    while progress.step < total:
        lr = learning_rate(progress.step + 1, total, config)
        loss, grad_norm = update(training, lr)
        if not math.isfinite(grad_norm):
            status = "diverged"
            log.error("step %d: loss %s, gradient norm %s", progress.step + 1, float(loss), grad_norm)
            break
        progress.step += 1
        tokens = config.batch_size * config.accumulation * training.batcher.context_length
        progress.tokens += tokens
        meter.add(tokens)
        losses.append(loss)
        last = progress.step == total or should_stop()

        if progress.step % config.log_interval == 0 or last:
            rate = meter.mark()
            mean = float(torch.stack(losses).mean())
            losses.clear()
            left = (total - progress.step) * tokens / max(1e-9, rate)
            event = Stepped(progress.step, mean, lr, grad_norm, progress.tokens, rate, left)
            metrics["train_loss"] = mean
            training.run.record(record_of(event))
            yield event

        meter.stop()
        first = progress.best_val_loss is None
        evaluates = progress.step % config.eval_interval == 0 or progress.step == total
        if evaluates:
            yield from assess(training, metrics)
        if (evaluates and first) or progress.step % config.checkpoint_interval == 0 or last:
            yield save(training, metrics)
        meter.start()
        progress.seconds += meter.lap()
        if last and progress.step < total:
            status = "interrupted"
            break

    progress.seconds += meter.lap()
    training.ahead.close()
    training.run.set_status(status, step=progress.step, val_loss=progress.best_val_loss, tokens=progress.tokens)
    best, last_path = (path if path.is_file() else None for path in (training.run.best, training.run.last))
    yield Finished(
        training.run.name, status, progress.step, progress.best_val_loss, progress.tokens, progress.seconds,
        best, last_path,
    )  # fmt: skip


def update(training: Training, lr: float) -> tuple[torch.Tensor, float]:
    """Make one update of the weights; return the mean loss and the gradient's norm before clipping.

    A gradient that is not finite changes nothing.
    """
    config, device = training.config.train, training.runtime.device
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    losses = []
    for micro in range(config.accumulation):
        inputs, targets = training.ahead.batch(training.progress.step * config.accumulation + micro)
        with training.runtime.precision():
            loss = batch_loss(training.model, inputs.to(device), targets.to(device), training.separator)
            loss = loss / config.accumulation
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    limit = config.grad_clip or math.inf
    grad_norm = float(torch.nn.utils.clip_grad_norm_(training.model.parameters(), limit))
    if math.isfinite(grad_norm):
        training.optimizer.step()
    training.optimizer.zero_grad()
    return torch.stack(losses).sum(), grad_norm


def assess(training: Training, metrics: dict[str, Any]) -> Iterator[Event]:
    """Measure the validation split, keep the best weights, and let the model write something."""
    config, progress = training.config, training.progress
    if len(training.data.val) > 1:
        measured = evaluate(
            training.model, training.data.val, training.data.tokenizer, training.runtime,
            config.eval.batch_size, config.eval.max_tokens, training.data.meta.conversations,
        )  # fmt: skip
        is_best = progress.best_val_loss is None or measured.loss < progress.best_val_loss
        metrics |= summary(measured) | {"step": progress.step, "tokens": progress.tokens}
        event = Evaluated(progress.step, measured, is_best)
        training.run.record(record_of(event))
        yield event
        if is_best:
            progress.best_val_loss, progress.best_step = measured.loss, progress.step
            path = training.run.save_best(
                training.checkpoint(metrics, resumable=False), config.train.save_safetensors
            )
            training.run.publish()
            yield Saved(progress.step, path)
    if config.eval.sample_tokens:
        yield sample_text(training)


def save(training: Training, metrics: dict[str, Any]) -> Saved:
    """Write a checkpoint that the run can be resumed from."""
    config, step = training.config.train, training.progress.step
    checkpoint = training.checkpoint({"step": step, **metrics}, resumable=True)
    path = training.run.save_step(checkpoint, step, config.keep_last, config.save_safetensors)
    if training.progress.best_val_loss is not None:
        training.run.publish()
    return Saved(step, path)


def sample_text(training: Training) -> Sampled:
    """Let the model continue the sample prompt, or answer it if it learns from conversations; same seed each time."""
    config, tokenizer = training.config, training.data.tokenizer
    engine = make_engine(training.model, tokenizer, training.runtime)
    settings = dataclasses.replace(
        config.generate, max_new_tokens=config.eval.sample_tokens, seed=config.runtime.seed
    )
    prompt = config.eval.sample_prompt
    if training.data.meta.conversations:
        prompt = prompt or FIRST_WORDS
        ids = encode_prompt([{"role": "user", "content": prompt}], tokenizer)
        *_, done = stream_text(engine, tokenizer, ids, settings, stop_ids(tokenizer))
        text = done.text
    else:
        text = prompt + complete(engine, tokenizer, prompt, settings).text
    training.model.train()
    return Sampled(training.progress.step, prompt, text)


def summary(metrics: Metrics) -> dict[str, float]:
    """Name the validation figures as metrics.jsonl and checkpoints do."""
    return {
        "val_loss": metrics.loss,
        "val_perplexity": metrics.perplexity,
        "val_bits_per_byte": metrics.bits_per_byte,
        "val_accuracy": metrics.accuracy,
    }


def record_of(event: Stepped | Evaluated) -> dict[str, Any]:
    """Return the object that metrics.jsonl and --json show for an event."""
    if isinstance(event, Evaluated):
        return {"step": event.step, **summary(event.metrics), "val_tokens": event.metrics.tokens}
    return {
        "step": event.step,
        "loss": event.loss,
        "perplexity": math.exp(min(event.loss, 700.0)),
        "lr": event.lr,
        "grad_norm": event.grad_norm,
        "tokens": event.tokens,
        "tokens_per_second": event.tokens_per_second,
    }
