"""Second and third questions of a dialogue, which refer to the thing that the one before has shown."""

from collections.abc import Callable

from lisa_core.tabletop import english, knowledge
from lisa_core.tabletop.asking import Asker, Turn, missing, shown
from lisa_core.tabletop.follow_up_wordings import FOLLOW_UPS
from lisa_core.tabletop.kinds import KINDS
from lisa_core.tabletop.knowledge import GRIPS, USES
from lisa_core.tabletop.phrases import WHERE
from lisa_core.tabletop.scene import Target
from lisa_core.tabletop.sight import Seen, around, only

_THREE = 0.4
"""Share of dialogues with three turns."""

Step = tuple[Turn, Seen | None]
"""A turn, and the thing that `it` refers to afterwards; None ends the dialogue."""


def follow_up(asker: Asker, first: Turn) -> tuple[Turn, ...]:
    """The first turn, which shows one thing, and one or two more; empty if no question fits."""
    it: Seen | None = next(thing for thing in asker.sight.things if thing.index == first.masks[0][0].thing)
    turns = [first]
    wanted = 3 if asker.rng.random() < _THREE else 2
    for topic in asker.rng.permutation(list(_STEPS)):
        if it is None or len(turns) == wanted:
            break
        if step := _STEPS[topic](asker, it):
            turn, it = step
            turns.append(turn)
    return tuple(turns) if len(turns) > 1 else ()


def _pronouns(thing: Seen) -> dict[str, str]:
    if english.is_plural(thing.kind):
        return {"it": "they", "them": "them", "its": "their", "is": "are", "does": "do"}
    return {"it": "it", "them": "it", "its": "its", "is": "is", "does": "does"}


def _colour(asker: Asker, it: Seen) -> Step | None:
    if not asker.tells_colour(it):
        return None
    question = asker.ask(FOLLOW_UPS["colour"], **_pronouns(it))
    return Turn(question, f"The {it.kind} {english.be(it.kind)} {it.colour}.", says=(it.colour,)), it


def _part_turn(asker: Asker, question: str, it: Seen, part: str) -> Turn:
    answer = f"The {part} of the {asker.described(it)} {english.be(part)} [SEG]."
    return Turn(question, answer, ((Target(it.index, part),),))


def _hold(asker: Asker, it: Seen) -> Step | None:
    grips = [part for part in it.parts if part in GRIPS]
    if not grips:
        return None
    object_form = _pronouns(it) | {"it": _pronouns(it)["them"]}
    return _part_turn(asker, asker.ask(FOLLOW_UPS["hold"], **object_form), it, grips[0]), it


def _part(asker: Asker, it: Seen) -> Step | None:
    if not it.parts:
        return None
    part = asker.pick(it.parts)
    question = asker.ask(FOLLOW_UPS["part"], its=_pronouns(it)["its"], part=part, **{"is": english.be(part)})
    return _part_turn(asker, question, it, part), it


def _place(asker: Asker, it: Seen) -> Step | None:
    where = asker.pick(tuple(WHERE))
    found = only(around(asker.sight, it, where))
    if found is None:
        return None
    place = asker.words(WHERE[where], it=_pronouns(it)["them"])
    turn = shown(asker, asker.ask(FOLLOW_UPS["place"], where=place), [found])
    return (turn, found) if turn else None


def _other(asker: Asker, it: Seen) -> Step | None:
    other = only(asker.sight.of({kind}) if (kind := _other_kind(asker, it)) else [])
    if other is None:
        return None
    noun = asker.name(other.kind)
    question = asker.ask(FOLLOW_UPS["other"], noun=f"the {noun}", **{"is": english.be(noun)})
    turn = shown(asker, question, [other])
    return (turn, other) if turn else None


def _other_kind(asker: Asker, it: Seen) -> str | None:
    other = asker.one([thing for thing in asker.sight.clear if thing.kind != it.kind])
    return other.kind if other else None


def _absent(asker: Asker, _it: Seen) -> Step | None:
    absent = [kind.name for kind in KINDS if asker.sight.lacks({kind.name})]
    if not absent:
        return None
    noun = asker.name(asker.pick(absent))
    question = asker.ask(FOLLOW_UPS["other"], noun=f"the {noun}", **{"is": english.be(noun)})
    return missing(question, noun), None


def _same_kind(asker: Asker, it: Seen) -> Step | None:
    """`And the green one?`: another thing of the kind, if its colour is unique among them."""
    others = [thing for thing in asker.sight.of({it.kind}) if thing is not it and thing.colour != it.colour]
    other = asker.one(others)
    if other is None or not asker.tells_colour(other):
        return None
    if only([thing for thing in others if thing.colour == other.colour]) is None:
        return None
    question = asker.ask(FOLLOW_UPS["other"], noun=f"the {other.colour} one", **{"is": "is"})
    turn = shown(asker, question, [other])
    return (turn, other) if turn else None


def _else(asker: Asker, it: Seen) -> Step | None:
    """Another thing with the same use; if there is none, the answer says so."""
    uses = [use for use in USES if it.kind in use.kinds and asker.sight.lacks(use.also)]
    if not uses:
        return None
    use = uses[int(asker.rng.integers(len(uses)))]
    question = asker.ask(FOLLOW_UPS["else"], to=asker.pick(use.to))
    others = [thing for thing in asker.sight.of(use.kinds) if thing is not it]
    if not others and sum(kind in use.kinds for _, kind in asker.sight.there) == 1:
        return Turn(question, "There is nothing else."), it
    other = only(others)
    turn = other and shown(asker, question, [other])
    return (turn, other) if turn and other else None


def _purpose(asker: Asker, it: Seen) -> Step | None:
    purpose = knowledge.PURPOSES[it.kind]
    question = asker.ask(FOLLOW_UPS["purpose"], **_pronouns(it))
    answer = f"The {it.kind} {english.be(it.kind)} for {purpose}."
    return Turn(question, answer, says=tuple(purpose.split(" "))), it


_STEPS: dict[str, Callable[[Asker, Seen], Step | None]] = {
    "colour": _colour,
    "hold": _hold,
    "part": _part,
    "place": _place,
    "other": _other,
    "absent": _absent,
    "same kind": _same_kind,
    "else": _else,
    "purpose": _purpose,
}
