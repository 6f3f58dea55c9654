"""What things are called, alone and in numbers."""

from lisa_core.tabletop.kinds import KIND_BY_NAME

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "mug": ("cup", "coffee mug"),
    "can": ("tin", "soda can"),
    "box": ("carton",),
    "lamp": ("desk lamp",),
    "toy car": ("car", "little car"),
}


def names(kind: str) -> tuple[str, ...]:
    """What people call a thing of that kind; its own name first."""
    return (kind, *_SYNONYMS.get(kind, ()))


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def is_plural(noun: str) -> bool:
    """Whether one thing of that name takes a verb in the plural."""
    return noun in {"scissors", "handles", "wheels"}


def be(noun: str) -> str:
    """`is`, or `are`."""
    return "are" if is_plural(noun) else "is"


def indefinite(noun: str) -> str:
    """A, an, or a pair of."""
    if noun.endswith("scissors"):
        return f"a pair of {noun}"
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def possessive(it: str) -> str:
    """Whose: `the mug's`, `the scissors'`."""
    return f"{it}'" if it.endswith("s") else f"{it}'s"


def plural(noun: str) -> str:
    """Several of that name."""
    if is_plural(noun):
        return noun
    if noun == "knife":
        return "knives"
    return f"{noun}es" if noun.endswith("x") else f"{noun}s"


def has_colours(kind: str) -> bool:
    """Whether a thing of that kind can have one colour or another, so that its colour says something."""
    return len(KIND_BY_NAME[kind].colours) > 1
