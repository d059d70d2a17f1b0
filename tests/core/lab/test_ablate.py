"""Studies: what a file may say, which runs are made in which order, and what happens when one does not end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiara_cli.config.load import merge
from kiara_cli.core.lab import ablate
from kiara_cli.core.lab.ablate import Ending, Order
from kiara_cli.core.lab.processes import train_one
from kiara_cli.core.lab.report import Report, report
from kiara_cli.core.lab.study import Study, leave_one_out, read_study
from kiara_cli.core.lab.table import table_of
from kiara_cli.core.train.job import Job
from kiara_cli.core.train.job import run as train
from kiara_cli.errors import KiaraError

SMALL = (
    "baseline: {data.source: text.txt, tokenizer.kind: char, model.context_length: 16, model.emb_dim: 32,"
    " model.n_layers: 1, train.max_steps: 4, train.eval_interval: 2, train.checkpoint_interval: 2,"
    " train.batch_size: 4, eval.sample_tokens: 0, runtime.dtype: fp32, runtime.device: cpu, runtime.native: false,"
    " runtime.compile: false}\n"
)
SETTINGS = {"runtime.threads": 1}
Value = Callable[[str, int], float]


def study(text: str, name: str = "study.yaml", **more: Any) -> Study:
    Path(name).write_text(text)
    return read_study(Path(name), **more)


def a_study(more: str = "", variants: str = "  a: {model.feedforward: relu2}\n  b: {train.lr: 0.5}\n") -> Study:
    return study(f"{SMALL}variants:\n{variants}{more}")


def faking(value: Value, made: list[str] | None = None, status: str = "finished") -> Callable[[Order], Ending]:
    """Return what makes a run's folder without training."""

    def make(order: Order) -> Ending:
        if made is not None:
            made.append(order.name)
        number = value(order.arm, order.seed)
        ended = status if math.isfinite(number) else "diverged"
        order.run.folder.mkdir(parents=True, exist_ok=True)
        facts = {"status": ended, "seconds": 2.0, "training_flops": 1e9, "tokens": 100, "code_hash": "c"}
        order.run.write_text("run.json", json.dumps(facts))
        curve = ((step, number + (4 - step) / 4) for step in (1, 2, 3, 4))
        rows = ({"step": step, "val_loss": at, "val_bits_per_byte": at} for step, at in curve)
        order.run.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return Ending(ended)

    return make


def one_thread(jobs: int, stop: Any) -> Executor:
    return ThreadPoolExecutor(1)


def running(given: Study, make: Callable[[Order], Ending], **more: Any) -> Iterator[ablate.Event]:
    place = ablate.open_place(given, Path("runs"), SETTINGS)
    yield from ablate.run(given, place, Path("data"), make=make, executor=one_thread, **more)


def reported(given: Study) -> Report:
    place = ablate.open_place(given, Path("runs"))
    return report(table_of(given, place.folder), place.folder, place.manifest)


def noisy(differences: dict[str, float], sd: float = 0.01) -> Value:
    rng = np.random.default_rng(0)
    drawn = {seed: rng.normal(scale=0.05) for seed in range(20)}
    return lambda arm, seed: 2 + drawn[seed] + differences.get(arm, 0.0) + float(rng.normal(scale=sd))


def test_a_variant_is_one_change_in_either_way_of_writing_and_several_settings_where_declared() -> None:
    found = study(
        f"{SMALL}variants:\n  a: {{model: {{feedforward: relu2}}}}\n"
        "  b: {group: true, train.optimizer: adamw, train.lr: 3e-3}\nseeds: [7, 9]\nmeasure: val_loss\n"
    )
    assert [arm.name for arm in found.arms] == ["baseline", "a", "b"]
    assert found.seeds == (7, 9)
    assert merge(found.layers_of(found.arms[2], 9)).config.train.lr == 0.003
    assert merge(found.layers_of(found.arms[1], 9)).config.runtime.seed == 9
    assert found.configs["a"].model.hidden_dim == 4 * 32  # follows from the change


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("varaints: {}\n", "a study has no 'varaints'; did you mean 'variants'?"),
        ("variants: {a: {model.feedforwrd: relu2}}\n", "no key 'feedforwrd' in model; did you mean 'feedforward'?"),
        ("variants: {a: {train.lr: 0.1, train.beta1: 0.5}}\n", "changes 2 settings at once: train.lr, train.beta1;"),
        ("variants: {a: {model.n_layers: 1}}\n", "study.yaml: a is the baseline: model.n_layers=1;"),
        ("variants: {a: {logging.level: debug}}\n", "study.yaml: a is the baseline: logging.level=debug;"),
        ("variants: {a: {train.lr: 1}, b: {train.lr: 1.0}}\n", "study.yaml: b is the same as a;"),
        ("variants: {a: {train.lr: 1}}\nseeds: 1\n", "a difference is judged by the spread over seeds;"),
        ("variants: {a: {train.lr: 1}}\nseeds: [3, 3]\n", "at least two different ones"),
        ("variants: {a: {train.lr: 1}}\nseeds: many\n", "seeds=['many'] are no whole numbers;"),
        ("variants: {a: {runtime.seed: 3}}\n", "sets runtime.seed, which every seed sets;"),
        ("variants: {a: {eval.max_tokens: 30}}\n", "it would be measured in another way;"),
        ("variants: {a: {tokenizer.kind: word}}\nmeasure: val_loss\n", "write measure: bits_per_byte"),
        ("variants: {a: {data.val_fraction: 0.3}}\n", "it would be measured on other text;"),
        ("variants: {a: 3}\n", "study.yaml: a holds 3, not settings;"),
        ("variants: {'../a': {train.lr: 1}}\n", "cannot name a variant;"),
        ("variants: {}\n", "too few variants;"),
        ("variants: {a: {train.lr: 1}}\nmeasure: accuracy\n", "choose one of: bits_per_byte, val_loss"),
        ("variants: {a: {train.lr: 1}}\nlooks: [5, 3]\n", "do not rise"),
        ("variants: {a: {train.lr: 1}}\nlooks: [3, 9]\n", "the last look is at all seeds"),
        ("variants: {a: {train.lr: 1}}\nsizes: {b: {model.n_layers: 3}}\n", "there are variants and sizes;"),
        ("variants: {a: {train.lr: 1}}\nworth: -1\n", "worth=-1;"),
        ("variants: {a: {train.lr: 1}}\nnoise: some\n", "noise=some;"),
        ("variants: {a: {train.lr: 1}}\nvary: [split]\n", "vary=split; choose among: seed, corpus"),
        ("variants: [a\n", "does not parse"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_says_what_to_do(text: str, wrong: str) -> None:
    with pytest.raises(KiaraError) as raised:
        study(SMALL + text)
    assert wrong in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_tokenizer_is_compared_in_bits_per_byte_and_other_text_on_one_that_all_share() -> None:
    assert a_study(variants="  a: {tokenizer.kind: word}\n").measure == "bits_per_byte"
    shared = SMALL.replace("text.txt,", "text.txt, data.val_source: held.txt,")
    assert len(study(f"{shared}variants: {{a: {{data.source: other.txt}}}}\n").arms) == 2


def test_leave_one_out_takes_back_each_setting_that_a_config_adds() -> None:
    Path("base.yaml").write_text("model: {n_layers: 1, emb_dim: 32}\n")
    Path("more.yaml").write_text("model: {n_layers: 1, feedforward: relu2, hidden_dim: 64}\ntrain: {lr: 0.5}\n")
    found = leave_one_out("base.yaml", "more.yaml", seeds=3)
    assert [arm.name for arm in found.arms] == ["baseline", "without-feedforward", "without-hidden_dim", "without-lr"]
    assert found.configs["baseline"].train.lr == 0.5
    assert found.configs["without-lr"].train.lr != 0.5
    assert found.configs["without-hidden_dim"].model.hidden_dim == 128
    assert found.configs["without-feedforward"].model.feedforward == "swiglu"
    with pytest.raises(KiaraError, match=r"adds nothing to base\.yaml"):
        leave_one_out("base.yaml", "base.yaml")


def test_runs_go_seed_by_seed_and_what_is_there_is_not_made_again() -> None:
    made: list[str] = []
    given = a_study("seeds: 2\n")
    make = faking(noisy({}), made)
    events = list(running(given, make))
    assert made == [f"{arm}-seed{seed}" for seed in (1, 2) for arm in ("baseline", "a", "b")]
    ended = [event for event in events if isinstance(event, ablate.RunEnded)]
    assert all(event.ending.status == "finished" and event.seconds == 2.0 for event in ended)
    assert not list(running(given, make))
    (Path("runs/study/a-seed2") / "run.json").write_text('{"status": "interrupted"}')
    list(running(given, make))
    assert made[6:] == ["a-seed2"]


def test_a_study_that_is_asked_to_stop_says_so_and_goes_on_later() -> None:
    given, made = a_study("seeds: 2\n"), []
    make: Callable[[Order], Ending] = faking(noisy({}), made)
    *_, last = running(given, make, should_stop=lambda: len(made) >= 2)
    assert isinstance(last, ablate.Stopped)
    assert (last.done, last.total) == (len(made), 6)
    assert len(made) < 6
    list(running(given, make))
    assert len(made) == 6 == len(set(made))


def test_a_study_is_claimed_by_one_process_and_its_folder_by_nothing_else() -> None:
    given = a_study()
    kept = ablate.open_place(given, Path("runs"), SETTINGS)
    with pytest.raises(KiaraError, match="is being run by another process"):
        ablate.open_place(given, Path("runs"), SETTINGS)
    assert kept.lock is not None
    kept.lock.release()
    Path("runs/other").mkdir()
    Path("runs/other/run.json").write_text("{}")
    with pytest.raises(KiaraError, match="is a run, not a study"):
        ablate.open_place(study(f"name: other\n{SMALL}variants: {{a: {{train.lr: 1}}}}\n"), Path("runs"), SETTINGS)
    Path("runs/study/study.json").write_text("{")
    with pytest.raises(KiaraError, match="is damaged"):
        ablate.open_place(given, Path("runs"))


def test_a_changed_file_is_another_study_but_more_seeds_and_variants_are_welcome() -> None:
    ablate.open_place(a_study("seeds: 2\n"), Path("runs"), SETTINGS)
    more = "  a: {model.feedforward: relu2}\n  b: {train.lr: 0.5}\n  c: {train.beta1: 0.5}\n"
    ablate.open_place(a_study("seeds: 4\n", more), Path("runs"), SETTINGS)
    for text, named in (
        (f"{SMALL}variants: {{a: {{model.feedforward: gelu}}, b: {{train.lr: 0.5}}}}\nseeds: 4\n", "variant a"),
        (f"{SMALL}variants: {{b: {{train.lr: 0.5}}}}\nseeds: 4\n", "variant a"),
        (f"{SMALL}variants:\n{more}seeds: [2, 1]\n", "seeds"),
        (f"{SMALL}variants:\n{more}seeds: 4\nmeasure: val_loss\n", "measure (bits_per_byte → val_loss)"),
        (f"{SMALL.replace('max_steps: 4', 'max_steps: 5')}variants:\n{more}seeds: 4\n", "train.max_steps (4 → 5)"),
    ):
        with pytest.raises(KiaraError) as raised:
            ablate.open_place(study(text), Path("runs"), SETTINGS)
        assert named in str(raised.value)


def test_verdicts_are_plain_words() -> None:
    given = a_study("seeds: 5\n", "  a: {train.lr: 1}\n  b: {train.lr: 2}\n  c: {train.lr: 3}\n  d: {train.lr: 4}\n")
    value = noisy({"a": -0.2, "b": 0.2, "c": 0.001})
    list(running(given, faking(lambda arm, seed: math.nan if (arm, seed) == ("d", 2) else value(arm, seed))))
    found = reported(given)
    assert [line.verdict for line in found.judged] == ["better", "worse", "cannot tell", "unstable"]
    a, b, c, d = (line.words for line in found.judged)
    assert 0.15 < float(a.removeprefix("better by ").split()[0]) < 0.25
    assert 0.15 < float(b.removeprefix("worse by ").split()[0]) < 0.25
    assert "cannot tell: the noise is ± 0.0" in c
    assert "seeds would" in c
    assert "diverged with seed 2; over the 4 others" in d
    assert found.lines[4].diverged == (2,)
    assert "d diverged with 1 of 5 seeds" in found.warnings
    assert found.pairing is not None
    assert found.pairing.correlation > 0.7
    assert found.lines[2].steps == pytest.approx(0.8, abs=0.1)  # the curve is down to 0.2 above its end at 80 %
    assert found.lines[1].steps == pytest.approx(1 / 0.8, abs=0.1)


def test_seeds_that_are_added_after_a_look_are_said_unless_looks_were_declared() -> None:
    value = noisy({"a": -0.2})
    list(running(a_study("seeds: 3\n"), faking(value)))
    assert not reported(a_study("seeds: 3\n")).warnings
    list(running(a_study("seeds: 5\n"), faking(value)))
    assert "seeds were added after results were there (3, then 5)" in reported(a_study("seeds: 5\n")).warnings[0]


def test_a_variant_that_has_its_answer_at_a_declared_look_gets_no_more_runs() -> None:
    given, made = a_study("seeds: 5\nlooks: [3, 5]\n"), []
    make: Callable[[Order], Ending] = faking(noisy({"a": -1.0, "b": 0.002}), made)
    events = list(running(given, make))
    stopped = [event for event in events if isinstance(event, ablate.GivenUp)]
    assert [(event.arm, event.seeds, event.told) for event in stopped] == [("a", 3, True)]
    assert len(made) == 5 + 3 + 5
    assert not isinstance(events[-1], ablate.Stopped)
    found = reported(given)
    assert (found.lines[1].verdict, found.lines[2].verdict) == ("better", "cannot tell")
    assert found.level == 0.975
    assert found.lines[1].comparison is not None
    assert found.lines[1].comparison.seeds == 3


def test_a_process_that_is_killed_is_one_line() -> None:
    from concurrent.futures.process import BrokenProcessPool

    def make(order: Order) -> Ending:
        raise BrokenProcessPool

    with pytest.raises(KiaraError, match="perhaps for want of memory"):
        list(running(a_study("seeds: 2\n"), make))


def test_a_run_that_was_stopped_goes_on_to_what_it_would_have_been() -> None:
    Path("text.txt").write_text("the cat sat on the mat and the dog sat on the log.\n" * 40)
    given = a_study("seeds: 2\n")
    place = ablate.open_place(given, Path("runs"), SETTINGS)
    straight, stopped = ablate.orders(given, place, Path("data"))[:2]
    stopped = Order("other", straight.seed, straight.layers, straight.root, straight.data)
    assert train_one(straight).status == "finished"
    list(train(Job(merge(stopped.layers), stopped.data, stopped.root, name=stopped.name), should_stop=lambda: True))
    assert stopped.run.facts()["status"] == "interrupted"
    assert train_one(stopped).status == "finished"
    last = [order.run.history().rows[-1]["val_loss"] for order in (straight, stopped)]
    assert last[0] == last[1]
    assert not (straight.root / "best.pt").exists()
    stopped.run.last.write_bytes(b"damaged")
    for path in stopped.run.folder.glob("step_*.pt"):
        path.unlink()
    assert train_one(stopped).status == "finished"  # begun anew
    assert stopped.run.history().rows[-1]["val_loss"] == last[0]


def test_a_setting_that_there_was_not_when_a_study_began_is_no_change_of_it() -> None:
    given = a_study("seeds: 2\n")
    place = ablate.open_place(given, Path("runs"), SETTINGS)
    manifest = json.loads((place.folder / "study.json").read_text())
    del manifest["definition"]["baseline"]["train"]["z_loss"]
    manifest["definition"]["baseline"]["train"]["forgotten"] = 3
    (place.folder / "study.json").write_text(json.dumps(manifest))
    assert ablate.check_place(given, Path("runs"))


def test_a_variant_that_is_far_noisier_than_the_others_is_named_as_it_widens_all_intervals() -> None:
    given = a_study("seeds: 5\n", "  a: {train.lr: 1}\n  b: {train.lr: 2}\n  c: {train.lr: 3}\n")
    value = noisy({})
    list(running(given, faking(lambda arm, seed: value(arm, seed) + (seed % 3) * (arm == "c"))))
    (warning,) = reported(given).warnings
    assert warning.startswith("c is ")
    assert "which widens all intervals" in warning
