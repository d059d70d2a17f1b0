"""Opening a model in a command: torch is told how its threads are to wait before it is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kiara_cli.commands.options import Given

if TYPE_CHECKING:
    from kiara_cli.core.generate.opened import Opened
    from kiara_cli.core.runtime.device import Runtime
    from kiara_cli.core.runtime.parallel import World

# How often a thread of torch looks for its next task before it sleeps; read when torch is imported. torch's own
# 300,000 starve whatever else runs on the machine; to sleep at once halves the speed of writing. This does neither.
SPIN = "10000"


def set_spin() -> None:
    """Set it, unless the environment does. To be called before anything imports torch."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)


def sections_for(text: Path | None) -> tuple[str, ...]:
    """Return what is taken from a checkpoint to measure it: how its own data was read, too, but not another text."""
    return ("tokenizer", "model", "data")[: 3 if text is None else 2]


def open_model(
    given: Given,
    sections: Sequence[str] = ("tokenizer", "model"),
    runtime: Runtime | None = None,
    hooks: Sequence[str] | None = (),
    world: World | None = None,
) -> Opened:
    """Open the checkpoint that was named, or the best there is, with the hooks of the config. Raises KiaraError.

    `hooks` are the person's own files of them; None: this command has no use for hooks. The processes of a `world`
    share the cores of their machine.
    """
    set_spin()
    from kiara_cli.core.generate import opened
    from kiara_cli.core.runtime.parallel import ALONE

    found = opened.open_model(given.word, given.loaded, sections, runtime, world or ALONE)
    if hooks is not None:
        hook(found, hooks)
    return found


def hook(opened: Opened, files: Sequence[str]) -> None:
    """Attach the hooks that this command's config asks for; those that the model was trained with stay off."""
    if files or opened.config.hooks:
        from kiara_cli.core.hooks.training import use

        use(opened, files)
    elif trained_with := opened.checkpoint.config.get("hooks"):
        from kiara_cli.console import output

        names = ", ".join(trained_with)
        output.note(f"Its training had hooks ({names}); they are off here unless this command's config has them too.")
