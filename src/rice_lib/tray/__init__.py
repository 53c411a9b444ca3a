"""Many grains in one photograph: found, told one by one, counted.

`ground` and `find` take a tray apart into grains, `separate` cuts those that touch, `frame` lays each on black at the
scale of the training images, `scale` says what that scale is, `count` and `output` make the answer, `picture` draws
it, `command` runs all of it for `infer --grains`.
"""
