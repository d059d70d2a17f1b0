"""The things of the tales.

Goes in: nothing. Comes out: `THINGS`, one row for each object that a story can turn on. `kind` names the
sort of trouble it is good against (see `troubles_by_hand` and `troubles_by_heart`), the other fields are
phrases that fit one fixed place in a sentence.
"""

from dataclasses import dataclass

from kiara_cli.core.data.tales.table import rows


@dataclass(frozen=True, slots=True)
class Thing:
    """One object and how it behaves in a sentence."""

    name: str
    kind: str
    use: str  # "A lantern is for ..."
    look: str  # "a lantern with ..."
    act: str  # "Pip ..., and the path grew bright"
    sound: str  # "something went ..."
    made: str  # "Pip made it from ..."
    harm: str  # "Pip borrowed it without asking and ..."
    repair: str  # "together they ..."


_TABLE = """
lantern | light | lighting dark paths | a dent in its lid | held the lantern up high | clink, clink |
    a jam jar and a bit of wire | cracked the glass | cut a new pane from a bottle
candle | light | making a small bright light | a curl of wax down one side |
    lit the candle and kept it out of the wind | tick, tock, tap | beeswax and a bit of cotton |
    snapped it in two | warmed the wax and stuck the halves together
lamp | light | reading after dark | a paper shade | turned the lamp up as far as it would go |
    ping, ping | a bottle and a paper hat | tore the paper shade | glued on a new shade with stars on it
kettle | brew | boiling water for tea | a spout like a swan's neck |
    put the kettle on the fire until it sang | glug, glug | an old tin and half a spoon | bent the spout |
    tapped the spout straight again
teapot | brew | making tea for friends | a chip in its lid | filled the teapot with hot mint tea |
    clatter, clatter | soft clay from the river | broke the handle | tied on a handle of willow twigs
blanket | wrap | keeping warm on cold nights | a row of moons along the edge |
    spread the blanket out and tucked it in all round | flap, flap | forty scraps of wool |
    burned a hole in it | sewed a big moon over the hole
scarf | wrap | keeping the wind off your neck | a tassel at each end |
    unrolled the scarf and wrapped it round three times | swish, swish | the wool of an old sock |
    lost one of the tassels | made a new tassel out of yellow wool
coat | wrap | going out in bad weather | seven odd buttons | took the coat and wrapped it round like a hug |
    flop, flop | an old curtain and seven odd buttons | ripped the sleeve |
    sewed the sleeve back on, almost straight
rope | pull | pulling heavy loads | a good knot at each end | threw out the rope, tied a knot and pulled |
    thud, drag, thud | nine strands of long grass | cut it in half by mistake |
    tied the halves with a sailor's knot
chain | pull | pulling things that are stuck | links as thick as a thumb |
    hooked the chain on tight and pulled | clank, clank | thirty curtain rings | lost the middle link |
    bent a new link from a horseshoe nail
basket | carry | carrying eggs and apples | a handle wrapped in cloth |
    filled the basket right up to the brim | creak, creak | willow twigs from the brook |
    broke a hole in the bottom | wove fresh willow over the hole
sack | carry | carrying more than you can hold | a patch in the shape of a heart |
    filled the sack and swung it up | flop, bump | an old sail and some yarn | split the seam |
    sewed it up with strong yarn
cart | carry | moving heavy things along | one wheel that squeaked | loaded the cart and leaned into it |
    squeak, rumble | a crate and four cotton reels | broke a wheel | carved a new wheel, nearly round
wheelbarrow | carry | moving earth and pumpkins | a wheel from an old bicycle |
    loaded the wheelbarrow and set off at a trot | rattle, squeak | a tin bath and one wheel |
    bent the wheel on a stone | hammered the wheel round again
bucket | water | fetching water from the brook | a rope handle | filled the bucket at the brook |
    plink, plonk | nine boards and a hoop | knocked the bottom out | fitted a new bottom made of oak
jug | water | pouring water or milk | a fish painted on its side | filled the jug at the brook |
    gurgle, gurgle | river clay and a lot of patience | chipped the rim | smoothed the rim with sand
bell | sound | calling everyone at once | a crack as thin as a hair | rang the bell until the air shook |
    ding, dong | a flower pot and an acorn | lost the clapper | hung a cherry stone inside instead
drum | sound | keeping a parade in step | a skin as tight as an apple | beat the drum with both sticks |
    boom, boom | a cheese box and some paper | put a foot through it | stretched new paper over it
whistle | sound | calling from far away | a pea inside that danced |
    took a deep breath and blew the whistle | wheep, wheep | a stick of elder wood | filled it with mud |
    washed it three times in the brook
horn | sound | calling across a valley | a rim of brass | blew the horn with full cheeks | toot, toot |
    a pumpkin stalk | dented the rim | rubbed the dent out with a spoon
flute | music | playing soft tunes | six holes and a leather case | played a soft tune on the flute |
    hoo, hoo | a reed from the pond | split the end | bound the end with thread
fiddle | music | playing for dancers | a carved leaf at the top | tucked in the fiddle and played |
    twang, twang | a cigar box and three hairs | broke two strings | put on two new strings and tuned them
map | way | finding the way | a coffee ring over the sea | unfolded the map and turned it the right way up |
    rustle, rustle | brown paper and berry ink | spilled soup on the north |
    drew the north again, with more trees
compass | way | finding north | a needle as thin as a whisker |
    held the compass flat until the needle stood still | tick, tick | a cork and a magnet |
    dropped it on a stone | set the needle back on its pin
mirror | signal | seeing your own nose | a frame of shells |
    caught the sun in the mirror and made it flash | chink, chink | a bit of glass and some shells |
    broke off three of the shells | glued on three better shells
flag | signal | waving from a hill | a sun in the middle | waved the flag in wide slow circles |
    flap, snap, flap | half a pillowcase | tore it on a bush |
    stitched the tear so that it looked like lightning
telescope | see | seeing far away | a strap of worn leather |
    looked through the telescope with one eye shut | roll, bump, roll | a pipe and two bits of glass |
    scratched the lens | polished the lens with a soft cloth
umbrella | shelter | staying dry in the rain | a handle like a question mark |
    opened the umbrella with a snap | whoosh, flap | a tablecloth and eight sticks | bent two of the ribs |
    tied the ribs to a pair of spoons
tent | shelter | sleeping under the sky | a flap that would not close | put the tent up in three minutes |
    flutter, bang | two sheets and a broomstick | let it blow into a bush |
    patched eleven holes with leaf green cloth
spade | dig | digging deep holes | a handle worn smooth | took the spade and dug until the earth flew |
    scrape, scrape | a plank and a tin lid | broke the handle | carved a new handle out of ash wood
shovel | dig | moving earth out of the way | a blade as wide as a tray |
    swung the shovel until the earth flew | scrape, clang | a tray and a curtain rod |
    left it out in the rain to rust | rubbed the rust away with sand
broom | sweep | sweeping floors | bristles that all pointed left |
    took the broom and swept from corner to corner | swish, bump | birch twigs and a pole |
    burned half the bristles | tied on a bunch of fresh twigs
brush | sweep | scrubbing things clean | a back of smooth wood |
    took the brush and scrubbed from corner to corner | scratch, scratch |
    a block of wood and pine needles | dropped it in the glue | soaked it until the glue let go
ladder | reach | reaching high places | nine rungs and a half | set up the ladder and climbed to the top |
    clack, clack | two poles and ten sticks | cracked a rung | put in a rung of hazel wood
stool | reach | sitting down or standing tall | three fat legs |
    put the stool in the right place and climbed up | tap, tap, tap | a slice of log and three pegs |
    broke off a leg | glued the leg on again
boat | float | crossing deep water | an anchor painted on the front |
    rowed the boat with short strong strokes | slap, slosh | a barrel cut in half | ran it onto a rock |
    closed the leak with tar and moss
raft | float | floating down a river | a mast made of a broomstick | pushed the raft off with a long pole |
    slosh, creak | ten logs and some vines | let two logs float away | tied on two new logs
string | tie | tying up parcels | a knot for every friend | took out the string and tied a double knot |
    twang, tap | flax from the field | tangled it beyond belief | picked the tangle apart by supper time
ribbon | tie | tying bows | tiny stars all along it | took out the ribbon and tied a double bow |
    flit, flit | the hem of a party dress | dropped it in the mud |
    washed it and ironed it with a warm stone
needle | sew | mending clothes | an eye just big enough for thread |
    threaded the needle and sewed with tiny stitches | tink, tink | a thorn from the rose bush |
    bent it like a fish bone | warmed it and made it straight
hammer | fix | driving in nails | a head that wobbled | swung the hammer and drove in six nails |
    knock, knock | a stone and an oak branch | broke the handle | fitted a handle out of ash wood
key | open | opening locked doors | a tag that nobody could read | put in the key and turned it slowly |
    jingle, jingle | a bent nail and a good idea | dropped it down the drain |
    fished it out of the drain with a long stick
clock | time | telling the time | a door for a wooden bird |
    wound up the clock and kept an eye on its hands | tick, tock | eleven cogs and a spring |
    wound it until the spring popped out | coaxed the spring back in
watch | time | being on time | a lid that shut with a click | took out the watch and counted the minutes |
    tick, tick, tick | a walnut shell and tiny wheels | dropped it in the soup |
    dried every wheel by the fire
pillow | soft | sleeping well | a cover of soft cloth | put down the pillow and gave it a pat |
    puff, puff | a flour bag and old feathers | let half the feathers out |
    gathered the feathers, all but nine
cushion | soft | sitting on hard chairs | a button in the middle | put down the cushion and gave it a pat |
    plop, plop | velvet scraps and dry moss | lost the middle button | sewed on a button as big as a biscuit
pencil | write | writing and drawing | teeth marks at one end |
    sharpened the pencil and wrote a big neat sign | tap, tap, roll | a twig and some charcoal |
    chewed off the end | carved the end smooth
paintbrush | write | painting signs and skies | a dab of old green on it |
    dipped the paintbrush and painted a big neat sign | swish, tap | a stick and a tuft of fur |
    let the paint dry on it | washed it until every hair was soft
book | know | finding things out | a pressed leaf on every tenth page |
    opened the book and ran along the lines | flip, flip | paper, paste and a piece of leather |
    tore out page eleven | pasted page eleven back in
cake | share | sharing with guests | nine layers and a cherry | cut the cake into fair slices |
    crumble, plop | flour, honey and six plums | sat down on it | covered the dent with cream and cherries
pie | share | sharing on a cold day | a crust like a golden roof | cut the pie into fair slices |
    crackle, crackle | dough and a bowl of blackberries | ate the middle out of it |
    filled the middle with fresh berries
ball | play | playing with friends | a stripe all the way round | rolled the ball out over the grass |
    bounce, bounce | rags and a long piece of yarn | let the air out | pumped it up with a reed
kite | play | playing with the wind | a tail of nine bows | let the kite dance in the wind |
    flutter, flutter | paper and two thin sticks | tore its tail off | gave it a longer tail
puppet | play | putting on little shows | a painted smile | made the puppet bow and wave |
    clack, clack, clack | a wooden spoon and a sock | tangled its strings |
    sorted out its strings, left and right
net | catch | catching what drifts away | meshes as fine as lace | threw out the net with a flick |
    swish, drip | a bag of old yarn | ripped a big hole in it | knotted the hole shut
hook | catch | fetching things out of water | a point like a new moon | let the hook down on a long line |
    tink, scrape | a bent hairpin | bent it the wrong way | bent it back between two stones
"""

THINGS: tuple[Thing, ...] = tuple(Thing(*cells) for cells in rows(_TABLE, 9))
