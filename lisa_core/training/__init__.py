"""Teaching a LISA: from scratch on rendered tabletops, or from a checkpoint on.

What both ways share: `conversation` (what of a dialogue is learnt), `batch` (dialogues about pictures, packed),
`forward` (a batch through the model), `losses`, `trainer` (steps that survive a kill), `export` (the official layout).
From scratch: `fresh` (a new model and its tokenizer), `scenes` (what rendered tabletops teach), `vision` (the encoders
learn what things look like), `scratch` (the order of it all), `exam` (how good it is by now).
From a checkpoint: `annotated` (batches from ReasonSeg's format), `adapters` (LoRA, and how it is merged), `finetune`
(validation, and the best state). In both: `curves` (the losses as a picture), `trouble` (a full disk and too little
memory, as errors of ours).
"""
