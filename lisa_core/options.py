"""The choices and defaults that the engine, the command line and the node's parameters share."""

from typing import Literal, get_args

Precision = Literal["auto", "nf4", "int8", "bf16", "fp16", "fp32"]
ResolvedPrecision = Literal["nf4", "int8", "bf16", "fp16", "fp32"]
LearnerPrecision = Literal["auto", "nf4", "bf16", "fp32"]
"""In which a fine-tuning keeps the weights that stay as they are."""
Layout = Literal["v1", "v0"]
"""How the authors laid out a checkpoint's files; their code for each differs in more."""
TemplateName = Literal["llava_v1", "llava_llama_2", "vicuna_v1_1"]

CHECKPOINT = "bundled"
"""The small LISA that lies in this package, for rendered tabletops; a folder or a hub id names another."""

PRECISIONS: tuple[str, ...] = get_args(Precision)
TEMPLATES: tuple[str, ...] = get_args(TemplateName)

MAX_NEW_TOKENS = 512
"""Tokens of one answer, end of sequence included, unless the caller says otherwise."""

MAX_SEGMENTS = 16
"""Masks of one answer, unless the caller says otherwise; further `[SEG]` stay words."""
