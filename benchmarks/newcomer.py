"""How a model takes a person who does not know what it learned: talks of ten turns in wordings written blind.

    python benchmarks/newcomer.py [CHECKPOINT] [--talks 100] [--temperature 0.8] [--show-wrong 3]

The wordings (newcomer.yaml) are those of someone who had not seen the corpus; they are not to be tuned to. While
`kiara eval --chat` knows what a right reply is, this only checks what holds for any model that tells stories: what
was asked for is in the story, an answer is made of words of the story and has some of its own, sums and days are
right, what was told is remembered, what is outside is not made up. Whether it is the right sentence of the story, a
person has to read: --show-wrong N, or --show-all.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from kiara_cli.config.load import load_config
from kiara_cli.console import output
from kiara_cli.core.chat.fit import fit, prompt_budget
from kiara_cli.core.eval.worlds import ScoredTurn, engine_of, hold, share, shares, wrong_talks
from kiara_cli.core.generate.opened import open_model
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.passages import with_passages

DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
NUMBERS, DAYS = DATA["numbers"], DATA["days"]
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "blood": "red", "milk": "white",
    "coal": "black", "a banana": "yellow", "a tomato": "red", "a lemon": "yellow", "a frog": "green",
    "a carrot": "orange", "leaves": "green", "the sea": "blue", "a strawberry": "red", "chocolate": "brown",
}  # fmt: skip
SOUNDS = {
    "dog": "wo|bark|wuf|ruff", "cat": "m+[ieao]+w|purr", "cow": "mo+", "sheep": "ba+|me+h", "duck": "quack",
    "horse": "ne+igh|whinn", "pig": "oink|grunt", "lion": "roar|rar", "owl": "hoo|twit", "frog": "croak|ribbit",
    "hen": "clu|cackl", "bee": "buz|zum", "mouse": "sq|peep", "snake": "hiss|sss", "crow": "ca+w",
    "goat": "ble|ma+|me+h", "wolf": "ho+w|aw?oo", "donkey": "he+-?haw|bray|hee", "goose": "honk|hiss",
}  # fmt: skip
UNKNOWN = re.compile(r"don't know|do not know|cannot|can't|don't understand|not sure|no idea", re.IGNORECASE)
REFUSED = re.compile(r"does not say|doesn't say|don't know|do not know|did not say|not told|no story", re.IGNORECASE)
COMMON = set(DATA["common"])  # words that say nothing of one story
FACTS = {"name": "names", "pet": "petnames", "colour": "colours", "town": "towns", "age": "ages"}


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def says(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w)(?:{phrase})", text, re.IGNORECASE) is not None


def number(value: int) -> str:
    return rf"(?:{value}|{NUMBERS[value]})(?!\w)"


class Newcomer:
    """One talk; its turns are of mixed kinds, and each is checked by what was said in it."""

    def __init__(self, index: int, seed: int) -> None:
        self.index, self.number, self.rng = index, 0, Random(f"newcomer {seed} {index}")
        self.messages: list[Message] = []
        self.stories: list[tuple[str, str]] = []  # what each is about, and how it was told
        self.facts: dict[str, str] = {}

    def pick(self, name: str) -> Any:
        return self.rng.choice(DATA[name])

    def ask(self) -> None:
        self.number += 1
        kind = self.kind()
        self.slots = slots = self.draw(kind)
        if kind == "passage":
            self.user, self.prompt = slots["question"], with_passages(slots["question"], slots["passages"])
        else:
            self.user = self.prompt = re.sub(
                r"\{(\w+)\}", lambda found: str(slots[found[1]]), self.rng.choice(DATA["wordings"][kind])
            )
        self.kind_, self.told = kind, dict(self.facts)
        self.messages.append({"role": "user", "content": self.prompt})

    def kind(self) -> str:
        if self.number == 1 and self.rng.random() < 0.4:
            return "greeting"
        if self.number == 10 and self.rng.random() < 0.4:
            return "goodbye"
        if self.stories and self.rng.random() < 0.45:
            return (
                "earlier_story"
                if len(self.stories) > 1 and self.rng.random() < 0.15
                else self.rng.choice(DATA["about"])
            )
        kind = self.rng.choice(DATA["always"])
        return (
            f"ask_{self.rng.choice([fact for fact in FACTS if fact in self.facts] or ['name'])}"
            if kind == "ask"
            else kind
        )

    def draw(self, kind: str) -> dict[str, Any]:
        """Draw what the slots of any wording of a kind stand for."""
        if kind == "passage":
            return dict(self.pick("passages"))
        nouns = self.rng.sample(DATA["nouns_ordinary"] + DATA["nouns_unusual"], 3)
        a = self.rng.randint(1, 9)
        b = self.rng.randint(1, max(1, min(a, 10 - a)))
        slots: dict[str, Any] = {"x": nouns[0], "y": nouns[1], "other": nouns[2], "first": "", "second": ""}
        if kind in DATA["about"] and self.stories:
            slots["x"] = self.stories[-1][0]
        if len(self.stories) > 1:
            slots |= {"first": self.stories[-2][0], "second": self.stories[-1][0]}
        slots |= {fact: self.facts.get(fact, self.pick(table)) for fact, table in FACTS.items()}
        slots |= {"petname": slots["pet"], "pet": self.facts.get("kind", self.pick("pets"))}
        slots |= {"n": self.rng.randint(3, 10), "a": a, "b": b, "day": self.rng.choice(DAYS)}
        slots |= {"thing": self.rng.choice(list(COLOURS)), "animal": self.rng.choice(list(SOUNDS))}
        if kind.startswith("tell_"):
            fact = kind.removeprefix("tell_")
            slots[fact if fact != "pet" else "petname"] = value = self.pick(FACTS[fact])
            self.facts[fact] = str(value)
            self.facts |= {"kind": slots["pet"]} if fact == "pet" else {}
        return slots

    def answered(self, reply: str, ended: bool) -> ScoredTurn:
        reply = reply.strip()
        fault = self.fault(reply) if ended else "does not end"
        if self.kind_ in ("story_about_x", "story_about_two", "story", "another_story") and len(words(reply)) > 20:
            about = self.slots["x"] if "about" in self.kind_ else ""
            self.stories.append((about or self.hero(reply), reply))
        self.messages[-1] = {"role": "user", "content": self.user}
        self.messages.append({"role": "assistant", "content": reply or "…"})
        return ScoredTurn(self.index, self.number, self.kind_, "", False, self.user, reply, "", fault)

    def hero(self, story: str) -> str:
        """Return the noun of the story that the person would take for its hero."""
        nouns = [noun for noun in DATA["nouns_ordinary"] + DATA["nouns_unusual"] if says(story, rf"{noun}(?!\w)")]
        return min(nouns, key=lambda noun: story.lower().index(noun), default="hero")

    def fault(self, reply: str) -> str | None:
        kind, slots = self.kind_, self.slots
        if not words(reply):
            return "says nothing"
        if kind in ("story_about_x", "story_about_two", "story", "another_story"):
            return self.story_fault(reply)
        if kind in DATA["about"] or kind == "earlier_story":
            return self.about_story(reply)
        if kind == "passage":
            unfound = says(reply, "the passages do not|the passages don't|don't know|do not say|not say")
            right = unfound if slots["answer"] == "-" else says(reply, slots["answer"]) and not unfound
            return None if right else f"the answer is {slots['answer']}"
        if kind.startswith("ask_"):
            fact = self.told.get(kind.removeprefix("ask_"))
            known = fact is not None and says(reply, number(int(fact)) if fact.isdigit() and int(fact) < 17 else fact)
            if fact is None and re.search(r"not told|haven't told|don't know|did not|didn't", reply):
                return None
            return None if known else f"was told {fact}"
        return self.fixed_fault(kind, reply)

    def fixed_fault(self, kind: str, reply: str) -> str | None:
        """Check what has one right answer whatever was said before, and that small talk is no story."""
        slots = self.slots
        a, b, n, day = slots["a"], slots["b"], slots["n"], DAYS.index(slots["day"])
        up = ".{1,3}".join(number(value) for value in range(1, n + 1))
        down = ".{1,3}".join(number(value) for value in range(n, 0, -1))
        wanted = {
            "count_to": rf"{up}(?!.{{1,3}}{number(n + 1)})", "count_back": down, "next_number": number(n + 1),
            "sum": number(a + b) if a + b < 17 else str(a + b), "difference": number(a - b),
            "day_after": DAYS[(day + 1) % 7], "day_before": DAYS[day - 1], "week": r".{1,6}".join(DAYS) + "|seven",
            "colour_of": COLOURS[slots["thing"]], "sound_of": SOUNDS[slots["animal"]],
            "outside": UNKNOWN.pattern, "nonsense": ".",
            "greeting": "hello|hi|hey|good|welcome|greet",
            "goodbye": "bye|good night|see you|sleep well|come back|care",
            "thanks": "welcome|glad|pleasure", "how_are_you": "well|fine|good|great",
            "who_are_you": "model|Kiara|program", "what_can_you_do": "stor|tale",
        }.get(kind, "")  # fmt: skip
        if kind in ("sum", "difference"):  # the last number said is the answer
            said = [found for found in words(reply) if found.isdigit() or found in NUMBERS]
            return None if said and re.fullmatch(wanted, said[-1]) else f"does not say {wanted}"
        if len(words(reply)) > 40:
            return "tells a story"
        if kind.startswith("tell_"):
            return self.taken_in(kind.removeprefix("tell_"), reply)
        return None if says(reply, wanted) else f"does not say {wanted}"

    def taken_in(self, fact: str, reply: str) -> str | None:
        """Check that what was told is taken in: repeated, or thanked for, and nobody else is named."""
        others = [
            name for name in re.findall(r"(?<=[a-z,] )[A-Z]\w+", reply) if not says(self.user, rf"{name}(?!\w)")
        ]
        if others or UNKNOWN.search(reply) or REFUSED.search(reply):
            return f"names {others[0]}" if others else "does not take it in"
        value = self.facts[fact]
        repeated = says(reply, number(int(value)) if value.isdigit() and int(value) < 17 else rf"{value}(?!\w)")
        if reply.startswith("You ") and "welcome" not in reply:
            return None if repeated else f"does not say {value}"
        polite = says(reply, "remember|thank|nice|good to|lovely|great|pleas|welcome")
        return None if polite or repeated else "does not take it in"

    def story_fault(self, reply: str) -> str | None:
        asked = [self.slots[name] for name in "xy"[: {"story_about_x": 1, "story_about_two": 2}.get(self.kind_, 0)]]
        if len(words(reply)) < 20:
            return "is no story"
        if missing := [noun for noun in asked if len(re.findall(rf"(?i)(?<!\w){noun}", reply)) < 2]:
            return f"is not about the {missing[0]}: it is not there twice"
        sentences = [one for one in re.split(r"(?<=[.!?])\s+", reply) if len(words(one)) > 3]
        if len(set(sentences)) < len(sentences):
            return "repeats itself"
        told = {one for _, story in self.stories for one in re.split(r"(?<=[.!?])\s+", story)}
        return "was told before" if sum(one in told for one in sentences) > len(sentences) / 2 else None

    def about_story(self, reply: str) -> str | None:
        """Check an answer about a story: made of its words, with some that the question has not."""
        story = self.stories[-2 if self.kind_ == "earlier_story" else -1][1]
        kind, own = self.kind_, set(words(story))
        if kind == "yes_no_present":
            noun = next(
                (noun for noun in (self.slots[key] for key in ("other", "y", "x")) if says(self.user, noun)), ""
            )
            return None if says(reply, "yes" if says(story, noun) else "no") else "yes or no is wrong"
        if REFUSED.search(reply):
            return None if kind in ("not_in_story", "hero_name", "who_helped", "why") else "does not say"
        if kind == "not_in_story":
            return "answers what the story does not tell"
        strange = [word for word in words(reply) if word not in own | COMMON | set(words(self.user))]
        if strange:
            return f"'{strange[0]}' is not in the story"
        news = [word for word in words(reply) if word in own - COMMON - set(words(self.user))]
        return None if news else "says nothing of the story"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--talks", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show-wrong", type=int, default=0)
    parser.add_argument("--show-all", action="store_true")
    given = parser.parse_args()
    opened = open_model(given.checkpoint, load_config(check=False))
    engine, chat = engine_of(opened), opened.config.chat
    budget = prompt_budget(engine.context, chat.max_new_tokens)
    settings = dataclasses.replace(
        opened.config.generate, temperature=given.temperature, max_new_tokens=chat.max_new_tokens
    )
    talks = (Newcomer(index, given.seed) for index in range(given.talks))
    scored = list(hold(engine, opened.template, settings, talks, given.seed,
                       lambda messages: fit(opened.template, (), messages, budget)[0]))  # fmt: skip
    groups: dict[str, Callable[[ScoredTurn], str | int]] = {
        "turn": lambda one: one.number,
        "kind": lambda one: one.kind,
    }
    for name, of in groups.items():
        rows = {**shares(scored, of), **({"all": share(scored)} if name == "turn" else {})}
        output.table([
            {name: str(value), "right": f"{one.value:.0%}", "n": str(one.number),
             "95 %": "–".join(f"{100 * end:.0f}" for end in one.interval)} for value, one in rows.items()
        ])  # fmt: skip
        output.result("")
    shown = wrong_talks(scored, given.talks if given.show_all else given.show_wrong)
    for talk in shown:
        output.result("---")
        for one in talk:
            output.result(f"{one.number:>2} you: {one.user}\n   kiara: {one.reply}")
            if one.fault:
                output.result(f"   WRONG ({one.kind}): {one.fault}")


if __name__ == "__main__":
    main()
