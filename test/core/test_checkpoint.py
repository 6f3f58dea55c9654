"""Checkpoint folders: every variant that is one loads, and what is wrong with the others is said in a sentence."""

import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import change_json, copy_of, tensors_of, tower, with_small_sam, write
from goldens import TOWER, V0, V1, case, picture, same_answer
from safetensors.torch import load_file, save_file

from lisa_core import CheckpointError, LisaEngine
from lisa_core.checkpoint import Checkpoint
from lisa_core.tensor_files import TensorFile, load_saved

SHARD = "pytorch_model-00003-of-00004.bin"
INDEX = "pytorch_model.bin.index.json"


@pytest.fixture
def folder(tmp_path):
    """The v1 golden, to be broken."""
    return copy_of(V1, tmp_path / "lisa")


@pytest.fixture(scope="module")
def tensors():
    return tensors_of(V1)


def refused(folder, *sentence, vision_tower=TOWER, template=None):
    """That the checkpoint is refused with all parts of a sentence, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder, vision_tower, template)
    message = str(caught.value)
    for part in sentence:
        assert str(part) in message
    assert "\n" not in message


class TestFolder:
    def test_not_there(self, tmp_path):
        refused(tmp_path / "nowhere", f"There is no folder {tmp_path / 'nowhere'}", "it is no hub id either")

    @pytest.mark.parametrize("name", ["", None, "a/b/c", "what is this?", "a//b", "../x", "-x/y"])
    def test_no_name_of_anything(self, name, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        refused(name, "give a checkpoint's folder" if name else "No checkpoint is named; give a folder")

    def test_a_file(self, folder):
        refused(folder / SHARD, "is a file; give the checkpoint's folder")

    def test_empty(self, tmp_path):
        refused(tmp_path, f"{tmp_path} is no checkpoint: it has no config.json")

    def test_another_model(self):
        refused(TOWER, "has no tokenizer.model")

    def test_a_language_model_without_sam(self, tmp_path, tensors):
        language = {name: tensor for name, tensor in tensors.items() if "visual_model" not in name}
        refused(write(tmp_path / "llama", language), "it is no LISA checkpoint, or not whole")

    def test_of_the_home_folder(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder.parent))
        assert Checkpoint.open("~/lisa", TOWER).folder == folder


class TestFiles:
    @pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "added_tokens.json", SHARD])
    def test_missing(self, folder, name):
        (folder / name).unlink()
        refused(folder, folder, name)

    def test_several_shards_missing(self, folder):
        for index in (2, 4):
            (folder / f"pytorch_model-0000{index}-of-00004.bin").unlink()
        refused(folder, "lacks pytorch_model-00002-of-00004.bin, pytorch_model-00004-of-00004.bin; fetch")

    def test_shards_without_their_index(self, folder):
        (folder / INDEX).unlink()
        refused(folder, "has no weights: neither model.safetensors nor pytorch_model.bin")

    @pytest.mark.parametrize("part", ["pytorch_model-visual_model.bin", "pytorch_model-text_hidden_fcs.bin"])
    def test_part_of_v0_missing(self, tmp_path, part):
        v0 = copy_of(V0, tmp_path / "v0")
        (v0 / part).unlink()
        refused(v0, f"lacks {part}")

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
    def test_truncated_bin(self, folder, share):
        truncate(folder / SHARD, share)
        refused(folder, folder / SHARD, "is damaged or truncated", "fetch it again")

    def test_a_bin_of_old_torch_that_ends_anywhere(self, folder, tmp_path):
        torch.save({"weight": torch.ones(2)}, tmp_path / "old", _use_new_zipfile_serialization=False)
        content = (tmp_path / "old").read_bytes()
        for end in range(1, len(content)):
            (folder / SHARD).write_bytes(content[:end])
            refused(folder, folder / SHARD)

    @pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
    def test_truncated_safetensors(self, tmp_path, tensors, share):
        folder = write(tmp_path / "lisa", tensors, files="sharded-safetensors")
        shard = folder / "model-00002-of-00003.safetensors"
        truncate(shard, share)
        refused(folder, shard, "is damaged or truncated", "fetch it again")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
    @pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0", b"\0" * 4096])
    def test_something_else_by_that_name(self, folder, name, content):
        (folder / INDEX).unlink()
        (folder / name).write_bytes(content)
        refused(folder, folder / name, "is damaged or truncated")

    def test_unreadable(self, folder):
        (folder / SHARD).unlink()
        (folder / SHARD).mkdir()
        refused(folder, SHARD)

    @pytest.mark.parametrize("packed", [slice(None), slice(5, 6)], ids=["all", "one"])
    def test_a_bin_that_a_zip_tool_has_packed_anew_holds_the_same(self, folder, packed):
        with TensorFile(folder / SHARD) as file:
            whole = {tensor.name: file.read(tensor.name).clone() for tensor in file.catalogue()}
        with zipfile.ZipFile(folder / SHARD) as shard:
            members = {info.filename: shard.read(info) for info in shard.infolist()}
        small = sorted(members, key=lambda name: -len(members[name]))[packed]
        with zipfile.ZipFile(folder / SHARD, "w") as shard:
            for name, content in members.items():
                shard.writestr(name, content, zipfile.ZIP_DEFLATED if name in small else zipfile.ZIP_STORED)
        with TensorFile(folder / SHARD) as file:
            assert [tensor.name for tensor in file.catalogue()] == list(whole)
            assert all(torch.equal(file.read(name), tensor) for name, tensor in whole.items())

    def test_damage_inside_is_found_when_the_weights_are_read(self, folder):
        """Of a `.bin` the zip's directory is at the end: one that is whole but whose members are not."""
        with zipfile.ZipFile(folder / SHARD) as shard:
            members = {info.filename: shard.read(info) for info in shard.infolist()}
        with zipfile.ZipFile(folder / SHARD, "w") as shard:
            for name, content in members.items():
                shard.writestr(name, content[: len(content) // 2] if "/data/" in name else content)
        with pytest.raises(CheckpointError, match=f"{SHARD} is damaged or truncated"):
            LisaEngine.from_pretrained(folder, "fp32", "cpu", TOWER)

    @pytest.mark.parametrize("name", ["config.json", INDEX])
    @pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", "\x00\x01", '{"a": "\ud800"}', "[" * 100_000])
    def test_broken_json(self, folder, name, content):
        (folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
        refused(folder, folder / name, "fetch it again")

    @pytest.mark.parametrize("where", ["../shard.bin", "/etc/passwd", "sub/shard.bin", "..", ".", "", 7, None])
    def test_an_index_points_outside(self, folder, where):
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"]["lm_head.weight"] = where
        (folder / INDEX).write_text(json.dumps(index))
        refused(folder, INDEX, f"names {where!r}, which is no file of its folder")

    @pytest.mark.parametrize("of", ["checkpoint", "tower"])
    def test_an_index_names_what_no_disk_can_hold(self, folder, tmp_path, of):
        towers = copy_of(TOWER, tmp_path / "tower")
        broken = {"checkpoint": folder, "tower": towers}[of]
        (broken / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": "x" * 300 + ".bin"}}))
        refused(folder, f"{folder} cannot be looked at", "File name too long", vision_tower=towers)


def truncate(path, share):
    os.truncate(path, int(share * path.stat().st_size))


class TestTensors:
    def test_wrong_shape(self, tmp_path, tensors):
        changed = tensors | {"model.layers.1.mlp.up_proj.weight": torch.zeros(7, 64)}
        refused(
            write(tmp_path / "lisa", changed),
            "Tensor model.layers.1.mlp.up_proj.weight in pytorch_model.bin",
            "has shape (7, 64), but this model needs (160, 64)",
        )

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("model.visual_model.image_encoder.blocks.0.attn.rel_pos_h", (27, 15)),
            ("model.visual_model.image_encoder.pos_embed", (1, 64, 63, 48)),
            (
                "model.visual_model.mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight",
                (100, 256),
            ),
            ("model.visual_model.mask_decoder.iou_prediction_head.layers.0.weight", (0, 256)),
            ("model.visual_model.image_encoder.neck.0.weight", (256,)),
            ("model.mm_projector.weight", (64, 31)),
            ("model.text_hidden_fcs.0.2.bias", (255,)),
            ("lm_head.weight", (704, 64)),
            ("model.norm.weight", ()),
        ],
    )
    def test_any_wrong_shape_is_named(self, tmp_path, tensors, name, shape):
        changed = write(tmp_path / "lisa", tensors | {name: torch.zeros(shape)})
        with pytest.raises(CheckpointError, match=r"Tensor \S+ .*has shape \([\d, ]*\), but .*\d"):
            Checkpoint.open(changed, TOWER)

    @pytest.mark.parametrize(
        "part",
        ["image_encoder.neck.0", "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj"],
    )
    def test_widths_that_the_heads_of_the_mask_decoder_do_not_divide(self, tmp_path, tensors, part):
        name = f"model.visual_model.{part}.weight"
        shape = (12, *tensors[name].shape[1:])
        changed = write(tmp_path / "lisa", tensors | {name: torch.zeros(shape)})
        refused(changed, f"Tensor {name} has shape {shape}, but 8 heads do not divide 12")

    def test_more_of_a_part_than_any_model_has(self, tmp_path, tensors):
        """Refused at once: to build it would take minutes, and all memory."""
        name = "model.visual_model.mask_decoder.mask_tokens.weight"
        changed = write(tmp_path / "lisa", {key: tensor for key, tensor in tensors.items() if key != name})
        tokens = torch.zeros(1, 1).expand(1 << 30, 256)
        torch.save({**torch.load(changed / "pytorch_model.bin"), name: tokens}, changed / "pytorch_model.bin")
        refused(changed, f"The checkpoint has {1 << 30} of {name.removesuffix('.weight')}, which no model has")

    def test_missing(self, tmp_path, tensors):
        name = "model.layers.2.self_attn.o_proj.weight"
        changed = {key: tensor for key, tensor in tensors.items() if key != name}
        refused(write(tmp_path / "lisa", changed), "Missing:", "layers.2.self_attn.o_proj.weight")

    def test_many_missing_are_counted(self, tmp_path, tensors):
        changed = {key: tensor for key, tensor in tensors.items() if "model.layers.2." not in key}
        refused(write(tmp_path / "lisa", changed), "Missing:", "layers.2.self_attn.q_proj.weight", "and 4 more")

    @pytest.mark.parametrize(
        "name", ["model.layers.0.extra.weight", "optimizer.step", "model.layers.3.mlp.up_proj.weight"]
    )
    def test_extra(self, tmp_path, tensors, name):
        refused(write(tmp_path / "lisa", tensors | {name: torch.zeros(3)}), f"Unknown: {name}.")

    def test_both(self, tmp_path, tensors):
        changed = tensors | {"lm_head.wait": tensors["lm_head.weight"]}
        del changed["lm_head.weight"]
        refused(write(tmp_path / "lisa", changed), "Missing: ", "lm_head.weight", "Unknown: lm_head.wait.")

    @pytest.mark.parametrize("number", [7, 10**9])
    @pytest.mark.parametrize(
        ("part", "first"),
        [
            ("image_encoder.blocks", "blocks.3.attn.rel_pos_h"),
            ("mask_decoder.transformer.layers", "layers.2.self_attn.q_proj.weight"),
            ("mask_decoder.iou_prediction_head.layers", "layers.3.weight"),
        ],
    )
    def test_a_layer_with_an_absurd_number(self, tmp_path, tensors, part, first, number):
        """Not taken for a model of that many layers."""
        name = f"model.visual_model.{part}.{number}.norm1.weight"
        refused(write(tmp_path / "lisa", tensors | {name: torch.zeros(48)}), first)

    @pytest.mark.parametrize("files", ["bin", "safetensors"])
    @pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
    def test_no_weights(self, tmp_path, tensors, dtype, files):
        changed = tensors | {"lm_head.weight": torch.zeros(703, 64, dtype=dtype)}
        refused(
            write(tmp_path / "lisa", changed, files=files), "Tensor lm_head.weight in", f"holds {dtype}, not weights"
        )

    def test_safetensors_of_an_unknown_type(self, tmp_path, tensors):
        changed = tensors | {"lm_head.weight": torch.zeros(703, 64, dtype=torch.float8_e4m3fn)}
        refused(write(tmp_path / "lisa", changed, files="safetensors"), "holds tensors of type F8_E4M3")

    @pytest.mark.parametrize(
        "content", [[torch.zeros(2)], {"model": {"a": torch.zeros(2)}}, {"step": 7}, {7: torch.zeros(2)}]
    )
    def test_no_table_of_tensors(self, folder, content):
        torch.save(content, folder / SHARD)
        refused(folder, folder / SHARD, "is no table of named tensors")

    @pytest.mark.parametrize("kind", ["meta", "sparse"])
    def test_tensors_without_their_numbers(self, folder, kind):
        tensors = torch.load(folder / SHARD)
        name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
        tensors[name] = tensors[name].to("meta") if kind == "meta" else tensors[name].to_sparse()
        torch.save(tensors, folder / SHARD)
        refused(folder, folder / SHARD, f"holds {name} without its numbers", "fetch the original")

    @pytest.mark.parametrize(
        "function", ["pathlib.Path.is_file", "pathlib.Path.read_text", "lisa_core.tensor_files._load_bin"]
    )
    def test_files_of_somebody_else(self, folder, function, monkeypatch):
        def refuse(path, *_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(function, refuse)
        name = "pytorch_model-00001-of-00004.bin" if "bin" in function else "config.json"
        refused(folder, f"{folder / name} may not be read by this user")


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


class TestCode:
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("how", ["zip", "before-1.6", "plain-pickle"])
    @pytest.mark.parametrize("where", [SHARD, "vision tower"])
    def test_a_pickle_that_would_run_code_is_refused(self, folder, tmp_path, how, where):
        mark = tmp_path / "it-ran"
        towers = copy_of(TOWER, tmp_path / "tower")
        file = towers / "pytorch_model.bin" if where == "vision tower" else folder / where
        trapped = {"lm_head.weight": Trap(mark)}
        if how == "plain-pickle":
            file.write_bytes(pickle.dumps(trapped))
        else:
            torch.save(trapped, file, _use_new_zipfile_serialization=how == "zip")

        reason = "or no file of tensors" if how == "plain-pickle" else "was refused: it holds more than tensors"
        refused(folder, file, reason, vision_tower=towers)
        assert not mark.exists()

    def test_one_in_what_a_training_keeps_is_refused(self, tmp_path):
        mark = tmp_path / "it-ran"
        torch.save({"step": 1, "weights": Trap(mark)}, tmp_path / "best.pt")
        with pytest.raises(CheckpointError, match=r"best\.pt is no more"):
            load_saved(tmp_path / "best.pt", "is no more", "step", "weights")
        assert not mark.exists()

    @pytest.mark.parametrize("saved", [{"step": 1}, {}, ["step", "weights"], torch.zeros(2)], ids=str)
    def test_what_a_training_keeps_is_a_table_of_all_that_it_needs(self, tmp_path, saved):
        torch.save(saved, tmp_path / "best.pt")
        with pytest.raises(CheckpointError, match=r"best\.pt is no more"):
            load_saved(tmp_path / "best.pt", "is no more", "step", "weights")

    def test_the_trap_is_one(self, tmp_path):
        mark = tmp_path / "it-ran"
        pickle.loads(pickle.dumps(Trap(mark)))
        assert mark.exists()


class TestConfig:
    @pytest.mark.parametrize(
        "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
    )
    @pytest.mark.parametrize("value", [-4, 0, 1 << 40, "64", 64.0, True, None, [64], float("nan"), ...])
    def test_absurd_sizes(self, folder, key, value):
        change_json(folder / "config.json", **{key: value})
        refused(folder, f"config.json: {key} is {None if value is ... else value!r}, which is no size")

    @pytest.mark.parametrize("layers", [2, 4, 500_000])
    def test_layers_that_are_not_there(self, folder, layers):
        change_json(folder / "config.json", num_hidden_layers=layers)
        refused(folder, "layers")

    @pytest.mark.parametrize("value", [32, 128, 1 << 19])
    def test_sizes_that_the_weights_do_not_have(self, folder, value):
        change_json(folder / "config.json", intermediate_size=value)
        refused(folder, "Tensor model.layers.0.mlp.", "has shape (160, 64)", str(value))

    @pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (4, 3), (64, 64), (5, 1)])
    def test_heads_that_do_not_divide(self, folder, heads, kv_heads):
        change_json(folder / "config.json", num_attention_heads=heads, num_key_value_heads=kv_heads)
        refused(folder, f"{heads} heads ({kv_heads} for keys) do not divide a width of 64")

    @pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
    @pytest.mark.parametrize("value", ["small", -1.0, 0, float("inf"), float("nan"), True, None])
    def test_absurd_numbers(self, folder, key, value):
        change_json(folder / "config.json", **{key: value})
        refused(folder, f"config.json: {key} is {value!r}, which is no positive number")

    @pytest.mark.parametrize("scaling", [{"type": "dynamic", "factor": 2.0}, "linear", {"rope_type": "llama3"}, {}])
    def test_unknown_rope_scaling(self, folder, scaling):
        change_json(folder / "config.json", rope_scaling=scaling)
        refused(folder, f"rope_scaling {scaling!r} is not known")
        change_json(folder / "config.json", rope_parameters=scaling)
        refused(folder, f"rope_parameters {scaling!r} is not known")

    @pytest.mark.parametrize(
        "config",
        [
            {"rope_theta": 20000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_theta": ..., "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0}},
            {"rope_theta": 20000.0, "rope_parameters": {"rope_type": "linear", "factor": 4.0}, "rope_scaling": None},
        ],
    )
    def test_positions_as_each_program_writes_them(self, folder, config):
        change_json(folder / "config.json", **config)
        language = Checkpoint.open(folder, TOWER).shape.language
        assert (language.rope_theta, language.rope_scale) == (20000.0, 4.0)

    @pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
    def test_positions_that_are_not_scaled(self, folder, key):
        change_json(folder / "config.json", rope_theta=20000.0, **{key: {"rope_type": "default"}})
        language = Checkpoint.open(folder, TOWER).shape.language
        assert (language.rope_theta, language.rope_scale) == (20000.0, 1.0)

    def test_another_activation(self, folder):
        change_json(folder / "config.json", hidden_act="gelu")
        refused(folder, "hidden_act is 'gelu'; known: silu")

    @pytest.mark.parametrize("layer", [-5, 4, "-2", None, 1.5, True])
    def test_a_layer_that_the_vision_tower_lacks(self, folder, layer):
        change_json(folder / "config.json", mm_vision_select_layer=layer)
        refused(folder, f"selects layer {layer!r} of a vision tower of 3 layers")

    def test_the_class_token(self, folder):
        change_json(folder / "config.json", mm_vision_select_feature="cls_patch")
        refused(folder, "mm_vision_select_feature")

    def test_a_tokenizer_larger_than_the_vocabulary(self, folder):
        change_json(folder / "added_tokens.json", **{"[SEG]": 800})
        refused(folder, "has ids up to 800, but the model embeds only 703 tokens")

    def test_a_tokenizer_without_seg(self, folder):
        change_json(folder / "added_tokens.json", **{"[SEG]": ...})
        refused(folder, "has no [SEG]: this is no LISA checkpoint")

    def test_v0_without_its_patch_token(self, tmp_path):
        v0 = copy_of(V0, tmp_path / "v0")
        change_json(v0 / "added_tokens.json", **{"<im_patch>": ...})
        refused(v0, "has no <im_patch>")

    def test_null_is_as_if_it_were_not_there(self, folder):
        change_json(folder / "config.json", quantization_config=None, lisa_template=None, lisa_layout=None)
        opened = Checkpoint.open(folder, TOWER)
        assert not opened.quantised
        assert opened.template == "llava_v1"

    @pytest.mark.parametrize("layout", ["v7", 0, ["v0"], ""])
    def test_unknown_layout(self, folder, layout):
        change_json(folder / "config.json", lisa_layout=layout)
        refused(folder, f"config.json names the layout {layout!r}; it has to be v0 or v1.")

    def test_unknown_template(self, folder):
        refused(folder, "There is no template 'llava_v2'; choose one of llava_v1, vicuna_v1_1", template="llava_v2")


class TestVisionTower:
    def test_whose_configuration_is_none(self, folder, tmp_path):
        towers = copy_of(TOWER, tmp_path / "tower")
        change_json(towers / "config.json", vision_config=None)
        refused(folder, "vision_config is no object", vision_tower=towers)

    def test_of_another_width(self, folder, tmp_path):
        wide = tower(tmp_path / "tower", hidden_size=48)
        refused(
            folder,
            "Tensor model.mm_projector.weight",
            "has shape (64, 32), but this model needs (64, 48)",
            vision_tower=wide,
        )

    @pytest.mark.parametrize("name", ["config.json", "pytorch_model.bin"])
    def test_not_whole(self, folder, tmp_path, name):
        part = copy_of(TOWER, tmp_path / "tower")
        (part / name).unlink()
        refused(folder, part, "config.json" if name == "config.json" else "lacks its weights", vision_tower=part)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("image_size", -224),
            ("patch_size", 0),
            ("hidden_size", "32"),
            ("num_hidden_layers", 1 << 30),
            ("num_attention_heads", None),
            ("hidden_act", "relu"),
            ("layer_norm_eps", -1),
        ],
    )
    def test_absurd_sizes(self, folder, tmp_path, key, value):
        absurd = copy_of(TOWER, tmp_path / "tower")
        change_json(absurd / "config.json", **{key: value})
        refused(folder, "config.json", key, vision_tower=absurd)

    def test_heads_that_do_not_divide(self, folder, tmp_path):
        odd = copy_of(TOWER, tmp_path / "tower")
        change_json(odd / "config.json", num_attention_heads=5)
        refused(folder, "vision tower: 5 heads do not divide a width of 32", vision_tower=odd)

    def test_patches_larger_than_the_image(self, folder, tmp_path):
        small = copy_of(TOWER, tmp_path / "tower")
        change_json(small / "config.json", image_size=7)
        refused(folder, "Tensor vision_model.embeddings.position_embedding.weight", vision_tower=small)

    def test_layers_that_are_not_there(self, folder, tmp_path):
        short = copy_of(TOWER, tmp_path / "tower")
        change_json(short / "config.json", num_hidden_layers=500_000)
        refused(folder, "layers", vision_tower=short)

    @pytest.mark.parametrize("name", ["encoder.layers", "encoder.layers.²", "encoder.layers.x.mlp.fc1.bias"])
    def test_layers_without_a_number(self, folder, tmp_path, name):
        odd = copy_of(TOWER, tmp_path / "tower")
        weights = torch.load(odd / "pytorch_model.bin") | {f"vision_model.{name}": torch.zeros(1)}
        torch.save(weights, odd / "pytorch_model.bin")
        refused(folder, f"vision_model.{name}", vision_tower=odd)

    @pytest.mark.parametrize("name", [None, 7, ...])
    def test_none_named(self, folder, name):
        change_json(folder / "config.json", vision_tower=name, mm_vision_tower=...)
        refused(folder, "names no vision tower; give one (vision_tower)", vision_tower=None)

    def test_the_one_that_the_checkpoint_brings(self, folder):
        copy_of(TOWER, folder / "vision_tower")
        assert Checkpoint.open(folder).vision_tower == folder / "vision_tower"

    def test_the_folder_that_the_configuration_names(self, folder):
        change_json(folder / "config.json", vision_tower=str(TOWER))
        assert Checkpoint.open(folder).vision_tower == TOWER


ASKED = case("v1-two_masks")


def ask(engine):
    return engine.ask(engine.encode(ASKED.rgb), ASKED.instruction)


@pytest.fixture(scope="module")
def small_tensors(tensors):
    return with_small_sam(tensors)


@pytest.fixture(scope="module")
def expected(small):
    return ask(small)


class TestVariantsThatLoad:
    """Asked a question: what has the same weights gives the same answer."""

    def load(self, folder, vision_tower=TOWER, **options):
        return LisaEngine.from_pretrained(folder, "fp32", "cpu", vision_tower, **options)

    @pytest.mark.parametrize("files", ["safetensors", "sharded-safetensors", "sharded-bin"])
    def test_files(self, tmp_path, small_tensors, expected, files):
        folder = write(tmp_path / "lisa", small_tensors, files=files)
        assert len(list(folder.glob("*.bin")) + list(folder.glob("*.safetensors"))) == (3 if "sharded" in files else 1)
        assert same_answer(ask(self.load(folder)), expected)

    def test_files_of_torch_before_1_6(self, tmp_path, small_tensors, expected):
        folder = write(tmp_path / "lisa", small_tensors)
        torch.save(small_tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        assert same_answer(ask(self.load(folder)), expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_weights_in_more_than_they_need(self, tmp_path, small_tensors, expected, dtype):
        wide = {name: tensor.to(dtype) for name, tensor in small_tensors.items()}
        assert same_answer(ask(self.load(write(tmp_path / "lisa", wide))), expected)

    def test_what_lisa_never_uses_may_be_missing(self, tmp_path, small_tensors, expected):
        unused = ("inv_freq", "point_embeddings", "not_a_point", "mask_downscaling")
        lean = {name: tensor for name, tensor in small_tensors.items() if not any(part in name for part in unused)}
        assert len(lean) < len(small_tensors)
        assert same_answer(ask(self.load(write(tmp_path / "lisa", lean))), expected)

    def test_whole_clip_folder(self, tmp_path, small_checkpoint):
        alone = tower(tmp_path / "alone")
        whole = tower(tmp_path / "whole", whole_clip=True)
        answers = [ask(self.load(small_checkpoint, folder)) for folder in (alone, whole)]
        assert same_answer(*answers)

    def test_a_tower_in_its_own_shards(self, tmp_path, small_checkpoint, expected):
        weights = torch.load(TOWER / "pytorch_model.bin", weights_only=True)
        folder = tmp_path / "tower"
        folder.mkdir()
        (folder / "config.json").write_text((TOWER / "config.json").read_text())
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
        assert load_file(folder / "model.safetensors").keys() == weights.keys()
        assert same_answer(ask(self.load(small_checkpoint, folder)), expected)

    @pytest.mark.parametrize(
        ("sizes", "tokens"),
        [
            ({"image_size": 336}, 576),
            ({"patch_size": 32}, 49),
            ({"image_size": 230, "patch_size": 16}, 196),
            ({"num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 50}, 256),
            ({"hidden_act": "gelu"}, 256),
        ],
        ids=str,
    )
    def test_towers_of_other_sizes(self, tmp_path, small_checkpoint, sizes, tokens):
        engine = self.load(small_checkpoint, tower(tmp_path / "tower", **sizes))
        frame = engine.encode(ASKED.rgb)
        first = engine.ask(frame, "segment the handle", max_new_tokens=20)
        again = engine.ask(frame, "segment the handle", [("Is there a cup?", "Yes, [SEG].")], mask_only=True)
        assert first.prompt_ids.count(-200) == 1
        assert first.token_ids
        assert again.segments[0].mask.shape == frame.size
        assert tokens_of(engine) == tokens

    def test_v0_with_another_number_of_patch_tokens(self, tmp_path):
        engine = self.load(V0, tower(tmp_path / "tower", patch_size=32))
        answer = engine.ask(engine.encode(ASKED.rgb), "segment the handle", max_new_tokens=2, max_segments=0)
        assert answer.prompt_ids.count(701) == 49

    @pytest.mark.parametrize("layer", [-1, -2, -3, -4, 0, 1, 3])
    def test_any_layer_of_the_tower(self, tmp_path, small_tensors, layer):
        folder = write(tmp_path / "lisa", small_tensors, mm_vision_select_layer=layer)
        answer = ask(self.load(folder))
        assert answer.token_ids

    def test_two_layers_between_clip_and_the_language_model(self, tmp_path, small_tensors, expected):
        """LLaVA-1.5's projector. With the second layer undone by the first its answer is the golden's."""
        changed = dict(small_tensors)
        weight, bias = changed.pop("model.mm_projector.weight"), changed.pop("model.mm_projector.bias")
        identity = torch.eye(64)
        large = 100.0  # GELU is the identity far above 0
        changed |= {
            "model.mm_projector.0.weight": weight.float(),
            "model.mm_projector.0.bias": bias.float() + large,
            "model.mm_projector.2.weight": identity,
            "model.mm_projector.2.bias": torch.full((64,), -large),
        }
        answer = ask(self.load(write(tmp_path / "lisa", changed)))
        assert same_answer(answer, expected)

    def test_more_questions_than_keys(self, tmp_path, small_tensors):
        """Grouped queries, as in 70B models."""
        changed = dict(small_tensors)
        for name, tensor in small_tensors.items():
            if name.endswith(("k_proj.weight", "v_proj.weight")) and "layers." in name and "visual" not in name:
                changed[name] = tensor[:32].contiguous()
        folder = write(tmp_path / "lisa", changed, num_key_value_heads=2)
        assert ask(self.load(folder)).token_ids

    def test_positions_scaled(self, tmp_path, small_tensors, expected):
        def answer(name, scaling):
            return ask(self.load(write(tmp_path / name, small_tensors, rope_scaling=scaling)))

        assert same_answer(answer("one", {"type": "linear", "factor": 1.0}), expected)
        four = answer("four", {"rope_type": "linear", "factor": 4.0})
        assert not np.allclose(four.segments[0].embedding if four.segments else 0, expected.segments[0].embedding)

    def test_another_template(self, small_checkpoint):
        engine = self.load(small_checkpoint, template="llava_llama_2")
        answer = engine.ask(engine.encode(picture("square_300.png")), "segment the handle", max_new_tokens=2)
        assert engine.template == "llava_llama_2"
        assert answer.prompt_ids[1:3] != engine_prompt(self.load(small_checkpoint))[1:3]

    def test_the_template_that_it_was_fine_tuned_with_unless_another_is_asked_for(self, folder):
        change_json(folder / "config.json", lisa_template="vicuna_v1_1")
        assert Checkpoint.open(folder, TOWER).template == "vicuna_v1_1"
        assert Checkpoint.open(folder, TOWER, "llava_llama_2").template == "llava_llama_2"


def tokens_of(engine):
    return engine._model.shape.clip.tokens


def engine_prompt(engine):
    return engine.ask(engine.encode(picture("square_300.png")), "segment the handle", max_new_tokens=1).prompt_ids


def test_opening_reads_no_weights(monkeypatch):
    """Names, shapes and dtypes only, so that a checkpoint of 26 GB is described at once."""

    def fail(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr("lisa_core.tensor_files.TensorFile.read", fail)
    opened = Checkpoint.open(V1, TOWER)
    assert opened.shape.language.layers == 3
    assert opened.shape.sam.image == 1024
    assert re.fullmatch(r"pytorch_model-0000\d-of-00004\.bin", opened.stored["language.lm_head.weight"].file.name)
    assert isinstance(opened.folder, Path)
