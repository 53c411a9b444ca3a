"""Model control of a running server: load a version's models, call them, let them go."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from rice_lib.backends.triton import channel_options, import_tritonclient, make_input, parameter
from rice_lib.common.errors import RiceError
from rice_lib.serving.server import KEY_NAME, RunningServer

LOAD_SECONDS = 600.0  # limit of loading one model: a GPU compiles its first kernels meanwhile


class Control(AbstractContextManager["Control"]):
    """Loads and unloads models on a running server; a context manager.

    Over gRPC: while a model is loaded over HTTP, the server's thread that took the request answers nobody else.
    """

    def __init__(self, server: RunningServer) -> None:
        """Connect to the server's gRPC endpoint, with its key."""
        self._library, self._address = import_tritonclient("grpc"), server.grpc
        self._client = self._library.InferenceServerClient(server.grpc, channel_args=channel_options(server.grpc))
        self._key = {f"triton-grpc-protocol-{KEY_NAME}": server.key}

    def load(self, name: str) -> None:
        """Load a model, or load it again, until it is ready and warm; raises `RiceError` where the server cannot."""
        self._call("load_model", name, headers=self._key, client_timeout=LOAD_SECONDS)

    def unload(self, name: str) -> None:
        """Let a model go once its requests are answered; return at once."""
        self._call("unload_model", name, headers=self._key)

    def loaded(self) -> set[str]:
        """Name the models that are loaded."""
        models = self._client.get_model_repository_index(headers=self._key).models
        return {model.name for model in models if model.state == "READY"}

    def config(self, name: str) -> dict[str, Any]:
        """Read the configuration of a loaded model."""
        return self._call("get_model_config", name, as_json=True)["config"]

    def version(self, name: str) -> int:
        """Read which of our versions a public model answers by."""
        return int(parameter(self.config(name), "version"))

    def infer(self, name: str, **inputs: np.ndarray) -> Any:
        """Send one request of arrays by tensor name; returns the client library's result."""
        tensors = [make_input(self._library, *named) for named in inputs.items()]
        return self._call("infer", name, inputs=tensors, client_timeout=LOAD_SECONDS)

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def _call(self, method: str, name: str, **options: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return getattr(self._client, method)(name, **options)
        except InferenceServerException as error:
            raise RiceError(f"{name} on {self._address}: {' '.join(str(error).split())}", 1) from None
