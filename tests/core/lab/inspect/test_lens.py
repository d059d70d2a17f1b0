"""Logit lens, surprisal and norms against the model itself."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from kiara_cli.core.lab.inspect.lens import lens, norms, surprisals
from kiara_cli.core.lab.inspect.trace import trace
from kiara_cli.core.model.transformer import Transformer


@torch.no_grad()
def test_the_lens_after_the_last_layer_is_the_model_and_before_the_first_the_embedding(
    net: Transformer, ids: list[int]
) -> None:
    seen = trace(net, ids)
    found = lens(net, seen, top=64)
    logits = net(torch.tensor([ids]))[0]
    assert found.depths == ["embedding", "layer 0", "layer 1"]
    first = net.head(net.norm(seen.at(0, "resid_pre")))
    for guesses, expected in ((found.guesses[-1], logits), (found.guesses[0], first)):
        for place, guess in enumerate(guesses):
            shares = expected[place].softmax(dim=-1)
            assert [token for token, _ in guess.top[:3]] == expected[place].argsort(descending=True)[:3].tolist()
            assert dict(guess.top) == pytest.approx(dict(enumerate(shares.tolist())), abs=1e-4)
            if place + 1 < len(ids):
                token = ids[place + 1]
                assert guess.probability == pytest.approx(float(shares[token]), abs=1e-4)
                assert guess.rank is not None
                assert guess.top[guess.rank - 1][0] == token
            else:
                assert guess.rank is guess.probability is None


@torch.no_grad()
def test_surprisals_add_up_to_the_loss(net: Transformer, ids: list[int]) -> None:
    found = surprisals(trace(net, ids))
    logits = net(torch.tensor([ids]))[0]
    loss = float(F.cross_entropy(logits[:-1], torch.tensor(ids[1:])))
    assert sum(one.nats for one in found) / len(found) == pytest.approx(loss, abs=1e-4)
    assert [one.position for one in found] == list(range(1, len(ids)))
    assert found[0].bits == pytest.approx(found[0].nats / math.log(2))
    assert (found[0].rank == 1) == (int(logits[0].argmax()) == ids[1])


@torch.no_grad()
def test_norms_are_lengths_of_what_passes(plain: Transformer, ids: list[int]) -> None:
    seen = trace(plain, ids)
    found = norms(plain, seen)
    assert len(found) == 10
    assert found["blocks.1.resid_post"][3] == pytest.approx(float(seen.at(1, "resid_post")[3].square().sum() ** 0.5))
