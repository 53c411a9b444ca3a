"""The rendered pages as a reader sees them: in a browser, from a telephone to a wide screen, and on paper."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest

from rice_lib.common.paths import NOTEBOOKS
from rice_lib.report.render import render
from rice_lib.report.sources import write_sources

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = (420, 1000, 1400, 1920)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is installed"),
]

# what sticks out of the window to the right, unless an ancestor scrolls it
CUT = """() => [...document.querySelectorAll("body *")].filter(e => {
    const box = e.getBoundingClientRect();
    if (!box.width || box.right <= innerWidth + 1) return false;
    for (let p = e; p; p = p.parentElement) if (/auto|scroll/.test(getComputedStyle(p).overflowX)) return false;
    return true;
}).map(e => e.outerHTML.slice(0, 100))"""
# text that its own box does not show
CLIPPED = """() => [...document.querySelectorAll(".answer *, figcaption, h1, h2, .banner")].filter(
    e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth && getComputedStyle(e).display != "inline"
).map(e => e.outerHTML.slice(0, 100))"""
BLURRED = """() => [...document.images].filter(
    i => !i.src.includes("svg") && i.naturalWidth < 1.5 * i.clientWidth
).map(i => `${i.alt}: ${i.naturalWidth} px shown at ${i.clientWidth}`)"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def site(pipeline):
    """The site of the tiny profile: by Quarto where it is installed, else by nbconvert."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RICE_ROOT", str(pipeline.root))
        render(write_sources(pipeline.paths), pipeline.paths)
    return pipeline.paths.report / "site"


def pages(site: Path) -> list[Path]:
    return [site / "index.html", *sorted(site.glob("pages/*.html")), *sorted(site.glob("docs/*.html"))]


def test_pages_fit_every_screen_and_ask_for_nothing_outside(site, browser):
    faults = []
    for width in WIDTHS:
        page = browser.new_page(viewport={"width": width, "height": 900})
        outside: list[str] = []
        page.on("request", lambda request, to=outside: to.append(request.url) if "file:" not in request.url[:5] else 0)
        page.on("console", lambda message, to=outside: to.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error, to=outside: to.append(str(error)))
        for file in pages(site):
            page.goto(file.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
            page.wait_for_function("[...document.images].every(i => i.complete)")
            where = f"{file.relative_to(site)} at {width} px"
            broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(-60))")
            scrolls = page.evaluate("document.documentElement.scrollWidth > innerWidth")
            for what, found in {
                "scrolls sideways": ["the page"] if scrolls else [],
                "is cut": page.evaluate(CUT),
                "is clipped": page.evaluate(CLIPPED),
                "is blurred": page.evaluate(BLURRED),
                "is broken": broken,
            }.items():
                faults += [f"{where}: {each} {what}" for each in found[:3]]
            faults += [f"{where}: {each}" for each in outside if not each.startswith("data:")]
            outside.clear()
        page.close()
    assert not faults, "\n".join(faults)


def test_pages_are_accessible(site, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    faults = []
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    for file in pages(site):
        page.goto(file.as_uri())
        for violation in axe.run(page).response["violations"]:
            found = [node["html"][:150] for node in violation["nodes"]]
            faults.append(f"{file.relative_to(site)}: {violation['id']}: {violation['help']}: {found[:3]}")
    page.close()
    assert not faults, "\n".join(faults)


def test_pages_print(site, browser, tmp_path):
    page = browser.new_page()
    for file in pages(site)[:3]:
        page.goto(file.as_uri())
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins, at 96 pixels an inch
        assert page.evaluate(CUT) == [], file
        assert page.evaluate("document.documentElement.scrollWidth") <= 718, file
        page.pdf(path=tmp_path / "page.pdf", format="A4")
        assert (tmp_path / "page.pdf").stat().st_size > 10_000
    page.close()


def test_every_link_leads_somewhere_and_every_figure_of_the_summary_to_a_cell(site, browser):
    faults = []
    page = browser.new_page()
    for file in reversed(pages(site)):
        page.goto(file.as_uri())
        for link in page.evaluate("[...document.links].map(a => a.href)"):
            address, _, anchor = unquote(link).removeprefix("file://").partition("#")
            if link.startswith("http"):
                continue
            target = Path(address)
            if not target.is_file() or (anchor and f'id="{anchor}"' not in target.read_text(encoding="utf-8")):
                faults.append(f"{file.relative_to(site)}: {link}")
    figures = page.evaluate("[...document.querySelectorAll('figure a, a.answer')].map(a => a.href)")
    page.close()
    assert not faults, "\n".join(faults)
    assert len(figures) > 8
    assert all("#in-" in link for link in figures)


def test_figures_are_small_and_sharp(site):
    files = [file for file in site.glob("figures/*/*") if file.is_file()]
    assert {file.parent.name for file in files} >= {*NOTEBOOKS, "summary"} - {"06_trt_benchmark"}
    for file in files:
        assert file.suffix in {".svg", ".jpg"}
        assert os.path.getsize(file) <= 200_000, f"{file.name}: {os.path.getsize(file) / 1000:.0f} kB"
