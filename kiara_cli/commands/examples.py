"""Examples of every command, as `kiara X --help` shows them at its end; a test parses each.

In: the words that name a command. Out: its `--help` options for Typer.
"""

from __future__ import annotations

from typing import TypedDict

from rich.markup import escape

LEARN = "From text to a model"
MEASURE = "Measure, compare, look inside"
USE = "Use it"
HAND_ON = "Smaller, and to and from other programs"
MACHINE = "This machine and its settings"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "tokenize": (
        "kiara tokenize mybook.txt tokenizer.vocab_size=2048",
        "kiara tokenize 'notes/**/*.md' letters.jsonl --json",
        "kiara tokenize --encode 'Once upon a time' --tokenizer bigger",
    ),
    "train": (
        "kiara train",
        "kiara train mybook.txt model.n_layers=6 train.max_steps=2000 --name bigger",
        "kiara train -c small mybook.txt --dry-run",
        "kiara train --resume --name bigger train.max_steps=3000",
        "kiara train talks.jsonl --from checkpoints/best.pt train.lora.rank=8",
    ),
    "eval": (
        "kiara eval --split val",
        "kiara eval checkpoints/best.pt --text held-out.txt --details",
        "kiara eval --chat --json",
    ),
    "runs": (
        "kiara runs list --sort val_loss",
        "kiara runs show bigger",
        "kiara runs compare mybook bigger",
    ),
    "runs list": ("kiara runs list --status finished --last 10", "kiara runs list 'mybook*' --group --json"),
    "runs show": ("kiara runs show bigger",),
    "runs compare": ("kiara runs compare mybook bigger",),
    "runs plot": ("kiara runs plot mybook bigger --y val_loss --x tokens", "kiara runs plot bigger --png bigger.png"),
    "runs ablate": (
        "kiara runs ablate study.yaml --dry-run",
        "kiara runs ablate --leave-one-out small fast --seeds 3 train.max_steps=300",
    ),
    "runs remove": ("kiara runs remove mybook-2 --checkpoints-only",),
    "inspect": (
        "kiara inspect --prompt 'Who had the lantern?'",
        "kiara inspect bigger --prompt Hello --show attention,lens --html inside.html",
        "kiara inspect --points -c small",
    ),
    "generate": (
        "kiara generate --prompt 'Once upon a time' --max-new-tokens 100",
        "printf Once | kiara generate --prompt - --greedy | head -c 200",
        "kiara generate bigger --prompts prompts.jsonl --seed 1",
        "kiara generate --knowledge manual --prompt 'How is it cleaned?' --json",
    ),
    "chat": (
        "kiara chat",
        "kiara chat checkpoints/best.pt generate.temperature=0.7",
        "printf 'Hello!' | kiara chat bigger",
        "kiara chat --knowledge manual",
    ),
    "serve": (
        "kiara serve",
        "kiara serve checkpoints/best.pt --port 8080 serve.access_log=json",
        "kiara serve --host 0.0.0.0 --api-key-file keys serve.allowed_hosts=kiara.lan",
        "kiara serve --knowledge manual --knowledge letters",
    ),
    "index": (
        "kiara index docs/ --name kiara",
        "kiara index --name kiara --query 'How do I write a hook?'",
        "kiara index letters.jsonl --name mine retrieve.embedder=checkpoints/best.pt",
    ),
    "quantize": ("kiara quantize checkpoints/best.pt --bits 4 --out small.pt",),
    "export": (
        "kiara export --to hf --out my-model --check",
        "kiara export bigger --to gguf --quant q8_0 --out my-model.gguf",
    ),
    "import": ("kiara import SmolLM2-135M --out models/smol.pt",),
    "plan": (
        "kiara plan -c small",
        "kiara plan -c large --device h100 --devices 8",
        "kiara plan mybook.txt model.n_layers=6 --json",
    ),
    "doctor": ("kiara doctor", "kiara doctor --json", "kiara doctor -c small runtime.native=false"),
    "bench": ("kiara bench", "kiara bench --shape m10 --json"),
    "config": ("kiara config -c small model.n_layers=3", "kiara config --for serve --json"),
}


class Shown(TypedDict):
    """What Typer is told of a command besides its function."""

    name: str
    epilog: str


class Grouped(Shown):
    """The same, with the group it is listed in."""

    rich_help_panel: str


def shown(words: str) -> Shown:
    """Return the name of a command (the last of its words) and the end of its help."""
    lines = [f"  {escape(line)}" for line in EXAMPLES.get(words, ())]
    return {"name": words.split()[-1], "epilog": "\n".join(["[bold]Examples:[/]", *lines] if lines else [])}


def grouped(name: str, panel: str) -> Grouped:
    """Return the same, and where `kiara --help` lists it."""
    return {**shown(name), "rich_help_panel": panel}
