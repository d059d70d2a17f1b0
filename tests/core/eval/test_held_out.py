from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kiara_cli.config.load import from_mapping, to_mapping
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint import files
from kiara_cli.core.eval.held_out import HELD_OUT, Held, HeldOut, ids_of, ids_to_calibrate, measure
from kiara_cli.core.generate.opened import Opened, open_model
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.errors import KiaraError

DATA = Path("data")


@pytest.fixture
def opened(tiny: ModelConfig) -> Opened:
    """A model that was imported: no data of its own is recorded."""
    tokenizer = CharTokenizer("abc ")
    checkpoint = files.Checkpoint(
        files.weights_of(Transformer(tiny)), to_mapping(Config(model=tiny)), tokenizer.state(), {}, {}
    )
    files.save(checkpoint, Path("some.pt"))
    runtime = {"device": "cpu", "dtype": "fp32", "threads": 1}
    return open_model("some.pt", from_mapping({"runtime": runtime}, "a test"))


def test_of_a_text_a_part_is_measured_on_and_the_rest_calibrated_on(opened: Opened) -> None:
    Path("text.txt").write_text("abc cab " * 50)
    where = HeldOut(DATA, text=Path("text.txt"))
    ids = ids_of(opened, where)
    calibration, held_out = ids_to_calibrate(opened, where)
    assert np.array_equal(np.concatenate([calibration, held_out.tokens]), ids)
    assert len(held_out.tokens) == len(ids) // HELD_OUT
    assert (where.name, HeldOut(DATA, "train").name) == ("text.txt", "train")
    assert measure(opened, Held(ids)).tokens == len(ids) - 1
    other = Transformer(opened.model.config)
    assert measure(opened, Held(ids), other).loss != measure(opened, Held(ids)).loss


@pytest.mark.parametrize("ask", [ids_of, ids_to_calibrate])
def test_an_imported_model_has_no_text_of_its_own(opened: Opened, ask: object) -> None:
    with pytest.raises(KiaraError, match=r"some\.pt was imported and has no text of its own; give --text FILE"):
        ask(opened, HeldOut(DATA))  # type: ignore[operator]
