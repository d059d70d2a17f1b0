"""Two runs side by side: what differs between them, and whether their results may be held to each other.

In: runs, or a run that is planned. Out: `Comparison`: changes of settings, reasons against comparing, cautions, and
the figure in which they may be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiara_cli.config.load import to_mapping
from kiara_cli.config.schema import DEFAULT_STEPS, Config
from kiara_cli.config.text import shown
from kiara_cli.core.checkpoint.identity import IN_THE_DATA, SEED, Definition, definition, different, flat
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.errors import KiaraError

LOSS, BITS = "val_loss", "val_bits_per_byte"
# What changes the last bits of sums and no more, where it is what this machine and this version happened to offer.
NUMERICS = ("runtime.device", "runtime.compile", "runtime.native", "runtime.deterministic", "threads", "torch")
STEPS = "train.max_steps"  # how a person sets what the definition calls `steps`
NAMES = {"steps": STEPS, "weights": "--from", "hooks": "the hooks' source"}
UNSPEAKABLE = {"--from", NAMES["hooks"]}  # whose values are hashes
EVALUATION = "eval."


@dataclass(frozen=True)
class Known:
    """A run, or one that is planned: its config as decided, what run.json says, and what its results depend on."""

    name: str
    config: Config
    facts: Mapping[str, Any]

    @property
    def defined(self) -> Definition:
        return definition(self.config, self.facts)

    @property
    def best(self) -> Mapping[str, Any]:
        """The best evaluation; empty before there is one."""
        best = self.facts.get("best")
        return best if isinstance(best, Mapping) else {}


@dataclass(frozen=True)
class Difference:
    """A setting that is not the same: its dotted key, and both values."""

    key: str
    ours: Any
    theirs: Any

    @property
    def short(self) -> str:
        """The setting as this side has it."""
        return self.key if self.key in UNSPEAKABLE else f"{self.key}={shown(self.ours)}"

    def __str__(self) -> str:
        if self.key in UNSPEAKABLE:
            return self.key
        return f"{self.key}={shown(self.ours)} (there {shown(self.theirs)})"


@dataclass(frozen=True)
class Comparison:
    """How one run stands to another. `unfair` says why their results cannot be compared."""

    changes: tuple[Difference, ...]  # that can change results, the seed left out
    unfair: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    figure: str = LOSS  # in which they can be compared
    same_seed: bool = True

    @property
    def repeat(self) -> bool:
        """Whether nothing differs but the seed, if anything does."""
        return not self.changes


def known_run(run: Run) -> Known:
    """Read a run. Raises KiaraError for one whose files are damaged."""
    facts = run.facts()
    if not facts:
        raise KiaraError(f"{run.folder / 'run.json'} is not readable", "the run cannot be compared: train it again")
    if not isinstance(facts.get("best"), Mapping) or not facts["best"]:
        facts = {**facts, "best": run.history().best or {}}
    return Known(run.name, run.config(), facts)


def compare(ours: Known, theirs: Known) -> Comparison:
    """Compare a run with another."""
    one, other = ours.defined, theirs.defined
    keys = different(one, other)
    unfair, figure = _fairness(ours, theirs, keys)
    changes = _changes(ours, theirs, keys)
    cautions = []
    if one["code"] != other["code"]:
        unknown = one["code"] is None or other["code"] is None
        cautions.append("made by another version of Kiara" if not unknown else "made by an unknown version of Kiara")
    numerics = [key for key in keys if key in NUMERICS and None not in (one.get(key), other.get(key))]
    if numerics:
        said = ", ".join(f"{key} {shown(one[key])} and {shown(other[key])}" for key in numerics)
        cautions.append(f"computed differently to the last bits ({said})")
    windows = ours.config.model.context_length, theirs.config.model.context_length
    if windows[0] != windows[1] and not unfair:
        cautions.append(f"measured in windows of {windows[0]} and {windows[1]} tokens, as the models have them")
    if figure == BITS:
        cautions.append("other tokenizers: only bits per byte can be compared")
    return Comparison(tuple(changes), tuple(unfair), tuple(cautions), figure, one[SEED] == other[SEED])


def _changes(ours: Known, theirs: Known, keys: Sequence[str]) -> list[Difference]:
    """List what counts as a change: neither the data and the evaluation, nor what follows from another change."""
    one, other = ours.defined, theirs.defined
    trained = ours.config.train, theirs.config.train
    skipped = {SEED, "data", "code", *NUMERICS, *_following(ours.config, theirs.config)}
    skipped |= {key for key in keys if key.startswith(EVALUATION)}
    if "tokenizer" in keys:
        skipped |= {"model.vocab_size"}  # is the tokenizer's
    if len({(train.max_steps, train.max_epochs) for train in trained}) == 1:
        skipped |= {"steps"}  # of an epoch: follow from the batches
    batch_tokens = {train.batch_tokens for train in trained}
    if batch_tokens != {None}:
        skipped |= {"train.accumulation"}
    found = [_change(key, one, other) for key in keys if key not in skipped]
    if len(batch_tokens) > 1:
        found.append(Difference("train.batch_tokens", trained[0].batch_tokens, trained[1].batch_tokens))
    if any(change.key.count(".") == 1 and change.key.startswith("hooks.") for change in found):
        found = [change for change in found if change.key != NAMES["hooks"]]  # a hook brings its source
    if "tokenizer" in keys:
        kinds = (f"{each.config.tokenizer.kind}-{str(each.defined['tokenizer'])[:8]}" for each in (ours, theirs))
        found = [change for change in found if change.key != "tokenizer"] + [Difference("tokenizer", *kinds)]
    return list({change.key: change for change in found}.values())


def _change(key: str, one: Definition, other: Definition) -> Difference:
    """Return a difference by the name that a person sets it with; a hook that only one run has is one difference."""
    section, _, rest = key.partition(".")
    if section == "hooks" and rest:
        hook = f"hooks.{rest.partition('.')[0]}"
        has = [any(name.startswith(f"{hook}.") for name in defined) for defined in (one, other)]
        if not all(has):
            return Difference(hook, *("on" if there else "off" for there in has))
    return Difference(NAMES.get(key, key), one.get(key), other.get(key))


def _fairness(ours: Known, theirs: Known, keys: Sequence[str]) -> tuple[list[str], str]:
    """Say why results cannot be compared, and in which figure they can."""
    unfair, figure = [], LOSS
    texts = [known.facts.get("text_hash") for known in (ours, theirs)]
    other_tokenizer = "tokenizer" in keys
    same_text = texts[0] == texts[1] if all(texts) else ours.facts.get("data_hash") == theirs.facts.get("data_hash")
    if other_tokenizer and not all(texts):
        unfair.append("other tokenizers, and an older data folder that does not tell whether the text is the same")
    elif not same_text:
        said = [str(change) for change in _settings(ours, theirs) if change.key.startswith("data.")]
        split = all("val_" in part for part in said) and bool(said)
        unfair.append("another split" if split else "other data")
        unfair[-1] += f": {', '.join(said)}" if said else ""
    elif other_tokenizer:
        figure = BITS
        if any(known.config.eval.max_tokens is not None for known in (ours, theirs)):
            unfair.append("other tokenizers, of which eval.max_tokens is not the same text")
    evaluation = [
        str(Difference(key, ours.defined.get(key), theirs.defined.get(key)))
        for key in keys
        if key.startswith(EVALUATION) and key != "eval.batch_size"
    ]
    if evaluation:
        unfair.append(f"another evaluation: {', '.join(evaluation)}")
    return unfair, figure


def _settings(ours: Known, theirs: Known) -> list[Difference]:
    """List all settings that differ, those that cannot change results too."""
    one, other = (dict(flat(to_mapping(known.config))) for known in (ours, theirs))
    return [Difference(key, one.get(key), other.get(key)) for key in different(one, other)]


def unrelated(ours: Known, theirs: Known) -> list[Difference]:
    """List the settings that differ and cannot change results, but those of the data."""
    counted = set(different(ours.defined, theirs.defined)) | IN_THE_DATA | {STEPS}
    return [change for change in _settings(ours, theirs) if change.key not in counted]


def from_defaults(config: Config) -> list[Difference]:
    """List the settings that are not the defaults, but those that were decided where the default leaves them open."""
    defaults = Config()
    skipped = _following(config, defaults) | {"model.vocab_size"}
    skipped |= {STEPS} if config.train.max_steps == DEFAULT_STEPS else set()
    found = _settings(Known("", config, {}), Known("", defaults, {}))
    return [change for change in found if change.key not in skipped and change.theirs != "auto"]


def _following(one: Config, other: Config) -> set[str]:
    """Name the derived settings of the model that are in both what follows from the others."""
    both = [(config.model, config.model.derived_values()) for config in (one, other)]
    return {
        f"model.{name}" for name in both[0][1] if all(getattr(model, name) == values[name] for model, values in both)
    }
