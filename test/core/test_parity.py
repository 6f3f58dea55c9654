"""What the engine answers against what the reference answered, as the goldens' README defines parity.

The reference is the authors' own inference code in fp32 on the CPU, without a KV cache and without any reuse.
"""

import json

import numpy as np
import pytest
from goldens import (
    CASES,
    GOLDENS,
    TOWER,
    V0,
    V1,
    WITH_MASKS,
    case,
    distance,
    embeddings,
    low_res_logits,
    masks,
    picture,
    same_answer,
    scores,
)
from PIL import Image

from lisa_core import LisaEngine
from lisa_core.template import BY_NAME

CLOSE = 1e-4
"""Of the largest absolute value."""
SHARE_OF_PIXELS = 1e-4

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_mask = pytest.mark.parametrize("case", WITH_MASKS, ids=str)


def ask(engine, case, frame=None):
    return engine.ask(frame or engine.encode(case.rgb), case.instruction, case.history)


@pytest.fixture(scope="module")
def answer_to(load):
    """The answer to a case on a frame of its own, asked once."""
    answers = {}

    def answered(case):
        if str(case) not in answers:
            answers[str(case)] = ask(load(case.checkpoint), case)
        return answers[str(case)]

    return answered


@every_case
def test_prompt(case, answer_to):
    assert answer_to(case).prompt_ids == case.recorded["input_ids"]


@every_case
def test_tokens(case, answer_to):
    assert answer_to(case).token_ids == case.recorded["new_ids"]


@every_case
def test_words(case, answer_to):
    assert answer_to(case).text == case.recorded["answer"].replace("[SEG] .", "[SEG].")


@every_case
def test_number_of_masks(case, answer_to):
    assert len(answer_to(case).segments) == case.masks


@every_mask
def test_embeddings(case, answer_to):
    assert embeddings(answer_to(case)).shape == case.arrays["seg_embedding"].shape
    assert distance(embeddings(answer_to(case)), case.arrays["seg_embedding"]) < CLOSE


@every_mask
def test_low_resolution_logits(case, answer_to):
    assert distance(low_res_logits(answer_to(case)), case.arrays["low_res_logits"]) < CLOSE


@every_mask
def test_masks(case, answer_to):
    found = masks(answer_to(case))
    assert found.shape == case.expected_masks.shape
    assert (found != case.expected_masks).mean() < SHARE_OF_PIXELS
    assert found.mean(axis=(1, 2)) == pytest.approx(case.recorded["mask_area"], abs=SHARE_OF_PIXELS)


@every_mask
def test_scores(case, answer_to):
    assert scores(answer_to(case)) == pytest.approx(case.arrays["iou_prediction"], abs=CLOSE)


@every_mask
def test_box_and_area_are_the_masks(case, answer_to):
    for segment in answer_to(case).segments:
        rows, columns = np.nonzero(segment.mask)
        x, y, width, height = segment.box
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
        assert segment.area == len(rows)


def test_the_goldens_hold_their_cases():
    assert len(CASES) == 17
    assert {case.checkpoint for case in CASES} == {V0, V1}
    assert sum(case.masks for case in CASES) == 16


def test_all_questions_in_one_row_on_frames_asked_again(v1, answer_to):
    """Frames kept, caches shared, conversations continued: nothing of it can be seen in an answer."""
    frames = {}
    for number in (1, 2):
        for asked in CASES:
            if asked.checkpoint == V1:
                image = asked.recorded["image"]
                frames[image] = frames.get(image) or v1.encode(asked.rgb)
                assert same_answer(ask(v1, asked, frames[image]), answer_to(asked)), f"{asked}, round {number}"


def test_a_new_engine_answers_the_same(answer_to):
    engine = LisaEngine.from_pretrained(V1, "fp32", "cpu", TOWER)
    assert same_answer(ask(engine, case("v1-follow_up_mask")), answer_to(case("v1-follow_up_mask")))


BENCHMARK = json.loads((GOLDENS / "reasonseg" / "expected_val.json").read_text())


@pytest.mark.parametrize("expected", BENCHMARK["images"], ids=lambda expected: expected["image"])
def test_benchmark_protocol(v1, expected):
    """ReasonSeg: "[SEG]." is taken for the answer, and the mask comes from the state before `[SEG]`."""
    words = expected["query"] if expected["is_sentence"] else f"What is {expected['query']} in this image?"
    rgb = np.array(Image.open(GOLDENS / "reasonseg" / "val" / expected["image"]).convert("RGB"))
    answer = v1.ask(v1.encode(rgb), f" {words} Please output segmentation mask.", mask_only=True)

    assert [*answer.prompt_ids, *answer.token_ids] == expected["input_ids"]
    assert answer.text == "[SEG]."
    assert len(answer.segments) == 1
    if not expected["target_pixels"]:  # then the union is the mask, but for what is ignored
        ignored = expected["ignored_pixels"]
        assert expected["union"] <= answer.segments[0].area <= expected["union"] + ignored


def test_the_mask_of_the_benchmark_is_that_of_the_same_words_decoded(v1):
    """Where decoding begins with `[SEG]`, the state before it is the same one."""
    odd = case("v1-odd")
    taken = v1.ask(v1.encode(odd.rgb), odd.instruction, mask_only=True)
    assert distance(embeddings(taken), odd.arrays["seg_embedding"]) < CLOSE
    assert (masks(taken) != odd.expected_masks).mean() < SHARE_OF_PIXELS


def test_v0_shows_the_image_as_its_patch_tokens(v0):
    answer = v0.ask(v0.encode(picture("square_300.png")), "segment the handle")
    patch = 701
    assert answer.prompt_ids.count(patch) == 256
    assert -200 not in answer.prompt_ids


def test_the_goldens_choose_their_templates(v1, v0):
    assert (v1.layout, v1.template) == ("v1", "llava_v1")
    assert (v0.layout, v0.template) == ("v0", "vicuna_v1_1")
    assert "curious human" in BY_NAME["llava_v1"].opening
    assert "curious user" in BY_NAME["vicuna_v1_1"].opening
