"""SAM against what the reference recorded, and against the `segment-anything` package as a second oracle."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from checkpoints import tensors_of
from goldens import V0, V1, case, distance
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lisa_core import preprocess
from lisa_core.model import sam as model
from lisa_core.model import sam_kernels
from lisa_core.model.sam import Sam, SamShape, upsample

CLOSE = 1e-4
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GOLDEN = SamShape(
    image=1024,
    patch=16,
    width=48,
    heads=3,
    hidden=192,
    windows=(14, 0, 14),
    embedding=256,
    decoder_layers=2,
    decoder_hidden=64,
    attention_inner=128,
    mask_tokens=4,
    iou_hidden=256,
    iou_depth=3,
)
GOLDEN_V0 = replace(GOLDEN, heads=2, windows=(14, 0))
SMALL = replace(
    GOLDEN, image=256, width=40, heads=5, hidden=90, windows=(7, 0, 7, 5, 0), decoder_layers=3, iou_hidden=32
)
EXACT = replace(GOLDEN, image=224, windows=(7, 0), patch=8, embedding=128, attention_inner=64, mask_tokens=2)
"""Whole windows, so that nothing is padded; other patches; another embedding."""


@pytest.fixture(scope="module")
def segment_anything():
    """The package without torchvision, whose few names serve its predictor alone."""
    names = {
        "torchvision": [],
        "torchvision.ops": [],
        "torchvision.ops.boxes": ["batched_nms", "box_area"],
        "torchvision.transforms": [],
        "torchvision.transforms.functional": ["resize", "to_pil_image"],
    }
    with pytest.MonkeyPatch.context() as patch:
        for module, members in names.items():
            stub = ModuleType(module)
            for member in members:
                setattr(stub, member, None)
            patch.setitem(sys.modules, module, stub)
        import segment_anything.modeling as package

        yield package


def oracle(package, shape):
    """Meta's SAM of the same sizes."""
    sam = package.Sam(
        image_encoder=package.ImageEncoderViT(
            depth=len(shape.windows),
            embed_dim=shape.width,
            img_size=shape.image,
            mlp_ratio=shape.hidden / shape.width,
            norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
            num_heads=shape.heads,
            patch_size=shape.patch,
            use_rel_pos=True,
            global_attn_indexes=[index for index, window in enumerate(shape.windows) if not window],
            window_size=max(shape.windows),
            out_chans=shape.embedding,
        ),
        prompt_encoder=package.PromptEncoder(
            embed_dim=shape.embedding,
            image_embedding_size=(shape.grid, shape.grid),
            input_image_size=(shape.image, shape.image),
            mask_in_chans=16,
        ),
        mask_decoder=package.MaskDecoder(
            num_multimask_outputs=shape.mask_tokens - 1,
            transformer=package.TwoWayTransformer(
                depth=shape.decoder_layers,
                embedding_dim=shape.embedding,
                mlp_dim=shape.decoder_hidden,
                num_heads=8,
            ),
            transformer_dim=shape.embedding,
            iou_head_depth=shape.iou_depth,
            iou_head_hidden_dim=shape.iou_hidden,
        ),
    )
    for block, window in zip(sam.image_encoder.blocks, shape.windows, strict=True):
        if window and window != max(shape.windows):  # the package knows one size of window; blocks can have others
            block.window_size = window
            side = (2 * window - 1, shape.width // shape.heads)
            block.attn.rel_pos_h, block.attn.rel_pos_w = (torch.nn.Parameter(torch.empty(side)) for _ in range(2))
    return sam.eval()


def both(package, shape, weights=None):
    """The package's SAM and ours, with the same weights: these, or random ones."""
    theirs, ours = oracle(package, shape), Sam(shape).eval()
    if weights is None:
        torch.manual_seed(1)
        for parameter in [*theirs.parameters(), *theirs.buffers()]:
            torch.nn.init.normal_(parameter, std=0.3)
        weights = theirs.state_dict()
    theirs.load_state_dict(weights)
    needed = ours.state_dict().keys()
    ours.load_state_dict({name: tensor for name, tensor in weights.items() if name in needed})
    return theirs, ours


def golden_weights(checkpoint):
    prefix = "visual_model." if checkpoint == V0 else "model.visual_model."
    tensors = tensors_of(checkpoint)
    return {name.removeprefix(prefix): tensors[name].float() for name in tensors if name.startswith(prefix)}


@pytest.mark.parametrize("name", ["v1-short", "v1-odd"])
@torch.inference_mode()
def test_image_embedding_as_recorded(v1, name):
    asked = case(name)
    pixels, size = preprocess.for_sam(asked.rgb, 1024)
    assert size.resized == tuple(asked.recorded["resized"])
    embedding = v1._model.sam.encode(preprocess.sam_input(pixels, 1024)[None])[0]
    assert distance(embedding[::8], asked.arrays["sam_embedding_every8"]) < CLOSE


@pytest.mark.parametrize("size", [(1080, 1921), (1921, 1080), (426, 640), (375, 1242), (300, 300), (100, 4000)])
def test_the_image_is_resized_to_the_size_that_the_authors_compute(segment_anything, size):
    from segment_anything.utils.transforms import ResizeLongestSide

    assert preprocess.sam_size(size, 1024).resized == ResizeLongestSide.get_preprocess_shape(*size, 1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_patches_are_where_the_authors_have_them_in_each_precision(segment_anything, dtype):
    theirs, ours = (sam.prompt_encoder.to(dtype) for sam in both(segment_anything, GOLDEN))
    centres = (torch.arange(64, dtype=dtype) + 0.5) / 64  # LISA's copy of the package takes them in the weights' dtype
    expected = theirs.pe_layer._pe_encoding(torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1))
    found = ours.positions(64)
    assert found.dtype == dtype
    assert torch.equal(found, expected.permute(2, 0, 1))


@torch.inference_mode()
def test_patches_are_learnt_where_they_are_in_bf16(segment_anything):
    weights = both(segment_anything, GOLDEN)[1].prompt_encoder
    with torch.autocast("cpu", torch.bfloat16):
        learnt = weights.positions(64)
    assert not torch.equal(learnt, weights.positions(64))
    assert torch.equal(learnt, weights.to(torch.bfloat16).positions(64))


@pytest.mark.parametrize("name", ["v1-short", "v1-odd", "v1-two_masks"])
def test_upsampling_as_recorded(name):
    asked = case(name)
    low = torch.from_numpy(asked.arrays["low_res_logits"])
    recorded = asked.recorded
    full = upsample(low, 1024, tuple(recorded["resized"]), tuple(recorded["image_size"]))
    assert distance(full, asked.arrays["mask_logits"]) < 1e-3  # recorded in fp16
    assert ((full.numpy() > 0) != asked.expected_masks).mean() < 1e-4


@pytest.mark.parametrize(("checkpoint", "shape"), [(V1, GOLDEN), (V0, GOLDEN_V0)], ids=["v1", "v0"])
@torch.inference_mode()
def test_segment_anything_on_golden_weights(segment_anything, checkpoint, shape):
    agree(*both(segment_anything, shape, golden_weights(checkpoint)), shape)


@pytest.mark.parametrize("shape", [SMALL, EXACT], ids=["windows-of-two-sizes", "other-patches"])
@torch.inference_mode()
def test_segment_anything_on_other_sizes(segment_anything, shape):
    agree(*both(segment_anything, shape), shape)


def agree(theirs, ours, shape):
    torch.manual_seed(2)
    pixels = torch.randn(1, 3, shape.image, shape.image)
    prompts = torch.randn(3, shape.embedding)

    embedding = theirs.image_encoder(pixels)
    logits, scores = theirs.mask_decoder(
        image_embeddings=embedding,
        image_pe=theirs.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=prompts[:, None],
        dense_prompt_embeddings=theirs.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(
            3, *embedding[0].shape
        ),
        multimask_output=False,
    )

    assert distance(ours.encode(pixels), embedding) < CLOSE
    our_logits, our_scores = ours.decode(embedding[0], prompts)
    assert distance(our_logits, logits[:, 0]) < CLOSE
    assert distance(our_scores, scores[:, 0]) < CLOSE


@pytest.mark.parametrize("block", [4, 600, 4000, 4 << 20], ids=["rows", "uneven", "heads", "all"])
def test_attention_in_blocks_is_attention(monkeypatch, block):
    """What a CPU computes block by block is what a GPU's kernel computes at once, and so are the gradients."""
    monkeypatch.setattr(model, "_BLOCK", block)
    torch.manual_seed(4)
    sizes = [(2, 3, 25, width) for width in (8, 8, 8, 5, 5)]
    parts = [torch.randn(size, requires_grad=True) for size in sizes]
    results = [attend(*parts) for attend in (model._attend_at_once, model._attend_in_blocks)]
    assert distance(results[1].detach(), results[0].detach()) < CLOSE
    gradients = [torch.autograd.grad(result.square().sum(), parts) for result in results]
    for ours, expected in zip(gradients[1], gradients[0], strict=True):
        assert distance(ours, expected) < CLOSE


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **kwargs or {})
        self.nbytes = max([self.nbytes, *(each.nbytes for each in tree_leaves(made) if isinstance(each, torch.Tensor))])
        return made


@pytest.mark.parametrize("window", [0, 4], ids=["global", "windows"])
@torch.inference_mode()
def test_attention_on_a_cpu_makes_nothing_large(monkeypatch, window):
    """Neither the scores of all pairs, nor the queries, keys and values of all windows."""
    block = model._ImageAttention(replace(GOLDEN, image=256, width=40, heads=2), window)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    states, most = torch.randn(1, 16, 16, 40), 200_000
    monkeypatch.setattr(model, "_BLOCK", most)  # less than the scores of one head, 256 * 256 * 4 bytes
    with Largest() as largest:
        block(states)
    assert largest.nbytes <= (states.nbytes if window else most)


@pytest.fixture(params=[pytest.param(True, id="triton"), pytest.param(False, id="torch")])
def on_a_gpu(request, monkeypatch):
    """`on_a_gpu()`: from then on the image encoder computes as on a GPU, by Triton's kernels or torch's."""

    def switch():
        monkeypatch.setattr(model, "kernels_for", lambda *_: sam_kernels if request.param else None)
        monkeypatch.setattr(model, "_on_cpu", lambda _: False)

    return switch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@torch.inference_mode()
def test_norm_of_a_sum_on_a_gpu(on_a_gpu, dtype):
    norm = torch.nn.LayerNorm(40, eps=1e-6).to(DEVICE, dtype)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    states, more = (5 * torch.randn(size, 3, 3, 40).to(DEVICE, dtype) for size in (2, 1))
    on_a_gpu()
    total, normed = model._sum_and_norm(states, more, norm)
    assert torch.equal(total, states + more)
    close = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(normed, norm(states + more), atol=close, rtol=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("window", "grid", "batch"),
    [(0, 17, 1), (4, 8, 1), (4, 6, 2), (4, 3, 1), (4, 9, 2)],
    ids=["global", "whole", "padded", "one", "odd"],
)
@torch.inference_mode()
def test_attention_on_a_gpu(on_a_gpu, window, grid, batch, dtype):
    torch.manual_seed(5)
    block = model._ImageAttention(replace(GOLDEN, image=16 * grid, width=40, heads=2), window)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    block, states = block.to(DEVICE, dtype), torch.randn(batch, grid, grid, 40).to(DEVICE, dtype)
    wanted = block.cpu().float()(states.cpu().float())  # of the same rounded weights
    on_a_gpu()
    found = block.to(DEVICE, dtype)(states)
    assert found.dtype == dtype
    assert distance(found.cpu().float(), wanted) < (CLOSE if dtype == torch.float32 else 1e-2)


@torch.inference_mode()
def test_image_embedding_on_a_gpu(on_a_gpu):
    """Of whole blocks, with windows of two sizes."""
    shape = replace(SMALL, image=128, windows=(7, 0, 5))
    torch.manual_seed(6)
    sam = Sam(shape).eval()
    for parameter in sam.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pixels = torch.randn(1, 3, shape.image, shape.image)
    wanted = sam.encode(pixels)
    on_a_gpu()
    assert distance(sam.to(DEVICE).encode(pixels.to(DEVICE)).cpu(), wanted) < CLOSE


@pytest.mark.parametrize(("window", "grid"), [(0, 6), (4, 8), (4, 6)], ids=["global", "whole", "padded"])
def test_gradients_of_attention_on_a_gpu(monkeypatch, window, grid):
    torch.manual_seed(7)
    block = model._ImageAttention(replace(GOLDEN, image=16 * grid), window)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    states = torch.randn(2, grid, grid, GOLDEN.width)
    wanted = torch.autograd.grad(block(states).square().sum(), list(block.parameters()))
    monkeypatch.setattr(model, "_on_cpu", lambda _: False)
    found = torch.autograd.grad(block(states).square().sum(), list(block.parameters()))
    for ours, theirs in zip(found, wanted, strict=True):
        assert distance(ours, theirs) < CLOSE


@torch.inference_mode()
def test_relative_positions_are_those_of_the_distances():
    """`_relative` against what it stands for, distance by distance."""
    torch.manual_seed(8)
    side = 5
    block = model._ImageAttention(replace(GOLDEN, heads=6), side)
    for table in (block.rel_pos_h, block.rel_pos_w):
        torch.nn.init.normal_(table)
    query = torch.randn(2, 6, side * side, 8)
    steps = torch.arange(side)
    apart = steps[:, None] - steps + side - 1
    squares = query.unflatten(2, (side, side))
    rows = torch.einsum("bnhwc,hkc->bnhwk", squares, block.rel_pos_h[apart]).flatten(2, 3)
    columns = torch.einsum("bnhwc,wkc->bnhwk", squares, block.rel_pos_w[apart]).flatten(2, 3)
    for found, wanted in zip(block._relative(query, side), (rows, columns), strict=True):
        assert distance(found, wanted) < CLOSE


@torch.inference_mode()
def test_masks_do_not_depend_on_each_other(v1):
    """Several prompts at once give what each gives alone."""
    torch.manual_seed(3)
    embedding, prompts = torch.randn(256, 64, 64), torch.randn(3, 256)
    together, scores = v1._model.sam.decode(embedding, prompts)
    for index in range(3):
        alone, score = v1._model.sam.decode(embedding, prompts[index : index + 1])
        assert distance(together[index], alone[0]) < CLOSE
        assert scores[index] == pytest.approx(score[0].item(), abs=CLOSE)
