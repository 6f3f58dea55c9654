"""Names of things, and their grammar."""

from lisa_core.tabletop.kinds import KIND_BY_NAME

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "mug": ("cup", "coffee mug"),
    "can": ("tin", "soda can"),
    "box": ("carton",),
    "lamp": ("desk lamp",),
    "toy car": ("car", "little car"),
}


def names(kind: str) -> tuple[str, ...]:
    """Names for a thing of that kind, its own name first."""
    return (kind, *_SYNONYMS.get(kind, ()))


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def is_plural(noun: str) -> bool:
    """Whether the noun takes a plural verb even for one thing."""
    return noun in {"scissors", "handles", "wheels"}


def be(noun: str) -> str:
    """`is` or `are`."""
    return "are" if is_plural(noun) else "is"


def indefinite(noun: str) -> str:
    """The noun with `a`, `an` or `a pair of`."""
    if noun.endswith("scissors"):
        return f"a pair of {noun}"
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def possessive(it: str) -> str:
    """The possessive: `the mug's`, `the scissors'`."""
    return f"{it}'" if it.endswith("s") else f"{it}'s"


def plural(noun: str) -> str:
    """The plural of the noun."""
    if is_plural(noun):
        return noun
    if noun == "knife":
        return "knives"
    return f"{noun}es" if noun.endswith("x") else f"{noun}s"


def has_colours(kind: str) -> bool:
    """Whether the kind comes in several colours."""
    return len(KIND_BY_NAME[kind].colours) > 1
