"""Why a token: the same in steps with a cache as in one pass, and sources that are the heads' contributions."""

from __future__ import annotations

import pytest
import torch

from kiara_cli.core.lab.inspect import why as module
from kiara_cli.core.lab.inspect.attribution import attribute
from kiara_cli.core.lab.inspect.trace import trace
from kiara_cli.core.lab.inspect.why import Explainer, why
from kiara_cli.core.model.points import hooked
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError


@torch.no_grad()
def test_sources_are_what_all_heads_read_there_compared_with_the_mean_of_the_vocabulary(
    net: Transformer, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PASS", 2)
    monkeypatch.setattr(module, "ROWS", 3)
    explainer = Explainer(net, ids, start=4, top=64, sources=len(ids))
    steps = 0
    while not explainer.done:
        explainer.step()
        steps += 1
    assert steps == 2 + 2  # three positions before the one that the reply begins after, and six tokens
    seen = trace(net, ids)
    for one in explainer.whys[::3]:
        place = one.position - 1
        shares = seen.logits[place].softmax(dim=-1)
        assert one.token == ids[one.position]
        assert one.probability == pytest.approx(float(shares[one.token]), abs=1e-5)
        assert dict(one.top) == pytest.approx(dict(enumerate(shares.tolist())), abs=1e-5)
        assert one.top[one.rank - 1][0] == one.token
        every = torch.stack([attribute(net, seen, place, token).sources.sum(dim=(0, 1)) for token in range(64)])
        expected = every[one.token] - every.mean(dim=0)
        found = dict(one.sources)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        for source in range(place + 1):
            assert found.get(source, 0.0) == pytest.approx(max(float(expected[source]), 0.0), abs=1e-3)
    assert [one.position for one in explainer.whys] == list(range(4, len(ids)))
    assert not hooked(*net.modules())


def test_no_reply_and_one_that_is_too_long_are_refused(plain: Transformer, ids: list[int]) -> None:
    with pytest.raises(KiaraError, match="no reply to explain"):
        why(plain, ids, start=len(ids))
    with pytest.raises(KiaraError, match="20 tokens long, and this model reads 16"):
        why(plain, ids * 2, start=3)
