"""From masks to a data set in ReasonSeg's format, for `lisa evaluate` and `lisa finetune`.

`sources` reads masks from where they are, `tabletop` from rendered scenes, `dataset` writes the folder.
"""
