"""Questions about a view: exactly one right answer, the given one; held-out wordings stay out of training."""

import re
from collections import Counter

import numpy as np
import pytest
from tabletops import random_view, view_of

from lisa_core.tabletop import english, patterns, phrases, spoken_wordings, wordings
from lisa_core.tabletop.follow_up_wordings import FOLLOW_UPS
from lisa_core.tabletop.kinds import KIND_BY_NAME, KINDS, NEW_KINDS
from lisa_core.tabletop.knowledge import FACTS, HELD_OUT_PAIRS, PURPOSES, USES
from lisa_core.tabletop.questions import dialogues
from lisa_core.tabletop.scene import Target
from lisa_core.tabletop.sight import around, look

ALL = {
    "name",
    "colour",
    "place",
    "affordance",
    "knowledge",
    "several",
    "part",
    "nothing",
    "explanation",
    "words",
    "follow_up",
}


def asked(view, split="train", count=400, seed=0):
    return dialogues(view, np.random.default_rng(seed), split, count)


def normalised(question):
    return question.lower().rstrip(".?! ")


@pytest.fixture(scope="module")
def drawn():
    """About 6,000 dialogues of each split about 300 views, with the views."""
    rng = np.random.default_rng(7)
    views = [random_view(rng) for _ in range(300)]
    return {
        split: [(view, dialogue) for view in views for dialogue in dialogues(view, rng, split, 20)]
        for split in ("train", "held_out")
    }


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_kind_is_asked_and_no_view_is_left_without(drawn, split):
    assert Counter(dialogue.kind for _, dialogue in drawn[split]).keys() == ALL
    assert len(drawn[split]) == 300 * 20


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_each_seg_has_its_targets_which_are_clearly_seen(drawn, split):
    for view, dialogue in drawn[split]:
        for turn in dialogue.turns:
            assert turn.answer.count("[SEG]") == len(turn.masks)
            assert not re.search(r"[{}\[\]|]|  ", turn.question), turn.question
            for target in (target for targets in turn.masks for target in targets):
                mask = view.mask(target.thing, target.part)
                assert mask.sum() >= (150 if target.part is None else 100)
                whole = np.nonzero(view.mask(target.thing))
                assert abs(whole[1].mean() - 320) < 240


def test_no_wording_is_in_both_splits(drawn):
    questions = {
        split: {normalised(turn.question) for _, dialogue in each for turn in dialogue.turns}
        for split, each in drawn.items()
    }
    assert len(questions["train"]) > 3000
    assert not questions["train"] & questions["held_out"]


def test_no_pattern_is_in_both_splits():
    modules = vars(wordings) | vars(spoken_wordings)
    tables = [each for each in modules.values() if isinstance(each, patterns.Wordings)]
    for table in (*tables, *phrases.WHERE.values(), *FOLLOW_UPS.values()):
        assert not set(table.train) & set(table.held_out)
    for name, table in phrases.NOUN_PHRASES.items():  # both splits name things by colour alike
        assert set(table.train) & set(table.held_out) == ({"the {colour} {noun}"} if name == "colour" else set())


def names_together(text, colour, kind):
    for name in english.names(kind):
        noun = f"(?:{name}|{english.plural(name)})"
        one = r"(?:one (?:of|among) the )?"
        before = rf"\b{colour} (?:coloured )?{one}{noun}\b"
        after = rf"\b{noun} (?:that|which|is|are|of|the|one|in|with|whose|coloured|painted)\b[\w ]* ?{colour}\b"
        if re.search(f"{before}|{after}", text.lower()):
            return True
    return False


def test_training_never_names_a_held_out_pair(drawn):
    named = {"train": 0, "held_out": 0}
    for split, each in drawn.items():
        for _, dialogue in each:
            for turn in dialogue.turns:
                for text in (turn.question, turn.answer):
                    named[split] += any(names_together(text, *pair) for pair in HELD_OUT_PAIRS)
    assert named["train"] == 0
    assert named["held_out"] > 100


def test_held_out_pairs_are_things_that_exist():
    assert all(colour in KIND_BY_NAME[kind].colours for colour, kind in HELD_OUT_PAIRS)


def test_the_same_seed_asks_the_same():
    view = random_view(np.random.default_rng(3))
    assert asked(view, seed=5) == asked(view, seed=5)
    assert asked(view, seed=5) != asked(view, seed=6)


def test_what_is_there_twice_is_not_asked_for_by_name_alone():
    view = view_of(("mug", "red", -0.15, 0), ("mug", "blue", 0, 0), ("knife", "black", 0.15, 0))
    for dialogue in asked(view):
        if dialogue.kind in {"name", "part"}:
            assert not re.search(r"\bthe (mug|cup|coffee mug)\b", dialogue.turns[0].question.lower())
        if "knife" in dialogue.turns[0].question and dialogue.kind == "name":
            assert dialogue.turns[0].masks == ((Target(2),),)


def test_what_is_barely_seen_is_neither_shown_nor_denied():
    view = view_of(("mug", "red", -0.15, 0), ("banana", "yellow", 0, 0), ("ball", "blue", 0.15, 0), sizes=(50, 8, 50))
    for dialogue in asked(view, count=1500):
        for turn in dialogue.turns:
            assert all(target.thing != 1 for targets in turn.masks for target in targets)
            assert "no banana" not in turn.answer
            if re.search("potassium|banana", turn.question):
                assert turn.answer != "There is no such thing."


def test_what_is_outside_the_middle_square_is_not_asked_for():
    view = view_of(("mug", "red", -0.36, 0), ("ball", "blue", 0, 0), ("plate", "green", 0.12, 0))
    shown = {
        target.thing for each in asked(view) for turn in each.turns for targets in turn.masks for target in targets
    }
    assert shown == {1, 2}


PLACES = {
    "leftmost": "red",
    "far left": "red",
    "rightmost": "yellow",
    "far right": "yellow",
    "nearest": "yellow",
    "farthest": "red",
    "in the middle": "black",
}


def test_places_are_those_of_the_picture():
    view = view_of(
        ("ball", "red", -0.15, 0.15),
        ("ball", "black", 0, 0),
        ("ball", "yellow", 0.15, -0.15),
        ("box", "blue", 0.01, 0.15),
    )
    seen = set()
    for dialogue in asked(view, count=4000):
        turn = dialogue.turns[0]
        for words, colour in PLACES.items():
            if re.search(rf"{words} ball|ball (on the )?{words}", turn.question):
                assert f"{colour} ball" in turn.answer or turn.answer in {"[SEG].", "Sure, [SEG]."}
                seen.add(colour)
        if match := re.search(r"(left of|right of|behind|in front of) the black ball", turn.question.lower()):
            expected = {"left of": (0,), "right of": (2,), "behind": (3,), "in front of": ()}[match[1]]
            assert tuple(targets[0].thing for targets in turn.masks) == expected
            seen.add(match[1])
    assert seen >= {"red", "black", "yellow", "behind"}


@pytest.mark.parametrize(
    ("x", "left"),
    [(-0.05, []), (-0.11, []), (-0.2, [1]), (0.02, [])],
    ids=["behind its end", "in doubt", "beside it", "behind its middle"],
)
def test_what_lies_behind_a_wide_thing_is_not_beside_it(x, left):
    seen = look(view_of(("fork", "red", 0.0, 0.0), ("apple", "green", x, 0.05), size=40, sizes=(200, 40)))
    fork = next(thing for thing in seen.things if thing.kind == "fork")
    assert [thing.index for thing in around(seen, fork, "left")] == left


@pytest.mark.parametrize(("y", "near"), [(0.1, [1]), (0.24, [1]), (0.27, [])])
def test_what_is_far_away_is_not_next_to_a_thing(y, near):
    seen = look(view_of(("mug", "red", 0.0, -0.1), ("apple", "green", 0.0, y - 0.1), ("can", "blue", 0.3, 0.3)))
    mug = next(thing for thing in seen.things if thing.kind == "mug")
    assert [thing.index for thing in around(seen, mug, "next")] == near


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_single_thing_is_not_asked_for_where_two_are_shown(drawn, split):
    several = 0
    for _, dialogue in drawn[split]:
        turn = dialogue.turns[0]
        if dialogue.kind == "place" and len(turn.masks) > 1:
            several += 1
            before = re.split(r"left|right|behind|front|back|side|beside|next|close|nearest|by the", turn.question)[0]
            assert not re.search(r"\b(thing|object|item|one)\b", before.lower()), turn.question
    assert several > 20


def test_several_are_shown_from_left_to_right():
    view = view_of(("hammer", "red", 0.15, 0), ("screwdriver", "blue", -0.15, 0), ("apple", "green", 0, 0))
    turns = [each.turns[0] for each in asked(view) if "tools" in each.turns[0].question]
    assert turns
    for turn in turns:
        assert turn.masks == ((Target(1),), (Target(0),))
        assert turn.answer == "The blue screwdriver is [SEG] and the red hammer is [SEG]."


def test_training_asks_more_often_for_several_things_by_use_and_knowledge(drawn):
    several = {
        split: np.mean([len(each.turns[0].masks) > 1 for _, each in said if each.kind in ("affordance", "knowledge")])
        for split, said in drawn.items()
    }
    assert several["held_out"] > 0
    assert several["train"] > 1.3 * several["held_out"]


def test_training_never_shows_a_held_out_pair_for_its_colour(drawn):
    shown = {"train": 0, "held_out": 0}
    for split, said in drawn.items():
        for view, dialogue in said:
            question = dialogue.turns[0].question.lower()
            for colour in re.findall(r"\b(\w+) (?:things|objects)\b", question) if dialogue.kind == "several" else ():
                kinds = {view.things[target.thing].kind for targets in dialogue.turns[0].masks for target in targets}
                shown[split] += any((colour, kind) in HELD_OUT_PAIRS for kind in kinds)
    assert shown["train"] == 0
    assert shown["held_out"] > 0


def test_no_wording_for_a_place_means_another():
    """A thing that is farther away than another need not be behind it."""
    for where in ("behind", "front"):
        for split in ("train", "held_out"):
            for pattern in getattr(phrases.WHERE[where], split):
                assert re.search("behind|back|far side|front|this side", pattern), pattern


def test_what_is_absent_is_said_to_be():
    view = view_of(("mug", "red", -0.15, 0), ("ball", "blue", 0.1, 0))
    turns = [each.turns[0] for each in asked(view, count=3000) if each.kind == "nothing"]
    assert all(not turn.masks and re.match(r"There (is|are) no ", turn.answer) for turn in turns)
    assert not any(re.search("red (mug|cup|coffee mug)|blue ball", turn.answer) for turn in turns)
    assert any(re.match("There is no (white|blue|black) mug", turn.answer) for turn in turns)


def test_reasons_name_what_is_shown(drawn):
    for view, dialogue in drawn["train"]:
        if dialogue.kind == "explanation":
            (turn,) = dialogue.turns
            kind = view.things[turn.masks[0][0].thing].kind
            assert turn.says == (kind,)
            assert kind in turn.answer.split(", because")[0]
            assert ", because " in turn.answer


def test_words_are_true():
    view = view_of(("mug", "red", -0.15, 0), ("mug", "blue", 0.0, 0), ("ball", "yellow", 0.15, 0))
    answers = {
        "how many mugs": "There are two mugs.",
        "colou?r.* the ball": "The ball is yellow.",
        "is there a ball|see a ball": "Yes, there is a ball.",
        "what is on the table": "A red mug, a blue mug and a yellow ball.",
        "what.* the mug .*for": "The mug is for drinking.",
    }
    turns = [each.turns[0] for each in asked(view, count=4000) if each.kind == "words"]
    for question, answer in answers.items():
        said = {turn.answer for turn in turns if re.search(question, turn.question.lower())}
        assert said == {answer}, question
    denied = [match[1] for turn in turns if (match := re.match(r"No, there (?:is|are) no ([\w ]+)\.", turn.answer))]
    assert len(set(denied)) > 10
    assert not {"mug", "cup", "coffee mug", "ball"} & set(denied)


def test_later_turns_are_about_what_was_shown():
    view = view_of(("mug", "red", -0.15, 0), ("mug", "blue", 0.0, 0), ("ball", "yellow", 0.15, 0))
    lengths, looked_at = Counter(), Counter()
    for dialogue in asked(view, count=3000):
        if dialogue.kind != "follow_up":
            continue
        lengths[len(dialogue.turns)] += 1
        first, second, *_ = dialogue.turns
        shown = view.things[first.masks[0][0].thing]
        if re.search(r"what colou?r is it", second.question.lower()):
            assert second.says == (shown.colour,)
            looked_at["colour"] += 1
        if "which part" in second.question.lower():
            assert second.masks == ((Target(first.masks[0][0].thing, "handle"),),)
            looked_at["part"] += 1
    assert lengths.keys() == {2, 3}
    assert looked_at.keys() == {"colour", "part"}


def test_many_wordings_of_each_kind(drawn):
    view = view_of(
        ("mug", "red", -0.15, 0), ("knife", "blue", 0.0, 0), ("banana", "yellow", 0.15, 0), ("ball", "red", 0, 0.15)
    )
    wordings_of = {kind: set() for kind in ALL}
    for dialogue in asked(view, count=4000):
        wordings_of[dialogue.kind] |= {normalised(turn.question) for turn in dialogue.turns}
    assert all(len(each) >= 25 for each in wordings_of.values()), {
        kind: len(each) for kind, each in wordings_of.items()
    }


def test_the_published_benchmark_asks_for_the_mask_alone(drawn):
    turns = [turn for _, each in drawn["train"] for turn in each.turns if turn.question.endswith(wordings.BENCHMARK)]
    assert turns
    assert {turn.answer for turn in turns} == {"[SEG].", "Sure, [SEG]."}
    assert all(len(turn.masks) == 1 for turn in turns)


def test_a_table_with_a_new_kind_can_be_asked_about_in_every_way():
    view = view_of(("teapot", "blue", -0.1, 0.0), ("mug", "red", 0.1, 0.0), ("ball", "green", 0.0, -0.12))
    found = [turn for dialogue in asked(view) for turn in dialogue.turns]
    assert any(turn.answer.startswith("The blue teapot is [SEG]") for turn in found)
    assert any(turn.answer.endswith("teapot is for pouring tea.") for turn in found)


def test_all_that_is_known_is_about_kinds_that_exist():
    kinds = {kind.name for kind in KINDS}
    assert PURPOSES.keys() == kinds | {kind.name for kind in NEW_KINDS}
    assert {kind for source in (*USES, *FACTS) for kind in (*source.kinds, *source.also)} == kinds


def test_the_colour_of_a_tool_is_not_said_where_its_handle_is_hidden():
    view = view_of(("hammer", "red", -0.15, 0), ("ball", "red", 0.1, 0))
    view.part[view.mask(0)] = 0
    for dialogue in asked(view, count=1000):
        for turn in dialogue.turns:
            assert not re.search(r"\bred hammer|hammer is red", f"{turn.question} {turn.answer}")
            assert all(target.part is None for targets in turn.masks for target in targets if target.thing == 0)
