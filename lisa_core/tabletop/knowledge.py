"""Common knowledge about the things on a table: uses, facts, groups."""

from dataclasses import dataclass

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("purple", "bowl"),
        ("blue", "hammer"),
        ("green", "mug"),
        ("orange", "ball"),
        ("white", "box"),
        ("yellow", "book"),
        ("red", "spoon"),
        ("black", "scissors"),
        ("blue", "toy car"),
        ("orange", "bottle"),
    }
)
"""(colour, kind) pairs that training shows in pictures but never names."""


@dataclass(frozen=True)
class Use:
    """A use of some kinds of things.

    Attributes:
        kinds: that are good for it.
        also: kinds that some people would use, too; where there is one, the question is not asked.
        to: "drink from" of "something to drink from".
        want: "have a coffee" of "I want to have a coffee".
        reason: for the choice, with slots {it} and {is}.
    """

    kinds: tuple[str, ...]
    to: tuple[str, ...]
    want: tuple[str, ...]
    reason: str
    also: tuple[str, ...] = ()


USES: tuple[Use, ...] = (
    Use(
        ("mug", "bottle", "can"),
        ("drink from", "drink out of", "take a sip from"),
        ("have a drink", "drink something"),
        "{it} can hold a drink",
        ("bowl",),
    ),
    Use(
        ("mug",),
        ("drink coffee from", "drink tea from", "pour my coffee into", "drink hot chocolate from", "drink cocoa from"),
        ("drink a hot tea", "have a coffee", "have some coffee", "drink a cup of tea"),
        "{it} can hold a hot drink",
        ("bowl",),
    ),
    Use(
        ("spoon",),
        ("eat soup with", "stir my coffee with", "eat yoghurt with", "stir tea with", "scoop ice cream with"),
        ("stir my tea", "scoop some ice cream", "eat a yoghurt", "stir the coffee"),
        "{it} can scoop and stir",
        ("fork", "knife"),
    ),
    Use(
        ("bowl",),
        ("eat soup from", "eat cereal from", "put soup in", "mix a salad in", "serve soup in"),
        ("mix a salad", "serve some soup"),
        "{it} can hold soup",
        ("plate", "mug", "spoon", "fork"),
    ),
    Use(
        ("plate",),
        ("serve a cake on", "put a pizza on", "put a sandwich on", "eat a steak from", "serve dinner on"),
        ("serve a pizza", "serve a piece of cake"),
        "{it} can hold a meal",
        ("bowl", "knife", "fork", "spoon"),
    ),
    Use(
        ("knife",),
        (
            "cut bread with",
            "slice bread with",
            "slice a tomato with",
            "cut cheese with",
            "cut meat with",
            "peel an apple with",
        ),
        ("cut some bread", "slice a tomato", "cut a cake", "chop an onion"),
        "{it} {is} sharp and can cut",
        ("scissors",),
    ),
    Use(
        ("scissors",),
        ("cut paper with", "cut out a picture with", "trim my hair with", "cut a ribbon with", "cut cloth with"),
        ("cut paper", "cut out a picture", "cut a ribbon", "open a plastic bag"),
        "{it} can cut paper",
        ("knife",),
    ),
    Use(
        ("hammer",),
        ("hammer a nail with", "drive a nail with", "hit a nail with", "knock in a nail with", "pound a nail with"),
        ("hammer a nail", "drive a nail into the wall", "hang up a picture", "knock in a nail"),
        "{it} can drive nails",
    ),
    Use(
        ("screwdriver",),
        ("turn a screw with", "tighten a screw with", "loosen a screw with", "drive a screw with"),
        ("tighten a screw", "loosen a screw", "fix a loose screw", "assemble a shelf with screws"),
        "{it} can turn screws",
    ),
    Use(
        ("fork",),
        ("eat spaghetti with", "eat noodles with", "eat salad with", "pick up pasta with"),
        ("eat spaghetti", "eat some noodles", "eat a salad"),
        "{it} can pick up food",
        ("spoon", "knife", "bowl", "plate"),
    ),
    Use(
        ("sponge",),
        (
            "wash the dishes with",
            "wipe the table with",
            "clean the table with",
            "soak up water with",
            "scrub a pan with",
        ),
        ("wash the dishes", "wipe the table", "clean up a spill", "clean the window"),
        "{it} can soak up water",
    ),
    Use(
        ("book",),
        ("read", "read in bed", "read to a child", "learn from"),
        ("read a story", "read a novel", "study", "read something"),
        "{it} can be read",
    ),
    Use(
        ("ball",),
        ("throw", "bounce", "kick", "play catch with", "juggle with", "roll and catch"),
        ("play catch", "play football", "throw something to a dog"),
        "{it} can be thrown and bounces",
    ),
    Use(
        ("box",),
        ("pack a present in", "send a gift in", "ship things in", "store old letters in", "mail a parcel in"),
        ("pack a present", "send a parcel", "ship a gift"),
        "{it} can be packed",
    ),
    Use(
        ("lamp",),
        ("light the room with", "light the desk with", "read by at night", "see in the dark with"),
        ("light the room", "see in the dark", "brighten the desk"),
        "{it} can give light",
    ),
    Use(
        ("toy car",),
        ("play racing with", "push around as a toy", "race on the floor", "roll on four wheels"),
        ("play racing", "play traffic"),
        "{it} can roll on wheels",
    ),
    Use(
        ("bottle",),
        ("carry water in", "keep water in on a hike", "pour wine from", "close with a cap"),
        ("carry water on a hike", "take water along"),
        "{it} can be closed with a cap",
        ("can", "mug"),
    ),
    Use(
        ("banana", "apple"),
        ("eat", "snack on", "bite into", "eat as a snack", "eat raw"),
        ("eat something", "have a healthy snack", "eat some fruit"),
        "{it} can be eaten",
        ("lemon",),
    ),
    Use(
        ("lemon",),
        ("make lemonade from", "squeeze into my tea", "squeeze for its juice", "make sour juice from"),
        ("make lemonade", "make a sour drink", "season fish with juice"),
        "{it} {is} full of sour juice",
        ("apple",),
    ),
)


@dataclass(frozen=True)
class Fact:
    """A fact that is true of some kinds of things only.

    Attributes:
        noun: what is asked for, "fruit" of "which fruit is rich in potassium".
        does: "is rich in potassium", in several wordings.
        also: kinds that some people would count, too; where there is one, the question is not asked.
    """

    kinds: tuple[str, ...]
    noun: str
    does: tuple[str, ...]
    reason: str
    also: tuple[str, ...] = ()


FACTS: tuple[Fact, ...] = (
    Fact(
        ("banana",),
        "[fruit|fruit|thing|food]",
        ("is rich in potassium", "has a lot of potassium", "contains much potassium", "gives me potassium"),
        "{it} {is} rich in potassium",
    ),
    Fact(
        ("banana",),
        "[fruit|thing|food]",
        ("do monkeys like|monkeys like", "a monkey would eat", "is long and curved", "has to be peeled by hand"),
        "{it} {is} a curved fruit",
    ),
    Fact(
        ("lemon",),
        "[fruit|fruit|thing|food]",
        ("tastes sour", "is sour", "is a citrus fruit", "is the most sour"),
        "{it} {is} sour",
    ),
    Fact(
        ("apple",),
        "[fruit|fruit|thing|food]",
        ("keeps the doctor away", "is used to make cider", "goes into an apple pie", "made Newton think of gravity"),
        "{it} {is} a healthy fruit",
    ),
    Fact(
        ("knife", "scissors"),
        "[thing|object|item]",
        (
            "must a child not touch|a child must not touch",
            "should a child not touch|a child should not touch",
            "is dangerous for children",
            "is dangerous for a child",
            "is sharp",
            "should be kept away from children",
            "must children not play with|children must not play with",
            "could hurt a child",
            "can I hurt myself with|I can hurt myself with",
        ),
        "{it} {is} sharp and can hurt",
        ("fork", "screwdriver", "hammer", "lamp"),
    ),
    Fact(
        ("lamp",),
        "[thing|object|item]",
        ("gives light", "needs electricity", "shines at night", "makes light", "has a bulb", "needs to be plugged in"),
        "{it} can give light",
    ),
    Fact(
        ("book",),
        "[thing|object|item]",
        ("has pages", "was written by an author", "tells a story", "contains words", "comes from a library"),
        "{it} {has} pages with words",
    ),
    Fact(
        ("toy car",),
        "[thing|object|toy|item]",
        ("has wheels", "looks like a vehicle", "has four wheels", "drives", "is a model of a vehicle"),
        "{it} {has} wheels",
    ),
    Fact(
        ("sponge",),
        "[thing|object|item]",
        ("soaks up water", "absorbs water", "is full of pores", "is soft and wet in the kitchen sink"),
        "{it} can soak up water",
    ),
    Fact(
        ("ball",),
        "[thing|object|toy|item]",
        ("bounces", "would bounce off the floor", "can be thrown and caught", "is needed for football"),
        "{it} can be thrown and bounces",
    ),
    Fact(
        ("can",),
        "[thing|object|item]",
        ("is made of aluminium", "holds soda", "contains a fizzy drink", "can be recycled as metal"),
        "{it} {is} made of metal for soda",
        ("bottle", "knife", "fork", "spoon", "hammer", "screwdriver", "scissors"),
    ),
    Fact(
        ("bottle",),
        "[thing|object|item]",
        ("has a cap", "has a neck and a cap", "can be closed with a cap", "holds wine or water"),
        "{it} can be closed with a cap",
        ("can", "mug"),
    ),
    Fact(
        ("hammer",),
        "[thing|tool|object]",
        ("drives nails", "is used for nails", "is heavy and hits nails"),
        "{it} can drive nails",
    ),
    Fact(
        ("screwdriver",),
        "[thing|tool|object]",
        ("turns screws", "is used for screws", "fits into a screw"),
        "{it} can turn screws",
    ),
    Fact(
        ("scissors",),
        "[thing|tool|object]",
        ("does a hairdresser use|a hairdresser uses", "has two blades", "does a tailor use|a tailor uses"),
        "{it} can cut paper",
    ),
    Fact(
        ("fork",),
        "[thing|object|item]",
        ("has prongs", "has tines", "has four points to pick up food"),
        "{it} can pick up food",
    ),
    Fact(
        ("box",),
        "[thing|object|item]",
        ("is made of cardboard", "could be a parcel", "comes in the mail"),
        "{it} can be packed",
        ("book",),
    ),
    Fact(
        ("plate",),
        "[thing|object|item]",
        ("is flat and round", "is a flat dish", "holds a meal at dinner"),
        "{it} can hold a meal",
        ("bowl",),
    ),
    Fact(
        ("bowl",),
        "[thing|object|item]",
        ("is a deep dish", "is round and deep and holds soup", "holds cereal at breakfast"),
        "{it} can hold soup",
        ("plate", "mug"),
    ),
)


@dataclass(frozen=True)
class Group:
    """Kinds with a common name.

    Attributes:
        nouns: the common name in the plural, and synonyms.
        also: kinds that some people would include, too; where there is one, the question is not asked.
    """

    nouns: tuple[str, ...]
    kinds: tuple[str, ...]
    also: tuple[str, ...] = ()


GROUPS: tuple[Group, ...] = (
    Group(("tools",), ("hammer", "screwdriver"), ("scissors", "knife")),
    Group(("fruits", "pieces of fruit", "fruit"), ("banana", "apple", "lemon")),
    Group(("cutlery", "pieces of cutlery"), ("knife", "fork", "spoon")),
    Group(("dishes", "crockery"), ("mug", "bowl", "plate"), ("knife", "fork", "spoon", "bottle", "teapot")),
    Group(("toys",), ("ball", "toy car")),
    Group(("sharp things", "sharp objects"), ("knife", "scissors"), ("fork", "screwdriver")),
    Group(("drinks", "drink containers"), ("bottle", "can"), ("mug", "teapot")),
)

PURPOSES: dict[str, str] = {
    "mug": "drinking",
    "bottle": "carrying water",
    "can": "holding soda",
    "bowl": "eating soup",
    "plate": "serving meals",
    "ball": "playing catch",
    "box": "packing things",
    "book": "reading",
    "banana": "eating",
    "apple": "eating",
    "lemon": "making lemonade",
    "knife": "cutting bread",
    "fork": "picking up food",
    "spoon": "eating soup",
    "screwdriver": "turning screws",
    "hammer": "driving nails",
    "scissors": "cutting paper",
    "sponge": "cleaning",
    "lamp": "giving light",
    "toy car": "playing",
    "teapot": "pouring tea",
}

GRIPS = frozenset({"handle", "handles"})
"""Parts to hold a thing by."""

HANDLED = frozenset({"knife", "fork", "spoon", "screwdriver", "hammer", "scissors"})
"""Kinds of which only the handle is coloured."""
