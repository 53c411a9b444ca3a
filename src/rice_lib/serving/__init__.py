"""Serving by Triton, room by room.

What a server reads: `config` (the texts), `repository` (the folder and its versions), `models/` (the Python models in
it), `backend/` (what the wheel's server lacks and NVIDIA's container has). Its life: `environment` and `server` without
a container, `compose` with one, `release` for a new version. Its clients: `client` sends pixels, `teller` files, both
through `connection` and `retry`. What it must keep: `smoke` and `promises`, the library half of notebook 07.
"""
