"""The head of every notebook: which profile, which parameters, which paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rice_lib.common.parameters import Params, load_params
from rice_lib.common.paths import Paths


@dataclass(frozen=True)
class Run:
    """One profile's parameters and paths."""

    params: Params
    paths: Paths

    @classmethod
    def open(cls, profile: str, **sections: Any) -> Run:
        """Validate `params/<profile>.yaml` with `sections` laid over it; a section of None stays as in the file.

        Raises:
            RiceError: see `rice_lib.common.parameters.load_params`.
        """
        params = load_params(profile, sections)
        return cls(params, Paths.of(params.profile))
