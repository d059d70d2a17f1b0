"""A small real checkpoint to write and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from kiara_cli.config.load import to_mapping
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.char import CharTokenizer

Make = Callable[..., Checkpoint]


@pytest.fixture
def make(tiny: ModelConfig) -> Make:
    """Return a function that makes a checkpoint of the tiny model; `resumable` adds optimizer and progress."""

    def make_checkpoint(resumable: bool = False, model: ModelConfig = tiny, seed: int = 0) -> Checkpoint:
        torch.manual_seed(seed)
        network = Transformer(model)
        optimizer = torch.optim.AdamW(network.parameters())
        network(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
        optimizer.step()
        return Checkpoint(
            model=files.weights_of(network),
            config=to_mapping(dataclasses.replace(Config(), model=model)),
            tokenizer=CharTokenizer.fit(["äbc 漢"]).state(),
            metrics={"val_loss": 1.0 / 3.0, "step": 7},
            data={"folder": "data/x-12345678", "hash": "12345678", "name": "x"},
            optimizer=optimizer.state_dict() if resumable else None,
            progress={"step": 7, "random": {"cpu": torch.get_rng_state()}} if resumable else None,
        )

    return make_checkpoint
