"""Groups and bins, against counts made one target at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from kiara_cli.core.eval.details import Details
from kiara_cli.core.eval.metrics import Scored, _deviation

VOCABULARY, CONTEXT, NUMBER = 40, 20, 3000


@pytest.fixture
def scored() -> Scored:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(NUMBER, VOCABULARY, generator=draw)
    logits[:, :3] += 3
    targets = logits.softmax(-1).multinomial(1, generator=draw).squeeze(1)  # so it is calibrated
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return Scored(logits, targets, nats, torch.randint(1, CONTEXT + 1, (NUMBER,), generator=draw))


@pytest.fixture
def details(scored: Scored) -> Details:
    found = Details(CONTEXT, VOCABULARY)
    for part in (slice(0, 1000), slice(1000, NUMBER)):
        found(Scored(scored.logits[part], scored.targets[part], scored.nats[part], scored.seen[part]))
    return found


def test_bins_hold_confidence_and_accuracy_as_counted_one_by_one(scored: Scored, details: Details) -> None:
    bins: dict[int, list[tuple[float, bool]]] = {}
    top = 0
    for logits, target in zip(scored.logits, scored.targets.tolist(), strict=True):
        chances = logits.softmax(-1)
        bins.setdefault(int(chances.max() * 10), []).append((float(chances.max()), int(chances.argmax()) == target))
        top += target in chances.topk(5).indices
    found = details.calibration()
    assert [one.tokens for one in found] == [len(bins[key]) for key in sorted(bins)]
    for one, key in zip(found, sorted(bins), strict=True):
        sure, right = np.array(bins[key], dtype=float).T
        assert (one.low, one.confidence, one.accuracy) == pytest.approx((key / 10, sure.mean(), right.mean()))
    gaps = [abs(one.confidence - one.accuracy) * one.tokens / NUMBER for one in found]
    assert details.calibration_error == pytest.approx(sum(gaps))
    assert sum(gaps) < 0.03
    assert details.accuracy == pytest.approx(top / NUMBER)


def test_a_model_that_is_too_sure_has_a_large_calibration_error(scored: Scored, details: Details) -> None:
    sure = Details(CONTEXT, VOCABULARY)
    nats = torch.nn.functional.cross_entropy(5 * scored.logits, scored.targets, reduction="none")
    sure(Scored(5 * scored.logits, scored.targets, nats, scored.seen))
    assert sure.calibration_error > 5 * details.calibration_error


def test_the_groups_of_a_loss_add_up_to_it(scored: Scored, details: Details) -> None:
    counts = np.arange(VOCABULARY) ** 2
    counts[1] = 0
    positions, frequencies = details.by_position(), details.by_frequency(counts)
    for groups in (positions, frequencies):
        assert sum(group.tokens for group in groups) == NUMBER
        assert sum(group.tokens * group.loss for group in groups) == pytest.approx(float(scored.nats.double().sum()))
    assert [(group.low, group.high) for group in positions] == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 20)]
    (never,) = [group for group in frequencies if group.high == 0]
    assert never.tokens == int((scored.targets < 2).sum())
    limits = [(group.low, group.high) for group in frequencies]
    assert limits == sorted(limits)
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(limits))
    here = (scored.targets == 0) | (scored.targets == 1)
    assert never.loss == pytest.approx(float(scored.nats[here].mean()))


def test_the_standard_error_is_the_spread_of_losses_measured_on_other_text() -> None:
    draw = np.random.default_rng(0)
    losses, errors = [], []
    for _ in range(400):
        level = np.repeat(draw.normal(2, 0.5, 50), 8)  # 50 texts of 8 rows each, which resemble each other
        counts = draw.integers(10, 30, 400)
        sums = torch.tensor(np.stack([counts * (level + draw.normal(0, 0.2, 400)), counts]))
        losses.append(float(sums[0].sum() / sums[1].sum()))
        deviation = _deviation(sums, 50)
        assert deviation is not None
        errors.append(deviation / float(sums[1].sum()))
    assert np.mean(errors) == pytest.approx(np.std(losses), rel=0.1)
    assert _deviation(torch.ones(2, 1), 50) is None
