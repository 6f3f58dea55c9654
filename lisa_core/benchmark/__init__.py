"""Measures how long answers take, on any machine and without downloading weights.

`shapes` defines model sizes, `random_model` makes random weights for them, `baseline` answers as the reference
implementation does, `cases` and `stages` take the times, `cost` computes what the hardware would allow, and `report`
and `chart` present the results.
"""
