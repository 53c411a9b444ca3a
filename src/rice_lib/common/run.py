"""Open a run, as the head of every notebook does: a profile's parameters and paths."""

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
        """Open a profile with `sections` laid over it, see `load_params`; a section of None stays as in the file."""
        params = load_params(profile, sections)
        return cls(params, Paths.of(params.profile))
