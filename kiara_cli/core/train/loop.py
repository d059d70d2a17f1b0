"""READ SECOND. The training loop: batch, forward, loss, backward, clip, step, log, evaluate, save.

In: a `Training`. Out: events, ending with `Finished`; the run's folder is written on the way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator

import torch

from kiara_cli.core.eval.metrics import Metrics, evaluate
from kiara_cli.core.eval.samples import FIRST_WORDS
from kiara_cli.core.generate.text import complete, make_engine, stream_text
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import matrix_rate, not_strict, peak_memory, refusals_in_words
from kiara_cli.core.runtime.ranks import failing_for_all
from kiara_cli.core.tokenizer.chat_format import encode_prompt, stop_ids
from kiara_cli.core.train.events import (
    Evaluated,
    Event,
    Finished,
    Sampled,
    Saved,
    Skipped,
    Spiked,
    Status,
    Stepped,
    ThreadsChanged,
)
from kiara_cli.core.train.meter import Meter
from kiara_cli.core.train.numerics import first_nonfinite, loss_spike, lower_loss_scale, raise_loss_scale
from kiara_cli.core.train.preference import PairMetrics, measure_pairs
from kiara_cli.core.train.records import describe, record_of, summary
from kiara_cli.core.train.saving import save
from kiara_cli.core.train.schedule import learning_rate
from kiara_cli.core.train.spread import last_of_update, let_go, whole
from kiara_cli.core.train.state import Training
from kiara_cli.core.train.writers import Write, recording

log = logging.getLogger("kiara.train")


def train(training: Training, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Train to the end, or until `should_stop` says so between two steps; save in either case."""
    runtime = training.runtime
    peak = matrix_rate(runtime.device, runtime.dtype)
    meter = Meter(training.plan.flops_per_token, peak * training.world.size, runtime.device)
    training.asks_to_stop = should_stop
    try:
        with (
            failing_for_all(training.world),
            training.run.noting_the_end(),
            refusals_in_words(),
            recording(training.config, training.run, training.progress.step) as write,
        ):
            yield from steps(training, meter, write)
    finally:
        training.feed.close()
        training.lock.release()


def steps(training: Training, meter: Meter, write: Write) -> Iterator[Event]:
    """Make the updates, and after each what is due: a record, an evaluation, a checkpoint."""
    config, progress, total = training.config.train, training.progress, training.plan.steps
    tokens = training.plan.tokens_per_step
    status: Status = "finished"
    reason = None
    training.model.train()

    while progress.step < total and reason is None:
        lr = learning_rate(progress.step + 1, total, config)
        with training.threads.step():
            loss, grad_norm, skipped = update(training, lr, meter)
        if (change := training.threads.change) is not None:
            changed = ThreadsChanged(progress.step + (skipped is None), **vars(change))
            write(record_of(changed))
            yield changed
        if skipped is not None:
            write(record_of(skipped))
            yield skipped
            if skipped.in_a_row > config.skip_batches:
                status, reason = "diverged", describe(skipped)
            continue
        progress.step += 1
        progress.tokens += tokens
        meter.add(tokens)
        progress.losses.append(loss)
        last = progress.step == total or training.stops

        if progress.step % config.log_interval == 0 or progress.step == total:
            reading = meter.read()
            mean = math.fsum(progress.losses) / len(progress.losses)
            progress.losses.clear()
            left = (total - progress.step) * tokens / max(1e-9, reading.tokens_per_second)
            memory = peak_memory(training.runtime.device)
            more = training.logged()
            progress.seconds += meter.lap()
            logged = Stepped(
                progress.step, mean, lr, grad_norm, progress.tokens, left, reading, memory, more, progress.seconds
            )
            training.metrics["train_loss"] = mean
            write(record_of(logged))
            yield logged
            if (usual := loss_spike(progress, mean)) is not None:
                yield Spiked(progress.step, mean, usual)

        first = progress.best_val_loss is None
        evaluates = progress.step % config.eval_interval == 0 or progress.step == total
        if evaluates:
            meter.begin("evaluation")
            yield from validate(training, write)
            peak = matrix_rate(training.runtime.device, training.runtime.dtype, again=True)
            meter.peak = peak * training.world.size
            if config.patience is not None and progress.without_best >= config.patience:
                reason = f"no new best in {progress.without_best} evaluations (train.patience)"
        if (evaluates and first) or progress.step % config.checkpoint_interval == 0 or last or reason:
            meter.begin("saving")
            yield from save(training, ends=last or reason is not None)
        elif training.background is not None:
            yield from training.background.poll(training)
        meter.begin(None)
        progress.seconds += meter.lap()
        if last and progress.step < total:
            status = "interrupted"
            break

    if training.background is not None:
        yield from training.background.finish(training)
    progress.seconds += meter.lap()
    yield finish(training, status, reason)


def update(training: Training, lr: float, meter: Meter) -> tuple[float, float, Skipped | None]:
    """Make one update of the weights; return the mean loss and the gradient's norm before clipping.

    Where either is not finite nothing changes, the batches count as drawn, and `Skipped` says what went wrong. Both
    numbers are read together, once an update; nothing else waits for the device.
    """
    config, progress, model, hooks = training.config.train, training.progress, training.model, training.hooks
    scale = progress.loss_scale * training.world.size  # gradients are means over processes, targets are of all
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    meter.begin("data")
    position = progress.position
    batches = training.feed.take(position)
    progress.position += config.accumulation
    nats = []
    training.begin_update()
    for number, batch in enumerate(batches.parts, 1):
        meter.begin("forward")
        last_of_update(model, number == len(batches.parts))
        with training.runtime.precision():
            states = model.states(batch.inputs, segments=batch.segments)  # (B, T, D)
            objective, cross_entropy = training.score(states, batch)
            if hooks is not None:
                objective = hooks.objective(objective, states, batch)
        meter.begin("backward")
        (objective * (scale / batches.targets)).backward()  # type: ignore[no-untyped-call]
        nats.append(cross_entropy)

    meter.begin("optimizer")
    gradients = [parameter.grad for parameter in training.weights if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    total, *flags = training.agree(torch.stack(nats).sum())
    loss, grad_norm, *said = torch.stack((total / batches.targets, norm / progress.loss_scale, *flags)).tolist()
    training.heed(*said)
    if not math.isfinite(loss) or not math.isfinite(grad_norm):
        training.blame()
        overflow = math.isfinite(loss) and lower_loss_scale(progress)  # fp16's own trouble: no fault of the training
        progress.skipped += 1
        progress.skipped_in_a_row += 0 if overflow else 1
        where = "fp16 overflow, loss scale halved" if overflow else first_nonfinite(model)
        training.optimizer.zero_grad()
        in_a_row = progress.skipped_in_a_row
        return loss, grad_norm, Skipped(progress.step + 1, position, loss, grad_norm, where, in_a_row)
    if progress.loss_scale != 1.0:
        torch._foreach_div_(gradients, progress.loss_scale)
        raise_loss_scale(progress)
    if hooks is not None and hooks.updates:
        grad_norm = hooks.gradients(training.optimizer, lr, grad_norm)
        gradients = [parameter.grad for parameter in training.weights if parameter.grad is not None]
    if config.grad_clip and grad_norm > config.grad_clip:
        torch._foreach_mul_(gradients, config.grad_clip / (grad_norm + 1e-6))
    if hooks is not None:
        hooks.before_step(training.optimizer, lr)
    with training.runtime.precision():
        training.optimizer.step()
    if hooks is not None:
        hooks.after_step(training.optimizer, lr)
    training.optimizer.zero_grad()
    if training.average is not None:
        training.average.update(progress.step + 1)
    progress.skipped_in_a_row = 0
    meter.begin(None)
    return loss, grad_norm, None


def validate(training: Training, write: Write) -> Iterator[Event]:
    """Measure the validation split, keep the best weights, and generate a sample.

    Where an average of the weights is kept, all of that is done with the average.
    """
    config, progress, metrics = training.config, training.progress, training.metrics
    with training.average.in_place() if training.average is not None else contextlib.nullcontext():
        started = time.perf_counter()
        measured = measure(training)
        is_best = progress.best_val_loss is None or measured.loss < progress.best_val_loss
        metrics |= summary(measured) | {"step": progress.step, "tokens": progress.tokens}
        event = Evaluated(progress.step, measured, is_best, time.perf_counter() - started)
        write(record_of(event))
        yield event
        progress.without_best = 0 if is_best else progress.without_best + 1
        if is_best:
            progress.best_val_loss, progress.best_step = measured.loss, progress.step
            started = time.perf_counter()
            checkpoint = training.checkpoint(metrics, resumable=False)
            path = training.run.save_best(checkpoint, config.train.save_safetensors)
            training.run.publish()
            yield Saved(progress.step, path, time.perf_counter() - started)
        if config.eval.sample_tokens and (model := training.readable()) is not None:
            with not_strict():
                sampled = sample_text(training, model)
            yield sampled


def measure(training: Training) -> Metrics | PairMetrics:
    """Measure the validation split."""
    config, runtime, world = training.config, training.runtime_now, training.world
    if training.preference is not None:
        pairs, limit = training.pairs["val"], config.eval.max_tokens
        found: Metrics | PairMetrics = measure_pairs(
            training.model, pairs, training.preference, runtime, limit, world
        )
    else:
        found = evaluate(
            training.model, training.data.val, training.data.tokenizer, runtime, config.eval.batch_size,
            config.eval.max_tokens, stride=config.eval.stride, lengths=training.byte_lengths, world=world,
        )  # fmt: skip
    let_go(training.model)
    return found


def finish(training: Training, status: Status, reason: str | None) -> Finished:
    """Note in run.json how it ended."""
    progress, run = training.progress, training.run
    run.set_status(
        status,
        step=progress.step,
        val_loss=progress.best_val_loss,
        best={key: value for key, value in (run.history().best or {}).items() if key != "val_seconds"},
        tokens=progress.tokens,
        seconds=progress.seconds,
        training_flops=training.plan.flops_per_token * progress.tokens,
        peak_memory_bytes=peak_memory(training.runtime.device),
        reason=reason,
        thread_changes=run.facts().get("thread_changes", 0) + training.threads.changes,
    )
    best, last = (path if path.is_file() else None for path in (run.best, run.last))
    val_loss, tokens, seconds = progress.best_val_loss, progress.tokens, progress.seconds
    return Finished(run.name, run.folder, status, progress.step, val_loss, tokens, seconds, best, last, reason)


def sample_text(training: Training, model: Transformer) -> Sampled:
    """Continue the sample prompt, or answer it if the data holds conversations; with the same seed each time."""
    config, tokenizer = training.config, training.data.tokenizer
    engine = make_engine(model, tokenizer, training.runtime_now)
    settings = dataclasses.replace(
        config.generate, max_new_tokens=config.eval.sample_tokens, seed=config.runtime.seed
    )
    prompt = config.eval.sample_prompt
    if training.data.meta.train_conversations:
        prompt = prompt or FIRST_WORDS
        ids = encode_prompt([{"role": "user", "content": prompt}], tokenizer)
        *_, done = stream_text(engine, tokenizer, ids, settings, stop_ids(tokenizer))
        text = done.text
    else:
        text = prompt + complete(engine, tokenizer, prompt, settings).text
    training.model.train()
    return Sampled(training.progress.step, prompt, text)
