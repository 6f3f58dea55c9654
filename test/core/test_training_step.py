"""One training step compared with that of the authors' code on the same batch."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from goldens import GOLDENS
from PIL import Image

from lisa_core import loading, preprocess
from lisa_core.checkpoint import Checkpoint
from lisa_core.model.lisa import Lisa, parameter_name
from lisa_core.template import BY_NAME
from lisa_core.training.batch import Packed, pack
from lisa_core.training.conversation import NOT_LEARNT, lesson
from lisa_core.training.forward import Pictures, of_batch, read
from lisa_core.training.recipe import Weights

STEP = json.loads((GOLDENS / "training_step.json").read_text())


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(GOLDENS / STEP["checkpoint"], GOLDENS / "clip-vit-tiny-patch14")


@pytest.fixture
def model(checkpoint: Checkpoint) -> Lisa:
    return loading.load(checkpoint, "fp32", torch.device("cpu")).requires_grad_(True)


def lessons(checkpoint: Checkpoint) -> list[list[Any]]:
    template = BY_NAME[STEP["conversation"]]
    return [
        [lesson([(pair["question"], pair["answer"])], template, checkpoint.tokenizer) for pair in item["pairs"]]
        for item in STEP["batch"]
    ]


def pictures(model: Lisa) -> Pictures:
    rgbs = [np.array(Image.open(GOLDENS / "images" / item["image"]).convert("RGB")) for item in STEP["batch"]]
    side, image = model.shape.clip.image, model.shape.sam.image
    seen = [preprocess.for_sam(rgb, image) for rgb in rgbs]
    with torch.no_grad():
        visual = model.clip(torch.stack([preprocess.clip_input(preprocess.for_clip(rgb, side)) for rgb in rgbs]))
        embedding = model.sam.encode(torch.stack([preprocess.sam_input(pixels, image) for pixels, _ in seen]))
    masks = []
    for rgb, item in zip(rgbs, STEP["batch"], strict=True):
        boxes = [box for pair in item["pairs"] for box in pair["boxes"]]
        drawn = torch.zeros(len(boxes), *rgb.shape[:2])
        for mask, (x0, y0, x1, y1) in zip(drawn, boxes, strict=True):
            height, width = rgb.shape[:2]
            mask[int(y0 * height) : int(y1 * height), int(x0 * width) : int(x1 * width)] = 1
        masks.append(drawn)
    return Pictures(visual, embedding, [size for _, size in seen], masks)


def test_ids_and_labels_are_the_authors(checkpoint: Checkpoint) -> None:
    ours = [one for picture in lessons(checkpoint) for one in picture]
    assert len(ours) == len(STEP["input_ids"])
    for one, ids, labels in zip(ours, STEP["input_ids"], STEP["labels"], strict=True):
        length = len(one.ids)
        assert list(one.ids) == ids[:length]
        assert set(ids[length:]) <= {0}
        assert list(one.labels) == labels[:length]


def test_losses_and_gradients_are_the_authors(checkpoint: Checkpoint, model: Lisa) -> None:
    words = pack(lessons(checkpoint), model.shape.clip.tokens)
    ours = of_batch(model, pictures(model), words, Weights(**STEP["weights"]))
    theirs = STEP["losses"]
    wanted = {
        name: theirs[f"{key}loss"]
        for name, key in (("loss", ""), ("ce", "ce_"), ("bce", "mask_bce_"), ("dice", "mask_dice_"))
    }
    assert {name: loss.item() for name, loss in ours.items()} == pytest.approx(wanted, rel=1e-4)
    ours["loss"].backward()
    norms = {name: model.get_parameter(str(parameter_name(name))).grad.norm().item() for name in STEP["grad_norms"]}
    assert norms == pytest.approx(STEP["grad_norms"], rel=1e-3)


def test_packing_changes_nothing(checkpoint: Checkpoint, model: Lisa) -> None:
    first, second = lessons(checkpoint)[0]
    tokens = model.shape.clip.tokens
    visual = pictures(model).visual[:1]

    def states(words: Packed) -> torch.Tensor:
        with torch.no_grad():
            return read(model, visual, words)[0][words.labels[0] != NOT_LEARNT]

    together = states(pack([[first, second]], tokens))
    apart = torch.cat([states(pack([[one]], tokens)) for one in (first, second)])
    assert len(together) > 5
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("template", list(BY_NAME))
def test_only_answers_are_learnt(checkpoint: Checkpoint, template: Any) -> None:
    turns = [("Where is the cup?", "It is [SEG]."), ("And the [SEG] of it?", "[SEG] and [SEG] are.")]
    taught = lesson(turns, BY_NAME[template], checkpoint.tokenizer)
    seg, end = (checkpoint.tokenizer.special_ids[name] for name in ("[SEG]", "</s>"))
    learnt = [token for token in taught.labels if token != NOT_LEARNT]
    answers = [checkpoint.tokenizer.decode(answer).rstrip() for answer in _split(learnt, end)]
    assert answers == [answer for _, answer in turns]
    assert [taught.labels[index + 1] for index in taught.before_seg] == [seg] * 3
    for index, (question, _) in enumerate(turns):
        asked = checkpoint.tokenizer.encode(BY_NAME[template].render(question, turns[:index]))
        assert list(taught.ids[: len(asked)]) == asked
        assert taught.labels[len(asked) - 1] == NOT_LEARNT != taught.labels[len(asked)]


def _split(ids: list[int], end: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in ids:
        if token == end:
            parts.append([])
        else:
            parts[-1].append(token)
    assert parts.pop() == []
    return parts
