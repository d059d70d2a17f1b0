"""Questions about a story, and their answers.

Goes in: a `Story`. Comes out: `Answered`, a question with its reply and with the phrases by which a
scorer knows a right reply. The replies use the words of the story, so that a small model can find them by
looking back.
"""

from dataclasses import dataclass
from random import Random

from kiara_cli.core.data.tales.creatures import CREATURES
from kiara_cli.core.data.tales.plot import Ask
from kiara_cli.core.data.tales.stories import Story, article, cap, pick
from kiara_cli.core.data.tales.words import COLOURS

NOT_SAID = "The story does not say."
ENDED = "This is how it ended."


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and its answer; a reply is right when it holds one of `any_of` and none of `none_of`."""

    question: str
    answer: str
    any_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()


UNSAID: tuple[str, ...] = (
    "How old was {H}?", "What did {H} have for lunch?", "What was the name of {H}'s mother?",
    "How many brothers did {H} have?", "What was {H}'s favourite song?", "How much did the {T} cost?",
    "How heavy was the {T}?", "What did {H} dream about?", "Could {H} read?", "How tall was {H}?",
    "What day is {H}'s birthday?", "Who was {H}'s teacher?", "What was the weather like the day before?",
    "Did {H} have a sister called Susan?", "What colour were {H}'s eyes?", "How many socks did {H} own?",
    "Who made the {T} in the factory?", "What did {H}'s father do?", "Which country was it?",
    "How long was {H}'s tail?", "What was the king's name?", "Did {H} like swimming?",
)  # fmt: skip

_KIND = Ask(
    (
        "What kind of animal was {H}?",
        "What animal was {H}?",
        "What was {H}?",
        "Was {H} {an_h}?",
        "Was {H} {an_other}?",
    ),
    "That was {N}.",
    ("the {h}",),
    ("the {f}",),
)
_NAME = Ask(
    ("What was the {h}'s name?", "What was the {h} called?", "Who was the {h}?"),
    "The name of the {h} was {H}.",
    ("{hero}",),
    ("{friend}",),
)
_PLACE = Ask(
    ("Where did {H} live?", "Where was {his} home?", "Where does {H} live?"),
    "In the story {H} lived {place}.",
    ("{place}",),
)
_COLOUR = Ask(
    (
        "What colour was the {T}?",
        "Which colour was the {T}?",
        "What colour did the {T} have?",
        "Was the {T} {other_colour}?",
    ),
    "The {T} was {colour}.",
    ("{colour}",),
)
_FRIEND = Ask(
    ("What was the {f}'s name?", "What was the {f} called?", "Who was the {f}?"),
    "The name of the {f} was {F}.",
    ("{friend}",),
    ("{hero}",),
)
_FRIEND_KIND = Ask(
    ("What kind of animal was {F}?", "What was {F}?", "Who was {F}?"),
    "That was {FF}.",
    ("the {f}",),
    ("the {h}",),
)
_WANT = Ask(
    ("What did {H} want?", "What did the {h} want?", "What was {H}'s wish?", "What did {H} wish for?"),
    "In the story {H} wanted {wanted}.",
    ("{wanted}",),
)
_TROUBLE = Ask(
    ("What was the trouble?", "What was the problem?", "What went wrong?", "What was the matter?"),
    "The trouble was that {problem}.",
    ("{problem}",),
)
_HELP = Ask(
    (
        "How did the {T} help?",
        "What did {H} do with the {T}?",
        "How was the trouble solved?",
        "What did {H} do?",
    ),
    "This is how: {helped}.",
    ("{help}",),
)
_WHY = Ask(
    ("Why was the {T} needed?", "Why did {H} need the {T}?", "Why did they need the {T}?"),
    "Because of the trouble: {problem}.",
    ("{problem}",),
)
_MEND = Ask(
    ("How did it come right?", "How was the trouble solved?", "What helped in the end?"),
    "This is how: {helped}.",
    ("{help}",),
)
_ABOUT = Ask(
    ("What is the story about?", "Who is the story about?", "What was that about?"),
    "It is about {N} and {a_T0}.",
    ("{h} and {a_T0}",),
)
_SKILL = Ask(("What could {H} do?", "What was {H} good at?"), "In the story {H} could {skill}.", ("{skill}",))
_LOOK = Ask(("What did the {T} look like?", "What was special about the {T}?"), "The {T} had {look}.", ("{look}",))

_END: tuple[str, ...] = (
    "How did it end?",
    "How does the story end?",
    "What happened in the end?",
    "What was the ending?",
)
_SHORTER: tuple[str, ...] = (
    "Make it shorter.", "Can you make it shorter?", "Tell it in two sentences.", "Shorter, please.",
    "Please tell it again, but shorter.", "A shorter version, please.",
)  # fmt: skip
_OTHER: tuple[str, ...] = (
    "Tell me another ending.", "Can it end in another way?", "Another ending, please.",
    "Give it a different ending.",
)  # fmt: skip
_NEXT: tuple[str, ...] = (
    "What happened next?", "And then?", "What happened after that?", "Go on.",
    "What did they do the next day?",
)  # fmt: skip

SEQUELS: tuple[str, ...] = (
    ("The next day {H} told everyone about it. The story grew a little with every telling, and by "
     "Friday it had a dragon in it."),
    "The next morning {H} overslept. {F} came by with {treat}, and they ate it on the doorstep.",
    "The next day it rained. {H} and {F} sat at the window and gave names to the drops.",
    "After that {H} took a long bath. {He} used up all the soap and sang every song {he} knew.",
    ("The next week a letter came from the mayor. It said well done, and it had a blot in the shape "
     "of {an_h}."),
    "The next day {H} and {F} planted a pumpkin. By autumn it was too big to go through the gate.",
    "Soon afterwards {F} wrote a song about it. It had nineteen verses, and {H} hid during all of them.",
    "The next morning there was frost on the window. {H} drew {a_T0} in it, and {F} guessed it at once.",
    "Then they were both very hungry. {F} made {treat}, and {H} washed up, which was only fair.",
    ("The next day was quiet. {H} lay in the grass with {F}, and they watched the clouds change "
     "their shapes."),
    "A year later they met to remember it. They ate {treat}, and {F} gave a speech that nobody could hear." ,
    ("The next day a newspaper came to ask {H} about it. They printed the picture upside down, but "
     "the name was right."),
)  # fmt: skip


def _fill(ask: Ask, slots: dict[str, str], rng: Random) -> Answered:
    return Answered(
        cap(pick(rng, ask.questions).format_map(slots)),
        cap(ask.answer.format_map(slots)),
        tuple([phrase.format_map(slots).lower() for phrase in ask.wants]),
        tuple([phrase.format_map(slots).lower() for phrase in ask.bans]),
    )


def _slots(rng: Random, story: Story) -> dict[str, str]:
    slots = dict(story.slots)
    if slots["FF"] not in story.text:  # then the friend is still a stranger
        slots["F"] = slots["FF"]
    slots["an_h"] = article(story.hero.name)
    slots["an_other"] = article(pick(rng, CREATURES).name)
    slots["colour"], slots["other_colour"] = story.colour, pick(rng, COLOURS)
    slots["wanted"] = story.plot.want.format_map(slots)
    slots["problem"] = story.plot.trouble.format_map(slots)
    slots["helped"] = story.plot.help.format_map(slots).rstrip(".")  # in the words of the story, as it stood there
    slots["help"] = slots["helped"].lower()
    slots["ending"] = cap(story.plot.endings[story.ending].format_map(slots))
    return slots


def _answerable(story: Story, slots: dict[str, str]) -> list[Ask]:
    """List what this story can be asked; its plot's own questions count twice, being the hardest."""
    text = story.text
    asks = [*story.plot.asks, *story.plot.asks, _ABOUT, _PLACE, _KIND, _NAME]
    asks += [_COLOUR, _COLOUR] if story.colour else []
    asks += [_FRIEND, _FRIEND_KIND] if slots["FF"] in text else []
    asks += [_WANT, _WANT] if slots["wanted"] else []
    asks += [_TROUBLE] if slots["problem"] else []
    asks += [_WHY] if slots["problem"] and story.plot.needs != "nothing" else []
    asks += [_HELP, _HELP] if story.plot.needs != "nothing" else [_MEND] if slots["help"] else []
    asks += [_SKILL] if slots["skill"] in text else []
    asks += [_LOOK] if slots["look"] in text else []
    return asks


def _unanswerable(rng: Random, story: Story, slots: dict[str, str]) -> Answered:
    questions = [pick(rng, UNSAID), pick(rng, UNSAID)]
    questions += [pick(rng, _COLOUR.questions)] * 2 if not story.colour else []
    question = cap(pick(rng, questions).format_map(slots))
    return Answered(question, NOT_SAID, ("does not say",))


def fact(rng: Random, story: Story) -> Answered:
    """Ask for something that the story says."""
    slots = _slots(rng, story)
    return _fill(pick(rng, _answerable(story, slots)), slots, rng)


def unsaid(rng: Random, story: Story) -> Answered:
    """Ask for something that the story does not say."""
    return _unanswerable(rng, story, _slots(rng, story))


def retelling(rng: Random, story: Story) -> Answered:
    """Ask for the end, another end, the next day or a shorter version."""
    slots = _slots(rng, story)
    kind = int(rng.random() * 4)
    if kind == 0:
        return Answered(pick(rng, _END), f"{ENDED} {slots['ending']}", (slots["ending"].lower(),))
    if kind == 1:
        return Answered(pick(rng, _SHORTER), cap(story.plot.short.format_map(slots)), (slots["T"],))
    if kind == 2:
        endings = story.plot.endings
        other = endings[(story.ending + 1 + int(rng.random() * (len(endings) - 1))) % len(endings)]
        return Answered(pick(rng, _OTHER), cap(other.format_map(slots)))
    return Answered(pick(rng, _NEXT), cap(pick(rng, SEQUELS).format_map(slots)), (slots["hero"], slots["friend"]))
