"""Serving by Triton: the model repository, the life of a local server, the client, and the checks of both.

`repository` writes what a server reads, `environment` and `server` start and stop a real `tritonserver`
without a container, `client` calls one, and `smoke` puts the promises of a service to the test for notebook
07. `backend/` is what the wheel's server lacks and NVIDIA's container has.
"""
