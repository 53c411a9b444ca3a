"""A Triton server's own statistics: what its models did between two moments.

    before, after = statistics(address), statistics(address)
    split("rice_bytes", before, after)

`rice_lib.serving.load.measure_point(watch=...)` reads them when counting begins and when it ends.
"""

from __future__ import annotations

import http.client
import json
from typing import Any

from rice_lib.common.errors import RiceError

Sums = dict[str, dict[str, float]]

TIMEOUT_S = 30.0


def statistics(address: str) -> Sums:
    """Read the server's sums since it started, by model: `inferences` (images), `executions`, `requests`, and
    nanoseconds in `queue` and `compute`."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/v2/models/stats")
        models = json.loads(connection.getresponse().read())["model_stats"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise RiceError(f"{address} gives no statistics ({error})", 1) from None
    finally:
        connection.close()
    sums: Sums = {}
    for model in models:  # one entry a version
        spent = model["inference_stats"]
        found = {
            "inferences": model.get("inference_count", 0),
            "executions": model.get("execution_count", 0),
            "requests": spent["success"].get("count", 0),
            "queue": spent["queue"].get("ns", 0),
            "compute": sum(spent[f"compute_{part}"].get("ns", 0) for part in ("input", "infer", "output")),
        }
        known = sums.setdefault(model["name"], dict.fromkeys(found, 0))
        sums[model["name"]] = {name: known[name] + value for name, value in found.items()}
    return sums


def split(model: str, before: Sums, after: Sums) -> dict[str, Any]:
    """Compute `queue_ms` and `compute_ms` of one request, summed over the models that it goes through, and
    `executed_batch`, mean images of one execution, by model."""
    grown = {
        name: {key: value - before.get(name, {}).get(key, 0) for key, value in sums.items()}
        for name, sums in after.items()
    }
    worked = {name: sums for name, sums in grown.items() if sums["requests"] and sums["executions"]}
    # an ensemble computes nothing itself: what counts are the models that it is made of
    steps = {name: sums for name, sums in worked.items() if name != model} or worked
    return {
        "queue_ms": sum(sums["queue"] / sums["requests"] for sums in steps.values()) / 1e6,
        "compute_ms": sum(sums["compute"] / sums["requests"] for sums in steps.values()) / 1e6,
        "executed_batch": {name: sums["inferences"] / sums["executions"] for name, sums in steps.items()},
    }
