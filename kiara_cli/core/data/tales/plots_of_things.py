"""Plots about the thing itself: lost and found, quarrelled over, saved from a storm, heard at night.

Goes in: the shared beats of `plot`. Comes out: `PLOTS`.
"""

from kiara_cli.core.data.tales.plot import OWNING, Ask, Plot

_OWNED = Ask(
    ("Who had the {T}?", "Who owned the {T}?", "Whose {T} was it?"),
    "It was {N} who had the {T}.",
    ("{hero}",),
    ("{friend}",),
)
_WHERE = Ask(
    ("Where was the {T}?", "Where did they find the {T}?", "Where was the {T} found?"),
    "The {T} was {spot}.",
    ("{spot}",),
)

LOST = Plot(
    "lost",
    "nothing",
    (
        OWNING,
        (
            "{Time}, the {T} was gone.",
            "{Time}, {he} could not find the {T} anywhere.",
            "Then, {time}, the {T} was missing.",
        ),
        (
            "{HH} wanted to find the {T} and looked {search}.",
            "{He} searched {search}.",
            "First {he} looked {search}.",
        ),
        (
            "",
            '"Without it I am no good at {use}," said {H}, and {his} voice shook.',
            '"It cannot have walked away," said {H}.',
            '"It has gone to live with somebody else," sobbed {H}.',
        ),
        (
            '"Four eyes are better than two," said {FF}, and {fhe} came along to search.',
            '"When did you see it last?" asked {FF}.',
            '{FF} rolled up {fhis} sleeves and said, "Leave this to me."',
        ),
        (
            "In the end {F} found the {T} {spot}.",
            "It was {F} who found the {T}, for it was {spot}.",
            "Just before dark {F} spied the {T} {spot}.",
        ),
        (
            '"Oh," said {H} quietly, "I put it there myself, so that I would not lose it."',
            '"Now I remember," said {H}, "I was using it when the soup boiled over."',
            "The wind had carried it off in the night, as a joke.",
            "A family of earwigs had moved in and was sorry to leave.",
        ),
    ),
    (
        "Since then the {T} has had a place of its own, with a label.",
        "{HH} made {treat} for {F}, who never once said how silly it had been.",
        "They carried it home together, although it needed only one of them.",
        "{HH} slept with one foot on the {T} that night.",
        '"Next week," said {F}, "you can help me look for my glasses."',
    ),
    "to find the {T}",
    "the {T} was lost",
    "{F} found the {T} {spot}.",
    "{NN} had lost {his} {T} and looked everywhere. {FF} found it {spot}.",
    (
        _OWNED,
        _WHERE,
        _WHERE,
        Ask(
            ("Who found the {T}?", "Who helped {H}?", "Who helped to look for the {T}?"),
            "It was {FF} who found the {T}.",
            ("{friend}",),
        ),
        Ask(("What was lost?", "What did {H} lose?"), "In the story {H} lost the {T}.", ("{T}",)),
    ),
)

QUARREL = Plot(
    "quarrel",
    "nothing",
    (
        (
            "{Time}, {H} and {FF} found {a_T} {spot}.",
            "{Time}, {H} went for a walk with {FF}, and they found {a_T} {spot}.",
        ),
        ("It had {look}, and both of them wanted it.", "It was just right for {use}, and it had {look}."),
        (
            '"I saw it first," said {H}. "But I picked it up first," said {F}.',
            ('"It is mine, because I need it more," said {H}. "It is mine, because I said so first," said {F}.'),
        ),
        (
            "They pulled and they shouted, and then they went home by different roads.",
            "They quarrelled until the sun went down, and then they were too cross to say good night.",
            "For two whole days they did not speak, and they said it very loudly.",
        ),
        (
            "That night it rained, and the {T} lay outside because neither of them would fetch it.",
            "In the night a cold rain began to fall on the {T}, which belonged to nobody.",
        ),
        (
            "At dawn both of them ran out to save it, and they bumped heads.",
            "At the same moment both of them came out in their nightshirts to save it.",
        ),
        (
            "",
            '"Sorry," said {H}. "Sorry too," said {F}.',
            "{HH} was the first to laugh, and it was catching.",
            '"You take it on odd days, and I will take it on even days," said {H}.',
            '"Let it be ours," said {H}, and {F} nodded.',
        ),
    ),
    (
        "So the {T} got two homes, which is more than most of us have.",
        "Nobody has ever found out who saw it first.",
        "They dried the {T} by the stove and ate {treat} out of one bowl.",
        "On days that are neither odd nor even, they use it together.",
        "Now they quarrel only about who may carry it home.",
    ),
    "the {T}",
    "{H} and {F} quarrelled over the {T}",
    "They agreed to share the {T}.",
    "{NN} and {FF} found {a_T0} and quarrelled over it. In the end they agreed to share the {T}.",
    (
        Ask(
            ("Who found the {T}?", "Who had the {T}?"),
            "It was {H} and {F} who found the {T} together.",
            ("{hero} and {friend}",),
        ),
        Ask(
            ("Who quarrelled?", "Who quarrelled over the {T}?"),
            "It was {H} and {F} who quarrelled over the {T}.",
            ("{hero} and {friend}",),
        ),
        _WHERE,
    ),
)

STORM = Plot(
    "storm",
    "nothing",
    (
        OWNING,
        (
            "{Time}, a storm came rolling over the hills.",
            "{Time}, the sky turned the colour of plums, and a storm broke.",
        ),
        (
            "The {T} was still outside, {spot}.",
            "{He} had left the {T} {spot}, out in the open.",
        ),
        (
            "{HH} ran out to fetch the {T}, but the wind had got hold of it and pulled.",
            "{HH} wanted to fetch the {T}, but the wind had got hold of it and would not let go.",
        ),
        (
            "",
            '"Let go, it is mine!" {says} {H} at the storm.',
            '"I need it for {use}!" shouted {H}, but the wind did not care.',
        ),
        (
            "Then {FF} came and held on to {H}, and together they were heavier than the wind.",
            "Just in time {FF} grabbed {H} from behind, and both of them pulled until the wind gave up.",
        ),
        (
            "",
            "They sat under the kitchen table, ate {treat} and counted the thunder.",
            ("All night they sat indoors, wrapped in one quilt, and told each other jokes between the thunderclaps."),
            "Inside, {F} made {treat}, and the storm went on knocking at the door in vain.",
        ),
    ),
    (
        "In the morning the sky was clean, and the {T} shone as if nothing had happened.",
        '"That was number thirty-nine," said {F}, and then it was quiet.',
        "By morning the storm had gone to shout at somebody else.",
        "The fence was gone and so was the gate, but the {T} was there, and so was {F}.",
        "When the sun came up, they found a strange hat on the roof, and nobody has ever asked for it.",
    ),
    "to fetch the {T}",
    "the wind had got hold of the {T}",
    "{FF} held on to {H}, and together they were heavier than the wind.",
    "A storm wanted to take the {T} of {N}. {FF} held on to {H}, and together they saved it.",
    (
        _OWNED,
        Ask(
            ("Who helped {H}?", "Who came to help?", "Who held on to {H}?"),
            "It was {FF} who helped {H}.",
            ("{friend}",),
        ),
        Ask(("Where was the {T}?", "Where had {H} left the {T}?"), "The {T} was {spot}.", ("{spot}",)),
        Ask(("What came over the hills?", "What was the weather like?"), "There was a storm.", ("storm",)),
    ),
)

MYSTERY = Plot(
    "mystery",
    "nothing",
    (
        ("{Time}, {FF} came to stay the night.", "{FF} had come to visit {time} and was staying the night."),
        (
            "At midnight a noise woke them: {sound}.",
            "In the dark they heard it, not far from the window: {sound}.",
            "The moon was up when they heard it: {sound}.",
        ),
        (
            "",
            '"Is it a ghost?" whispered {F} from under the quilt.',
            '"Somebody is knocking who has no hands," whispered {F}.',
            '"It is a burglar with wooden feet," breathed {F}.',
        ),
        (
            '"Ghosts never come before one," said {H}, who wanted to know what it was.',
            '"I am not afraid," said {H}, whose knees were knocking, and {he} wanted to know what it was.',
        ),
        (
            "",
            "They took a rolling pin and crept outside on the tips of their toes.",
            "Side by side they crept out into the garden, {F} with a frying pan and {H} with a carrot.",
        ),
        (
            "And there, {spot}, was {a_T} with {look}.",
            "And what did they see {spot} but {a_T} with {look}.",
        ),
        (
            "The wind was rocking the {T} to and fro, and that had made the noise.",
            "A small breeze was playing with the {T}, and that had made the noise.",
        ),
    ),
    (
        '"I knew it all along," said {F}, and {fhe} asked to sleep on the side by the wall.',
        "They gave the wind a good talking to and went back to bed with {treat}.",
        "They laughed so loudly that now the neighbours believe in ghosts.",
        "{HH} brought the {T} indoors, and the night was so quiet that they could not sleep.",
        "In the morning the {T} was used for {use}, as if it had never been a ghost.",
    ),
    "to know what it was",
    "a noise woke them in the night",
    "{HH} and {F} went out and found the {T} {spot}.",
    ("{NN} and {FF} heard a noise in the night. It was only the {T}, {spot}, and the wind was playing with it."),
    (
        Ask(
            ("What did they hear?", "What was the noise like?", "How did the noise sound?"),
            "They heard it in the night: {sound}.",
            ("{sound}",),
        ),
        Ask(
            ("What made the noise?", "What was the noise?", "Was it a ghost?"),
            "The {T} had made the noise.",
            ("{T}",),
        ),
        _WHERE,
        Ask(
            ("Who stayed the night?", "Who came to visit?", "Who was frightened?"),
            "It was {FF} who came to stay the night.",
            ("{friend}",),
        ),
    ),
)

PLOTS: tuple[Plot, ...] = (LOST, QUARREL, STORM, MYSTERY)
