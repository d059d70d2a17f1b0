"""What a study is: a baseline, variants with one change each, seeds, and what is measured; read from a YAML file.

In: the file, or two configs of which the second's settings are taken back one by one, and KEY=VALUE words for all
runs. Out: a `Study`, checked: no variant without a change or with two that are not declared as one.

    baseline: {config: [small], data.source: tales}    # config files by name, and settings; or the name of a run
    variants:
      relu2: {model.feedforward: relu2}
      adamw: {group: true, train.optimizer: adamw, train.lr: 0.003}    # several settings that are one change
    seeds: 5                  # or a list
    measure: bits_per_byte    # or val_loss

A seed is runtime.seed: initial weights, the order of the data and dropout, all of them (Bouthillier et al., 2021, on
why all should vary). `vary: [corpus]` gives each seed a corpus of its own as well.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kiara_cli.config.keys import derived
from kiara_cli.config.layers import IMPLICIT, Layer, find_file, flatten
from kiara_cli.config.load import load_config, merge, to_mapping, value_at
from kiara_cli.config.schema import Config
from kiara_cli.config.text import meant, read_mapping, shown
from kiara_cli.core.checkpoint.identity import SECTIONS_WITHOUT_EFFECT, SEED, WITHOUT_EFFECT
from kiara_cli.core.lab import looks as looking
from kiara_cli.errors import KiaraError

Measure: TypeAlias = Literal["bits_per_byte", "val_loss"]

BASELINE = "baseline"
MEASURES: dict[str, str] = {"bits_per_byte": "val_bits_per_byte", "val_loss": "val_loss"}  # and in metrics.jsonl
KEYS = (
    "name", "baseline", "variants", "sizes", "next", "seeds", "measure", "vary", "looks", "worth", "noise",
)  # fmt: skip
VARIED = {"seed": (SEED,), "corpus": ("data.corpus_seed",)}
DATA_FREE = {"data.sampling", "data.stride", "data.shard_tokens", "data.name", "data.output"}  # the text stays
DEFAULT_SEEDS = 5
CONTINUED = ("seeds", "variants")  # of which a study may get more later


@dataclass(frozen=True)
class Arm:
    """The baseline, a variant or a size: the settings that it changes, by dotted key."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    grouped: bool = False  # several settings, declared as one change

    @property
    def change(self) -> str:
        return ", ".join(f"{key}={shown(meant(value))}" for key, value in self.values.items()) or "as it is"


@dataclass(frozen=True)
class Study:
    """What is to be run and how it is judged. `layers` make the baseline, with which `arms` begin but for scaling."""

    name: str
    origin: str
    layers: tuple[Layer, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    measure: Measure = "bits_per_byte"
    varied: tuple[str, ...] = ("seed",)
    looks: tuple[int, ...] = ()
    worth: float | None = None
    equal_noise: bool = False
    scaling: bool = False  # the arms are sizes of one model, and the baseline is what they change
    next: Arm | None = None  # the size to predict

    def layers_of(
        self, arm: Arm, seed: int | None = None, more: Mapping[str, Any] | None = None
    ) -> tuple[Layer, ...]:
        """Return the layers of one run: the baseline's, what is fixed for all, the arm's change, the seed."""
        layers = [*self.layers]
        if more:
            layers.append(Layer(self.origin, dict(more)))
        if arm.values:
            layers.append(Layer(f"{self.origin}: {arm.name}", arm.values))
        if seed is not None:
            layers.append(Layer(self.origin, {key: seed for name in self.varied for key in VARIED[name]}))
        return tuple(layers)

    def config_of(self, arm: Arm) -> Config:
        """Return an arm's config, checked. Raises KiaraError."""
        return merge(self.layers_of(arm)).config

    @functools.cached_property
    def configs(self) -> dict[str, Config]:
        """The config of the baseline and of each arm, checked."""
        return {arm.name: self.config_of(arm) for arm in (Arm(BASELINE), *self.arms)}

    @property
    def variants(self) -> tuple[Arm, ...]:
        """The arms that change something."""
        return self.arms if self.scaling else self.arms[1:]

    def changed(self, arm: Arm) -> list[str]:
        """Name the settings in which an arm really differs from the baseline."""
        base, own = self.configs[BASELINE], self.configs[arm.name]
        return [key for key in arm.values if value_at(own, key) != value_at(base, key)]

    @functools.cached_property
    def definition(self) -> dict[str, Any]:
        """What must stay the same while a study goes on, but for CONTINUED, as plain values."""
        variants = {arm.name: {key: meant(value) for key, value in arm.values.items()} for arm in self.variants}
        parts: dict[str, Any] = {
            "measure": self.measure,
            "vary": list(self.varied),
            "looks": list(self.looks),
            "worth": self.worth,
        }
        parts |= {"noise": "equal" if self.equal_noise else "own", "seeds": list(self.seeds), "variants": variants}
        return parts | {"baseline": to_mapping(self.configs[BASELINE]), "scaling": self.scaling}


def run_name(arm: str, seed: int) -> str:
    """Name the folder of a run."""
    return f"{arm}-seed{seed}"


def read_study(
    path: Path,
    words: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    runs: Path = Path("checkpoints"),
    seeds: int | None = None,
) -> Study:
    """Read a study's file; `words` are settings of all runs, `seeds` take the place of the file's.

    Raises KiaraError.
    """
    if not path.is_file():
        raise KiaraError(f"there is no file {path}", "give the YAML file of a study, or --leave-one-out BASE ADDED")
    values, origin = read_mapping(path), str(path)
    for key in values:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            remedy = f"did you mean '{close[0]}'?" if close else f"a study has: {', '.join(KEYS)}"
            raise KiaraError(f"{origin}: a study has no '{key}'", remedy)
    scaling = "sizes" in values
    if scaling and values.get("variants"):
        raise KiaraError(f"{origin}: there are variants and sizes", "write one of the two: a study does one thing")
    named = _mapping(values.get("sizes" if scaling else "variants"), origin, "sizes" if scaling else "variants")
    arms = tuple(_arm(name, inner, origin, scaling) for name, inner in named.items())
    layers = _baseline(values.get("baseline"), origin, words, environ or {}, runs)
    following = _arm("next", values["next"], origin, grouped=True) if values.get("next") else None
    study = Study(
        name=_name(values.get("name") or path.stem, origin),
        origin=origin,
        layers=layers,
        arms=arms if scaling else (Arm(BASELINE), *arms),
        seeds=_seeds(seeds if seeds is not None else meant(values.get("seeds", DEFAULT_SEEDS)), origin),
        measure=_measure(values.get("measure"), origin),
        varied=_varied(values.get("vary"), origin),
        looks=tuple(_numbers(values.get("looks"), origin, "looks")),
        worth=_worth(meant(values.get("worth")), origin),
        equal_noise=_noise(values.get("noise"), origin),
        scaling=scaling,
        next=following,
    )
    check(study)
    return study


def leave_one_out(
    base: str,
    added: str,
    words: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    seeds: int | None = None,
    name: str | None = None,
) -> Study:
    """Make a study of what a config adds to another: the baseline has all of it, each variant all but one setting."""
    below = load_config([base], words, environ or {}, check=False)
    above = load_config([base, added], words, environ or {}, check=False)
    path = find_file(added, Path())
    one, other = below.config, above.config
    keys = [key for key in flatten(read_mapping(path), added) if value_at(one, key) != value_at(other, key)]
    keys = [key for key in keys if matters(key)]
    if not keys:
        raise KiaraError(f"{added} adds nothing to {base}", "name two configs of which the second changes the first")
    unset = derived() - set(below.values)
    back = {key: None if key in unset else value_at(one, key) for key in keys}
    short = [key.split(".")[-1] for key in keys]
    names = short if len(set(short)) == len(keys) else keys
    arms = tuple(Arm(f"without-{name}", {key: back[key]}) for name, key in zip(names, keys, strict=True))
    study = Study(
        name=_name(name or f"{path.stem}-without-each", added),
        origin=added,
        layers=above.layers,
        arms=(Arm(BASELINE), *arms),
        seeds=_seeds(seeds or DEFAULT_SEEDS, added),
    )
    check(study)
    return study


def matters(key: str) -> bool:
    """Say whether a setting can change what a run computes."""
    return key.partition(".")[0] not in SECTIONS_WITHOUT_EFFECT and key not in WITHOUT_EFFECT


def check(study: Study) -> None:
    """Raise KiaraError for an arm that is no single change, or that cannot be held to the baseline."""
    looking.check(study.looks, study.origin)
    if study.looks and (study.scaling or max(study.looks) > len(study.seeds)):
        raise KiaraError(
            f"{study.origin}: looks={list(study.looks)} with {len(study.seeds)} seeds",
            "leave looks out" if study.scaling else f"the last look is at all seeds: seeds: {max(study.looks)}",
        )
    if len(study.arms) < 2:
        missing = "sizes" if study.scaling else "variants"
        raise KiaraError(f"{study.origin}: too few {missing}", f"write {missing}: and below it NAME: {{KEY: VALUE}}")
    seen: dict[tuple[str, ...], str] = {}
    for arm in study.variants:
        where, changed = f"{study.origin}: {arm.name}", study.changed(arm)
        _check_fair(study, arm, changed, where)
        if not study.scaling and not any(map(matters, changed)):
            raise KiaraError(f"{where} is the baseline: {arm.change}", "change one setting, or leave it out")
        if len(changed) > 1 and not (arm.grouped or study.scaling):
            raise KiaraError(
                f"{where} changes {len(changed)} settings at once: {', '.join(changed)}",
                "make a variant of each, or declare them as one change with group: true",
            )
        same = tuple(f"{key}={value_at(study.configs[arm.name], key)}" for key in sorted(changed))
        if same in seen:
            raise KiaraError(f"{where} is the same as {seen[same]}", "leave one of them out")
        seen[same] = arm.name


def _check_fair(study: Study, arm: Arm, changed: Iterable[str], where: str) -> None:
    """Raise KiaraError where the measurement would be another one than the baseline's."""
    base = study.configs[BASELINE]
    for key in changed:
        if key in {varied for name in study.varied for varied in VARIED[name]}:
            raise KiaraError(f"{where} sets {key}, which every seed sets", "leave it out")
        if key.startswith("eval.") and key not in ("eval.batch_size", "eval.sample_prompt", "eval.sample_tokens"):
            raise KiaraError(f"{where} changes {key}: it would be measured in another way", "leave it out")
        other_text = key.startswith("data.") and key not in DATA_FREE
        if other_text and (base.data.val_source is None or key == "data.val_source"):
            raise KiaraError(
                f"{where} changes {key}: it would be measured on other text",
                "give the baseline a data.val_source, on which all are measured, or leave it out",
            )
        if (other_text or key.startswith("tokenizer.")) and study.measure != "bits_per_byte":
            raise KiaraError(
                f"{where} changes {key}: losses per token of other tokenizers cannot be compared",
                "write measure: bits_per_byte",
            )


def differences(before: Mapping[str, Any], study: Study) -> list[str]:
    """Name what a study that was begun as `before` has otherwise now; more seeds and variants are no such thing."""
    now, found = study.definition, []
    for part, value in now.items():
        old = before.get(part)
        if part == "seeds":
            found += ["seeds"] if list(value)[: len(old or ())] != list(old or ()) else []
        elif part == "variants":
            found += [f"variant {name}" for name, inner in (old or {}).items() if value.get(name) != inner]
        elif part == "baseline":
            flat, was = flatten(value, ""), flatten(old or {}, "")
            defaults = flatten(to_mapping(Config()), "")  # of a setting that there was not when the study began
            changed = [key for key, new in flat.items() if was.get(key, defaults.get(key)) != new]
            found += [f"{key} ({shown(was.get(key))} → {shown(flat[key])})" for key in changed]
        elif old != value:
            found.append(f"{part} ({shown(old)} → {shown(value)})")
    return found


def _baseline(
    value: Any, origin: str, words: Sequence[str], environ: Mapping[str, str], runs: Path
) -> tuple[Layer, ...]:
    """Return the layers of the baseline, the file's own settings right after the config files."""
    if value is None or isinstance(value, str):
        found = runs / value / "config.yaml" if value else None
        files = [] if value is None else [str(found)] if found is not None and found.is_file() else [value]
        own: dict[str, Any] = {}
    else:
        mapping = _mapping(value, origin, "baseline")
        given = mapping.pop("config", None)
        files = [given] if isinstance(given, str) else [str(name) for name in given or []]
        own = flatten(mapping, f"{origin}: baseline")
    layers = list(load_config(files, words, environ, check=False).layers)
    below = len(files) or int(bool(layers) and layers[0].origin == str(IMPLICIT))
    return (*layers[:below], Layer(f"{origin}: baseline", own), *layers[below:])


def _arm(name: str, value: Any, origin: str, grouped: bool = False) -> Arm:
    where = f"{origin}: {name}"
    if not re.fullmatch(r"\w[\w.-]*", name) or name == BASELINE:
        raise KiaraError(f"{where} cannot name a variant", "use letters, digits, _ - and ., and not baseline")
    inner = _mapping(value, origin, name)
    declared = meant(inner.pop("group", grouped))
    if not isinstance(declared, bool):
        raise KiaraError(f"{where}: group={shown(declared)}", "write group: true")
    return Arm(name, flatten(inner, where), declared)


def _mapping(value: Any, origin: str, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        held = shown(meant(value))
        raise KiaraError(f"{origin}: {name} holds {held}, not settings", f"write {name}: {{KEY: VALUE}}")
    return dict(value)


def _name(value: Any, origin: str) -> str:
    name = re.sub(r"[^\w.-]+", "-", str(value)).strip("-.")
    if not name:
        raise KiaraError(f"{origin}: name={value} cannot name a folder", "use letters and digits")
    return name


def _numbers(value: Any, origin: str, name: str) -> list[int]:
    found = meant(value)
    found = [] if found is None else found if isinstance(found, list) else [found]
    if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in found):
        raise KiaraError(f"{origin}: {name}={shown(found)} are no whole numbers", f"write {name}: [1, 2, 3]")
    return [int(each) for each in found]


def _seeds(value: Any, origin: str) -> tuple[int, ...]:
    if isinstance(value, list):
        found = tuple(_numbers(value, origin, "seeds"))
    else:
        found = tuple(range(1, _numbers(value, origin, "seeds")[0] + 1))
    if len(found) < 2 or len(set(found)) < len(found):
        raise KiaraError(
            f"{origin}: seeds={shown(value)}: a difference is judged by the spread over seeds",
            "give at least two different ones; 3 find large differences, 5 are usual",
        )
    return found


def _measure(value: Any, origin: str) -> Measure:
    if value is None or value in MEASURES:
        return value or "bits_per_byte"
    raise KiaraError(f"{origin}: measure={value}", f"choose one of: {', '.join(MEASURES)}")


def _varied(value: Any, origin: str) -> tuple[str, ...]:
    names = ["seed"] if value is None else [value] if isinstance(value, str) else list(value)
    for name in names:
        if name not in VARIED:
            raise KiaraError(f"{origin}: vary={name}", f"choose among: {', '.join(VARIED)}")
    return tuple(dict.fromkeys(["seed", *names]))


def _worth(value: Any, origin: str) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise KiaraError(f"{origin}: worth={shown(value)}", "give the smallest gain that matters, above 0")


def _noise(value: Any, origin: str) -> bool:
    if value in (None, "own", "equal"):
        return bool(value == "equal")
    raise KiaraError(f"{origin}: noise={value}", "write own (the default), or equal where you are sure that it is")
