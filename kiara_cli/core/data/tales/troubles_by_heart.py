"""Troubles that want warmth, light, a sound, a sign or a treat.

Goes in: nothing. Comes out: `TABLE`, one row for each trouble, read by `troubles`: the kind of thing that
helps, what the hero wanted, what stood in the way, what happened when the thing was used, how it came
out, and the tags of the creatures for whom this would be no trouble at all.
"""

# kind | wanted | but | and so | in the end | not for
TABLE = """
light | to carry a birthday letter over the moor |
    night fell early, and the path turned as black as a boot | every root and puddle came out of hiding |
    The letter arrived just before the last slice of cake. | night
light | to find the silver button under the floor | it was darker down there than inside a pocket |
    something small and silver winked back | {He} sewed the button on again within the hour. | night
light | to lead the lost ducklings home | the fog was so thick that they followed the wrong tail |
    seven ducklings came after the light in a neat line | Their mother counted them twice, to be sure. | -
light | to read one more page to the baby mice | the moon went behind a cloud in the middle of a word |
    the words came back onto the page | The baby mice were asleep before the dragon had its breakfast. | -
brew | to cross the lake with the grumpy ferryman |
    the ferryman had a cold and would not row anyone anywhere |
    the ferryman drank three cups without a word |
    Then he smiled, took up his oars and sang all the way across. | flies swims
brew | to wake the sleepy baker on market day |
    the baker only snored and pulled a flour sack over his ears |
    a smell of mint crept up the stairs and tickled his nose |
    There were warm rolls in the market by eight. | -
brew | to free the frozen pump in the yard | the handle was stuck fast under a coat of ice |
    a hot splash freed the handle with a crack | Soon the whole row of pails was full. | -
wrap | to keep nine eggs safe from the cold wind |
    the mother bird was late, and the nest was growing chilly | the eggs stayed as warm as toast |
    The mother came home, and the first egg cracked with a tiny hello. | -
wrap | to bring hot soup to the miller | the soup was cooling faster than {he} could walk |
    not one curl of steam got away from the pot | The miller burned his tongue and asked for more. | -
wrap | to show {his} little sister the first star | the wind on the hill had teeth, and she was shaking |
    the wind found nothing left to bite | The first star came out at ten past six, and they both waved. |
    cold
sound | to call the shepherd back from the far field | the wind blew every shout away |
    the shepherd turned round at last | He came home running, and the soup was still hot. | -
sound | to wake the village before the river rose | everyone was asleep with the shutters closed |
    one window after another lit up | They carried the beds upstairs, and nothing got wet but the doormat. |
    -
sound | to start the summer parade | nobody could agree on when to begin | forty feet stepped off at once |
    The parade went twice round the pond, because it was going so well. | -
music | to get seven little cousins to sleep | they had just found out how to bounce |
    one by one they stopped bouncing | The last one yawned so widely that it fell over. | -
music | to cheer up the lonely lighthouse keeper | he had not opened his door since autumn |
    the door opened by the width of a nose | By supper the keeper was dancing with a mop. | -
music | to bring the bees back to their hive | they sat in a far tree and grumbled |
    the whole cloud came humming down to listen | That year the honey tasted a little of music. | -
way | to find the lake where the blue lilies grow | every path in the wood looked like every other path |
    the way was clear: left at the crooked pine | The lilies were just opening when {he} got there. | flies
way | to visit {his} cousin behind the seven hills | after the fourth hill {he} lost count |
    there were only three hills to go | {His} cousin had kept the pancakes warm. | flies
way | to lead the school outing home | the fog had swallowed all the signposts |
    soon they were marching straight towards the village |
    They were home in time for pudding, all twelve and the teacher. | -
signal | to call back the ferry | the captain was too far off to hear a shout |
    the ferry slowed down and turned round | The captain said that he had only been practising. |
    flies swims
signal | to tell {his} aunt that the jam was ready |
    she lived on the other hill, and the valley was full of brambles | far off, a tiny apron waved back |
    The aunt arrived with eleven slices of bread. | flies
signal | to warn the hikers about the broken bridge | they were walking with their noses in a sandwich |
    the hikers stopped and looked up | They took the long way round and shared the sandwich. | -
see | to know when the circus would come | the road was long, and dust hid everything |
    far away there was a striped wagon | {He} was first in line, and a clown bowed to {him}. | -
see | to find the hat that the mayor had lost | it could be in any one of a thousand trees |
    there was the hat, with two eggs already in it |
    The mayor said that the eggs could stay until they hatched. | -
see | to count the mountains of the moon | the moon was small and very far away |
    the mountains stood up one behind another | There were thirty-one, and one of them looked like a nose. |
    -
shelter | to keep the wedding guests dry | a fat cloud had parked right above the garden |
    all the guests squeezed in under it | The band played on, and the rain kept time. | -
shelter | to paint a picture of the harbour | the rain kept washing the ships off the paper |
    the rest of the paint stayed where it belonged |
    The picture hangs in the town hall, with one blurry gull. | -
shelter | to sell lemonade at the crossroads | the sun was so fierce that nobody stopped |
    suddenly there was a patch of shade | By four o'clock {he} had sold every drop. | -
time | to bake the perfect loaf | the last one had burned, and the one before was soup |
    at exactly the right minute the loaf came out |
    The crust crackled, and even the neighbours were quiet. | -
time | to catch the early train | {he} had missed it four days in a row |
    at ten to six {he} ran for the station | The train and {H} arrived together, both puffing. | -
time | to judge the race of the two oldest tortoises | nobody could tell which of them was slower |
    the answer was clear: four minutes and a yawn | The winner was told about it on Thursday. | -
soft | to bring down the great pear without a bruise | it hung right above the stones |
    the pear landed with a soft puff | It won a prize and was eaten by the judge. | -
soft | to make the old bench nice for Grandmother | the bench was as hard as a Monday |
    Grandmother sat down and stayed for two hours | She told the long version of every tale. | -
soft | to bring a glass vase to the next village | the road had more holes than road |
    the vase rode on top like a duchess | It arrived without a scratch and was given tulips. | -
write | to find the owner of a lost mitten | nobody in the street had seen it before |
    it said: One mitten, feeling lonely | Within the hour its twin came round the corner. | -
write | to keep the neighbours away from the bad mushrooms | the red ones looked far too pretty |
    it said: Nice to look at, not to eat | Nobody had a stomach ache that year. | -
write | to invite everyone to a party | {he} was far too shy to knock on doors |
    by noon everyone had read it | Thirty guests came, and one of them was the postman. | -
know | to cure the mayor of the hiccups | he had been hiccuping since Tuesday |
    page nine said: Stand on one leg and hum |
    The mayor hummed, and the last hiccup flew out of the window. | -
know | to name the strange blue flower by the well | even the gardener only scratched his head |
    there it was, on page two hundred | It was called forget-me-not, and everybody had forgotten. | -
know | to build a bridge of reeds | it had already fallen in twice | the trick was in chapter three |
    The third bridge held, even when everybody jumped. | flies swims
share | to get past the cross old ram on the bridge | the ram lowered his horns and let nobody by |
    the ram ate two slices and then a third | After that he stepped aside and asked for the recipe. | flies
share | to make friends with the new family next door | nobody knew what to say over the fence |
    suddenly everyone was talking with a full mouth |
    By evening nobody could tell whose crumbs were whose. | -
share | to hear the band play one more dance | the players were too hungry to lift their arms |
    the music grew fatter with every bite | They played until the moon went home. | -
play | to meet the new neighbour | the neighbour was too shy to come out from behind the hedge |
    first one ear came out, and then a nose | By sunset they had invented a game with only nine rules. | -
play | to cheer up the sick children at the window | they had been in bed for a week |
    the whole window began to laugh | The doctor wrote it down as medicine. | -
play | to keep the little cousins busy until supper | they had already buttered the stairs |
    seven mouths fell open and stayed quiet | Supper was late, and no one noticed. | -
"""
