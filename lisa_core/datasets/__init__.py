"""Data sets on the disk: pictures, questions and true masks.

`reasonseg` is the format that evaluation, labelling and fine-tuning share; `refcoco` reads refCOCO's; `coco` and
`polygons` are how both write masks down.
"""
