"""Many grains in one photograph: found, classified one by one, counted.

`analyse` runs all of it: `background` and `find` take a tray apart into grains, `separate` cuts those that touch,
`scale` says how large they are for the model, `frame` lays each on black in its light, `sheet` measures, `record`
counts and writes, `picture` draws. The command is `rice infer --grains` (`rice_lib.cli.tray`).
"""
