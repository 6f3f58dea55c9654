"""Questions about a view, with the true answers.

    for dialogue in dialogues(view, np.random.default_rng(1), "train", 8):
        for turn in dialogue.turns:
            turn.question, turn.answer, turn.masks

Questions have exactly one right answer: where a person who sees the picture could mean another thing, none is asked.
Answers have few, regular forms, which name a thing before its `[SEG]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lisa_core.tabletop import english, knowledge, spoken_wordings, wordings
from lisa_core.tabletop.asking import NO_SUCH_THING, Asker, Turn, listed, missing, shown
from lisa_core.tabletop.follow_ups import follow_up
from lisa_core.tabletop.kinds import KIND_BY_NAME, KINDS, PAINTS
from lisa_core.tabletop.knowledge import FACTS, GROUPS, USES, Fact, Use
from lisa_core.tabletop.patterns import Split
from lisa_core.tabletop.phrases import NOUN_PHRASES, WHERE
from lisa_core.tabletop.scene import Target, View
from lisa_core.tabletop.sight import Seen, around, extreme, look, only
from lisa_core.tabletop.wordings import BENCHMARK

__all__ = ["Dialogue", "Turn", "dialogues"]

_KINDS, _TRIES = 12, 4
"""For each dialogue, how many kinds are tried, and how often each: not every question fits a view."""

_BENCHMARK = 0.08
"""Share of questions for one thing that are worded as in the published benchmark."""

_CROWDED = 0.5
"""Share of questions by use or fact that, in training, must fit several things, if any does."""

_EXTREMES = ("leftmost", "rightmost", "nearest", "farthest", "middle")


@dataclass(frozen=True)
class Dialogue:
    """A question about a view, or several that build on each other."""

    kind: str
    turns: tuple[Turn, ...]


def dialogues(view: View, rng: np.random.Generator, split: Split, count: int) -> list[Dialogue]:
    """Random dialogues about a view.

    Args:
        view: the picture and the truth about it.
        rng: for all random choices; the same state gives the same dialogues.
        split: `held_out` has wordings and names (colour, kind) pairs that `train` never does.
        count: most dialogues; fewer are returned for a view about which little can be asked.
    """
    asker = Asker(look(view), rng, split)
    kinds = tuple(_MAKERS)
    weights = np.array([_MAKERS[kind][0] * (_DRILLED.get(kind, 1) if split == "train" else 1) for kind in kinds])
    found: list[Dialogue] = []
    for _ in range(count):
        for kind in rng.choice(kinds, _KINDS, p=weights / weights.sum()):
            if turns := next(filter(None, (_MAKERS[kind][1](asker) for _ in range(_TRIES))), ()):
                found.append(Dialogue(str(kind), turns))
                break
    return found


def _name(asker: Asker) -> Turn | None:
    thing = asker.one(asker.sight.clear)
    if thing is None or only(asker.sight.of({thing.kind})) is None:
        return None
    return shown(asker, asker.ask(wordings.SHOW, it=f"the {asker.name(thing.kind)}"), [thing])


def _colour(asker: Asker) -> Turn | None:
    thing = asker.one(asker.sight.clear)
    if thing is None or not asker.tells_colour(thing):
        return None
    alike = [other for other in asker.sight.things if other.colour == thing.colour]
    if len(alike) == 1 and asker.rng.random() < 0.4:
        noun, phrase = asker.pick(("thing", "object")), "colour"
    elif len([other for other in alike if other.kind == thing.kind]) == 1:
        several = len(asker.sight.of({thing.kind})) > 1
        noun, phrase = asker.name(thing.kind), "one of" if several and asker.rng.random() < 0.4 else "colour"
    else:
        return None
    it = asker.words(
        NOUN_PHRASES[phrase], colour=thing.colour, noun=noun, nouns=english.plural(noun), **{"is": english.be(noun)}
    )
    return shown(asker, asker.ask(wordings.SHOW, it=it, **{"is": english.be(noun)}), [thing])


def _place(asker: Asker) -> Turn | None:
    return _extreme(asker) if asker.rng.random() < 0.5 else _around(asker)


def _extreme(asker: Asker) -> Turn | None:
    where = asker.pick(_EXTREMES)
    thing = asker.one(asker.sight.clear)
    if thing is None:
        return None
    group, noun = asker.sight.of({thing.kind}), asker.name(thing.kind)
    if len(group) < 2:
        group, noun = list(asker.sight.things), asker.pick(("thing", "object"))
    found = extreme(asker.sight, group, where)
    if found is None:
        return None
    be = {"is": english.be(noun)}
    return shown(asker, asker.ask(wordings.SHOW, it=asker.words(NOUN_PHRASES[where], noun=noun, **be), **be), [found])


def _around(asker: Asker) -> Turn | None:
    where, anchor = asker.pick(tuple(WHERE)), asker.one(asker.sight.clear)
    if anchor is None or (it := _definite(asker, anchor)) is None:
        return None
    found = around(asker.sight, anchor, where)
    if len(found) > 2:
        return None
    several = len(found) > 1 or (where != "next" and asker.rng.random() < 0.2)  # only the nearest is next to it
    place = asker.words(WHERE[where], it=it)
    return shown(asker, asker.ask(wordings.OPEN_WHAT if several else wordings.WHAT, where=place), found)


def _definite(asker: Asker, thing: Seen) -> str | None:
    """`the mug`, or `the red mug` if the colour is needed; None if neither is unambiguous."""
    alike = asker.sight.of({thing.kind})
    noun = asker.name(thing.kind)
    same_colour = [other for other in alike if other.colour == thing.colour]
    coloured = len(same_colour) == 1 and asker.tells_colour(thing)
    if len(alike) == 1:
        return f"the {thing.colour} {noun}" if coloured and asker.rng.random() < 0.3 else f"the {noun}"
    return f"the {thing.colour} {noun}" if coloured else None


def _useful(asker: Asker, sources: Sequence[Use | Fact], several: float = 0.0) -> tuple[Use | Fact, list[Seen]] | None:
    """A random use or fact that fits visible things, and those things; `several`: how often it should fit several."""
    fitting = [
        (source, things)
        for source in sources
        if (things := asker.sight.of(source.kinds)) and asker.sight.lacks(source.also)
    ]
    if several and (crowded := [each for each in fitting if len(each[1]) > 1]) and asker.rng.random() < several:
        fitting = crowded
    return fitting[int(asker.rng.integers(len(fitting)))] if fitting else None


def _question(asker: Asker, source: Use | Fact, things: Sequence[Seen] = ()) -> str:
    """A question about a use or a fact; open to several answers if there are several things."""
    several = len(things) > 1 or asker.rng.random() < 0.2
    if isinstance(source, Use):
        patterns = wordings.OPEN_USE if several else wordings.USE
        return asker.words(patterns, to=asker.pick(source.to), want=asker.pick(source.want))
    patterns = wordings.OPEN_FACT if several else wordings.FACT
    forms = asker.pick(source.does).split("|")
    noun = asker.phrase(source.noun)
    return asker.words(patterns, noun=noun, a=english.indefinite(noun), asks=forms[0], does=forms[-1])


def _affordance(asker: Asker) -> Turn | None:
    return _shown_use(asker, USES)


def _knowledge(asker: Asker) -> Turn | None:
    return _shown_use(asker, FACTS)


def _shown_use(asker: Asker, sources: Sequence[Use | Fact]) -> Turn | None:
    chosen = _useful(asker, sources, _CROWDED if asker.split == "train" else 0.0)
    return shown(asker, asker.typed(_question(asker, *chosen)), chosen[1]) if chosen else None


def _explanation(asker: Asker) -> Turn | None:
    chosen = _useful(asker, USES if asker.rng.random() < 0.5 else FACTS)
    if chosen is None or (thing := only(chosen[1])) is None:
        return None
    source = chosen[0]
    plain = shown(asker, _capital(_question(asker, source)) + " " + asker.ask(wordings.WHY), [thing])
    plural = english.is_plural(thing.kind)
    reason = source.reason.format(
        **{"it": "they" if plural else "it", "is": english.be(thing.kind), "has": "have" if plural else "has"}
    )
    return plain and replace(plain, answer=f"{plain.answer[:-1]}, because {reason}.", says=(thing.kind,))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _several(asker: Asker) -> Turn | None:
    draw = asker.rng.random()
    if draw < 0.4:
        thing = asker.one(asker.sight.clear)
        things = asker.sight.of({thing.kind}) if thing else []
        nouns = english.plural(asker.name(thing.kind)) if thing else ""
    elif draw < 0.6:
        colour = asker.pick(PAINTS)
        things = [thing for thing in asker.sight.things if thing.colour == colour]
        if not all(asker.may_learn(colour, thing.kind) for thing in things):
            return None
        nouns = f"{colour} {asker.pick(('things', 'objects'))}"
    else:
        group = GROUPS[int(asker.rng.integers(len(GROUPS)))]
        things = asker.sight.of(group.kinds) if asker.sight.lacks(group.also) else []
        nouns = asker.pick(group.nouns)
    if len(things) < 2 and asker.rng.random() < 0.8:  # a single thing is rarely asked for in the plural
        return None
    return shown(asker, asker.ask(wordings.SEVERAL, them=f"the {nouns}"), things)


def _part(asker: Asker) -> Turn | None:
    thing = asker.one([thing for thing in asker.sight.clear if thing.parts])
    if thing is None or (it := _definite(asker, thing)) is None:
        return None
    part = asker.pick(thing.parts)
    be = {"is": english.be(part)}
    question = asker.ask(wordings.SHOW, it=asker.words(NOUN_PHRASES["part"], part=part, it=it), **be)
    answer = f"The {part} of the {asker.described(thing)} {english.be(part)} [SEG]."
    return Turn(question, answer, ((Target(thing.index, part),),))


def _nothing(asker: Asker) -> Turn | None:
    draw = asker.rng.random()
    if draw < 0.25:
        source = _absent_source(asker)
        return Turn(asker.typed(_question(asker, source)), NO_SUCH_THING) if source else None
    absent = tuple(kind.name for kind in KINDS if asker.sight.lacks({kind.name}))
    if draw < 0.5:
        return _absent_colour(asker)
    if not absent:
        return None
    kind = asker.pick(absent)
    noun = asker.name(kind)
    if draw < 0.6:
        place = asker.words(WHERE[asker.pick(tuple(WHERE))], it=f"the {noun}")
        return missing(asker.ask(wordings.WHAT, where=place), noun)
    parts = {each.name: each.parts for each in KINDS}[kind]
    if parts and draw < 0.7:
        part = asker.pick(parts)
        it = asker.words(NOUN_PHRASES["part"], part=part, it=f"the {noun}")
        return missing(asker.ask(wordings.SHOW, it=it, **{"is": english.be(part)}), noun)
    return missing(asker.ask(wordings.SHOW, it=f"the {noun}"), noun)


def _absent_source(asker: Asker) -> Use | Fact | None:
    sources: tuple[Use | Fact, ...] = (*USES, *FACTS)
    absent = [source for source in sources if asker.sight.lacks((*source.kinds, *source.also))]
    return absent[int(asker.rng.integers(len(absent)))] if absent else None


def _absent_colour(asker: Asker) -> Turn | None:
    """Asks for a kind in a colour that is not there, mostly for a kind that is there."""
    there = tuple(thing.kind for thing in asker.sight.clear)
    kind = asker.pick(there) if there and asker.rng.random() < 0.7 else asker.pick([kind.name for kind in KINDS])
    colours = KIND_BY_NAME[kind].colours
    possible = [
        colour for colour in colours if asker.may_name(colour, kind) and (colour, kind) not in asker.sight.there
    ]
    if not possible:
        return None
    noun, colour = asker.name(kind), asker.pick(possible)
    be = {"is": english.be(noun)}
    it = asker.words(NOUN_PHRASES["colour"], colour=colour, noun=noun, **be)
    return missing(asker.ask(wordings.SHOW, it=it, **be), f"{colour} {noun}")


def _words(asker: Asker) -> Turn | None:
    makers = (_count, _what_colour, _exists, _list, _purpose)
    return makers[int(asker.rng.integers(len(makers)))](asker)


def _count(asker: Asker) -> Turn | None:
    thing = asker.one(asker.sight.clear)
    kind = thing.kind if thing and asker.rng.random() < 0.7 else asker.pick([each.name for each in KINDS])
    things, noun = asker.sight.of({kind}), asker.name(kind)
    if asker.rng.random() < 0.15:
        things, noun = list(asker.sight.things), asker.pick(("thing", "object"))
    hidden = not things and not asker.sight.lacks({kind})
    if english.is_plural(kind) or hidden or not all(thing.clear for thing in things):
        return None
    nouns, number = english.plural(noun), english.NUMBERS[len(things)]
    answer = f"There is one {noun}." if len(things) == 1 else f"There are {number} {nouns}."
    return Turn(asker.ask(spoken_wordings.COUNT, nouns=nouns), answer, says=(number,))


def _what_colour(asker: Asker) -> Turn | None:
    thing = asker.one(asker.sight.clear)
    if thing is None or not asker.tells_colour(thing) or only(asker.sight.of({thing.kind})) is None:
        return None
    noun = asker.name(thing.kind)
    answer = f"The {noun} {english.be(noun)} {thing.colour}."
    return Turn(asker.ask(spoken_wordings.COLOUR, it=f"the {noun}"), answer, says=(thing.colour,))


def _exists(asker: Asker) -> Turn | None:
    thing = asker.one(asker.sight.clear)
    kind = thing.kind if thing and asker.rng.random() < 0.5 else asker.pick([each.name for each in KINDS])
    noun = asker.name(kind)
    question = asker.ask(
        spoken_wordings.EXISTS, a=english.indefinite(noun), nouns=english.plural(noun), **{"is": english.be(noun)}
    )
    if asker.sight.lacks({kind}):
        return Turn(question, f"No, there {english.be(noun)} no {noun}.", says=("no",))
    if not any(thing.clear for thing in asker.sight.of({kind})):
        return None
    return Turn(question, f"Yes, there is {english.indefinite(noun)}.", says=("yes",))


def _list(asker: Asker) -> Turn | None:
    things = asker.sight.things
    if not 0 < len(things) <= 4 or not all(thing.clear for thing in things):
        return None
    answer = listed([english.indefinite(asker.described(thing)) for thing in things])
    return Turn(asker.ask(spoken_wordings.LIST), f"{_capital(answer)}.", says=tuple(thing.kind for thing in things))


def _purpose(asker: Asker) -> Turn | None:
    thing = asker.one(asker.sight.clear)
    if thing is None:
        return None
    noun, purpose = asker.name(thing.kind), knowledge.PURPOSES[thing.kind]
    question = asker.ask(spoken_wordings.PURPOSE, it=f"the {noun}")
    return Turn(question, f"The {noun} {english.be(noun)} for {purpose}.", says=tuple(purpose.split(" ")))


def _benchmark(asker: Asker, turn: Turn) -> Turn:
    """Sometimes rewords the question as in the published benchmark, with the mask alone as the answer."""
    if len(turn.masks) != 1 or asker.rng.random() >= _BENCHMARK:
        return turn
    answer = "[SEG]." if asker.rng.random() < 0.5 else "Sure, [SEG]."
    question = turn.question if turn.question[-1] in ".?" else f"{turn.question}."
    return Turn(f"{question} {BENCHMARK}", answer, turn.masks)


def _single(maker: Callable[[Asker], Turn | None], benchmark: bool = True) -> Callable[[Asker], tuple[Turn, ...]]:
    def make(asker: Asker) -> tuple[Turn, ...]:
        turn = maker(asker)
        if turn is None:
            return ()
        return (_benchmark(asker, turn) if benchmark else turn,)

    return make


def _follow_up(asker: Asker) -> tuple[Turn, ...]:
    first = (_name, _name, _colour, _place, _affordance)[int(asker.rng.integers(5))](asker)
    if first is None or len(first.masks) != 1:
        return ()
    return follow_up(asker, first)


_MAKERS: dict[str, tuple[float, Callable[[Asker], tuple[Turn, ...]]]] = {
    "name": (3, _single(_name)),
    "colour": (2.5, _single(_colour)),
    "place": (4, _single(_place)),
    "affordance": (3, _single(_affordance)),
    "knowledge": (2.5, _single(_knowledge)),
    "several": (2, _single(_several, benchmark=False)),
    "part": (2.5, _single(_part)),
    "nothing": (3.5, _single(_nothing)),
    "explanation": (2.5, _single(_explanation, benchmark=False)),
    "words": (3, _single(_words)),
    "follow_up": (3.5, _follow_up),
}
"""The weight of each kind of question, and its maker, which returns () if the view does not allow it."""

_DRILLED = {"place": 2.0, "several": 4.0, "part": 1.6, "nothing": 1.6}
"""Factors on these weights in training, for what is hardest to learn."""
