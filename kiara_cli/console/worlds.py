"""Scores of talks in a small world, as a table by turn and by kind of exchange."""

from __future__ import annotations

import dataclasses
import math

from rich.progress import Progress

from kiara_cli.console import output
from kiara_cli.console.scores import TEMPERATURES
from kiara_cli.core.data.worlds.talks import LONGEST
from kiara_cli.core.data.worlds.world import World
from kiara_cli.core.eval.worlds import ScoredTurn, by_kind, by_turn, score_world, share
from kiara_cli.core.generate.opened import Opened

EXAMPLES = 3  # wrong replies that are shown


def show_world_scores(opened: Opened, world: World, requests: int, seeds: int, json_: bool) -> None:
    """Hold talks of ten turns until `requests` replies are scored, greedily and at 0.8, for each seed."""
    engine, console, talks = opened.engine(), output.console(), math.ceil(requests / LONGEST)
    context = opened.config.model.context_length
    every: list[ScoredTurn] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("talking", total=len(TEMPERATURES) * seeds * talks * LONGEST)
        for temperature in TEMPERATURES:
            settings = dataclasses.replace(opened.config.generate, temperature=temperature)
            for seed in range(1, seeds + 1):
                scored = []
                for one in score_world(engine, opened.template, settings, world, talks, seed, context):
                    scored.append(one)
                    progress.advance(task)
                every += scored
                turns = {f"turn_{number}": value for number, value in by_turn(scored).items()}
                row = {"temperature": temperature, "seed": seed, "talks": talks, "right": share(scored), **turns}
                if json_:
                    output.record({"checkpoint": str(opened.checkpoint.path), **row, "by_kind": by_kind(scored)})
                else:
                    output.table([{key.replace("turn_", ""): _cell(key, value) for key, value in row.items()}])
    if not json_:
        rows = [(name, f"{value:.1%}") for name, value in by_kind(every).items()]
        output.facts("right by kind", rows, to_stdout=True)
        for one in [one for one in every if not one.right][:EXAMPLES]:
            output.note(f"wrong, turn {one.number}: {one.turn.user!r} got {one.reply!r}, as in {one.turn.reply!r}")


def _cell(key: str, value: float) -> str:
    return f"{value:.0%}" if key == "right" or key.startswith("turn") else f"{value:g}"
