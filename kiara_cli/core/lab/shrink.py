"""What a model loses and gains by small weights: made, measured before and after, and written.

In: an opened checkpoint, a scheme and text. Out: events as matrices become small, then the `Report`; and the file.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.eval.metrics import Metrics, evaluate
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.lab.speed import bytes_read, decoding
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize import apply
from kiara_cli.core.quantize.apply import Rounded
from kiara_cli.core.quantize.calibrate import batches_of
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.quantize.tune import tune
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Texts:
    """Ids to calibrate on and ids to measure on; None where there are none."""

    calibration: Tokens | None
    held_out: Tokens | None


@dataclass(frozen=True)
class Side:
    """One of the two models. Bytes are of the weights that writing a token reads, and of the file."""

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
        rows.append(("weights a token reads", f"{a.weight_bytes:,} → {b.weight_bytes:,} bytes"))
        rows.append(("one text", f"{a.tokens_per_second:,.0f} → {b.tokens_per_second:,.0f} tokens/s"))
        if a.metrics is not None and b.metrics is not None and self.change is not None:
            rows.append(("loss", f"{a.metrics.loss:.5f} → {b.metrics.loss:.5f}"))
            bits = f"{a.metrics.bits_per_byte:.5f} → {b.metrics.bits_per_byte:.5f}"
            rows.append(("bits per byte", f"{bits} ({self.change:+.3%})"))
        return rows


@dataclass(frozen=True)
class Shrinking:
    """All that it takes to make a checkpoint small."""

    checkpoint: Checkpoint
    config: Config
    tokenizer: Tokenizer
    runtime: Runtime
    scheme: Scheme
    make_engine: Callable[[Transformer], Engine]

    def check(self, model: Transformer) -> None:
        """Raise KiaraError if the model cannot be made small in this way."""
        apply.check(model, self.scheme)

    def run(self, model: Transformer, texts: Texts, out: Path) -> Iterator[Rounded | Report]:
        """Make it, write it to `out`, measure both; yield each matrix, then the report. Raises KiaraError."""
        small, layers = copy.deepcopy(model), []
        batches = None
        if self.scheme.method == "gptq":
            assert texts.calibration is not None
            enough, context = self.config.quantize.calibration_tokens, self.config.model.context_length
            batches = batches_of(texts.calibration, self.tokenizer.specials, context, enough)
        for layer in apply.quantize(small, self.scheme, batches):
            layers.append(layer)
            yield layer
        if batches is not None:
            tune(small, model, batches, self.config.quantize.tune_passes)
        before = self._measured(model, texts, self.checkpoint.path)
        metrics = self._metrics(small, texts)
        self._save(small, metrics, out)
        after = dataclasses.replace(self._measured(small, Texts(None, None), out), metrics=metrics)
        parameters = sum(p.numel() for p in model.parameters())
        yield Report(out, self.scheme, parameters, before, after, layers)

    def _save(self, small: Transformer, metrics: Metrics | None, out: Path) -> None:
        known = dict(self.checkpoint.metrics)
        if metrics is not None:
            known |= {"val_loss": metrics.loss, "val_bits_per_byte": metrics.bits_per_byte}
        made = dataclasses.replace(
            self.checkpoint,
            model=apply.to_store(files.weights_of(small)),
            metrics=known,
            quantize=self.scheme.record(),
            optimizer=None,
            progress=None,
        )
        files.save(made, out)

    def _measured(self, model: Transformer, texts: Texts, path: Path) -> Side:
        engine = self.make_engine(model)
        return Side(self._metrics(model, texts), decoding(engine), bytes_read(engine), path.stat().st_size)

    def _metrics(self, model: Transformer, texts: Texts) -> Metrics | None:
        if texts.held_out is None:
            return None
        settings = self.config.eval
        try:
            return evaluate(
                model, texts.held_out, self.tokenizer, self.runtime, settings.batch_size, settings.max_tokens
            )
        except KiaraError:
            return None  # too short to measure anything on
