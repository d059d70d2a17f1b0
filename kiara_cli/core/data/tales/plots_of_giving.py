"""Plots of giving and making good: a mistake owned up to, a gift made by hand, a guest who leaves something.

Goes in: the shapes of `plot`. Comes out: `PLOTS`.
"""

from kiara_cli.core.data.tales.plot import Ask, Plot

_FRIENDS = Ask(
    ("Who had the {T}?", "Whose {T} was it?", "Who owned the {T}?"), "It was {FF} who had the {T}.", ("{friend}",)
)

MISTAKE = Plot(
    "mistake",
    "nothing",
    (
        (
            "{FF} next door had {a_T} with {look}.",
            "{His} neighbour, {FF}, was very fond of {a_T} with {look}.",
        ),
        (
            "{Time}, {H} borrowed it without asking and {harm}.",
            "{Time}, when nobody was looking, {H} took it and {harm}.",
        ),
        (
            "{He} hid the {T} {spot} and walked away whistling, but the tune came out wrong.",
            "Quickly {he} put the {T} {spot}, where nobody would see it.",
        ),
        (
            "",
            "All day {his} tummy felt as if it were full of stones.",
            "At supper even the {treat} tasted of cardboard.",
            "That night {he} counted four hundred sheep, and every one of them looked at {him}.",
        ),
        (
            'At last {H} knocked on the door and said, "It was me."',
            '"I have something bad to tell you, and I did it," said {H} in a very small voice.',
            '"It was not the wind," {H} said to {F}, "it was me."',
        ),
        (
            '{F} was silent for a moment and then said, "Bring it here, and we shall see."',
            '"I know," said {F}, "and I was hoping that you would come."',
        ),
        ("Together they {repair}.", "So the two of them sat down and {repair}."),
    ),
    (
        "It looked better than before, and {F} said so twice.",
        "After that {H} asked first, every time, even before sneezing.",
        "{HH} skipped all the way home, although it was only eleven steps.",
        "You can still see the place, and {F} shows it to visitors with pride.",
        "Then {F} owned up to something too: the broken window last spring.",
    ),
    "",
    "{H} {harm}",
    "Together they {repair}.",
    "{NN} borrowed the {T} from {FF} and {harm}. {HH} owned up, and together they {repair}.",
    (
        _FRIENDS,
        Ask(
            ("What did {H} do wrong?", "What was the mistake?", "What did {H} do to the {T}?"),
            "In the story {H} {harm}.",
            ("{harm}",),
        ),
        Ask(
            ("Where did {H} hide the {T}?", "Where was the {T}?"), "In the story {H} hid the {T} {spot}.", ("{spot}",)
        ),
        Ask(("Who borrowed the {T}?", "Who owned up?"), "It was {N}.", ("{hero}",), ("{friend}",)),
    ),
)

GIFT = Plot(
    "gift",
    "nothing",
    (
        (
            "It was nearly the birthday of {FF}.",
            "{His} best friend was {FF}, who was about to have a birthday.",
        ),
        (
            "{HH} wanted to give {fhim} {a_T}, because {fhe} loved {use}.",
            "{F} had once wished for {a_T}, and {H} wanted to give {fhim} one.",
        ),
        (
            "But in {his} purse there were only two pennies and a button.",
            "The one in the shop cost more than a house.",
            "But the shop had sold the last one to a duchess.",
        ),
        ('"Then I shall make one," said {H}.', '"What one cannot buy, one must build," {says} {H}.'),
        (
            "{Time}, {he} sat down and made {a_T0} from {made}.",
            "{Time}, {he} set to work and made {a_T0} from {made}.",
        ),
        (
            "",
            "The first try fell apart, and the second looked like a potato.",
            "It took three evenings, two plasters and one bad word.",
            "It came out a little crooked, and {he} nearly threw it away.",
        ),
        (
            '"You made this for me?" whispered {F}, and {fhe} turned it round and round.',
            '"How did you know?" asked {F} when the paper came off.',
            "When {F} opened the parcel, {fhe} was quiet for so long that {H} grew worried.",
        ),
    ),
    (
        '"The crooked part is the best part," said {F}.',
        "It is the only one of its kind in the world, and {F} would not sell it for gold.",
        "It lasted longer than the shop.",
        "They had {treat} and sang the birthday song in two different keys.",
        "{F} has used it every day since, except Sundays, when it rests.",
    ),
    "to give {F} {a_T0}",
    "",
    "{HH} made {a_T0} from {made}.",
    "{NN} had no money for a birthday present for {FF}. So {H} made {a_T0} from {made}.",
    (
        Ask(("Who made the {T}?", "Who built the {T}?"), "It was {N} who made the {T}.", ("{hero}",), ("{friend}",)),
        Ask(
            ("What was the {T} made from?", "What was the {T} made of?", "How was the {T} made?"),
            "The {T} was made from {made}.",
            ("{made}",),
        ),
        Ask(
            ("Whose birthday was it?", "Who got the {T}?", "Who was the {T} for?"),
            "The {T} was a birthday present for {FF}.",
            ("{friend}",),
            ("{hero}",),
        ),
        Ask(
            ("Who had the {T} in the end?", "Who had the {T}?"),
            "It was {FF} who had the {T} in the end.",
            ("{friend}",),
            ("{hero}",),
        ),
    ),
)

GUEST = Plot(
    "guest",
    "nothing",
    (
        (
            "{Time}, there was a knock at the door, and outside stood {FF}, far from home.",
            "{Time}, a tired stranger knocked, and it was {FF}.",
        ),
        (
            "{Fhe} had {a_T} with {look} and had not eaten since the day before.",
            "{Fhe} had sore feet, no supper and {a_T} with {look}.",
        ),
        (
            '"Come in before your ears fall off," said {H}.',
            '"You look like a wet Monday," said {H}, "so come in and sit down."',
            '"There is always room for one more nose," {says} {H}.',
        ),
        (
            "There was only one helping of {treat}, so {H} cut it in half, which is not easy.",
            "{HH} shared {his} {treat} and told the guest to take the bed.",
        ),
        (
            "",
            "Until late {F} told stories about {use} in far countries.",
            "{F} talked about deserts and whales until the fire went out.",
            "They played cards, and the guest lost with great politeness.",
        ),
        (
            "In the morning the bed was empty, but the {T} was still there, with a note.",
            "When {H} woke up, the guest was gone, but beside the stove were the {T} and a note.",
        ),
        (
            'The note said, "For {use}, and for remembering me, {F}."',
            'The note said, "Thank you, and please use it for {use}."',
        ),
    ),
    (
        "{HH} has set the table for two ever since, just in case.",
        "Sometimes, when the wind comes from the south, the {T} hums a little.",
        "It works very well, and it smells a bit of far countries.",
        "And when somebody knocks at night, {H} puts on the big pot before opening the door.",
        "The next spring a letter came with a foreign stamp, and it was full of sand.",
    ),
    "",
    "",
    "{HH} let {F} in and shared {his} {treat}.",
    "{NN} took in a stranger, {FF}, for the night. In the morning {F} was gone, but the {T} was still there.",
    (
        Ask(
            ("Who had the {T} first?", "Who left the {T}?", "Where did the {T} come from?"),
            "It was {FF} who left the {T} as a gift.",
            ("{friend}",),
            ("{hero}",),
        ),
        Ask(
            ("Who knocked at the door?", "Who was the guest?", "Who came to the door?"),
            "The guest was {FF}.",
            ("{friend}",),
            ("{hero}",),
        ),
        Ask(
            ("Who has the {T} now?", "Who got the {T}?", "Who had the {T} in the end?"),
            "It was {N} who got the {T}.",
            ("{hero}",),
            ("{friend}",),
        ),
        Ask(("What did {H} share?", "What did they eat?"), "They shared {treat}.", ("{treat}",)),
    ),
)

PLOTS: tuple[Plot, ...] = (MISTAKE, GIFT, GUEST)
