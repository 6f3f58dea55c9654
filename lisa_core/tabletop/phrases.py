"""Wordings for things by colour, place and part, and for places by things: for training, and held out."""

from lisa_core.tabletop.patterns import Wordings

NOUN_PHRASES: dict[str, Wordings] = {
    "colour": Wordings(
        (
            "the {colour} {noun}",
            "the {colour} {noun}",
            "the {noun} that {is} {colour}",
            "the {noun} which {is} {colour}",
            "the {noun} whose colour is {colour}",
            "the {noun} in {colour}",
            "the {noun} with the colour {colour}",
            "the {noun} [coloured|painted] {colour}",
            "the {colour} coloured {noun}",
        ),
        ("the {colour} {noun}", "the {noun} of {colour} colour"),
    ),
    "one of": Wordings(
        ("the {colour} one of the {nouns}", "the {colour} one among the {nouns}"),
        ("that one of the {nouns} which is {colour}", "of the {nouns} the {colour} one"),
    ),
    "leftmost": Wordings(
        (
            "the leftmost {noun}",
            "the leftmost {noun}",
            "the {noun} on the far left",
            "the {noun} furthest to the left",
            "the {noun} that {is} at the left end",
            "the {noun} more to the left than [the others|every other]",
        ),
        ("the {noun} at the far left", "the {noun} that {is} leftmost"),
    ),
    "rightmost": Wordings(
        (
            "the rightmost {noun}",
            "the rightmost {noun}",
            "the {noun} on the far right",
            "the {noun} furthest to the right",
            "the {noun} that {is} at the right end",
            "the {noun} more to the right than [the others|every other]",
        ),
        ("the {noun} at the far right", "the {noun} that {is} rightmost"),
    ),
    "nearest": Wordings(
        (
            "the [nearest|closest] {noun}",
            "the {noun} [nearest|closest] to [me|the camera|you]",
            "the {noun} that {is} [nearest|closest][| to me| to the camera]",
            "the {noun} standing [nearest|closest][| to where we are]",
            "the {noun} that we would reach first",
        ),
        ("the {noun} nearest to us", "the {noun} that {is} standing [nearest|closest] to us"),
    ),
    "farthest": Wordings(
        (
            "the [farthest|furthest|most distant] {noun}",
            "the {noun} [farthest|furthest] [away|from me|from the camera|from you]",
            "the {noun} at the back",
            "the {noun} standing [farthest|furthest] from where we are",
            "the {noun} that {is} [farthest|furthest] away",
        ),
        ("the {noun} farthest from us", "the {noun} that {is} standing [farthest|furthest] away"),
    ),
    "middle": Wordings(
        (
            "the {noun} in the middle",
            "the middle {noun}",
            "the {noun} between the other two",
            "the {noun} that {is} standing between the others",
        ),
        ("the {noun} right in the middle", "the {noun} that {is} in the middle"),
    ),
    "part": Wordings(
        (
            "the {part} of {it}",
            "the {part} of {it}",
            "{its} {part}",
            "the {part} [that belongs to|on|you see on] {it}",
        ),
        ("the {part} that {it} has", "the {part} belonging to {it}"),
    ),
}

WHERE: dict[str, Wordings] = {
    "left": Wordings(
        (
            "[|to the |on the ]left of {it}",
            "[on|to|at] the left side of {it}",
            "[further|farther] left than {it}",
        ),
        ("over to the left of {it}", "more to the left than {it}"),
    ),
    "right": Wordings(
        (
            "[|to the |on the ]right of {it}",
            "[on|to|at] the right side of {it}",
            "[further|farther] right than {it}",
        ),
        ("over to the right of {it}", "more to the right than {it}"),
    ),
    "behind": Wordings(
        (
            "behind {it}",
            "[right |directly |]behind {it}",
            "at the back of {it}",
            "[farther|further] away, behind {it}",
            "on the far side of {it}",
        ),
        ("just behind {it}", "farther back, behind {it}"),
    ),
    "front": Wordings(
        (
            "in front of {it}",
            "[right |directly |]in front of {it}",
            "just this side of {it}",
            "nearer to us, in front of {it}",
        ),
        ("just in front of {it}", "on the front side of {it}"),
    ),
    "next": Wordings(
        ("[next|closest|nearest] to {it}", "beside {it}", "very close to {it}", "[right|just] by {it}"),
        ("right next to {it}", "just beside {it}"),
    ),
}
