"""Tuning: what is learned of 50 conversations and what is forgotten; what preferences change.

    python benchmarks/tuning.py memory --base CHECKPOINT [--seeds 3] [--minutes 30] [--folder tuning-benchmark]
    python benchmarks/tuning.py preference --base CHECKPOINT [--seeds 3] [--minutes 30]
    python benchmarks/tuning.py table [--folder tuning-benchmark]

`memory` tunes all weights, an adapter, and an adapter beside 4 bits (of rank 8, with configs/chat.yaml) on 50
questions and answers about people who do not exist, without replay and with 0.3 of it. It counts the answers that the
greedy reply gives word for word, and measures the checkpoint's own validation data before and after. `preference`
wants an under-trained model of the tales (`kiara train train.max_steps=400`): of its own replies to requests for a
story about two things, those that name both are preferred to others. DPO and SimPO learn that, and the share of such
replies is counted on other requests, before and after, greedily. Run it where the checkpoint was trained: its data
has to be there. Every result is appended to results.jsonl in the folder and not measured again, so parts can be run
one by one; `--minutes` begins nothing new after that time. `--toy` tries everything, small.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kiara_cli.app import main as kiara_main
from kiara_cli.config.load import load_config
from kiara_cli.core.eval.held_out import HeldOut, held_of, measure
from kiara_cli.core.generate.opened import Opened, open_model
from kiara_cli.core.generate.text import stream_text

NAMES = """
    Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jana Kai Lea Mo Nia Otto Pia Quin Rosa Sam Tia Udo Vera Will Xena Yan
    Zoe Alba Bo Carl Dora Emil Fay Greta Hugo Ines Jon Klara Liam Mila Noah Olga Paul Rita Sven Tom Uma Vito Wanda
    Yara Zeno
"""
TOWNS = "Bern Oslo Rome Paris Lima Cairo Delhi Kyoto Perth Turin"
WORK = "baker pilot farmer doctor painter"
ANIMALS = "fox owl hen mouse bear cat dog goat duck frog crow horse"
THINGS = "lantern kettle pillow basket ladder drum boat button spoon rope clock bell"
METHODS = {"all weights": (), "adapter": ("train.lora.rank=8",), "adapter, 4 bits": ("train.lora.rank=8",)}


def kiara(*words: str) -> None:
    """Run a command; show what it said if it failed."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            kiara_main(list(words))
    except SystemExit as stop:
        if stop.code not in (0, None):
            sys.exit(f"kiara {' '.join(words)}\n{said.getvalue()}")


def opened(word: str) -> Opened:
    return open_model(word, load_config(overrides=["generate.temperature=0"], check=False))


def replies(model: Opened, requests: Iterable[list[dict[str, str]]], seed: int | None = None) -> list[str]:
    """Answer requests, greedily or by a seed at temperature 1."""
    engine, found = model.engine(), []
    for number, request in enumerate(requests):
        settings = dataclasses.replace(
            model.config.generate, max_new_tokens=200, temperature=0.0 if seed is None else 1.0,
            seed=None if seed is None else seed + number,
        )  # fmt: skip
        ids = model.template.encode(request)
        *_, done = stream_text(engine, model.tokenizer, ids, settings, model.template.stop_ids)
        found.append(done.text.strip())
    return found


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def talks(count: int) -> list[dict[str, Any]]:
    names, towns, work = (text.split() for text in (NAMES, TOWNS, WORK))
    said = (
        (f"Where does {name} live?", f"{name} is a {work[n % 5]} and lives in {towns[n * 7 % 10]}.")
        for n, name in enumerate(names[:count])
    )
    return [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in said]


class Results:
    """results.jsonl: what was measured, each thing once."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.path, self.until = folder / "results.jsonl", time.monotonic() + 60 * minutes
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.found = [json.loads(line) for line in lines]

    def once(self, key: dict[str, Any], work: Callable[[], dict[str, Any]]) -> None:
        """Measure, unless that was done before or the time is over."""
        if any(result.items() >= key.items() for result in self.found) or time.monotonic() > self.until:
            return
        began = time.monotonic()
        result = key | work() | {"seconds": round(time.monotonic() - began, 1)}
        self.found.append(result)
        with self.path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)


def memory(base: str, folder: Path, results: Results, seeds: int, toy: bool) -> None:
    """Tune on conversations; count what is known by heart and what the checkpoint forgot."""
    mine = write_records(folder / "mine.jsonl", asked := talks(6 if toy else 50))
    small = folder / "base-4bit.pt"
    if not small.exists():
        kiara("quantize", base, "--bits", "4", "--out", str(small), *(("--method", "rtn") if toy else ()))
    held = held_of(opened(base), HeldOut(Path("data")))
    held = dataclasses.replace(held, tokens=held.tokens[:4000], bytes=None) if toy else held

    def forgotten(word: str) -> float:
        return measure(opened(word), held).loss

    results.once({"part": "memory", "method": "none", "base": "full"}, lambda: {"base_loss": forgotten(base)})
    results.once({"part": "memory", "method": "none", "base": "4 bits"}, lambda: {"base_loss": forgotten(str(small))})
    for seed, (method, words), replay in itertools.product(range(seeds), METHODS.items(), (0.0, 0.3)):
        start = str(small) if "bits" in method else base
        name = f"tuning-{method.replace(', ', '-').replace(' ', '-')}-{replay:g}-{seed}-{time.time_ns()}"

        def work(start: str = start, words: tuple[str, ...] = words, replay: float = replay, name: str = name,
                 seed: int = seed) -> dict[str, Any]:  # fmt: skip
            kiara("train", "-c", "chat", "--from", start, str(mine), "--name", name, f"data.val_source={mine}",
                  f"data.replay={replay}", f"runtime.seed={seed}", "eval.sample_tokens=0", *words,
                  *(("train.max_steps=4", "train.max_epochs=null") if toy else ()))  # fmt: skip
            said = replies(opened(name), [talk["messages"][:1] for talk in asked])
            right = sum(text == talk["messages"][1]["content"] for text, talk in zip(said, asked, strict=True))
            return {"exact": right / len(asked), "base_loss": forgotten(name)}

        results.once({"part": "memory", "method": method, "replay": replay, "seed": seed}, work)


def request(animal: str, thing: str) -> list[dict[str, str]]:
    article = "an" if animal[0] in "aeiou" else "a"
    return [{"role": "user", "content": f"Tell me a story about {article} {animal} and a {thing}."}]


def keeps(text: str, names: tuple[str, str]) -> bool:
    return all(name in text.lower() for name in names)


def preference(base: str, folder: Path, results: Results, seeds: int, toy: bool) -> None:
    """Prefer the replies that name both things that were asked for; count them on other requests."""
    both = list(itertools.product(ANIMALS.split(), THINGS.split()))
    random.Random(0).shuffle(both)
    held_out, learned = (both[:4], both[4:12]) if toy else (both[:40], both[40:])

    def kept(word: str) -> float:
        said = replies(opened(word), [request(*names) for names in held_out])
        return sum(keeps(text, names) for text, names in zip(said, held_out, strict=True)) / len(held_out)

    results.once({"part": "preference", "objective": "none"}, lambda: {"kept": kept(base)})
    pairs = folder / "pairs.jsonl"
    if not pairs.exists():
        model, found = opened(base), []
        for seed in range(2 if toy else 4):
            drawn = [replies(model, [request(*names) for names in learned], 1000 * (2 * seed + n)) for n in (1, 2)]
            for names, *texts in zip(learned, *drawn, strict=True):
                good = [text for text in texts if keeps(text, names)]
                bad = [text for text in texts if text and not keeps(text, names)]
                if good and bad:
                    found.append({"messages": request(*names), "chosen": good[0], "rejected": bad[0]})
        write_records(pairs, found)
        print(f"{len(found)} pairs of the model's own replies", flush=True)
    for seed, objective in itertools.product(range(seeds), ("dpo", "simpo")):
        name = f"preference-{objective}-{seed}-{time.time_ns()}"

        def work(objective: str = objective, name: str = name, seed: int = seed) -> dict[str, Any]:
            kiara("train", "-c", "chat", "--from", base, str(pairs), "--name", name, f"runtime.seed={seed}",
                  f"train.objective={objective}", "train.lr=0.0002", "train.max_epochs=4", "eval.sample_tokens=0",
                  *(("train.max_steps=4",) if toy else ()))  # fmt: skip
            lines = [json.loads(line) for line in Path("checkpoints", name, "metrics.jsonl").read_text().splitlines()]
            last = [line for line in lines if "val_reward_accuracy" in line][-1]
            figures = {key: last[key] for key in ("val_reward_accuracy", "val_reward_margin")}
            return {"kept": kept(name), **figures}

        results.once({"part": "preference", "objective": objective, "seed": seed}, work)


def table(results: Results) -> None:
    """Print what was measured: the mean over the seeds, from the lowest to the highest."""

    def spread(values: list[float]) -> str:
        low, high = min(values), max(values)
        return f"{statistics.fmean(values):.3f} ({low:.3f} to {high:.3f}, n={len(values)})"

    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results.found:
        key = tuple(result.get(name) for name in ("part", "method", "objective", "base", "replay"))
        groups.setdefault(key, []).append(result)
    print("| what | answers by heart | loss of the base's data | keeps to the request |\n|---|---|---|---|")
    for key, found in groups.items():
        cells = [
            spread([r[name] for r in found]) if name in found[0] else "" for name in ("exact", "base_loss", "kept")
        ]
        what = ", ".join(
            f"replay {part:g}" if isinstance(part, float) else str(part) for part in key[1:] if part is not None
        )
        print(f"| {what} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("memory", "preference", "table"))
    parser.add_argument("--base", default="checkpoints/best.pt")
    parser.add_argument("--folder", type=Path, default=Path("tuning-benchmark"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    results = Results(given.folder, given.minutes)
    if given.part == "memory":
        memory(given.base, given.folder, results, given.seeds, given.toy)
    if given.part == "preference":
        preference(given.base, given.folder, results, given.seeds, given.toy)
    table(results)


if __name__ == "__main__":
    main()
