"""How people ask for a story.

Goes in: nothing. Comes out: request templates by what they name; `RESERVED` is never used in training.
Slots: {c} a fox, {t} a lantern, {d} an owl, {cn} fox, {tn} lantern, {dn} owl, {name} a hero's name,
{place} where.
"""

PAIR: tuple[str, ...] = (
    "Tell me a story about {c} and {t}.", "Tell me a story about {c} and {t}",
    "tell me a story about {c} and {t}",
    "Can you tell a story with {c} and {t} in it?", "{cn} and {tn} please", "I'd like a tale of {c} and {t}.",
    "Please tell me a story about {c} and {t}.", "A story about {c} and {t}, please.",
    "Could you tell me a story about {c} and {t}?", "I want to hear about {c} and {t}.",
    "Write a story about {c} and {t}.", "Write a short story about {c} with {t}.",
    "Make up a story about {c} and {t}.", "Do you know a story about {c} and {t}?",
    "Tell me about {c} who had {t}.", "Give me a tale with {c} and {t}.", "a story about {c} and {t}",
    "Let me hear a story about {c} and {t}.", "How about a story with {c} and {t}?",
    "Story: {c}, {t}.", "My daughter wants a story about {c} and {t}.",
    "Can I have a story about {c} and {t}?",
    "Tell me a bedtime story about {c} and {t}.", "I would love a story about {c} and {t}.",
    "We need a story with {c} and {t} in it.", "Invent something about {c} and {t}.",
    "One story about {c} and {t}, please!", "Tell us a story about {c} and {t}.", "story about {c} and {t}",
    "Will you tell me the story of {c} and {t}?", "Something with {c} and {t}, please.",
    "Tell me a short story with {t} and {c}.", "Tell me a story about {t} and {c}.",
)  # fmt: skip
RESERVED: tuple[str, ...] = (
    "Please write me a little tale about {c} and {t}.", "Have you got a story with {c} and {t}?",
    "I am in the mood for a story about {c} and {t}.", "Now tell a story about {c}, and put {t} in it.",
    "Tell my son a story about {c} and {t}.", "May I hear a tale of {c} and {t}?",
)  # fmt: skip
BRIEF: tuple[str, ...] = (
    "Tell me a very short story about {c} and {t}.", "A very short story about {c} and {t}, please.",
    "Just a quick story about {c} and {t}.", "Tell me about {c} and {t} in three sentences.",
    "a tiny story about {c} and {t}", "Can you tell a tiny story about {c} and {t}?",
    "Only a few words about {c} and {t}, please.", "The shortest story about {c} and {t} that you know.",
)  # fmt: skip
OPENINGS: tuple[str, ...] = (
    "Here is a story about {c} and {t}.", "This is the story of {c} and {t}.",
)  # fmt: skip
HERO: tuple[str, ...] = (
    "Tell me a story about {c}.", "A story about {c}, please.", "Tell me about {c}.",
    "Can you tell a story with {c}?",
    "story about {c}", "I want a story about {c}.", "Do you know a story about {c}?", "one {cn} story please",
    "Please tell me a tale of {c}.", "Write a story about {c}.", "tell me a story about {c}",
)  # fmt: skip
THING: tuple[str, ...] = (
    "Tell me a story about {t}.", "A story about {t}, please.", "Can you tell a story with {t} in it?",
    "story about {t}", "I want a story with {t}.", "Make up a story about {t}.", "Write a story about {t}.",
    "Do you know a tale about {t}?", "tell me a story with {t}",
)  # fmt: skip
ANY: tuple[str, ...] = (
    "Tell me a story.", "tell me a story", "A story, please.", "Can you tell me a story?",
    "Please tell me a story.",
    "I would like a story.", "Do you know a story?", "Tell me something nice.", "story please", "I am bored.",
    "Tell me a bedtime story.", "Surprise me with a story.", "Write a short story.",
)  # fmt: skip
TWO: tuple[str, ...] = (
    "Tell me a story about {c} and {d}.", "A story with {c} and {d}, please.", "{cn} and {dn} please",
    "Can you tell a story about {c} and {d}?", "I want a story about {c} and {d}.",
    "Tell me a story about {c}, {d} and {t}.",
)  # fmt: skip
NAMED: tuple[str, ...] = (
    "Tell me a story about {c} called {name}.", "Tell me about {name} the {cn}.",
    "A story about {name} the {cn} and {t}, please.", "I want a story about {c} named {name}.",
    "Tell me a story about {name} the {cn} and {t}.",
)  # fmt: skip
PLACED: tuple[str, ...] = (
    "Tell me a story about {c} who lived {place}.", "Tell me a story about {c} and {t} {place}.",
    "A story {place}, please, with {c} and {t}.", "Can you tell a story about {c} {place}?",
)  # fmt: skip
