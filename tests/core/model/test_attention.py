"""The fused kernel agrees with the plain form, and rotary positions are relative."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.attention import Attend, Attention, attend_all_heads, attend_by_products, attend_one_head
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.positions import Rotary, rotate


@pytest.mark.parametrize("attend", [attend_all_heads, attend_by_products])
@pytest.mark.parametrize(("new", "all_"), [(1, 1), (7, 7), (1, 7), (3, 7)])
def test_all_heads_at_once_agree_with_one_head_at_a_time(attend: Attend, new: int, all_: int) -> None:
    q, k, v = torch.randn(2, 4, new, 8), torch.randn(2, 4, all_, 8), torch.randn(2, 4, all_, 8)
    fused = attend(q, k, v, None, 0.0)
    for row in range(2):
        for head in range(4):
            plain = attend_one_head(q[row, head], k[row, head], v[row, head])
            torch.testing.assert_close(fused[row, head], plain)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_module_agrees_with_one_head_at_a_time(tiny: ModelConfig, kv_heads: int, qk_norm: bool) -> None:
    config = replace(tiny, n_kv_heads=kv_heads, qk_norm=qk_norm)
    attention, rotary = Attention(config, layer=0).eval(), Rotary(config)(torch.arange(9))
    x = torch.randn(1, 9, 32)
    q, k, v = attention.qkv(x)[0].split([32, 8 * kv_heads, 8 * kv_heads], dim=-1)
    heads = []
    for head in range(4):
        shared = head // (4 // kv_heads)  # the key and value head that this query head reads
        q_head = rotate(attention.q_norm(q[:, 8 * head : 8 * head + 8]), rotary)
        k_head = rotate(attention.k_norm(k[:, 8 * shared : 8 * shared + 8]), rotary)
        heads.append(attend_one_head(q_head, k_head, v[:, 8 * shared : 8 * shared + 8]))
    torch.testing.assert_close(attention(x, rotary, None)[0], attention.out(torch.cat(heads, dim=-1)))


def test_both_ways_to_attend_obey_the_same_mask() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8).unbind()
    visible = torch.zeros(2, 1, 9, 9).masked_fill_(torch.rand(2, 1, 9, 9) < 0.3, float("-inf"))
    visible.diagonal(dim1=-2, dim2=-1).zero_()  # every position sees itself
    torch.testing.assert_close(attend_by_products(q, k, v, visible, 0.0), attend_all_heads(q, k, v, visible, 0.0))


def test_anything_of_its_shape_may_take_the_place_of_attend(tiny: ModelConfig) -> None:
    attention = Attention(tiny, layer=0)
    attention.attend = lambda q, k, v, visible, drop_rate: torch.zeros_like(q)
    assert attention(torch.randn(1, 5, 32), None, None).count_nonzero() == 0


def test_rotary_scores_depend_on_the_distance_alone(tiny: ModelConfig) -> None:
    q, k = torch.randn(8), torch.randn(8)
    rotary = Rotary(tiny)(torch.arange(16))
    scores = rotate(q.expand(1, 1, 16, 8), rotary)[0, 0] @ rotate(k.expand(1, 1, 16, 8), rotary)[0, 0].T
    for distance in range(-15, 16):
        same = scores.diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand_as(same))
    assert not torch.allclose(scores[0, 0], scores[0, 5])


def test_a_rotation_keeps_lengths_and_leaves_position_zero_alone(tiny: ModelConfig) -> None:
    x = torch.randn(2, 4, 16, 8)
    turned = rotate(x, Rotary(tiny)(torch.arange(16)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])
    assert rotate(x, None) is x


def test_the_cache_gives_back_all_it_was_given(tiny: ModelConfig) -> None:
    cache = Cache(tiny, 2, torch.device("cpu"), torch.float32)
    first, second = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 3, 8)
    cache.extend(1, first, -first)
    cache.advance(5)
    keys, values = cache.extend(1, second, -second)
    torch.testing.assert_close(keys, torch.cat([first, second], dim=2))
    torch.testing.assert_close(values, -keys)
    assert cache.free == 11
    cache.clear()
    assert cache.free == 16


def test_a_cache_without_room_is_our_bug(tiny: ModelConfig) -> None:
    cache = Cache(tiny, 1, torch.device("cpu"), torch.float32)
    with pytest.raises(AssertionError, match="reserves positions"):
        cache.extend(0, torch.zeros(1, 4, 17, 8), torch.zeros(1, 4, 17, 8))
