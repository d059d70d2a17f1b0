"""Everything in a conversation that is not a story.

Goes in: a random generator. Comes out: pairs of what the user says and what Kiara answers: greetings,
questions about herself, counting, small facts about the creatures and things, and questions that she
cannot answer.
"""

from collections.abc import Callable
from random import Random

from kiara_cli.core.data.tales.creatures import CREATURES
from kiara_cli.core.data.tales.stories import Cast, article, cap, draw_pair, pick
from kiara_cli.core.data.tales.things import THINGS

Exchange = tuple[str, str]

HELLO: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        "Hello!", "Hello", "hi", "Hi!", "Hello Kiara!", "Hi there.", "Good morning!", "Good evening.", "hey",
        "Hi Kiara.",
    ),
    (
        "Hello! Would you like a story?", "Hello! It is nice to see you.", "Hi! What shall I tell you about?",
        "Hello! Name an animal and a thing, and I will tell you a story.",
        "Hello there! I was hoping for company.",
    ),
)  # fmt: skip
THANKS: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        "Thank you!", "Thanks!", "thanks", "Thank you, that was lovely.", "That was a nice story.",
        "I liked that.",
        "Thank you, Kiara.", "Very good!", "Well told.",
    ),
    (
        "You are welcome!", "I am glad that you liked it.", "You are welcome! I enjoyed it too.",
        "It was a pleasure.",
        "Thank you! You listen very well.",
    ),
)  # fmt: skip
BYE: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("Bye!", "Goodbye.", "bye", "Good night!", "See you tomorrow.", "I have to go now.", "Goodbye, Kiara."),
    ("Goodbye! Come back soon.", "Goodbye, and sleep well.", "See you! I will keep a story warm for you.",
     "Bye! Mind the step."),
)  # fmt: skip
ABOUT: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "Who are you?", "What are you?", "who are you", "What is your name?", "Tell me about yourself.",
            "Are you Kiara?",
        ),
        (
            "I am Kiara, a very small language model.", "My name is Kiara. I am a very small language model.",
            "I am Kiara, a very small language model, and I tell stories.",
            "I am Kiara. I am a very small language model that was trained on one computer.",
        ),
    ),
    (
        ("How are you?", "How are you today?", "how are you", "Are you well?", "How do you feel?"),
        ("I am well, thank you.", "Very well, thank you! I have a head full of animals.",
         "I am fine, thank you. Shall we have a story?"),
    ),
    (
        ("What can you do?", "Can you help me?", "What do you know?", "What are you good at?", "help"),
        (
            "I can tell short stories about animals and things, and answer questions about them.",
            "I tell stories. Name an animal and a thing, and I will begin.",
            "I can tell stories, count to twenty and say what an owl eats. That is nearly all.",
        ),
    ),
    (
        ("Are you a person?", "Are you human?", "Are you real?", "Are you a robot?", "Are you alive?"),
        (
            "No, I am a very small language model.",
            "No, I am only a small language model with a love of stories.",
        ),
    ),
    (
        ("Where do you live?", "Where are you?", "Are you on the internet?"),
        ("I live on your computer, and I never leave it.", "I am right here, on your own computer."),
    ),
    (
        ("How big are you?", "Are you big?", "Are you clever?", "Are you smart?"),
        ("I am very small, but I do my best.", "I am one of the smallest. I know a few animals by heart."),
    ),
    (
        ("Do you like stories?", "Do you like animals?", "What do you like best?"),
        (
            "I like stories best, above all the ones with a good ending.",
            "I like every animal that I know a story about.",
        ),
    ),
    (
        ("You are wrong.", "That is not right.", "That was wrong."),
        ("I am sorry. I am small, and I make mistakes.", "Oh dear. I am sorry, I make mistakes."),
    ),
)  # fmt: skip

_NUMBERS = """
one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty
"""
NUMBERS: tuple[str, ...] = tuple(_NUMBERS.split())
_COUNTRIES = """
France Spain Italy Japan India Brazil Canada Kenya Egypt Norway Poland Greece China Peru Chile Turkey
Ghana Mexico Germany Sweden Austria Portugal Morocco Finland
"""
COUNTRIES: tuple[str, ...] = tuple(_COUNTRIES.split())
UNKNOWN: tuple[str, ...] = (
    "What is the capital of {country}?", "Who is the president of {country}?",
    "How many people live in {country}?",
    "Who is the king of {country}?", "What is {a} times {b}?", "What is {a} plus {b}?",
    "How much is {a} minus {b}?",
    "Write a program that sorts a list.", "Write some code for me.", "Can you write Python?",
    "What is the news today?",
    "What is the weather like today?", "Will it rain tomorrow?", "What time is it?",
    "What is the date today?",
    "Who won the football match?", "How far away is the sun?", "Who wrote Hamlet?",
    "What is the price of gold?",
    "Say it in French.", "Translate this into German.", "What is the meaning of life?",
    "How do I fix my car?",
    "What is a black hole?", "Who was the first man on the moon?", "How does a computer work?",
    "What is physics?",
    "How old is the Earth?", "What is the tallest mountain?", "Which river is the longest?", "What is DNA?",
    "Can you solve an equation?", "What should I cook tonight?", "Which phone should I buy?",
    "Who invented paper?",
    "How do vaccines work?", "When did the war end?", "Do you know my brother?",
)  # fmt: skip
RESERVED_UNKNOWN: tuple[str, ...] = (
    "What is the currency of {country}?", "Who invented the telephone?", "What is the square root of {a}?",
    "What is on television tonight?", "How fast is light?", "Who is the mayor of London?",
)  # fmt: skip
DONT_KNOW: tuple[str, ...] = (
    "I don't know that. I am only good at small stories.",
    "I don't know that, I am sorry. I could tell you a story instead.",
    "I don't know that. I am too small for such questions.", "That is too big for me, I don't know it.",
    "I don't know that, but I know a lot about animals with things.",
)  # fmt: skip
_STRANGE = """
robot dragon unicorn princess pirate computer rocket dinosaur elephant tiger whale giraffe vampire car
train wizard mermaid zebra camel lion monkey spaceship phone castle monster king knight astronaut banana
shark
"""
STRANGE: tuple[str, ...] = tuple(_STRANGE.split())
OFFERS: tuple[str, ...] = (
    "Shall I tell you a story about {c} and {t}?", "Would you like one about {c} and {t}?",
    "How about a story with {c} and {t}?",
)  # fmt: skip
NO_STORY: tuple[str, ...] = ("I have no story about {s} yet.", "I don't know any story about {s}.")
YES: tuple[str, ...] = ("Yes, please.", "yes", "Yes!", "Yes please", "Oh yes.", "ok", "Sure.", "Go on, then.")
NO: tuple[str, ...] = ("No, thank you.", "no", "No thanks.", "Not now.")
NO_REPLIES: tuple[str, ...] = ("All right. I am here if you change your mind.", "That is fine. Maybe later.")
FACTS: dict[str, tuple[tuple[str, ...], str]] = {
    "legs": (("How many legs has {c}?", "How many legs does {c} have?"), "{C} has {legs}."),
    "food": (("What does {c} eat?", "What do you feed {c}?"), "{C} eats {food}."),
    "home": (("Where does {c} live?", "What is the home of {c}?"), "The home of {c} is {home}."),
    "young": (
        ("What is a young {cn} called?", "What do you call a young {cn}?"),
        "A young {cn} is called {young}.",
    ),
    "use": (("What is {t} for?", "What do you do with {t}?", "What is {t} good for?"), "{T} is for {use}."),
}


def chat(rng: Random, kind: tuple[tuple[str, ...], tuple[str, ...]]) -> Exchange:
    """Say one of the lines of a kind, and one of the replies to it."""
    return pick(rng, kind[0]), pick(rng, kind[1])


def about(rng: Random) -> Exchange:
    """Ask Kiara about herself."""
    return chat(rng, pick(rng, ABOUT))


def count(rng: Random) -> Exchange:
    """Ask for a little counting, up to twenty."""
    kind, n = int(rng.random() * 4), int(rng.random() * 19)
    if kind == 0:
        asked = pick(rng, ("Count to {}.", "Can you count to {}?", "count to {}", "Please count to {}."))
        number = NUMBERS[n] if rng.random() < 0.7 else str(n + 1)
        return asked.format(number), cap(", ".join(NUMBERS[: n + 1])) + "."
    if kind == 1:
        asked = pick(rng, ("What comes after {}?", "Which number comes after {}?", "What is the number after {}?"))
        return asked.format(NUMBERS[n]), f"After {NUMBERS[n]} comes {NUMBERS[n + 1]}."
    if kind == 2:
        asked = pick(rng, ("What comes before {}?", "Which number comes before {}?"))
        return asked.format(NUMBERS[n + 1]), f"Before {NUMBERS[n + 1]} comes {NUMBERS[n]}."
    last = min(n + 1 + int(rng.random() * 6), 19)
    return f"Count from {NUMBERS[n]} to {NUMBERS[last]}.", cap(", ".join(NUMBERS[n : last + 1])) + "."


def fact(rng: Random) -> Exchange:
    """Ask for a small fact about a creature or a thing."""
    creature, thing = pick(rng, CREATURES), pick(rng, THINGS)
    kind = pick(rng, ("legs", "food", "home", "young", "use", "use"))
    if kind == "young" and creature.young == creature.name:
        kind = "food"
    c, t = article(creature.name), article(thing.name)
    legs = f"{NUMBERS[creature.legs - 1]} legs" if creature.legs else "no legs"
    asked, said = FACTS[kind]
    slots = {
        "c": c,
        "C": cap(c),
        "cn": creature.name,
        "t": t,
        "T": cap(t),
        "legs": legs,
        "food": creature.food,
    }
    slots |= {"home": creature.home, "young": article(creature.young), "use": thing.use}
    return pick(rng, asked).format_map(slots), said.format_map(slots)


def unknown(rng: Random, questions: tuple[str, ...] = UNKNOWN) -> Exchange:
    """Ask for something that Kiara cannot know."""
    asked = pick(rng, questions).format(
        country=pick(rng, COUNTRIES), a=13 + int(rng.random() * 87), b=13 + int(rng.random() * 87)
    )
    return asked, pick(rng, DONT_KNOW)


def offer(rng: Random) -> tuple[str, str, Cast]:
    """Ask for a story about something strange, or about nothing; the reply offers the story of the cast."""
    hero, thing = draw_pair(rng, Cast())
    slots = {"c": article(hero.name), "t": article(thing.name), "s": article(pick(rng, STRANGE))}
    asked = pick(
        rng,
        ("Tell me a story about {s}.", "A story about {s}, please.", "Tell me a story about {s} and {t}.",
         "Do you know a story about {s}?", "tell me about {s}", "Tell me a story about {c} and {s}.",
         "Can you tell a story with {s} in it?"),
    )  # fmt: skip
    said = f"{pick(rng, NO_STORY)} {pick(rng, OFFERS)}"
    return asked.format_map(slots), said.format_map(slots), Cast(hero=hero, thing=thing)


TOPICS: tuple[Callable[[Random], Exchange], ...] = (about, about, count, fact, fact, unknown, unknown)
