"""All that was asked about a prompt, together.

In: an opened model, `Prompted` and `Asked`. Out: `Report`: what each of the views chosen found; and the same as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.lab.inspect import patching
from kiara_cli.core.lab.inspect.ablation import Ablated, Done, How, ablate
from kiara_cli.core.lab.inspect.attention import Copying, Head, copying, heads
from kiara_cli.core.lab.inspect.attribution import Parts, attribute
from kiara_cli.core.lab.inspect.lens import Lens, Surprisal, lens, norms, surprisals
from kiara_cli.core.lab.inspect.neurons import Active, Neuron, active, neuron
from kiara_cli.core.lab.inspect.patching import Patched
from kiara_cli.core.lab.inspect.prompted import Prompted, label
from kiara_cli.core.lab.inspect.trace import Trace, trace
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

VIEWS = ("surprisal", "attention", "lens", "attribution", "norms", "ablation", "patching", "neurons")
DEFAULT = ("surprisal", "attention", "attribution")


@dataclass(frozen=True)
class Asked:
    """What is to be shown. `word` of the answer is explained, its first token at `position`; `against` is the token
    that it is compared with."""

    show: tuple[str, ...]
    position: int
    word_alone: bool = False  # whether ablation looks at this token alone, not at the whole answer
    against: int | None = None
    corrupt: Prompted | None = None
    head: tuple[int, int] | None = None
    layer: int | None = None
    neuron: tuple[int, int] | None = None
    how: How = "zero"
    windows: Sequence[Sequence[int]] = field(default_factory=list)  # of a text, for ablation and neurons
    top: int = 8


@dataclass
class Report:
    """What was found; None for what was not asked."""

    prompted: Prompted
    asked: Asked
    tokenizer: Tokenizer
    trace: Trace
    heads: list[Head]
    surprisals: list[Surprisal]
    copying: list[Copying] | None = None
    lens: Lens | None = None
    parts: Parts | None = None
    norms: dict[str, list[float]] | None = None
    ablated: list[Ablated] | None = None
    patched: Patched | None = None
    layer: int = 0  # of `active`
    active: list[Active] | None = None
    neuron: Neuron | None = None

    def label(self, token: int) -> str:
        return label(self.tokenizer, token)

    @property
    def word(self) -> str:
        """The token that is explained."""
        return self.prompted.labels[self.asked.position]


def views(text: str | None, corrupt: bool, neuron: bool) -> tuple[str, ...]:
    """Return the views that a list with commas names; by default a few, and those that other options ask for.

    Raises KiaraError for one that there is not.
    """
    if text is None:
        return DEFAULT + ("patching",) * corrupt + ("neurons",) * neuron
    chosen = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if chosen == ("all",):
        return tuple(name for name in VIEWS if name != "patching" or corrupt)
    for name in chosen or ("",):
        if name not in VIEWS:
            raise KiaraError(f"--show {name or text!r}: no such view", f"choose of {', '.join(VIEWS)}, or all")
    if "patching" in chosen and not corrupt:
        raise KiaraError("--show patching compares two prompts", "give the other one by --corrupt TEXT")
    return chosen


def look(opened: Opened, prompted: Prompted, asked: Asked, done: Done = lambda count, of: None) -> Report:
    """Look at a prompt as asked. Raises KiaraError."""
    model = opened.model
    seen = trace(model, prompted.ids)
    report = Report(prompted, asked, opened.tokenizer, seen, heads(model, seen), surprisals(seen))
    explained = prompted.ids[asked.position]
    attributed = attribute(model, seen, asked.position - 1, explained)
    if "attention" in asked.show and explained in prompted.ids[: asked.position]:
        report.copying = copying(seen, attributed, asked.position)
    if "attribution" in asked.show:
        other = asked.against
        report.parts = attributed
        if other is not None:
            report.parts = attributed - attribute(model, seen, asked.position - 1, other)
    if "lens" in asked.show:
        report.lens = lens(model, seen)
    if "norms" in asked.show:
        report.norms = norms(model, seen)
    if "ablation" in asked.show:
        windows, start = (asked.windows, 1) if asked.windows else ([prompted.ids], prompted.start)
        if asked.word_alone and not asked.windows:
            windows, start = [prompted.ids[: asked.position + 1]], asked.position
        report.ablated = ablate(model, windows, start, asked.how, done)
    if "patching" in asked.show:
        report.patched = _patch(opened, prompted, asked, done)
    if "neurons" in asked.show:
        _neurons(opened, report)
    return report


def _patch(opened: Opened, prompted: Prompted, asked: Asked, done: Done) -> Patched:
    assert asked.corrupt is not None
    clean, corrupt = prompted.ids[: asked.position], asked.corrupt.ids[: asked.position]
    word = label(opened.tokenizer, prompted.ids[asked.position])
    metric, name = patching.log_probability(prompted.ids[asked.position]), f"log p({word})"
    if asked.against is not None:
        metric = patching.logit_difference(prompted.ids[asked.position], asked.against)
        name = f"logit({word}) - logit({label(opened.tokenizer, asked.against)})"
    return patching.patch(opened.model, clean, corrupt, metric, name, done)


def _neurons(opened: Opened, report: Report) -> None:
    asked = report.asked
    report.layer = opened.model.config.n_layers - 1 if asked.layer is None else asked.layer
    if asked.neuron is not None:
        windows = asked.windows or [report.prompted.ids]
        report.neuron = neuron(opened.model, report.trace, windows, *asked.neuron)
        report.layer = asked.neuron[0]
    else:
        report.active = active(report.trace, report.layer)


def as_json(report: Report) -> dict[str, Any]:
    """Return what was found as JSON values; positions count from 0, tokens are written as in pictures."""
    prompted, asked = report.prompted, report.asked
    out: dict[str, Any] = {
        "tokens": prompted.labels, "ids": prompted.ids, "answer_start": prompted.start,
        "explained": {"position": asked.position, "token": report.word},
    }  # fmt: skip
    for name in asked.show:
        out[name] = JSON[name](report)
    return out


def _surprisal(report: Report) -> Any:
    return [
        {"position": one.position, "token": report.label(one.token), "nats": one.nats, "bits": one.bits,
         "rank": one.rank, "top": [[report.label(token), share] for token, share in one.top]}
        for one in report.surprisals
    ]  # fmt: skip


def _attention(report: Report) -> Any:
    asked = report.asked
    shown = [one for one in report.heads if asked.head in (None, (one.layer, one.head))]
    return {
        "heads": [{"head": one.name, **one.scores, "pattern": one.pattern.tolist()} for one in shown],
        "copying": [
            {"head": one.name, "attention": one.attention, "logit": one.logit, "from_source": one.from_source}
            for one in report.copying or ()
        ],
    }


def _lens(report: Report) -> Any:
    assert report.lens is not None
    return [
        {"depth": depth, "positions": [
            {"top": [[report.label(token), share] for token, share in guess.top], "rank": guess.rank,
             "probability": guess.probability}
            for guess in guesses]}
        for depth, guesses in zip(report.lens.depths, report.lens.guesses, strict=True)
    ]  # fmt: skip


def _attribution(report: Report) -> Any:
    assert report.parts is not None
    by_source = report.parts.sources.sum(dim=(0, 1)).tolist()
    against = report.asked.against
    return {
        "logit": report.parts.logit,
        "against": None if against is None else report.label(against),
        "parts": report.parts.named(),
        "heads_by_source": by_source,
    }


def _ablation(report: Report) -> Any:
    found = report.ablated or []
    return {"how": report.asked.how, "loss": found[0].before, "lead": found[0].lead_before,
            "parts": {one.name: {"change": one.change, "lead": one.lead} for one in found}}  # fmt: skip


def _patching(report: Report) -> Any:
    found = report.patched
    assert found is not None
    return {
        "metric": found.metric, "clean": found.clean, "corrupt": found.corrupt,
        **{kind: found.maps[kind].tolist() for kind in found.maps}, "heads": found.heads.tolist(),
    }  # fmt: skip


def _neurons_json(report: Report) -> Any:
    if report.neuron is not None:
        one = report.neuron
        return {
            "neuron": f"{one.layer}:{one.index}", "activations": one.activations, "share": one.share,
            "tokens": one.tokens,
            "excited": [{"before": [report.label(token) for token in excited.before],
                         "token": report.label(excited.token), "activation": excited.activation}
                        for excited in one.excited],
        }  # fmt: skip
    return {"layer": report.layer, "positions": [one.neurons for one in report.active or ()]}


JSON: dict[str, Callable[[Report], Any]] = {
    "surprisal": _surprisal,
    "attention": _attention,
    "lens": _lens,
    "attribution": _attribution,
    "norms": lambda report: report.norms,
    "ablation": _ablation,
    "patching": _patching,
    "neurons": _neurons_json,
}
