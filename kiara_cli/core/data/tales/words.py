"""Names, places, times and small colours of the tales.

Goes in: nothing. Comes out: tuples of phrases, each fit for one slot of the plots.
"""

_HE_NAMES = """
Pip Tobias Oskar Bruno Felix Hugo Jasper Milo Oswald Rufus Barnaby Casper Dexter Edgar Finn Gustav
Henry Ingmar Jonas Kurt Leon Marius Nils Oliver
"""
HE_NAMES: tuple[str, ...] = tuple(_HE_NAMES.split())
_SHE_NAMES = """
Mina Lily Adele Bella Clara Daisy Elsa Flora Greta Heidi Ilse Juno Karla Lotte Mabel Nora
Olive Penny Rosa Stella Tilda Ursula Verena Wanda
"""
SHE_NAMES: tuple[str, ...] = tuple(_SHE_NAMES.split())
PLACES: tuple[str, ...] = (
    "beside the old mill", "under a crooked oak", "at the edge of the wood", "behind the bakery",
    "near the lighthouse", "by the duck pond", "at the foot of the hill", "next to the railway station",
    "in a little blue house", "beyond the apple orchard", "on the far side of the river",
    "below the castle wall",
    "at the end of Pepper Lane", "in an empty barn", "close to the sea", "above the post office",
    "under the stone bridge", "in the middle of a meadow", "between two haystacks", "on the quiet island",
    "at the top of a windy hill", "in the roots of a beech", "by the village well", "behind the school",
    "in a hut by the harbour", "beside the salt marsh", "near the cheese market", "in the valley of ferns",
    "at number nine, Button Street", "under the bandstand", "in the garden of a poet", "by the frozen lake",
)  # fmt: skip
TIMES: tuple[str, ...] = (
    "one Monday morning", "one misty morning", "one quiet afternoon", "late one afternoon",
    "early one morning", "one Sunday", "on market day", "one grey afternoon", "one bright morning",
    "on washing day", "one Friday", "one Tuesday", "the day after the fair", "one fresh morning",
    "on the first day of the holidays", "one Thursday afternoon", "one golden afternoon", "one Saturday",
    "on the last day of the month", "one sleepy Wednesday",
)  # fmt: skip
COLOURS: tuple[str, ...] = (
    "red", "blue", "green", "yellow", "purple", "orange", "white", "silver", "brown", "pink", "grey", "black",
)  # fmt: skip
TREATS: tuple[str, ...] = (
    "plum jam", "ginger biscuits", "warm bread", "pumpkin soup", "pancakes", "honey toast", "baked apples",
    "blueberry muffins", "cheese on toast", "walnut rolls", "pea soup", "raspberry buns", "cinnamon rolls",
    "roasted chestnuts", "cold pudding", "potato dumplings", "apricot tarts", "oat porridge", "lemon drops",
)  # fmt: skip
SPOTS: tuple[str, ...] = (
    "behind the barn", "in the long grass", "under the currant bushes", "behind the woodpile",
    "beside the compost heap", "in the shed next door", "at the bottom of the garden",
    "under a heap of leaves",
    "behind the rain barrel", "between two cabbages", "under the washing line", "in the corner of the stable",
    "behind the laundry", "among the sunflowers", "under the back steps", "beside the garden gate",
)  # fmt: skip
GOODS: tuple[str, ...] = (
    "a jar of pickled plums", "a bag of walnuts", "a pot of honey", "a bunch of radishes", "a round cheese",
    "a tray of strawberries", "a sackcloth bag of peas", "a bowl of mushrooms", "a bottle of apple juice",
    "a crate of carrots", "a pair of knitted socks", "a box of ginger biscuits",
)  # fmt: skip
PRIZES: tuple[str, ...] = (
    "a large cheese", "a tin medal", "a barrel of apples", "a velvet hat", "a kiss from the mayor",
    "a golden turnip", "a free ride on the carousel", "a year of free haircuts", "a crown of daisies",
    "a week of pancakes",
)  # fmt: skip
SEARCHES: tuple[str, ...] = (
    "under the bed, in the oven and inside both boots", "in the bath, in the bread bin and up the chimney",
    "behind every door and twice behind the cupboard", "in all nine drawers and under the doormat",
    "in the attic, in the cellar and in the butter dish", "under the rug, where there was only last summer",
)  # fmt: skip
RIVALS: tuple[str, ...] = (
    "a spoon that could whistle", "a hat with a window", "an egg cup for two", "a gold toothpick",
    "a boot with a bell inside", "a chair with five legs", "a comb for caterpillars",
    "a fork as long as a street",
    "soap that smelled of thunder", "a folding sandwich",
)  # fmt: skip
SIZES: tuple[str, ...] = ("little", "young", "small")
