"""Neurons: the strongest of a layer, and the tokens that excite one."""

from __future__ import annotations

import pytest
import torch

from kiara_cli.core.lab.inspect.neurons import active, neuron
from kiara_cli.core.lab.inspect.trace import trace
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError


@torch.no_grad()
def test_the_strongest_neurons_are_those_before_the_projection_down(net: Transformer, ids: list[int]) -> None:
    seen = trace(net, ids)
    forward = net.blocks[1].feedforward
    normed = net.blocks[1].norm_2(
        seen.at(1, "resid_pre" if net.config.residual == "parallel" else "resid_mid"))  # fmt: skip
    hidden = forward.gate(forward.gate_up(normed)) if net.config.gated else forward.activation(forward.up(normed))
    for one in active(seen, 1, top=3):
        row = hidden[one.position]
        assert [index for index, _ in one.neurons] == row.abs().argsort(descending=True)[:3].tolist()
        assert [value for _, value in one.neurons] == pytest.approx([float(row[i]) for i, _ in one.neurons], abs=1e-4)


def test_a_neuron_is_excited_most_by_the_tokens_with_the_largest_activations(
    plain: Transformer, ids: list[int]
) -> None:
    windows = [[1, 2, 3, 4], [9, 8, 7]]
    found = neuron(plain, trace(plain, ids), windows, layer=0, index=5, top=3, context=2)
    values = [
        (float(value), window, place)
        for window in windows
        for place, value in enumerate(trace(plain, window).at(0, "feedforward.hidden")[:, 5])
    ]
    best = sorted(values, key=lambda one: -one[0])[:3]
    assert [one.activation for one in found.excited] == pytest.approx([value for value, _, _ in best])
    assert [(one.before, one.token) for one in found.excited] == [
        (window[max(0, place - 2) : place], window[place]) for _, window, place in best
    ]
    assert found.activations == pytest.approx(trace(plain, ids).at(0, "feedforward.hidden")[:, 5].tolist())
    assert found.tokens == 7
    for layer, index, message in (
        (2, 0, "2 layers, and no layer 2; give one from 0 to 1"),
        (0, 999, "neurons; give"),
    ):
        with pytest.raises(KiaraError, match=message):
            neuron(plain, trace(plain, ids), windows, layer, index)
