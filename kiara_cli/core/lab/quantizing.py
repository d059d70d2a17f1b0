"""A checkpoint quantized: what that loses and gains, measured before and after.

In: an opened checkpoint, a scheme and text. Out: events as matrices are quantized, then the `Report`; and the file.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.core.checkpoint import files
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.eval.held_out import Held, HeldOut, ids_to_calibrate, measure
from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.lab.speed import bytes_read, decoding
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize import apply
from kiara_cli.core.quantize.apply import Rounded
from kiara_cli.core.quantize.calibrate import batches_of
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.quantize.tune import tune
from kiara_cli.errors import KiaraError

log = logging.getLogger("kiara.quantize")


@dataclass(frozen=True)
class Side:
    """One of the two models. Bytes are of the weights that a decode step reads, and of the file."""

    metrics: Metrics | None
    tokens_per_second: float
    weight_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Report:
    """Before and after."""

    out: Path
    scheme: Scheme
    parameters: int
    before: Side
    after: Side
    layers: list[Rounded]

    @property
    def change(self) -> float | None:
        """How much more bits a byte of held-out text takes, as a share."""
        if self.before.metrics is None or self.after.metrics is None:
            return None
        return self.after.metrics.bits_per_byte / self.before.metrics.bits_per_byte - 1

    @property
    def size(self) -> float:
        """The file's size as a share of what it would have with 16 bits a weight."""
        rest = self.before.file_bytes - 4 * self.parameters  # tokenizer, config: what is not weights of 32 bits
        return self.after.file_bytes / (max(0, rest) + 2 * self.parameters)

    def record(self) -> dict[str, Any]:
        """Return the report as one JSON object."""
        values: dict[str, Any] = {"out": str(self.out), **self.scheme.record(), "size_against_bf16": self.size}
        for name, side in (("before", self.before), ("after", self.after)):
            values[name] = {
                "file_bytes": side.file_bytes,
                "weight_bytes": side.weight_bytes,
                "tokens_per_second": side.tokens_per_second,
            }
            if side.metrics is not None:
                values[name] |= {"loss": side.metrics.loss, "bits_per_byte": side.metrics.bits_per_byte}
        return values | {"change": self.change, "layers": [dataclasses.asdict(layer) for layer in self.layers]}

    def rows(self) -> list[tuple[str, str]]:
        """Return the report as names and values for a person."""
        a, b = self.before, self.after
        rows = [("file", f"{a.file_bytes:,} → {b.file_bytes:,} bytes, {self.size:.3f} of 16 bits a weight")]
        rows.append(("weights per token", f"{a.weight_bytes:,} → {b.weight_bytes:,} bytes"))
        rows.append(("decoding", f"{a.tokens_per_second:,.0f} → {b.tokens_per_second:,.0f} tokens/s"))
        if a.metrics is not None and b.metrics is not None and self.change is not None:
            rows.append(("loss", f"{a.metrics.loss:.5f} → {b.metrics.loss:.5f}"))
            bits = f"{a.metrics.bits_per_byte:.5f} → {b.metrics.bits_per_byte:.5f}"
            rows.append(("bits per byte", f"{bits} ({self.change:+.3%})"))
        return rows


def check(opened: Opened, scheme: Scheme) -> None:
    """Raise KiaraError if the checkpoint cannot be quantized in this way."""
    if (had := opened.checkpoint.quantize) is not None:
        raise KiaraError(
            f"{opened.checkpoint.path} has {had['bits']} bits a weight already",
            "quantize the checkpoint that it was made from",
        )
    apply.check(opened.model, scheme)


def ids_for(opened: Opened, scheme: Scheme, where: HeldOut) -> tuple[Tokens | None, Held | None]:
    """Return ids to calibrate on and ids to measure on, None where there are none.

    Raises KiaraError if the scheme needs them, or if a text was named.
    """
    try:
        return ids_to_calibrate(opened, where)
    except KiaraError as error:
        if where.text is not None:
            raise
        if scheme.method == "gptq":
            raise KiaraError(
                f"there is nothing to calibrate on: {error.cause}", "give --text FILE, or use --method rtn"
            ) from None
        log.info("Not measured: %s.", error.cause)
        return None, None


def quantize(
    opened: Opened, scheme: Scheme, calibration: Tokens | None, held_out: Held | None, out: Path
) -> Iterator[Rounded | Report]:
    """Quantize a checkpoint into the file `out`, and measure both; yield each matrix, then the report."""
    quantized, layers, batches = copy.deepcopy(opened.model), [], None
    if scheme.method == "gptq":
        assert calibration is not None
        settings, context = opened.config.quantize, opened.config.model.context_length
        batches = batches_of(calibration, opened.tokenizer.specials, context, settings.calibration_tokens)
    for layer in apply.quantize(quantized, scheme, batches):
        layers.append(layer)
        yield layer
    if batches is not None:
        tune(quantized, opened.model, batches, opened.config.quantize.tune_passes)
    before = _measured(opened, opened.model, held_out, opened.checkpoint.path)
    metrics = _metrics(opened, quantized, held_out)
    _save(opened, scheme, quantized, metrics, out)
    after = dataclasses.replace(_measured(opened, quantized, None, out), metrics=metrics)
    parameters = sum(parameter.numel() for parameter in opened.model.parameters())
    yield Report(out, scheme, parameters, before, after, layers)


def _save(opened: Opened, scheme: Scheme, quantized: Transformer, metrics: Metrics | None, out: Path) -> None:
    known = dict(opened.checkpoint.metrics)
    if metrics is not None:
        known |= {"val_loss": metrics.loss, "val_bits_per_byte": metrics.bits_per_byte}
    made = dataclasses.replace(
        opened.checkpoint,
        model=apply.to_store(files.weights_of(quantized)),
        metrics=known,
        quantize=scheme.record(),
        optimizer=None,
        progress=None,
    )
    files.save(made, out)


def _measured(opened: Opened, model: Transformer, held_out: Held | None, path: Path) -> Side:
    engine = opened.engine(model)
    return Side(_metrics(opened, model, held_out), decoding(engine), bytes_read(engine), path.stat().st_size)


def _metrics(opened: Opened, model: Transformer, held_out: Held | None) -> Metrics | None:
    try:
        return measure(opened, held_out, model) if held_out is not None else None
    except KiaraError:
        return None  # too short to measure anything on
