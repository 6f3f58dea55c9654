"""`lisa evaluate tabletop`: which answers count as right, and resuming; on views of rectangles, not rendered."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import cli
import numpy as np
import pytest
from PIL import Image
from tabletops import view_of

from lisa_core.answer import Answer, Segment, tight_box
from lisa_core.errors import OutOfMemoryError
from lisa_core.evaluation import tabletop, tabletop_report
from lisa_core.evaluation.metrics import Overlap
from lisa_core.evaluation.tabletop import Result, evaluate, held_out_dialogues, judge, unpacked
from lisa_core.evaluation.tabletop_report import scores
from lisa_core.tabletop.dataset import StoredScene, open_scenes
from lisa_core.tabletop.questions import Turn
from lisa_core.tabletop.scene import Target

VIEW = view_of(
    ("mug", "red", -0.15, 0), ("mug", "blue", 0.0, 0), ("knife", "black", 0.15, 0), ("apple", "red", 0, 0.15)
)
STORED = Path(__file__).parents[1] / "data" / "tabletop_scenes"
NOTHING = np.zeros(0, np.float32)


def answer(text, *masks):
    return Answer(text, tuple(Segment(mask, 0.9, tight_box(mask), NOTHING, NOTHING) for mask in masks))


class Knowing:
    """Gives the true answers about the scenes, or what `wrong` has for the n-th question."""

    precision, device, template = "fp32", "cpu", "llava_v1"

    def __init__(self, scenes, wrong=None, dialogues=8):
        self._turns = {
            tuple(each.question for each in dialogue.turns[: number + 1]): turn
            for scene in scenes
            for dialogue in held_out_dialogues(scene, VIEW, dialogues)
            for number, turn in enumerate(dialogue.turns)
        }
        self._wrong = wrong or {}
        self.asked = []

    def load(self, **options):
        return self

    def encode(self, rgb):
        return rgb

    def ask_many(self, frame, instructions, histories, *, max_new_tokens):
        return [self._ask(*asked) for asked in zip(instructions, histories, strict=True)]

    def _ask(self, instruction, history):
        self.asked.append((instruction, history))
        if (wrong := self._wrong.get(len(self.asked))) is not None:
            if isinstance(wrong, BaseException):
                raise wrong
            return wrong
        turn = self._turns[(*(question for question, _ in history), instruction)]
        return answer(turn.answer, *map(VIEW.covered, turn.masks))

    def close(self):
        pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four scenes: VIEW each time, with different questions."""
    path = tmp_path / "scenes"
    path.mkdir()
    for index in range(4):
        Image.new("RGB", (64, 48), (60 * index, 90, 40)).save(path / f"{index:06d}.jpg")
        Image.new("RGB", (64, 48)).save(path / f"{index:06d}.png")
        (path / f"{index:06d}.json").write_text(json.dumps({"seed": index}))
    monkeypatch.setattr(StoredScene, "read", lambda self: VIEW)
    return path


def run(folder, engine, *arguments):
    out = folder.parent / "out.json"
    result = cli.run(
        "evaluate", "tabletop", folder, "--json", out, "--checkpoint", "some", *arguments, load=engine.load
    )
    return result, json.loads(out.read_text()) if out.exists() else None


def test_true_answers_are_perfect(folder):
    engine = Knowing(open_scenes(folder), dialogues=40)
    table, sheet = folder.parent / "out.csv", folder.parent / "worst.png"
    result, written = run(folder, engine, "--dialogues", 40, "--csv", table, "--sheet", sheet)
    assert result.code == 0, result.errors
    assert written["giou"] == pytest.approx(1, abs=1e-4)
    assert written["ciou"] == pytest.approx(1, abs=1e-4)
    assert [written[name] for name in ("counts", "refusals", "named", "words")] == [1, 1, 1, 1]
    assert written["dialogues"] == 40
    assert written["questions"] == len(engine.asked) == len(written["asked"]) > 4 * 40
    assert len(written["by_kind"]) == 11
    with table.open() as file:
        assert len(list(csv.DictReader(file))) == written["questions"]
    assert Image.open(sheet).width > 1000
    assert "explanation" in result.out
    assert not (folder.parent / "out.json.journal").exists()


def test_a_model_that_always_shows_everything(folder):
    everything = answer("Sure, [SEG].", np.ones(VIEW.owner.shape, bool))
    engine = Knowing(open_scenes(folder), dict.fromkeys(range(1, 999), everything), dialogues=40)
    _, written = run(folder, engine, "--questions", 40)  # the option's earlier name
    assert written["dialogues"] == 40
    assert written["refusals"] == written["named"] == written["words"] == 0
    assert written["giou"] < 0.1


def test_the_questions_are_the_same_each_time_and_differ_between_scenes(folder):
    first, second = Knowing(open_scenes(folder)), Knowing(open_scenes(folder))
    run(folder, first)
    run(folder, second)
    assert first.asked == second.asked
    asked = [
        [turn.question for dialogue in held_out_dialogues(scene, VIEW, 8) for turn in dialogue.turns]
        for scene in open_scenes(folder)
    ]
    assert asked[0] != asked[1]


def test_what_the_model_said_is_the_history(folder):
    (scene,) = open_scenes(folder)[:1]
    engine = Knowing([scene], dialogues=60)
    evaluate(engine, scene, 60)
    followed = [history for _, history in engine.asked if history]
    assert {len(history) for history in followed} == {1, 2}
    assert all("[SEG]" in history[0][1] for history in followed)


def test_a_scene_about_which_nothing_can_be_asked_has_no_questions(folder, monkeypatch):
    monkeypatch.setattr(tabletop, "held_out_dialogues", lambda *_: [])
    (scene,) = open_scenes(folder)[:1]
    assert evaluate(Always(), scene, 8) == Result(scene.name, ())


@pytest.mark.parametrize(
    ("wrong", "masks", "intersection_share"),
    [((0, 1), 2, 1.0), ((1, 0), 2, 1.0), ((0, 0), 2, 0.5), ((0,), 1, 0.5), ((0, 1, 2), 3, 1.0), ((), 0, 0.0)],
)
def test_masks_may_come_in_any_order_but_each_is_of_one_thing(wrong, masks, intersection_share):
    turn = Turn("All the mugs.", "The [SEG] and [SEG].", ((Target(0),), (Target(1),)))
    verdict = judge(VIEW, "several", 0, turn, answer("some", *(VIEW.mask(thing) for thing in wrong)))
    both = VIEW.mask(0).sum() + VIEW.mask(1).sum()
    assert verdict.masks == masks
    assert verdict.overlap.intersection == pytest.approx(intersection_share * both, abs=1)
    if wrong == (0, 0):  # the second mask counts as wrong, and so does the missing thing
        assert verdict.overlap.intersection == VIEW.mask(0).sum()
        assert verdict.overlap.union == both + VIEW.mask(0).sum()
    if masks == 3:  # the extra mask counts as wrong
        assert verdict.overlap.union == both + VIEW.mask(2).sum()


def test_words_need_to_be_said_and_refusals_to_have_no_mask():
    colour = Turn("What colour is the apple?", "The apple is red.", says=("red",))
    assert judge(VIEW, "words", 0, colour, answer("It is Red.")).says
    assert not judge(VIEW, "words", 0, colour, answer("It is reddish.")).says
    assert not judge(VIEW, "words", 0, colour, answer("The red apple is [SEG].", VIEW.mask(3))).says
    both = Turn("What is on the table?", "A mug and an apple.", says=("mug", "apple"))
    assert judge(VIEW, "words", 0, both, answer("An apple and a mug.")).says
    assert not judge(VIEW, "words", 0, both, answer("An apple.")).says
    absent = Turn("Where is the ball?", "There is no ball.")
    refused, shown = (
        judge(VIEW, "nothing", 0, absent, each) for each in (answer("No."), answer("[SEG]", VIEW.mask(0)))
    )
    assert scores([Result("a", (refused, shown))])["nothing"].refusals == 0.5


def test_the_sheet_has_the_answer_on_the_left_and_the_truth_on_the_right(folder):
    (scene,) = open_scenes(folder)[:1]
    result = evaluate(Always(), scene, 40)
    number = next(number for number, verdict in enumerate(result.verdicts) if verdict.targets)
    left, right = tabletop_report._panels(scene, result, number, 40)
    assert np.array_equal(left.picture, VIEW.rgb)  # nothing was found
    assert not np.array_equal(right.picture, VIEW.rgb)
    assert result.verdicts[number].question in left.question


def test_results_survive_the_journal(folder):
    scene = open_scenes(folder)[0]
    result = evaluate(Knowing([scene], dialogues=30), scene, 30)
    assert any(verdict.overlap is None for verdict in result.verdicts)
    assert any(isinstance(verdict.overlap, Overlap) for verdict in result.verdicts)
    assert unpacked(json.loads(json.dumps(result.packed()))) == result


def test_stopped_and_on(folder):
    whole = Knowing(open_scenes(folder))
    _, expected = run(folder, whole)
    (folder.parent / "out.json").unlink()
    stopped, _ = run(folder, Knowing(open_scenes(folder), {len(whole.asked) // 2: KeyboardInterrupt()}))
    assert stopped.code == 130
    rest = Knowing(open_scenes(folder))
    result, written = run(folder, rest)
    assert result.code == 0
    assert 0 < len(rest.asked) < len(whole.asked)
    assert written == expected


def test_a_real_engine_answers_as_it_would_one_by_one(small):
    (scene,) = open_scenes(STORED)[:1]
    view = scene.read()
    frame, expected = small.encode(view.rgb), []
    for dialogue in held_out_dialogues(scene, view, 3):
        history = []
        for number, turn in enumerate(dialogue.turns):
            given = small.ask(frame, turn.question, history, max_new_tokens=12)
            history.append((turn.question, given.text))
            expected.append(judge(view, dialogue.kind, number, turn, given))
    found = evaluate(small, scene, 3, 12).verdicts
    assert [(each.question, each.answer, each.masks) for each in found] == [
        (each.question, each.answer, each.masks) for each in expected
    ]


def test_damaged_scenes_are_told_and_the_rest_goes_on(tmp_path):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for index in range(7):
        for file in STORED.glob(f"{index:06d}.*"):
            shutil.copy(file, scenes)
    (scenes / "000000.json").write_text("{")
    (scenes / "000001.json").write_text('{"scene": []}')
    (scenes / "000002.png").unlink()
    (scenes / "000003.jpg").write_bytes(b"no picture")
    shutil.copy(STORED / "000010.json", scenes / "000004.json")
    Image.new("RGB", (8, 8)).save(scenes / "000005.png")
    result, written = run(scenes, Always())
    assert result.code == 1
    assert {each["image"] for each in written["failed"]} >= {f"{index:06d}.jpg" for index in (0, 1, 2, 3, 5)}
    assert "000006.jpg" in {each["image"] for each in written["asked"]}


class Always(Knowing):
    """Answers every question alike."""

    def __init__(self):
        super().__init__(())

    def _ask(self, instruction, history):
        return answer("No.")


def test_a_scene_that_fails_is_named_and_the_rest_goes_on(folder):
    result, written = run(folder, Knowing(open_scenes(folder), {1: OutOfMemoryError("No memory.")}))
    assert result.code == 1
    assert "000000.jpg: No memory." in result.errors.replace("\n", "")
    assert len({each["image"] for each in written["asked"]}) == 3


def test_the_first_scenes_only(folder):
    _, written = run(folder, Knowing(open_scenes(folder)), "--scenes", 2)
    assert {each["image"] for each in written["asked"]} == {"000000.jpg", "000001.jpg"}


def test_no_scenes(tmp_path):
    result = cli.run("evaluate", "tabletop", tmp_path, "--json", tmp_path / "o" / "out.json", "--checkpoint", "some")
    assert result.code == 1
    assert "lisa tabletop render" in " ".join(result.errors.split())


def test_the_stored_scenes_can_be_asked_about_and_their_truth_is_perfect():
    kinds, verdicts = Counter(), []
    for scene in open_scenes(STORED):
        view = scene.read()
        for dialogue in held_out_dialogues(scene, view, 8):
            kinds[dialogue.kind] += 1
            for number, turn in enumerate(dialogue.turns):
                verdicts.append(
                    judge(view, dialogue.kind, number, turn, answer(turn.answer, *map(view.covered, turn.masks)))
                )
    assert len(kinds) == 11
    assert min(kinds.values()) >= 5
    whole = scores([Result("all", tuple(verdicts))])["all"]
    assert (whole.counts, whole.refusals, whole.named, whole.words) == (1, 1, 1, 1)
    assert whole.giou == pytest.approx(1, abs=1e-4)
