"""Patterns and scores of heads, against the plainest form of attention and patterns written by hand."""

from __future__ import annotations

import pytest
import torch

from kiara_cli.core.lab.inspect.attention import copying, heads, keys_by_score, share
from kiara_cli.core.lab.inspect.attribution import attribute
from kiara_cli.core.lab.inspect.trace import READ, trace
from kiara_cli.core.model.attention import attend_one_head
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError


def test_the_pattern_of_every_head_is_that_of_one_head_written_out(net: Transformer, ids: list[int]) -> None:
    seen = trace(net, ids, (*READ, "blocks.*.attention.rot_*"))
    groups = net.config.n_heads // net.config.n_kv_heads
    for head in heads(net, seen):
        q = seen.at(head.layer, "attention.rot_q")[head.head]
        k = seen.at(head.layer, "attention.rot_k")[head.head // groups]
        torch.testing.assert_close(head.pattern.sum(dim=1), torch.ones(len(ids)))
        assert torch.equal(head.pattern.triu(1), torch.zeros_like(head.pattern))
        written_out = attend_one_head(q, k, torch.eye(len(ids)))  # with these values the result is the pattern
        torch.testing.assert_close(head.pattern, written_out, rtol=1e-4, atol=1e-5)
    assert len(heads(net, seen)) == net.config.n_layers * net.config.n_heads


def test_scores_count_the_keys_that_their_names_say() -> None:
    ids = [5, 9, 3, 5, 9]
    masks = {name: mask.nonzero().tolist() for name, mask in keys_by_score(ids).items()}
    assert masks == {
        "previous": [[1, 0], [2, 1], [3, 2], [4, 3]],
        "first": [[2, 0], [3, 0], [4, 0]],
        "self": [[1, 1], [2, 2], [3, 3], [4, 4]],
        "repeat": [[3, 0], [4, 1]],
        "induction": [[3, 1], [4, 2]],
    }
    pattern = torch.zeros(5, 5)
    pattern[3, 1], pattern[4, 2], pattern[2, 1] = 0.5, 0.25, 1.0
    assert share(pattern, keys_by_score(ids)["induction"]) == pytest.approx(0.375)
    assert share(pattern, keys_by_score([1, 2, 3])["induction"]) is None


@torch.no_grad()
def test_a_copying_head_is_found_by_attention_and_by_its_effect_through_the_earlier_word(
    plain: Transformer, ids: list[int]
) -> None:
    seen = trace(plain, ids)
    found = copying(seen, attribute(plain, seen, 7, ids[8]), position=8)  # 5, said at 0 and 4 before
    assert [one.from_source for one in found] == sorted((one.from_source for one in found), reverse=True)
    for one in found:
        pattern = seen.at(one.layer, "attention.pattern")[one.head, 7]
        assert one.attention == pytest.approx(float(pattern[0] + pattern[4]))
        alone = trace(plain, ids).at(one.layer, "attention.v")[one.head][[0, 4]] * pattern[[0, 4], None]
        added = plain.blocks[one.layer].attention.out.weight[:, 8 * one.head : 8 * one.head + 8] @ alone.sum(dim=0)
        stream = seen.at(1, "resid_post")[7]
        effect = plain.head.weight[5] @ (plain.norm.weight * added / (stream.square().mean() + 1e-6).sqrt())
        assert one.from_source == pytest.approx(float(effect), abs=1e-4)
    with pytest.raises(KiaraError, match="nothing to copy"):
        copying(seen, attribute(plain, seen, 6, ids[7]), position=7)
