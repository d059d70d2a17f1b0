"""Plots in which the thing is needed: a wish, a promise, a trade, an old gift, a loan, a rescue, a contest.

Goes in: the shared beats of `plot`. Comes out: `PLOTS`.
"""

from kiara_cli.core.data.tales.plot import OWNING, TROUBLE, USING, WANTING, Ask, Plot

_HELP = "{HH} {act}, and {result}."
_SHORT = "{NN} wanted {want}, but {trouble}. {HH} {act}, and {result}."
_OWNED = Ask(
    ("Who had the {T}?", "Who owned the {T}?", "Whose {T} was it?"),
    "It was {N} who had the {T}.",
    ("{hero}",),
    ("{friend}",),
)

WISH = Plot(
    "wish",
    "trouble",
    (
        OWNING,
        WANTING[:3],
        TROUBLE,
        (
            '"You had better go home, {V}," said {FF}.',
            '{FF} shook {fhis} head and said, "That cannot be done."',
            '"Even I would not try that," said {FF}.',
            '"Have some {treat} and forget about it," said {FF}.',
            '"Is it too late to wish for something smaller?" asked {FF}.',
        ),
        (
            "",
            '"Wait," said {H}, "I still have my {T}."',
            '"{A_hc} does not give up before supper," said {H}, and {he} fetched the {T}.',
            "{HH} thought about it for as long as it takes to eat a plum, and then {he} fetched the {T}.",
            '"You are forgetting my {T}," {says} {H}.',
        ),
        USING,
        ("{done}",),
    ),
    (
        '"I always knew it," said {F}, who had not known it at all.',
        "{F} asked to hold the {T} on the way home, and was allowed to.",
        "That evening {H} gave the {T} a friendly pat and went to bed with {his} boots on.",
        'Since that day {F} says "perhaps" instead of "never".',
        "{HH} slept until noon, and nobody minded.",
        "On the way home {F} practised the word sorry, and then {fhe} said it.",
        "{F} made {treat} for two, and there was nothing left to wish for.",
    ),
    "{want}",
    "{trouble}",
    _HELP,
    _SHORT,
    (_OWNED,),
)

PROMISE = Plot(
    "promise",
    "trouble",
    (
        OWNING,
        (
            "{Time}, {H} promised {want}.",
            "{FF} lay in bed with a cold, so {H} promised {want}.",
            "{Time}, {H} looked {FF} in the eye and promised {want}.",
            "To please {FF}, {H} promised {want}.",
        ),
        TROUBLE,
        (
            "",
            "It would have been easy to turn round, for at home the armchair was calling.",
            "A small voice in {his} head said that nobody would ever know.",
            "For a moment {H} wished that {he} had kept {his} mouth shut.",
            "Anyone else would have found an excuse, and {H} thought of three.",
        ),
        (
            '"A promise is a promise," said {H}, and {he} reached for the {T}.',
            '"I said it, so I shall do it," {says} {H}, and {he} went to get the {T}.',
            'Then {he} looked at the {T} and said, "You and I have given our word."',
        ),
        USING,
        ("{done}",),
    ),
    (
        '"You kept your word, {V}," said {FF}, and that was better than a medal.',
        '"Next time," said {H} to {FF}, "I shall promise something smaller."',
        "{FF} wrote it down in a notebook, under the heading Good News.",
        "{FF} had saved the last of the {treat}, because {fhe} had never doubted it.",
        'When {FF} asked how hard it had been, {H} said, "Not very," and fell asleep.',
    ),
    "",
    "{trouble}",
    _HELP,
    "{NN} promised {want}, but {trouble}. {HH} {act}, and {result}.",
    (
        _OWNED,
        Ask(("What did {H} promise?", "What was the promise?"), "In the story {H} promised {want}.", ("{want}",)),
    ),
)

TRADE = Plot(
    "trade",
    "trouble",
    (
        ("{Time}, {H} carried {goods} to the market.", "{Time}, {he} set out to sell {goods}."),
        (
            "There {FF} was holding {a_T} with {look}, and they made a trade.",
            'There {he} met {FF}, who had {a_T} with {look} and said, "Shall we swap?"',
            "{FF} offered {a_T} with {look} for it, and {H} shook hands on the trade.",
        ),
        (
            "",
            '"What do you need that for?" laughed the neighbours.',
            '"You have been tricked," said the neighbours, shaking their heads.',
            'Even the postman laughed and said, "You cannot eat that."',
            "Some people smiled behind their newspapers.",
        ),
        (
            "Now {H} had long wanted {want}, but {trouble}.",
            "The very next day {H} wanted {want}, but {trouble}.",
            "That week {he} wanted {want}, but {trouble}.",
        ),
        (
            "",
            '"Let us see what this {T} can do," said {H}.',
            '"Let us see who laughs now," {says} {H}, and {he} fetched the {T}.',
            "Then {H} remembered the {T}.",
        ),
        USING,
        ("{done}",),
    ),
    (
        '"That was a good trade," said {F}, who had enjoyed every bite.',
        "The neighbours asked where one could get such things.",
        "{F} was happy too, for {fhe} had wanted {goods} since spring.",
        '"I would not swap back for a castle," said {H}.',
        "On the next market day everybody greeted {H} first, and {he} pretended not to notice.",
    ),
    "{want}",
    "{trouble}",
    _HELP,
    "{NN} traded {goods} for {F}'s {T}. {HH} {act}, and {result}.",
    (
        Ask(
            ("What did {H} give for the {T}?", "What did {H} trade for the {T}?"),
            "In the story {H} gave {goods} for the {T}.",
            ("{goods}",),
        ),
        Ask(
            ("Who had the {T} first?", "Where did the {T} come from?", "Who traded with {H}?"),
            "The {T} came from {FF}.",
            ("{friend}",),
        ),
        Ask(("Who had the {T} in the end?",), "It was {N} who had the {T} in the end.", ("{hero}",), ("{friend}",)),
    ),
)

HEIRLOOM = Plot(
    "heirloom",
    "trouble",
    (
        (
            "{His} grandmother had left {him} {a_T} with {look}.",
            "From {his} grandmother {H} had {a_T} with {look}.",
            "One thing in the house had belonged to {his} grandmother: {a_T} with {look}.",
        ),
        (
            "",
            "For years the {T} stood in a corner and gathered dust.",
            "Nobody ever looked at the {T} any more.",
            "The {T} was so old that only the moths took an interest in it.",
        ),
        WANTING,
        TROUBLE,
        (
            "",
            "Then {he} thought of the old {T}.",
            '"What would Grandmother have done?" {H} asked {him}self, and {he} blew the dust off the {T}.',
            '"Never throw anything away," {his} grandmother used to say, so {he} tried the old {T}.',
        ),
        USING,
        ("{done}",),
    ),
    (
        '"They do not make them like that any more," said {FF}.',
        "Since then the {T} has had the best place in the house, right by the window.",
        '"Thank you, Grandmother," said {H}, looking up, and a star blinked.',
        'When {FF} asked to buy it, {H} only laughed and said, "Not for a hundred hats."',
        "Since then no dust has settled on the {T}, not even on Sundays.",
    ),
    "{want}",
    "{trouble}",
    _HELP,
    _SHORT,
    (
        Ask(
            ("Where did the {T} come from?", "Who had the {T} before {H}?", "Who gave {H} the {T}?"),
            "The {T} came from {his} grandmother.",
            ("grandmother",),
        ),
        _OWNED,
    ),
)

LOAN = Plot(
    "loan",
    "trouble",
    (
        WANTING[:3],
        TROUBLE,
        (
            "{FF}, who lived next door, had {a_T} with {look}.",
            "Luckily {FF} owned {a_T} with {look}.",
            "Now {FF} had just the thing, {a_T} with {look}.",
        ),
        (
            '"May I borrow your {T}?" asked {H}.',
            '"Would you lend me your {T} until supper?" asked {H}.',
            '"I will take good care of your {T}, if I may borrow it," said {H}.',
        ),
        (
            '"Yes, if you bring it back with a story," said {F}.',
            '"Take it, but it likes to be spoken to," said {F}.',
            '{F} thought it over and said, "Yes, and be home before the owls get up."',
        ),
        USING,
        ("{done}",),
    ),
    (
        "{HH} brought the {T} back the same evening, clean, and with some {treat}.",
        '"Borrow it whenever you like," said {F}, and {fhe} meant it.',
        "When {H} gave the {T} back, {fhe} asked for every detail, twice.",
        "Since that day there has been a little path between the two houses.",
        '"It has never looked so happy," said {F} when the {T} came home.',
    ),
    "{want}",
    "{trouble}",
    _HELP,
    "{NN} wanted {want}, but {trouble}. {HH} borrowed the {T} from {FF}, and {result}.",
    (
        Ask(
            ("Who had the {T}?", "Whose {T} was it?", "Who lent {H} the {T}?", "Who helped {H}?"),
            "It was {FF} who had the {T}, and {H} borrowed it.",
            ("{friend}",),
        ),
        Ask(("What did {H} borrow?",), "In the story {H} borrowed the {T} from {FF}.", ("{T}",)),
    ),
)

RESCUE = Plot(
    "rescue",
    "peril",
    (
        OWNING,
        (
            "{Time} there was bad news: {peril}.",
            "{Time}, somebody shouted for help: {peril}.",
            "Then something dreadful happened: {peril}.",
        ),
        (
            "",
            "A crowd had gathered, and everyone gave advice.",
            "The neighbours ran in circles and bumped into each other.",
            "Nobody knew what to do, so they held a meeting.",
            "There was no time to lose, not even for socks.",
        ),
        (
            '"Hold on, {F}, I am coming!" {says} {H}.',
            '"Out of the way, please," said {H}, who was already running with the {T}.',
            '"I have an idea, and it needs {a_T0}," said {H}.',
        ),
        USING,
        (
            "",
            '"I was not frightened at all," said {F}, still trembling.',
            '"What took you so long?" asked {F}, and then {fhe} burst into tears.',
            '"I shall name my first child after your {T}," said {F}.',
            "{F} hugged {H} until both of them were out of breath.",
        ),
    ),
    (
        "They walked home slowly, and {F} held on to {H} all the way.",
        "That night the two of them ate {treat} and left the light on.",
        "The whole village waved, and somebody even threw a hat into the air.",
        "Nobody laughed at the {T} ever again.",
        "{F} still tells the story, and {H} gets braver every time.",
        '"Anyone would have done it," said {H}, and {he} turned rather pink.',
    ),
    "",
    "{peril}",
    _HELP,
    "{NN} heard that {peril}. {HH} {act}, and {result}.",
    (
        _OWNED,
        Ask(
            ("Who was rescued?", "Who needed help?", "Who was in trouble?"),
            "It was {FF} who was in trouble.",
            ("{friend}",),
            ("{hero}",),
        ),
        Ask(
            ("Who saved {F}?", "Who came to help?", "Who rescued {F}?"),
            "It was {N} who saved {F}.",
            ("{hero} who", "{hero} the {h} who", "{hero} saved", "{hero} the {h} saved"),
        ),
    ),
)

CONTEST = Plot(
    "contest",
    "peril",
    (
        (
            "{Time}, there was a prize at the fair for the most useful thing, and it was {prize}.",
            "{Time}, the village gave a prize for the most useful thing: {prize}.",
        ),
        (
            "{HH} wanted to win the prize with {a_T} with {look}.",
            "{HH} came with {a_T} with {look}, because {he} wanted to win the prize.",
        ),
        (
            "",
            "Somebody else had brought {rival}.",
            "Next to {him} stood somebody with {rival}.",
            "The judges had already seen {rival}, and they were in love with it.",
        ),
        (
            "",
            '"Just {a_T0}," yawned the oldest judge.',
            'The judges looked at the {T} and said, "Is that all?"',
            "The judges did not even put on their glasses for the {T}.",
        ),
        ("All at once everybody was shouting: {peril}.", "Just then a boy came running with news: {peril}."),
        USING,
        (
            "",
            '"Bravo, {V}!" cried {F}.',
            '"Now that is what I call useful," said {F}.',
            '"I think we have seen enough," said the oldest judge.',
        ),
    ),
    (
        "So {H} won the prize, and {F} was the one who clapped the longest.",
        "{HH} won the prize and shared it with {F}, as well as one can share such a thing.",
        "{HH} won the prize, and the judges put on their glasses to see it properly.",
        "And that is how {H} won {prize}, fair and square.",
    ),
    "to win the prize",
    "{peril}",
    _HELP,
    "{NN} wanted to win {prize} with {a_T0}. {HH} {act}, and {result}.",
    (
        _OWNED,
        Ask(("What was the prize?", "What did {H} win?"), "The prize was {prize}.", ("{prize}",)),
        Ask(("Who won the prize?", "Who won?"), "It was {N} who won the prize.", ("{hero}",), ("{friend}",)),
        Ask(
            ("Who was in trouble?", "Who needed help?"), "It was {FF} who was in trouble.", ("{friend}",), ("{hero}",)
        ),
    ),
)

PLOTS: tuple[Plot, ...] = (WISH, PROMISE, TRADE, HEIRLOOM, LOAN, RESCUE, CONTEST)
