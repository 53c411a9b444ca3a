"""The report of seven notebooks that are made up (see `support.report`)."""

from __future__ import annotations

import pytest
from support.report import run_all

from rice_lib.report.render import render
from rice_lib.report.sources import write_sources


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    return run_all(tmp_path)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site as nbconvert renders it, to look at only."""
    paths = run_all(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        render(write_sources(paths), paths)
    return paths.report / "site"
