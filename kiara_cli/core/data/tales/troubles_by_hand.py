"""Troubles that want a tool: something is stuck, broken, locked, dirty, deep or out of reach.

Goes in: nothing. Comes out: `TABLE`, one row for each trouble, read by `troubles`: the kind of thing that
helps, what the hero wanted, what stood in the way, what happened when the thing was used, how it came
out, and the tags of the creatures for whom this would be no trouble at all.
"""

# kind | wanted | but | and so | in the end | not for
TABLE = """
pull | to bring the milk cart to the village | the wheels had sunk deep into the mud |
    the mud let go with a rude noise | The milk arrived a little late and a little closer to butter. | -
pull | to clear the fallen tree from the lane | the trunk was heavier than ten pumpkins |
    the trunk rolled aside with a groan | The postman lifted his hat and rode through. | -
pull | to get the bucket out of the well | the well was deep and its walls were slippery |
    up came the bucket with a surprised newt inside |
    The newt was put back, and everybody had water for tea. | -
carry | to bring forty apples to the cider press |
    {he} could hold only three, and one of them kept escaping | all forty apples travelled together |
    There was cider for everyone and a core for the worm. | -
carry | to take the new books to the school | the stack was so tall that it wobbled at every step |
    not one book landed in a puddle | The teacher was reading aloud before {H} had caught {his} breath. | -
carry | to move house before the rain | there were too many pots and spoons for one trip |
    the whole house went up the hill in one go | The first drop fell just as the door closed. | -
water | to save the beans in the garden | there had been no rain for eleven days |
    every bean had a long cool drink | By Friday the beans were taller than the fence. | -
water | to put out the fire behind the bakery | the flames were already licking at the back door |
    the fire went out with a long wet hiss |
    The baker said thank you with a loaf that was only a bit smoky. | -
water | to fill the tub for the muddy piglets | the pump had given up and only coughed |
    after twenty trips the tub was full | Under the mud there were six pink piglets and one puppy. | -
dig | to plant a pear tree for the school | the ground was as hard as an old biscuit |
    soon the hole was deep enough to hide in |
    The tree stood up straight, and a finch moved in the same day. | digs
dig | to open the lane after the landslip | a heap of earth as high as a house lay across it |
    a narrow way opened in the middle | The milk came through first, and then the post. | -
dig | to find the box that Grandfather had buried | nobody remembered which bush it was under |
    under the ninth bush something went clonk |
    Inside the box were a marble, a song and a very old toffee. | -
sweep | to open the old theatre again | the dust lay so thick that the chairs looked like sheep |
    red velvet came up from under the grey | On Saturday the curtain rose, and only two people sneezed. | -
sweep | to get the station ready for the queen | a hundred pigeons had been there first |
    the platform shone like a plate | The queen did not stop, but she waved. | -
sweep | to find the ring that the miller had dropped | the barn floor was deep in straw |
    a little gold ring rolled out of the straw | The miller danced round the barn twice. | -
reach | to pick the last red cherry | the branch hung just out of reach | the cherry came off with a snap |
    It was the sweetest cherry of all, because it had taken the longest. | flies climbs
reach | to hang a star over the school door | the nail was far too high | the star swung into its place |
    The children looked up and forgot to be late. | flies
reach | to put the baby swallow back in its nest | the nest was tucked right under the roof |
    the swallow hopped home | Its parents brought {H} a worm, which was kindly meant. | flies climbs
reach | to paint the ceiling of the village hall |
    nobody had ever painted up there without falling off something |
    the ceiling turned blue, cloud by cloud | Only one drop fell, and it fell on the mayor. | -
float | to bring medicine to the island | the bridge had been washed away in the night |
    the waves had to make room | The oldest sailor on the island was well by Sunday. | flies swims
float | to pick white lilies for the feast | they all grew in the middle of the pond |
    soon {he} sat among the lilies | That night the tables smelled of pond, in a good way. | flies swims
float | to move a piano to the other side of the river | a piano cannot swim |
    the piano hummed on every wave | The first concert was given in wet shoes. | -
tie | to mend the gate of the sheep field | the latch was broken, and forty sheep were watching it |
    the gate held | The sheep went back to pretending to eat. | -
tie | to send a parcel of socks to the sailors | the paper kept springing open |
    the parcel lay as flat as a stamp | The sailors wrote back that their toes were happy. | -
tie | to keep the tomato plants from falling over | every breeze knocked them flat |
    the plants stood up like soldiers | Later there was soup for the whole street. | -
sew | to sail in the toy regatta | the sail had a tear as long as a spoon | the tear closed like a mouth |
    {He} came in third, and the sail held to the end. | -
sew | to make the scarecrow look smart | his trousers had fallen to pieces | the trousers were whole again |
    The birds came to admire him and forgot to steal the corn. | -
sew | to finish the quilt for the new baby | one corner was still in rags |
    the last patch slid into its corner | The baby grabbed that corner first. | -
fix | to get the hay over the old bridge | three of its planks were loose | the planks stopped wobbling |
    The hay went over, and so did a line of curious ducklings. | -
fix | to open a shop for secondhand hats | the shelf fell down whenever a hat was put on it |
    the shelf stayed up, even under the hat with the fruit |
    On the first day {he} sold nine hats and one feather. | -
fix | to build a house for the homeless bees | the boards would not stay together |
    the boards became a hive | The bees moved in before the last nail was cold. | -
open | to see the garden behind the high wall | the green door had been locked for a hundred years |
    the green door swung open with a sigh | Behind it grew roses as big as cabbages. | flies climbs
open | to hear the old music box again | its lid would not open for anyone |
    the lid sprang up and a tune hopped out | It was a polka, and the cups danced on their hooks. | -
open | to ring in the holidays from the tower | the tower door was locked, and the ringer was away |
    the lock gave a click | The whole village heard that school was over. | -
catch | to save the letter that had blown into the pond |
    it was drifting farther out with every breath of wind | the letter came back wet but readable |
    It said: Come to tea, and bring dry socks. | flies swims
catch | to save the shoe that had fallen into the river | the river was quick, and the shoe was quicker |
    the shoe came up full of tiny fish | The fish went back, and the shoe went home to its twin. |
    flies swims
catch | to get the spoons out of the well | a careless cook had dropped all twelve |
    up they came, one after another | That night the cook served pudding with very clean spoons. | -
"""
