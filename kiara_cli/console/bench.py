"""Measurements of a machine as they come, then as a table or one object."""

from __future__ import annotations

import dataclasses
from typing import Any

from kiara_cli.console import output
from kiara_cli.core.lab.bench import Bench, Measured
from kiara_cli.core.runtime.machine import Peaks


def show_bench(name: str, work: Bench, json_: bool) -> None:
    """Measure, and print what was measured."""
    machine: dict[str, Any] = {}
    found: list[Measured] = []
    for event in work.run():
        if isinstance(event, Peaks):
            machine = dataclasses.asdict(event)
            if not json_:
                show_machine(event)
        else:
            found.append(event)
            output.note(f"{event.what}, {event.dtype}, {event.streams}")
    if json_:
        rows = [dataclasses.asdict(one) | {"fraction_of_peak": one.fraction} for one in found]
        parameters = work.count.parameters
        return output.record({"machine": machine, "model": name, "parameters": parameters, "measurements": rows})
    output.table([
        {
            "measurement": one.what,
            "weights": one.dtype,
            "requests": str(one.streams),
            "tokens/s": f"{one.tokens_per_second:,.0f}",
            "at the peak": f"{one.floor:,.0f}",
            "fraction": f"{one.fraction:.2f}",
        }
        for one in found
    ])  # fmt: skip
    for what, how in dict.fromkeys((one.what, one.how) for one in found):
        dtypes = dict.fromkeys(one.dtype for one in found if (one.what, one.how) == (what, how))
        output.note(f"{what} ({', '.join(dtypes)}): {how}")


def show_machine(peaks: Peaks) -> None:
    """Print what the machine can do."""
    rows = [("processor", f"{peaks.processor}, {peaks.threads} threads")]
    rows += [(f"products in {dtype}", f"{output.amount(rate, 'FLOP/s')}") for dtype, rate in peaks.flops.items()]
    rows.append(("memory, reading", output.amount(peaks.memory, "B/s")))
    output.facts("This machine", rows, to_stdout=True)
