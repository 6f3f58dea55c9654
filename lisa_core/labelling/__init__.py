"""Makes data sets in ReasonSeg's format from masks, for `lisa evaluate` and `lisa finetune`.

`sources` reads masks from files, `tabletop` from rendered scenes; `dataset` writes the folder.
"""
