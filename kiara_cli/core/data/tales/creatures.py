"""The creatures of the tales.

Goes in: nothing. Comes out: `CREATURES`, one row for each animal that can be a hero or a friend. The
facts (food, home, young, legs) are true enough for a child; tags say what is no trouble for this animal,
so that no duck is ever stopped by a brook.
"""

from dataclasses import dataclass

from kiara_cli.core.data.tales.table import rows


@dataclass(frozen=True, slots=True)
class Creature:
    """One animal; `skill` follows "could", `tags` are words of "flies swims climbs digs night cold"."""

    name: str
    traits: tuple[str, ...]
    skill: str
    home: str
    food: str
    young: str
    legs: int
    says: str
    tags: str = ""


# name | traits | skill | home | food | young | legs | says | tags
_TABLE = """
fox | clever quick red | smell rain an hour before it fell | a den | berries and beetles | cub | 4 |
    barked | -
owl | wise fluffy sleepy | turn {his} head almost all the way round | a hollow tree | moths and mice |
    owlet | 2 | hooted | flies night
mouse | tiny brave quiet | hear a crumb fall | a hole in the wall | seeds and crumbs | pup | 4 | squeaked |
    -
hedgehog | prickly shy round | roll up faster than you can say plum | a heap of leaves | slugs and worms |
    hoglet | 4 | sniffed | -
rabbit | speedy soft nervous | hear a carrot being pulled three fields away | a burrow | grass and clover |
    kit | 4 | squeaked | digs
badger | sturdy gruff tidy | find {his} way in the dark | a sett | worms and roots | cub | 4 | grunted |
    digs night
squirrel | nimble busy forgetful | jump from one tree to the next | a nest of twigs | nuts and acorns |
    kit | 4 | chattered | climbs
otter | playful sleek merry | hold {his} breath for a whole song | a river bank | fish and crayfish | pup |
    4 | chirped | swims
frog | green cheerful springy | jump over a cabbage | a pond | flies and gnats | tadpole | 4 | croaked |
    swims
duck | plump chatty patient | stay dry in any rain | a nest in the reeds | water plants and snails |
    duckling | 2 | quacked | flies swims
goose | proud noisy loyal | hiss louder than a train | a farmyard | grass and grain | gosling | 2 | honked |
    flies swims
hen | motherly fussy speckled | count all the way to twelve | a hen house | corn and worms | chick | 2 |
    clucked | -
goat | stubborn bearded hungry | walk along the narrowest wall | a barn | leaves and hay | kid | 4 |
    bleated | climbs
lamb | woolly gentle bouncy | find the one sweet clover in a field | a meadow | grass and milk | lamb | 4 |
    bleated | -
donkey | slow grey thoughtful | carry a thought for a whole day | a stable | hay and thistles | foal | 4 |
    brayed | -
cat | elegant lazy striped | land on {his} feet every time | a warm house | fish and cream | kitten | 4 |
    purred | climbs night
dog | faithful shaggy eager | follow a smell through four streets | a kennel | meat and biscuits | puppy |
    4 | barked | -
bear | big sleepy kind | smell honey through a shut window | a cave | honey and berries | cub | 4 |
    growled | climbs cold
beaver | hardworking toothy neat | fell a tree before breakfast | a lodge | bark and twigs | kit | 4 |
    mumbled | swims
mole | velvety shy careful | feel a footstep through the ground | a tunnel | worms and grubs | pup | 4 |
    murmured | digs night
bat | silent leathery dreamy | sleep upside down | a cave | moths and gnats | pup | 2 | piped | flies night
robin | perky bold round | sing louder than a choir | a nest in the ivy | worms and berries | chick | 2 |
    chirped | flies
sparrow | cheeky brown lively | find a crumb on a gravel path | a nest under the roof | seeds and crumbs |
    chick | 2 | chirped | flies
crow | black cunning serious | remember every face in the village | a nest in a tall tree |
    corn and beetles | chick | 2 | cawed | flies
magpie | glossy nosy vain | spot a button from a rooftop | a nest of sticks | beetles and seeds | chick |
    2 | cackled | flies
turtle | calm old wrinkled | wait longer than anyone | a pond | water plants and fish | hatchling | 4 |
    hummed | swims
snail | slow patient silvery | carry {his} whole house uphill | a shell | leaves and lettuce | baby snail |
    0 | whispered | climbs
beetle | shiny small determined | push a pebble twice {his} size | a crack in the bark | leaves and moss |
    grub | 6 | clicked | climbs
cricket | musical thin jolly | play a tune on {his} own legs | a tuft of grass | grass and seeds | nymph |
    6 | chirped | -
ant | busy tiny strong | lift ten times {his} own weight | an ant hill | seeds and sugar | larva | 6 |
    piped | climbs digs
spider | patient leggy clever | spin a web before the dew was dry | a web | flies and gnats | spiderling |
    8 | whispered | climbs
crab | sideways grumpy armoured | walk sideways without looking | a rock pool | seaweed and shrimps |
    baby crab | 10 | clicked | swims
penguin | smart tubby polite | slide on {his} belly all afternoon | an icy shore | fish and squid | chick |
    2 | honked | swims cold
seal | smooth friendly lazy | balance a plum on {his} nose | a rocky beach | fish and squid | pup | 0 |
    barked | swims cold
raccoon | masked nimble curious | open any lid without a sound | a hollow log | eggs and fruit | kit | 4 |
    chattered | climbs night
weasel | thin speedy sly | slip through a keyhole, or nearly | a stone wall | mice and eggs | kit | 4 |
    hissed | -
stork | tall elegant solemn | stand on one leg until Tuesday | a nest on a chimney | frogs and fish |
    chick | 2 | clattered | flies
pig | pink cheerful muddy | find a mushroom with {his} eyes shut | a sty | turnips and acorns | piglet | 4 |
    grunted | -
pony | shaggy frisky gentle | trot all day without a rest | a stable | hay and oats | foal | 4 | snorted | -
wolf | lonely grey gentle | hear the snow begin | a den | meat and berries | cub | 4 | howled | night cold
deer | graceful timid spotted | stand so still that birds sat down on {him} | a forest | leaves and grass |
    fawn | 4 | whispered | -
lizard | quick warm golden | sit in the sun for six hours | a sunny wall | flies and crickets | hatchling |
    4 | whispered | climbs
toad | lumpy wise damp | sit under a leaf all winter | a damp cellar | slugs and worms | tadpole | 4 |
    croaked | swims
parrot | bright talkative funny | say good morning in three voices | a jungle tree | fruit and nuts |
    chick | 2 | squawked | flies
"""

CREATURES: tuple[Creature, ...] = tuple(
    Creature(name, tuple(traits.split()), skill, home, food, young, int(legs), says, tags)
    for name, traits, skill, home, food, young, legs, says, tags in rows(_TABLE, 9)
)
