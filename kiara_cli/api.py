"""For Python programs: train, measure, load a model, continue texts.

    from kiara_cli import api

    run = api.train("book.txt", {"train.max_steps": 100})
    print(api.evaluate(run.best).bits_per_byte)
    model = api.load_model(run.best)
    print(api.generate_text(model, "Once upon a time", max_new_tokens=50, seed=1))

In: texts, checkpoints, prompts. Out: what the commands of the same names make. Mistakes raise `KiaraError`; torch's
global settings are the host's own again after each call.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.config.layers import Layer
from kiara_cli.config.load import from_mapping, load_config, merge
from kiara_cli.config.schema import DataConfig, GenerateConfig
from kiara_cli.core.eval import held_out
from kiara_cli.core.eval.held_out import HeldOut
from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.generate import text as texts
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.opened import Opened, open_model
from kiara_cli.core.lab.baseline import held_to
from kiara_cli.core.runtime.guest import as_guest, host_settings_kept
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.core.train import job
from kiara_cli.core.train.events import Event, Finished
from kiara_cli.errors import KiaraError

DATA, RUNS = Path("data"), Path("checkpoints")  # where the commands keep them, too


@dataclass(frozen=True)
class Model:
    """A model ready to write. Use one from one thread at a time."""

    opened: Opened
    engine: Engine

    @property
    def tokenizer(self) -> Tokenizer:
        return self.opened.tokenizer


def train(
    source: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    config: str | Sequence[str] = (),
    name: str | None = None,
    weights: str | Path | None = None,
    resume: bool = False,
    allow_changed_data: bool = False,
    skip_bad: bool = False,
    hooks: Sequence[str | Path] = (),
    baseline: str | None = None,
    change: str | None = None,
    on_event: Callable[[Event], object] = lambda event: None,
    **more: Any,
) -> Finished:
    """Train a model, as `kiara train` does: the same layers of settings, the same folders; return how it ended.

    `source` is what there is to learn from; `settings`, and `more`, are by dotted keys, `{"train.max_steps": 100}`;
    `config` names config files; `weights` is a checkpoint to start from; `resume` continues the newest run, or the
    one of that name; `skip_bad` leaves out what cannot be read; `hooks` are files of hooks to run; `baseline` is
    a run that this one is held to, and `change` says as `--change` does which settings are one. `on_event` is called
    with every event, `Planned` first. A run that diverges does not raise: look at the result's `status`.
    Raises KiaraError.
    """
    files = load_config([config] if isinstance(config, str) else config, (), os.environ, check=False)
    loaded = merge([*files.layers, Layer("api.train", {**(settings or {}), **more})])
    wanted = job.Job(
        loaded,
        DATA,
        RUNS,
        source=None if source is None else str(source),
        name=name,
        weights=None if weights is None else str(weights),
        resume=resume,
        allow_changed_data=allow_changed_data,
        check=held_to(baseline, change, resume, RUNS),
        skip_bad=skip_bad,
        hook_files=tuple(map(str, hooks)),
    )
    with host_settings_kept():
        for event in job.run(wanted):
            on_event(event)
    assert isinstance(event, Finished)
    return event


def load_model(checkpoint: str | Path | None = None, **runtime: Any) -> Model:
    """Load a checkpoint: a file, a run's folder or name; None: the best there is, as commands find it.

    `runtime` are settings of the section of that name, such as `device="cpu"` or `threads=2`. Raises KiaraError.
    """
    with host_settings_kept():
        given = from_mapping({"runtime": runtime}, "load_model")
        found = open_model(None if checkpoint is None else str(checkpoint), given, ("tokenizer", "model", "data"))
        return Model(found, found.engine())


def evaluate(
    model: Model | str | Path | None = None,
    split: held_out.Split = "val",
    text: str | Path | None = None,
    stride: int | None = None,
) -> Metrics:
    """Measure a model, or a checkpoint as `load_model` finds it, on a split of its own data or on a text file.

    Windows begin `stride` tokens after each other, by default as many as the model reads. Raises KiaraError.
    """
    measured = model if isinstance(model, Model) else load_model(model)
    opened, where = measured.opened, HeldOut(DATA, split, None if text is None else Path(text))
    if text is not None:  # it is read as any text is, whatever the model's own data was
        opened = dataclasses.replace(opened, config=dataclasses.replace(opened.config, data=DataConfig()))
    if stride is not None:
        settings = dataclasses.replace(opened.config.eval, stride=stride)
        opened = dataclasses.replace(opened, config=dataclasses.replace(opened.config, eval=settings))
    with host_settings_kept(opened.runtime.threads):
        return held_out.measure(opened, held_out.held_of(opened, where))


def generate_text(model: Model, prompt: str, **settings: Any) -> str:
    """Continue a text; an empty prompt starts a document. Raises KiaraError for settings out of range."""
    return "".join(stream_text(model, prompt, **settings))


def stream_text(model: Model, prompt: str, **settings: Any) -> Iterator[str]:
    """Continue a text piece by piece, in whole characters; `settings` are those of the section `generate`.

    Leaving the loop ends the generation.
    """
    known = [field.name for field in dataclasses.fields(GenerateConfig)]
    for name in settings:
        if name not in known:
            raise KiaraError(f"there is no setting {name}", f"there are: {', '.join(known)}")
    config, ends = GenerateConfig(**settings), model.opened.ends
    events = texts.generate_text(model.engine, model.tokenizer, prompt, config, ends)
    for event in as_guest(events, model.opened.runtime.threads):
        if isinstance(event, texts.Piece):
            yield event.text
