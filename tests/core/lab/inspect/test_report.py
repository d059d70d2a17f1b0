"""Which views are shown, and where they may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiara_cli.commands.inspect import two
from kiara_cli.core.lab.inspect.neurons import check, check_layer
from kiara_cli.core.lab.inspect.pictures import check_places
from kiara_cli.core.lab.inspect.report import DEFAULT, VIEWS, views
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError


def test_views_are_a_few_by_default_and_what_other_options_ask_for() -> None:
    assert views(None, corrupt=False, neuron=False) == DEFAULT
    assert views(None, corrupt=True, neuron=True) == (*DEFAULT, "patching", "neurons")
    assert views("lens, norms,lens", corrupt=False, neuron=False) == ("lens", "norms")
    assert views("all", corrupt=True, neuron=False) == VIEWS
    assert "patching" not in views("all", corrupt=False, neuron=False)
    for text, message in (("lense", "--show 'lense': no such view; choose of surprisal, attention"),
                          (",", "no such view"), ("patching", "give the other one by --corrupt")):  # fmt: skip
        with pytest.raises(KiaraError, match=message):
            views(text, corrupt=False, neuron=False)


def test_numbers_and_places_that_are_wrong_are_named(plain: Transformer) -> None:
    assert two("3:17", ":", "--neuron", "") == (3, 17)
    Path("text.txt").write_text("")
    for wrong, message in (
        (lambda: two("3", ":", "--neuron", "2:17"), "--neuron 3 is not two numbers; write 2:17"),
        (lambda: check_layer(plain, 2), "the model has 2 layers, and no layer 2; give one from 0 to 1"),
        (lambda: check(plain, 0, 9999), "neurons; give one from 0 to 95"),
        (lambda: check_places(None, Path()), "is a folder; give a file"),
        (lambda: check_places(Path("text.txt"), None), "--png text.txt is a file; give a folder"),
    ):
        with pytest.raises(KiaraError, match=message):
            wrong()
