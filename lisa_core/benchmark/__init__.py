"""How long answers take, on any machine and without weights to download.

`shapes` has the sizes, `random_model` makes a model of them, `baseline` asks it as the reference does, `cases` and
`stages` take the time, `cost` says what the hardware would allow, `report` and `chart` show it.
"""
