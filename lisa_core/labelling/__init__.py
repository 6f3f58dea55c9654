"""From masks to a data set in ReasonSeg's format, for `lisa evaluate` and `lisa finetune`.

`sources` reads masks from where they are, `tabletop` from rendered scenes, `polygons` draws their outlines, `dataset`
writes the folder.
"""
