"""Many grains in one photograph: found, classified one by one, counted.

`analyse` runs all of it: `background` and `find` take a tray apart into grains, `separate` cuts those that touch,
`scale` says how large they are for the model, `light` how bright, `frame` lays each on black, `classify` predicts them,
`record` counts. `writers` and `picture` show the record; the command is `rice infer --grains` (`rice_lib.cli.tray`).
"""
