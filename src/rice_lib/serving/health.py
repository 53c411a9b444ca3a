"""Whether a server answers by every worker: Triton says that it is ready although one is dead."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

from rice_lib.serving.load import send_file
from rice_lib.serving.repository import drawn_grain
from rice_lib.serving.server import CALL_SECONDS, is_ready, public_models


def fault(host: str, port: int, model: str) -> str | None:
    """Send a picture through every instance of the models behind the ensemble; returns the first error, None for none.

    Twice as many at once as the model with the most instances has: a free one takes the next.
    """
    if not is_ready(host, port, *public_models(model)):
        return "not ready"
    grain, ensemble, direct = drawn_grain(), public_models(model)[1], build_opener(ProxyHandler({}))

    def config(name: str) -> dict:
        with direct.open(f"http://{host}:{port}/v2/models/{name}/config", timeout=CALL_SECONDS) as response:
            return json.load(response)

    try:
        steps = [step["model_name"] for step in config(ensemble)["ensemble_scheduling"]["step"]]
        number = 2 * max(int(group["count"]) for step in steps for group in config(step)["instance_group"])
        with ThreadPoolExecutor(number) as threads:
            sent = [threads.submit(send_file, f"{host}:{port}", ensemble, grain) for _ in range(number)]
            return next(filter(None, (each.result()[1].get("error") for each in sent)), None)
    except (OSError, HTTPException, ValueError, KeyError) as error:
        return str(error)
