"""Draws docs/figures/report-light.png and report-dark.png: a page of `dive report` in headless Chromium.

    python tests/page_pictures.py report.html

The pictures are of a page of results/cifar100_lt_bbn (ce.pt, teacher.pt, student.pt) and the teacher's cache
of all views, with `--data`.
"""

import io
import sys
from pathlib import Path

import chromium
from PIL import Image
from playwright.sync_api import sync_playwright

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
WIDTH = 1180
# Of each theme: from which element to below which one is shown.
SHOWN = {"light": ("body", "#virtual-examples .pair"), "dark": ("#pictures", "#pictures")}


def draw(page: Path, folder: Path = FIGURES) -> None:
    """Open a page in both themes and write what is shown of it into a folder."""
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        for theme, (first, last) in SHOWN.items():
            window = {"width": WIDTH, "height": 4000}
            opened = browser.new_page(viewport=window, color_scheme=theme, offline=True)
            opened.goto(page.resolve().as_uri())
            opened.wait_for_selector("#groups-0 .main-svg")
            top, end = opened.evaluate(
                """([first, last]) => [document.querySelector(first).getBoundingClientRect().top,
                                       document.querySelector(last).getBoundingClientRect().bottom]""",
                [first, last],
            )
            clip = {"x": 0, "y": max(top - 20, 0), "width": WIDTH, "height": end - max(top - 20, 0) + 10}
            shot = Image.open(io.BytesIO(opened.screenshot(clip=clip)))
            shot.convert("RGB").quantize(256).save(folder / f"report-{theme}.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
