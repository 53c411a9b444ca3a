"""Whether a server answers by every worker: Triton says that it is ready although one is dead."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from rice_lib.serving.endpoint import CALL_SECONDS, Names, is_ready
from rice_lib.serving.load import HEADER_LENGTH, TIMEOUT_S
from rice_lib.serving.repository import drawn_grain


def fault(host: str, port: int, model: str) -> str | None:
    """Send a picture through every instance of the models behind the ensemble; returns the first error, None for none.

    Twice as many at once as the model with the most instances has: a free one takes the next.
    """
    if not is_ready(host, port, *Names(model).public):
        return "not ready"
    grain, ensemble = drawn_grain(), Names(model).ensemble
    try:
        steps = [step["model_name"] for step in _config(host, port, ensemble)["ensemble_scheduling"]["step"]]
        groups = [group for step in steps for group in _config(host, port, step)["instance_group"]]
        number = 2 * max(int(group["count"]) for group in groups)
        with ThreadPoolExecutor(number) as threads:
            return next(filter(None, threads.map(lambda _: _send(host, port, ensemble, grain), range(number))), None)
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        return str(error)


def _config(host: str, port: int, model: str) -> dict:
    with closing(http.client.HTTPConnection(host, port, timeout=CALL_SECONDS)) as connection:
        connection.request("GET", f"/v2/models/{model}/config")
        return json.loads(connection.getresponse().read())


def _send(host: str, port: int, model: str, data: bytes) -> str | None:
    with closing(http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)) as connection:
        connection.request("POST", f"/v2/models/{model}/infer", body=data, headers={HEADER_LENGTH: "0"})
        response = connection.getresponse()
        answer = response.read()
    return None if response.status == 200 else json.loads(answer)["error"]
