"""kiara inspect: what a model does with a prompt, head by head and layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands.options import ConfigFiles, Debug, Given, HookFiles, Json, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.core.generate.opened import Opened

WINDOWS = 8  # of a text, each as long as the context


Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", metavar="TEXT|-|@FILE", help="What is said; repeat it for a conversation."),
]
Show = Annotated[
    str | None,
    typer.Option(
        metavar="VIEWS",
        help="surprisal, attention, lens, attribution, norms, ablation, patching, neurons: with commas; or all.",
    ),
]
Answer = Annotated[str | None, typer.Option(metavar="TEXT", help="Look at this answer, not at the likeliest.")]
Tokens = Annotated[int, typer.Option(min=1, help="How long an answer that is not given may be.")]
Raw = Annotated[bool, typer.Option("--raw", help="Continue the prompt as text, not as a conversation.")]
Word = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Explain this word of the answer, not its first token.")
]
Against = Annotated[str | None, typer.Option(metavar="TEXT", help="Compare with this other answer.")]
Corrupt = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Another prompt with as many tokens: patch activations between the two."),
]
HeadOption = Annotated[str | None, typer.Option("--head", metavar="L.H", help="Draw the attention of this head.")]
Layer = Annotated[int | None, typer.Option(min=0, help="Whose neurons are shown.")]
NeuronOption = Annotated[
    str | None,
    typer.Option("--neuron", metavar="L:I", help="Follow this neuron over the prompt and through --text."),
]
Mean = Annotated[bool, typer.Option("--mean", help="Ablate to the mean over positions, not to zero.")]
Text = Annotated[
    Path | None,
    typer.Option("--text", metavar="FILE", help="Ablate, and look for what excites a neuron, on this text."),
]
Top = Annotated[int, typer.Option(min=1, help="How many rows of a list are shown.")]
Png = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw every view into this folder too.")]
Points = Annotated[
    bool, typer.Option("--points", help="List the points where hooks can be, of a checkpoint or of a config.")
]
Hooks = Annotated[bool, typer.Option("--list-hooks", help="List the hooks there are, with their arguments.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Write one page with everything, too.")]


def inspect(
    words: Words = None,
    prompt: Prompts = None,
    config: ConfigFiles = None,
    show: Show = None,
    answer: Answer = None,
    tokens: Tokens = 16,
    raw: Raw = False,
    word: Word = None,
    against: Against = None,
    corrupt: Corrupt = None,
    head: HeadOption = None,
    layer: Layer = None,
    neuron: NeuronOption = None,
    mean: Mean = False,
    text: Text = None,
    top: Top = 6,
    png: Png = None,
    html: Html = None,
    points: Points = False,
    list_hooks: Hooks = False,
    hooks: HookFiles = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Look inside: where heads look, what layers say, which part does what."""
    from kiara_cli.commands.generate import texts_of
    from kiara_cli.commands.model import open_model

    given = read(words, config, command="inspect")
    if points or list_hooks:
        return lists(given, points, list_hooks, hooks or [], json_)
    if not prompt:
        raise KiaraError("there is nothing to look at", "give --prompt TEXT")
    said = [text for one in prompt for text in texts_of(one, None, given)]
    opened = open_model(given, hooks=hooks or ())
    from kiara_cli.console.inspect import progress, tell, warn_of_transcript
    from kiara_cli.core.lab.inspect.pairing import Wanted, pair
    from kiara_cli.core.lab.inspect.pictures import check_places
    from kiara_cli.core.lab.inspect.report import Asked, look, views

    chosen = views(show, bool(corrupt), neuron is not None)
    check_places(png, html)
    one_head, one_neuron = numbers_of(opened, head, neuron, layer)
    found = pair(opened, Wanted(said, answer, tokens, raw, word, against, corrupt or ()))
    asked = Asked(
        chosen, found.position, word is not None, found.against, found.corrupt, one_head, layer, one_neuron,
        "mean" if mean else "zero", windows_of(opened, text) if text else [], top,
    )  # fmt: skip
    if not raw:
        warn_of_transcript(opened)
    with progress() as done:
        report = look(opened, found.prompted, asked, done)
    tell(report, str(opened.checkpoint.path), json_, png, html)


def lists(given: Given, points: bool, hooks: bool, files: list[str], json_: bool) -> None:
    """List the points of a checkpoint, or of the model that the config makes; and the hooks there are."""
    from kiara_cli.config.load import adopt
    from kiara_cli.console.points import show_hooks, show_points
    from kiara_cli.core.checkpoint.find import open_checkpoint
    from kiara_cli.core.hooks.loading import use_files
    from kiara_cli.core.hooks.registry import listing

    if points and given.word is not None:
        checkpoint, _ = open_checkpoint(given.word)
        show_points(adopt(given.loaded, checkpoint.config, ("model",), str(checkpoint.path)).model, json_)
    elif points:
        show_points(given.loaded.config.model, json_)
    if hooks:
        use_files(files)
        show_hooks(listing(), json_)


def numbers_of(
    opened: Opened, head: str | None, neuron: str | None, layer: int | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return a head and a neuron as numbers. Raises KiaraError for those that the model does not have."""
    from kiara_cli.core.lab.inspect import neurons

    config = opened.model.config
    heads = two(head, ".", "--head", "2.1: layer 2, head 1")
    cell = two(neuron, ":", "--neuron", "2:17: layer 2, neuron 17")
    if layer is not None:
        neurons.check_layer(opened.model, layer)
    if heads is not None:
        neurons.check_layer(opened.model, heads[0])
        if heads[1] >= config.n_heads:
            raise KiaraError(
                f"--head {head}: a layer of this model has {config.n_heads} heads",
                f"give one from 0 to {config.n_heads - 1}",
            )
    if cell is not None:
        neurons.check(opened.model, *cell)
    return heads, cell


def two(text: str | None, mark: str, option: str, example: str) -> tuple[int, int] | None:
    """Read two numbers with a mark between them."""
    if text is None:
        return None
    one, found, other = text.partition(mark)
    if not (found and one.isdecimal() and other.isdecimal()):
        raise KiaraError(f"{option} {text} is not two numbers", f"write {example}")
    return int(one), int(other)


def windows_of(opened: Opened, text: Path) -> list[list[int]]:
    """Return the first windows of a text as ids."""
    from kiara_cli.commands.options import DATA_ROOT
    from kiara_cli.core.eval.held_out import HeldOut, ids_of

    ids, context = ids_of(opened, HeldOut(DATA_ROOT, text=text)), opened.model.config.context_length
    parts = [ids[start : start + context].tolist() for start in range(0, len(ids), context)][:WINDOWS]
    windows = [window for window in parts if len(window) > 1]
    if not windows:
        raise KiaraError(f"{text} holds fewer than two tokens", "give a longer text")
    return windows
