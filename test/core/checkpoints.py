"""Checkpoints made from the goldens: with one thing changed, of other sizes, or in other files."""

import json
import shutil

import torch
from goldens import TOWER, V1
from safetensors.torch import save_file

ENCODER = "model.visual_model.image_encoder."


def tensors_of(folder):
    """Every tensor of a folder with `.bin` files, by its released name."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.bin"))
        for name, tensor in torch.load(file, weights_only=True).items()
    }


def copy_of(folder, target):
    """A golden to change, file by file."""
    shutil.copytree(folder, target, copy_function=shutil.copyfile)
    return target


def write(target, tensors, like=V1, files="bin", **config):
    """A checkpoint folder with these tensors, beside the small files of a golden; `config` changes its config.json.

    `files`: "bin" and "safetensors" put all in one file, "sharded-bin" and "sharded-safetensors" in three.
    """
    target.mkdir(parents=True)
    for small in like.iterdir():
        if small.suffix != ".bin" and not small.name.endswith(".index.json"):
            shutil.copyfile(small, target / small.name)
    change_json(target / "config.json", **config)
    name = "model.safetensors" if files.endswith("safetensors") else "pytorch_model.bin"
    if not files.startswith("sharded"):
        _save(target / name, tensors)
        return target
    stem, suffix = name.rsplit(".", 1)
    names = sorted(tensors)
    shards = {f"{stem}-{1 + i:05}-of-00003.{suffix}": names[i::3] for i in range(3)}
    for shard, members in shards.items():
        _save(target / shard, {member: tensors[member] for member in members})
    weight_map = {member: shard for shard, members in shards.items() for member in members}
    (target / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return target


def _save(path, tensors):
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save({name: tensor.clone() for name, tensor in tensors.items()}, path)


def change_json(path, **changes):
    """Set keys of a JSON file; `...` removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def with_small_sam(tensors):
    """The golden's SAM on 256 px instead of 1024: a pass takes milliseconds."""
    grid = 16
    changed = dict(tensors)
    for name, tensor in tensors.items():
        if name == ENCODER + "pos_embed":
            changed[name] = tensor[:, :grid, :grid].contiguous()
        elif name.startswith(ENCODER) and ".rel_pos_" in name and tensor.shape[0] == 127:
            changed[name] = tensor[64 - grid : 63 + grid].contiguous()
    return changed


def tower(target, seed=0, whole_clip=False, **config):
    """A vision tower of other sizes with random weights, all in `model.safetensors`.

    `whole_clip`: a folder of the full model as released, with a text tower beside it and the numbers of positions.
    """
    target.mkdir(parents=True)
    sizes = {**json.loads((TOWER / "config.json").read_text()), **config}
    width, hidden, patch = sizes["hidden_size"], sizes["intermediate_size"], sizes["patch_size"]
    shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.position_embedding.weight": ((sizes["image_size"] // patch) ** 2 + 1, width),
    }
    layers = [f"encoder.layers.{index}." for index in range(sizes["num_hidden_layers"])]
    linear = {
        **{f"{layer}self_attn.{side}_proj": (width, width) for layer in layers for side in ("q", "k", "v", "out")},
        **{f"{layer}mlp.fc1": (hidden, width) for layer in layers},
        **{f"{layer}mlp.fc2": (width, hidden) for layer in layers},
    }
    norms = ["pre_layrnorm", "post_layernorm", *(f"{layer}layer_norm{index}" for layer in layers for index in (1, 2))]
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    random = torch.Generator().manual_seed(seed)
    tensors = {f"vision_model.{name}": 0.1 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    tensors |= {f"vision_model.{name}.weight": torch.ones(width) for name in norms}
    tensors |= {f"vision_model.{name}.bias": torch.zeros(width) for name in norms}
    if whole_clip:
        tensors |= {
            "text_model.embeddings.token_embedding.weight": torch.zeros(9, 8),
            "text_model.embeddings.position_ids": torch.arange(77)[None],
            "vision_model.embeddings.position_ids": torch.arange(
                len(tensors["vision_model.embeddings.position_embedding.weight"])
            )[None],
            "text_projection.weight": torch.zeros(8, 8),
            "visual_projection.weight": torch.zeros(8, width),
            "logit_scale": torch.zeros(()),
        }
        sizes = {"model_type": "clip", "projection_dim": 8, "text_config": {"hidden_size": 8}, "vision_config": sizes}
    save_file(tensors, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(sizes))
    return target
