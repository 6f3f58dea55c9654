"""Teaching a LISA: from scratch on rendered tabletops, or from a checkpoint on.

A reader's path: `fresh` (a new model and its tokenizer), `vision` (the two encoders learn what things look like),
`conversation` (what of a dialogue is learnt), `batch` (dialogues about pictures, packed), `forward` (a batch through
the model), `losses`, `trainer` (steps, evaluation, checkpoints that survive a kill), `export` (the official layout).
"""
