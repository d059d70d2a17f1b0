"""Scores of talks in a small world: by turn, by kind of exchange and by how it was typed; and wrong talks to read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

from rich.progress import Progress

from kiara_cli.console import output
from kiara_cli.core.chat.fit import fit, prompt_budget
from kiara_cli.core.data.worlds.talks import LONGEST
from kiara_cli.core.data.worlds.world import World
from kiara_cli.core.eval.worlds import ScoredTurn, Share, engine_of, score_world, share, shares, wrong_talks
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.tokenizer.chat_format import Message

TEMPERATURE = 0.8  # beside greedy, where the config has none
GROUPS: dict[str, Callable[[ScoredTurn], str | int]] = {
    "turn": lambda one: one.number,
    "kind": lambda one: one.kind,
    "typed": lambda one: one.manner,
}
Scores = Mapping[float, Sequence[ScoredTurn]]  # by temperature


def show_world_scores(opened: Opened, world: World, talks: int, seeds: int, wrong: int, json_: bool) -> None:
    """Hold `talks` talks of ten turns for each seed, greedily and at a temperature, and print the shares."""
    began = time.perf_counter()
    found = _held(opened, world, talks, seeds)
    seconds = time.perf_counter() - began
    if json_:
        return _records(opened, world, found, talks, seeds, wrong)
    turns = sum(map(len, found.values()))
    for name in GROUPS:
        output.table(_rows(name, found))
        output.result("")
    learned = sorted({one.kind for one in next(iter(found.values())) if one.learned})
    if learned:
        output.note(f"asked in words that were learned, as the world holds none out: {', '.join(learned)}")
    for temperature, scored in found.items():
        for talk in wrong_talks(scored, wrong):
            output.result(f"--- a talk with a wrong reply, {_name(temperature)}")
            for one in talk:
                output.result(f"{one.number:>2} you: {one.user}\n   kiara: {one.reply}")
                if one.fault is not None:
                    output.result(f"   WRONG: {one.fault}; right would be, for example: {one.expected}")
    output.note(f"{turns:,} replies in {output.duration(seconds)}")
    if not wrong and any(one.fault for scored in found.values() for one in scored):
        output.hint("to read talks with wrong replies: --show-wrong 5")


def _held(opened: Opened, world: World, talks: int, seeds: int) -> Scores:
    """Hold all talks; those of the seeds are counted on."""
    engine, console, chat = engine_of(opened), output.console(), opened.config.chat
    system: list[Message] = [{"role": "system", "content": chat.system}] if chat.system else []
    budget = prompt_budget(engine.context, chat.max_new_tokens)

    def read(messages: Sequence[Message]) -> list[int]:
        return fit(opened.template, system, messages, budget)[0]

    temperatures = dict.fromkeys((0.0, opened.config.generate.temperature or TEMPERATURE))
    found: dict[float, list[ScoredTurn]] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("talking", total=len(temperatures) * seeds * talks * LONGEST)
        for temperature in temperatures:
            settings = dataclasses.replace(
                opened.config.generate, temperature=temperature, max_new_tokens=chat.max_new_tokens
            )
            found[temperature] = []
            for seed in range(1, seeds + 1):
                for one in score_world(engine, opened.template, settings, world, talks, seed, read):
                    found[temperature].append(dataclasses.replace(one, talk=one.talk + (seed - 1) * talks))
                    progress.advance(task)
    return found


def _rows(group: str, found: Scores) -> list[dict[str, str]]:
    """Return the rows of a table: for each value of a group how many replies, and their shares."""
    columns = {temperature: shares(scored, GROUPS[group]) for temperature, scored in found.items()}
    everything = {temperature: share(scored) for temperature, scored in found.items()}
    values = dict.fromkeys(value for column in columns.values() for value in column)
    rows = [
        _row(group, str(value), {temperature: column.get(value) for temperature, column in columns.items()})
        for value in values
    ]
    return [*rows, _row(group, "all", dict(everything))] if group == "turn" else rows


def _row(group: str, value: str, columns: Mapping[float, Share | None]) -> dict[str, str]:
    cells = {group: value}
    for temperature, found in columns.items():
        name = _name(temperature)
        low, high = found.interval if found else (0.0, 1.0)
        cells[name] = f"{found.value:.1%}" if found else "–"
        cells[f"95 % {name}"] = f"{100 * low:.0f}–{100 * high:.0f} of {found.number:,}" if found else "–"
    return cells


def _name(temperature: float) -> str:
    return f"at {temperature:g}" if temperature else "greedy"


def _records(opened: Opened, world: World, found: Scores, talks: int, seeds: int, wrong: int) -> None:
    """Write one JSON object for each temperature, and after it those of wrong talks."""
    for temperature, scored in found.items():
        start = {"checkpoint": str(opened.checkpoint.path), "world": world.name, "temperature": temperature}
        groups = {
            f"by_{name}": {str(value): one.record() for value, one in shares(scored, of).items()}
            for name, of in GROUPS.items()
        }
        output.record({**start, "talks": talks, "seeds": seeds, **share(scored).record(), **groups})
        for talk in wrong_talks(scored, wrong):
            output.record({**start, "wrong_talk": [dataclasses.asdict(one) for one in talk]})
