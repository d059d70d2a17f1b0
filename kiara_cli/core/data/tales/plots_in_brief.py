"""Plots of three sentences: a present, a find, a visit, a swap.

Goes in: the shapes of `plot`. Comes out: `PLOTS`, told when someone asks for a very short story.
"""

from kiara_cli.core.data.tales.plot import Ask, Plot

_ATE = Ask(("What did they eat?", "What did they have?"), "They ate {treat}.", ("{treat}",))
_FRIEND_NOW = Ask(
    ("Who had the {T} in the end?", "Who has the {T} now?"),
    "It was {FF} who had the {T}.",
    ("{friend}",),
    ("{hero}",),
)
_HERO_NOW = Ask(
    ("Who had the {T} in the end?", "Who has the {T} now?"), "It was {N} who had the {T}.", ("{hero}",), ("{friend}",)
)

PRESENT = Plot(
    "present",
    "nothing",
    (
        (
            "{Time}, {FF} gave {him} {a_T} with {look}.",
            "{Time}, {FF} came to tea and brought {him} {a_T} with {look}.",
        ),
    ),
    (
        '"Just what I needed for {use}," said {H}, and they ate {treat}.',
        '"Is it really for me?" asked {H}, and then they ate {treat}.',
        '"Thank you," said {H}, and {he} said it again at breakfast. After that they ate {treat}.',
    ),
    "",
    "",
    "",
    "{FF} gave {a_T0} to {N}.",
    (
        Ask(("Who gave {H} the {T}?", "Who brought the {T}?", "Where did the {T} come from?"),
            "It was {FF} who gave {H} the {T}.", ("{friend} the {f} who", "{friend} who", "{friend} gave")),
        Ask(("Who got the {T}?", "Who was the {T} for?"), "It was {N} who got the {T}.", ("{hero}",), ("{friend}",)),
        _HERO_NOW,
        _ATE,
    ),
)  # fmt: skip

FOUND = Plot(
    "found",
    "nothing",
    (
        ("{Time}, {he} found {a_T} {spot}.", "{Time}, {he} fell over {a_T} {spot}."),
        (
            "It belonged to {FF}, who had looked for it all week.",
            "It had {look}, so it could only belong to {FF}.",
        ),
    ),
    (
        '"You may have half of my {treat}," said {F}, and that was a good reward.',
        '"I was about to look there," said {F}, who had not been about to look there.',
        '"Now I can go on with {use}," said {F}, and shook hands with {H} twice.',
    ),
    "",
    "",
    "",
    "{NN} found the {T} of {FF} {spot}.",
    (
        Ask(("Where was the {T}?", "Where did {H} find the {T}?"), "The {T} was {spot}.", ("{spot}",)),
        Ask(("Who found the {T}?", "Who fell over the {T}?"), "It was {N} who found the {T}.", ("{hero}",),
            ("{friend}",)),
        Ask(("Whose {T} was it?", "Who had lost the {T}?"), "It was {FF} who had lost the {T}.", ("{friend}",),
            ("{hero}",)),
    ),
)  # fmt: skip

VISIT = Plot(
    "visit",
    "nothing",
    (
        ("{He} had {a_T} with {look}.", "{He} was very proud of {a_T} with {look}."),
        (
            "{Time}, {FF} came to see it, and they ate {treat}.",
            "{Time}, {he} showed it to {FF}, and they ate {treat}.",
        ),
    ),
    (
        '"I must have one too," said {F}, and counted {fhis} money.',
        '"It is nearly as fine as you said," said {F}.',
        '"You may hold it until the clock strikes," said {H}, and the clock was slow that day.',
    ),
    "",
    "",
    "",
    "{NN} showed {a_T0} to {FF}.",
    (
        Ask(("Who came to visit?", "Who saw the {T}?", "Who was the guest?"), "It was {FF} who came to see the {T}.",
            ("{friend}",), ("{hero}",)),
        Ask(("Who had the {T}?", "Whose {T} was it?"), "It was {N} who had the {T}.", ("{hero}",), ("{friend}",)),
        _ATE,
    ),
)  # fmt: skip

SWAP = Plot(
    "swap",
    "nothing",
    (
        ("{He} had {a_T} with {look}, and {FF} had {goods}.", "{He} owned {a_T} with {look}, but {FF} had {goods}."),
        ("{Time}, they swapped.", "{Time}, they shook hands on a trade."),
    ),
    (
        '"Now we are both rich," said {H}.',
        '"You got the better half," said {F}, and {H} said the same.',
        '"We can always swap back," said {H}, but they never did.',
    ),
    "",
    "",
    "",
    "{NN} gave {a_T0} to {FF} and got {goods} for it.",
    (
        Ask(("What did {H} get?", "What did {H} get for the {T}?"), "In the story {H} got {goods}.", ("{goods}",)),
        Ask(
            ("Who had the {T} first?", "Whose {T} was it first?"),
            "It was {N} who had the {T} first.",
            ("{hero}",),
            ("{friend}",),
        ),
        _FRIEND_NOW,
    ),
)

PLOTS: tuple[Plot, ...] = (PRESENT, FOUND, VISIT, SWAP)
