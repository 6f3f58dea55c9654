"""Data sets on the disk: pictures, questions and true masks.

`reasonseg` is the format that evaluation, labelling and fine-tuning share, and `polygons` makes its polygons of masks.
`refcoco` reads refCOCO's, and `coco` reads and writes masks as COCO does, for labels and replays, too.
"""
