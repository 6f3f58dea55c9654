"""The kinds of things on a table, the colours they come in, and their named parts."""

from dataclasses import dataclass

PAINTS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
_HANDLES = ("red", "green", "blue", "yellow", "orange", "black")


@dataclass(frozen=True)
class Kind:
    """One kind of thing.

    Attributes:
        name: the common English one.
        colours: that it comes in; for tools and cutlery, the colours of the handle.
        parts: its parts that have a name.
    """

    name: str
    colours: tuple[str, ...]
    parts: tuple[str, ...] = ()


KINDS: tuple[Kind, ...] = (
    Kind("mug", PAINTS, ("handle",)),
    Kind("bottle", ("red", "green", "blue", "yellow", "orange", "purple"), ("cap",)),
    Kind("can", ("red", "green", "blue", "yellow", "orange", "purple")),
    Kind("bowl", PAINTS),
    Kind("plate", ("red", "green", "blue", "yellow", "white")),
    Kind("ball", PAINTS),
    Kind("box", PAINTS),
    Kind("book", ("red", "green", "blue", "yellow", "purple", "black")),
    Kind("banana", ("yellow",)),
    Kind("apple", ("red", "green")),
    Kind("lemon", ("yellow",)),
    Kind("knife", _HANDLES, ("handle", "blade")),
    Kind("fork", _HANDLES, ("handle",)),
    Kind("spoon", _HANDLES, ("handle",)),
    Kind("screwdriver", _HANDLES, ("handle",)),
    Kind("hammer", _HANDLES, ("handle", "head")),
    Kind("scissors", _HANDLES, ("handles",)),
    Kind("sponge", ("yellow", "green", "blue", "orange")),
    Kind("lamp", ("red", "green", "blue", "yellow", "white"), ("shade",)),
    Kind("toy car", ("red", "green", "blue", "yellow", "orange", "purple"), ("wheels",)),
)

NEW_KINDS: tuple[Kind, ...] = (Kind("teapot", PAINTS, ("spout", "lid")),)
"""On a table only if asked for: what the tutorial on fine-tuning teaches."""

KIND_BY_NAME = {kind.name: kind for kind in (*KINDS, *NEW_KINDS)}
