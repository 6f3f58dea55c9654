"""How the engine answers: from an encoded frame and a question to words and masks.

`question` is what was asked and `frame` what it is about; `generation` decodes the answer, with `prefix_cache` (the KV
cache and what it holds), `stepping` (one token on) and `cuda_graphs` (a GPU records what is always the same); `reply`
collects words and the states of `[SEG]`, of which `masking` makes masks. On a GPU SAM runs `beside` the language model;
several questions go `together`. `memory` keeps all of it within a limit, and `stopwatch` times its stages.
"""
