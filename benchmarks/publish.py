"""Publish a profile's report in docs/results/, where every report's site and GitHub then show it.

    python benchmarks/publish.py --profile scratch

The sources of the pages go there, and the figures: the executed notebooks, not rendered, so that GitHub shows them too.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_folder, read_json
from rice_lib.common.paths import Paths, find_root
from rice_lib.report.sources import write_sources

MOST_BYTES = 10_000_000
TITLE = "Results on real photographs"
BANNER = (
    "<strong>Published results.</strong> The project measured these; what <code>make report</code> makes on your own "
    "machine is on the site's first page."
)


def publish(root: Path, profile: str) -> Path:
    """Write docs/results/ from the report of a profile; returns it.

    Raises:
        RiceError: the profile has not run, or its pages are too large for git.
    """
    paths = Paths(root, profile)
    write_sources(paths)
    target = root / "docs" / "results"
    with atomic_folder(target) as fresh:
        for folder in ("pages", "figures"):
            shutil.copytree(paths.report / folder, fresh / folder)
        *_, body = (paths.report / "index.qmd").read_text(encoding="utf-8").split("---\n", 2)
        banner = f'```{{=html}}\n<div class="banner">{BANNER}</div>\n```'
        (fresh / "index.qmd").write_text(f'---\ntitle: "{TITLE}"\n---\n\n{banner}\n{body}', encoding="utf-8")
        for file in (fresh / "index.qmd", *fresh.rglob("*.ipynb")):
            text = file.read_text(encoding="utf-8")
            for place, name in _private(paths).items():
                text = text.replace(place, name)
            file.write_text(text, encoding="utf-8")
        size = sum(file.stat().st_size for file in fresh.rglob("*") if file.is_file())
        if size > MOST_BYTES:
            raise RiceError(
                f"{paths.report}: {size / 1e6:.1f} MB of pages and figures; git takes {MOST_BYTES / 1e6:.0f}"
            )
    return target


def _private(paths: Paths) -> dict[str, str]:
    """Find the paths of this machine that pages name, and what is written for them."""
    recorded = [read_json(file).get("parameters", {}) for file in sorted((paths.report / "metrics").glob("*.json"))]
    sources = [each["data"]["path"] for each in recorded if each.get("data", {}).get("path")]
    return {**{source: Path(source).name for source in sources}, str(paths.root): "."}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    print(publish(find_root(), parser.parse_args().profile))


if __name__ == "__main__":
    main()
