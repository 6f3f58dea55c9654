"""Teaching a LISA: from scratch on rendered tabletops, or from a checkpoint on.

Shared by both: `recipe` (how to train, with the defaults), `conversation` (which tokens of a dialogue are learnt),
`batch` (packed dialogues about pictures), `forward` (a batch through the model), `losses`, `trainer` (training steps
that survive a kill), `export` (writes the official layout), `settings` (compared when a training goes on), `curves`
(plots of the losses), `trouble` (translates torch's errors about a full disk or memory).
From scratch: `fresh` (a new model and its tokenizer), `scenes` (batches from rendered tabletops), `vision` and `hints`
(extra losses), `scratch` (the two stages), `exam` (measures the model meanwhile), `school` (all of `lisa train`).
From a checkpoint: `annotated` (batches from ReasonSeg's format), `adapters` (LoRA and merging it), `finetune`
(validates and keeps the best state).
"""
