"""A report is published whole, without this machine's paths, and only where git can take it."""

import json

import publish
import pytest

from rice_lib.common.errors import RiceError
from rice_lib.common.paths import Paths


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "write_sources", lambda paths: None)
    report = Paths(tmp_path, "mine").report
    for folder in ("metrics", "pages/studies", "figures/01_eda"):
        (report / folder).mkdir(parents=True)
    (report / "metrics" / "01_eda.json").write_text(json.dumps({"parameters": {"data": {"path": "/home/me/photos"}}}))
    (report / "pages" / "01_eda.ipynb").write_text(f"{{'/home/me/photos/a.jpg', '{tmp_path}/data'}}")
    (report / "pages" / "studies" / "05_leakage.ipynb").write_text("{'/home/me/photos/b.jpg'}")
    (report / "figures" / "01_eda" / "samples.jpg").write_bytes(b"a figure")
    (report / "index.qmd").write_text("---\ntitle: Which\n---\n\nThe answer --- of /home/me/photos\n---\nmore")
    return tmp_path


def test_pages_and_figures_are_published_without_paths_of_this_machine(root):
    target = publish.publish(root, "mine")
    assert target == root / "docs" / "results"
    text = (target / "index.qmd").read_text()
    assert text.startswith('---\ntitle: "Results on real photographs"\n---\n')
    assert "Published results." in text
    assert text.endswith("The answer --- of photos\n---\nmore")
    assert (target / "pages" / "01_eda.ipynb").read_text() == "{'photos/a.jpg', './data'}"
    assert (target / "pages" / "studies" / "05_leakage.ipynb").read_text() == "{'photos/b.jpg'}"
    assert (target / "figures" / "01_eda" / "samples.jpg").read_bytes() == b"a figure"


def test_what_git_cannot_take_is_not_published(root, monkeypatch):
    monkeypatch.setattr(publish, "MOST_BYTES", 10)
    with pytest.raises(RiceError, match="MB of pages and figures"):
        publish.publish(root, "mine")
    assert not (root / "docs" / "results").exists()
