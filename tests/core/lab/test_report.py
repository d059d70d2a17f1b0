"""Reports: what is written, what it is worth in steps and in compute, and what a reader could stumble over."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from kiara_cli.core.checkpoint.run import Run
from kiara_cli.core.lab.report import Line as Arm
from kiara_cli.core.lab.report import Report, record, report, steps_share, verdict_of
from kiara_cli.core.lab.study import read_study
from kiara_cli.core.lab.study_page import markdown, parts, write_report
from kiara_cli.core.lab.table import Cell, table_of
from kiara_cli.errors import KiaraError

FLOPS = {"small": 1e12, "middle": 4e12, "large": 16e12, "dear": 1.3e12}
KEYS = {"data_hash": "d", "tokenizer_hash": "t", "threads": 1}


def made(text: str, values: dict[str, float], seeds: int = 4, sd: float = 0.01) -> Report:
    """Write a study and the records of its runs, and report it."""
    Path("study.yaml").write_text(f"{text}\nseeds: {seeds}\n")
    study = read_study(Path("study.yaml"))
    rng, folder = np.random.default_rng(0), Path("checkpoints/study")
    for arm in study.arms:
        for seed in study.seeds:
            run = Run(folder, folder / f"{arm.name}-seed{seed}")
            run.folder.mkdir(parents=True)
            facts = {"status": "finished", "seconds": 2.0, "training_flops": FLOPS.get(arm.name, 1e12), **KEYS}
            run.write_text("run.json", json.dumps({**facts, "code_hash": f"c{seed > 3}"}))
            end = values[arm.name] + float(rng.normal(scale=sd))
            rows = [
                {"step": 10 * n, "val_loss": end + (4 - n), "val_bits_per_byte": end + 4 - n} for n in (1, 2, 3, 4)
            ]
            run.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4')
    return report(table_of(study, folder), folder, {})


VARIANTS = "variants: {'dear': {train.lr: 0.5}, b: {train.beta1: 0.5}}"


def test_a_report_is_written_whole_as_html_markdown_json_and_pictures() -> None:
    found = made(VARIANTS, {"baseline": 2.0, "dear": 1.5, "b": 2.0})
    paths = {path.name: path for path in write_report(found)}
    assert set(paths) == {"report.html", "report.md", "report.json", "differences.png", "curves.png"}
    html, text = paths["report.html"].read_text(), paths["report.md"].read_text()
    for said in ("better by 0.4", "30% more FLOPs", "cannot tell: the noise is ±", "Runs of one seed correlate by"):
        assert said in html
        assert said in text
    assert html.count("<svg") == 2
    assert "http:" not in html
    assert "https:" not in html
    assert "![Difference from the baseline, with its interval.](differences.png)" in text
    found_json = json.loads(paths["report.json"].read_text())
    assert found_json == json.loads(json.dumps(record(found)))
    dear = found_json["arms"][1]
    assert {
        "mean",
        "sd",
        "difference",
        "low",
        "high",
        "p",
        "seeds_needed",
        "verdict",
        "steps",
        "flops",
    } <= dear.keys()
    assert (dear["verdict"], len(found_json["runs"]), found_json["held_fixed"]["code_hash"]) == (
        "better",
        12,
        "2 different",
    )
    assert any("not all runs have the same code" in warning for warning in found.warnings)


def test_sizes_are_reported_as_a_law_with_its_check() -> None:
    sizes = "sizes: {small: {model.n_layers: 1}, middle: {model.n_layers: 2}, large: {model.n_layers: 3}}"
    found = made(sizes, {"small": 4.0, "middle": 2.0, "large": 1.0}, sd=0.001)
    text = markdown("Study", list(parts(found)))
    assert found.scaling is not None
    assert found.scaling.law.slope == pytest.approx(0.5, rel=0.02)
    assert found.scaling.check.measured == pytest.approx(found.scaling.check.loss, rel=0.01)
    for said in ("L = 0.0000 + ", "Checked: from the smaller sizes, 1.6e+13 FLOP should reach 1.0", "(scaling.png)"):
        assert said in text
    write_report(found)
    assert record(found)["scaling"]["check"]["measured"] == pytest.approx(1.0, abs=0.01)


def cells(*curves: list[tuple[int, float]]) -> list[Cell]:
    rows = [tuple({"step": step, "val_loss": loss} for step, loss in curve) for curve in curves]
    return [Cell("a", 1, Run(Path(), Path()), "finished", {"val_loss": 1.0}, each, {}) for each in rows]


def test_what_a_difference_is_worth_is_read_off_the_validation_curves() -> None:
    slow, fast = [(10, 4.0), (20, 3.0), (30, 2.5), (40, 2.0)], [(10, 3.5), (20, 2.0), (30, 1.5), (40, 1.2)]
    assert steps_share(cells(slow), cells(fast), "val_loss") == pytest.approx(2.0)
    assert steps_share(cells(slow), cells([(10, 4.5), (20, 4.0), (30, 3.5), (40, 3.0)]), "val_loss") == pytest.approx(
        0.5
    )
    assert steps_share(cells(slow), cells([(10, 9.0), (40, 8.0)]), "val_loss") is None  # worse than any evaluation
    assert steps_share(cells([(40, 2.0)]), cells([(40, 1.0)]), "val_loss") is None
    assert steps_share(cells(slow, slow), cells(fast, fast), "val_loss") == pytest.approx(2.0)


def test_an_arm_that_cannot_be_judged_and_a_study_without_runs_are_said() -> None:
    Path("study.yaml").write_text(VARIANTS)
    study = read_study(Path("study.yaml"))
    arm = Arm("a", "", math.nan, math.nan, 0, (), (1, 2), math.nan, math.nan, math.nan, math.nan)
    assert verdict_of(arm, None, study)[1].startswith("not judged: fewer than two seeds")
    with pytest.raises(KiaraError, match="no run of the study"):
        report(table_of(study, Path("checkpoints/study")), Path("checkpoints/study"), {})


def test_signs_that_mean_something_in_a_page_are_words_there() -> None:
    odd = "variants: {a: {group: true, train.beta1: 0.5, eval.sample_prompt: '<b>|x'}, b: {train.lr: 0.5}}"
    found = made(odd, {"baseline": 2.0, "a": 1.5, "b": 2.0})
    paths = write_report(found)
    assert "<b>" not in paths[0].read_text()
    assert "<b>|x" not in paths[1].read_text().split("## The study")[0]
