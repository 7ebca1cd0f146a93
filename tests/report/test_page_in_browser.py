"""The page in headless Chromium: it loads nothing, complains of nothing, and its controls do as they say."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import caches
import chain
import chromium
import numpy as np
import pytest

import dive

pytest.importorskip("plotly", reason="the page needs plotly, which is not installed")
from dive.report.page import content, document

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(
    chromium.PATH is None, reason="there is no Chromium here: apt-get install chromium"
)

NAMES = (
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror=hacked=2>",
    "%{y}<b>",
    "a & 'b'",
)
SIZES = [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(digits, tmp_path_factory) -> Path:
    """The page of the digits' teacher, student and cache."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    dive.write_report([digits.teacher, digits.student, digits.cache], out)
    return out


@contextmanager
def opened(browser: Any, path: Path, width: int = 1400, scheme: str = "light") -> Iterator[Any]:
    """The page in a window; no message on its console, no exception and no request to anywhere."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, reduced_motion="reduce"
    )
    context.set_default_timeout(120_000)  # milliseconds; a busy machine takes its time
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: wrong.append(request.url) if _outside(request.url, path) else None)
    page.goto(path.as_uri())
    yield page
    assert wrong == []
    context.close()


def _outside(url: str, path: Path) -> bool:
    return url != path.as_uri() and not url.startswith(("data:", "blob:"))


def drawn(page: Any) -> None:
    """Bring every figure near the screen once, so that it is drawn."""
    for figure in page.query_selector_all(".figure:visible"):
        figure.scroll_into_view_if_needed()
        page.wait_for_function("figure => figure.querySelector('.main-svg')", arg=figure)


def traces(page: Any, name: str, key: str) -> list[Any]:
    """A key of every trace of a figure, as plotly has it now."""
    return page.evaluate(
        "([name, key]) => document.getElementById(name).data.map((trace) => "
        "ArrayBuffer.isView(trace[key]) ? Array.from(trace[key]) : trace[key])",
        [name, key],
    )


def frame(page: Any) -> None:
    """Wait for what the slider puts off to the next frame."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_it_opens_without_complaint_and_fits(browser, report, width, scheme):
    with opened(browser, report, width, scheme) as page:
        assert page.get_attribute("html", "data-theme") == scheme
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        clipped = page.evaluate(
            """() => [...document.querySelectorAll(".figure")].flatMap((figure) => {
              const box = figure.getBoundingClientRect();
              return [...figure.querySelectorAll(".main-svg text")].filter((text) => {
                const { left, right, top, bottom, width } = text.getBoundingClientRect();
                return width && (left < box.left - 1 || right > box.right + 1 || top < box.top - 1
                  || bottom > box.bottom + 1);
              }).map((text) => `${figure.id}: ${text.textContent}`);
            })"""
        )
        assert clipped == []
        overlapping = page.evaluate(
            """() => [...document.querySelectorAll(".figure")].flatMap((figure) => {
              const ticks = [...figure.querySelectorAll(".xtick text")].map((t) => t.getBoundingClientRect());
              ticks.sort((a, b) => a.left - b.left);
              return ticks.slice(1).filter((t, i) => t.left < ticks[i].right).map(() => figure.id);
            })"""
        )
        assert overlapping == []


def test_the_slider_moves_the_bars_to_what_tune_tau_prints(browser, report, digits):
    ratios = [1.0, 3.0, 6.5]
    words = ("tune-tau", "--cache", digits.cache, "--tau", *ratios, "--power", 1, "--json")
    pairs = chain.succeed(*words).document["pairs"]
    with opened(browser, report) as page:
        drawn(page)
        positions = json.loads(page.text_content("#data"))["sections"]["virtual-examples"][0]["ratios"]
        page.focus("#ratio-0")
        page.keyboard.press("Home")
        at = 0
        for ratio, pair in zip(ratios, pairs, strict=True):
            for _ in range(positions.index(ratio) - at):
                page.keyboard.press("ArrowRight")
            at = positions.index(ratio)
            frame(page)
            shots = [pair[shot] for shot in ("many", "medium", "few")]
            assert traces(page, "groups-0", "y")[1] == pytest.approx(shots, rel=1e-6)
            per_class = np.concatenate(traces(page, "classes-0", "y")[1:])
            counts = [count for _, count in sorted_classes(page)]
            order = np.argsort(-np.array(counts_of(digits)), kind="stable")
            assert counts == np.array(counts_of(digits))[order].tolist()
            np.testing.assert_allclose(per_class, np.array(pair["per_class"])[order], rtol=1e-5)
            told = page.text_content("[data-cache='0'] .tiles")
            assert f"{pair['few']:.1f}" in told and f"{pair['information']:.3f} nats" in told
            assert page.get_attribute("#ratio-0", "aria-valuetext") == f"tau over p {ratio:g}"
            assert page.evaluate("document.getElementById('curves-0').layout.shapes[0].x0") == ratio


def sorted_classes(page: Any) -> list[list[Any]]:
    """Name and images of every class, as the figure has them."""
    return [
        [name, int(count)] for part in traces(page, "classes-0", "customdata")[1:] for name, count in part
    ]


def counts_of(digits: Any) -> list[int]:
    return dive.open_cache(digits.cache).class_counts.tolist()


def test_fields_and_slider_are_one_and_a_picture_shows_its_target_there(browser, report, digits):
    cache = dive.open_cache(digits.cache)
    with opened(browser, report) as page:
        page.fill("#tau-0", "3")
        page.fill("#power-0", "0.5")
        frame(page)
        assert page.text_content("output.big") == "6"
        page.fill("#tau-0", "3.06")
        assert "nearest position, 6." in page.text_content("[data-cache='0'] .told")
        page.fill("#tau-0", "-1")
        assert "must be above 0" in page.text_content("[data-cache='0'] .told")
        page.fill("#tau-0", "2")
        page.fill("#power-0", "1")
        frame(page)
        card = page.query_selector(".card")
        key = card.query_selector(".key").text_content().split(" · ")[1]
        row = cache.keys.index(key)
        for button in card.query_selector_all("[data-view]"):
            button.click()
            name = button.text_content()
            view = cache.facts["clean_id"] if name == "clean" else int(name.split()[1])
            column = cache.views[row].tolist().index(view)
            z = cache.logits([row], [column])[0].astype(np.float64) / 2
            target = np.exp(z) / np.exp(z).sum()
            shown = [
                (line.query_selector("span").text_content(), float(line.query_selector("b").text_content()))
                for line in card.query_selector_all(".target li:not(.others)")
            ]
            assert len(shown) == 5
            for class_name, share in shown:
                assert share == pytest.approx(target[cache.classes.index(class_name)], abs=0.006)


def test_pointing_at_a_class_shows_its_name_and_the_legend_hides_a_model(browser, report):
    with opened(browser, report) as page:
        page.query_selector("#per-class").scroll_into_view_if_needed()
        page.wait_for_selector("#per-class .main-svg")
        x, y, name = page.evaluate(
            """() => {
              const figure = document.getElementById("per-class"), trace = figure._fullData[0];
              const { xaxis, yaxis } = figure._fullLayout, box = figure.getBoundingClientRect();
              const at = 4;
              return [box.left + xaxis._offset + xaxis.d2p(trace.x[at]),
                box.top + yaxis._offset + yaxis.d2p(trace.y[at]), trace.customdata[at][0]];
            }"""
        )
        page.mouse.move(x - 30, y)
        page.mouse.move(x, y, steps=4)
        page.wait_for_selector("#per-class .hovertext")
        shown = page.text_content("#per-class .hoverlayer")
        assert shown.startswith(name) and "images" in shown and "%" in shown
        button = page.query_selector("button[data-figure=per-class][data-group=m1]")
        button.click()
        assert traces(page, "per-class", "visible")[2:] == [False, False]
        assert button.get_attribute("aria-pressed") == "false"
        button.click()
        assert False not in traces(page, "per-class", "visible")


def test_buttons_choose_axes_and_figures_and_the_theme_recolours_them(browser, report):
    with opened(browser, report) as page:
        drawn(page)
        page.click("button[data-figure=classes-0] >> text=linear")
        assert page.evaluate("document.getElementById('classes-0').layout.yaxis.type") == "linear"
        page.click("button[data-figure=training-curves] >> text=accuracy")
        titles = page.evaluate("document.getElementById('training-curves').layout.yaxis.title.text")
        assert titles == "accuracy (%)"
        before = traces(page, "classes-0", "marker")[1]["color"]
        page.click("#theme")
        assert page.get_attribute("html", "data-theme") == "dark"
        after = traces(page, "classes-0", "marker")[1]["color"]
        assert (before, after) == ("#0072b2", "#56b4e9")
        assert page.evaluate("document.getElementById('classes-0').layout.yaxis.type") == "linear"
        page.click("#classes-0 ~ details summary")
        page.wait_for_selector("#classes-0 ~ details tbody tr")
        rows = page.query_selector_all("#classes-0 ~ details tbody tr")
        assert [row.text_content() for row in rows][0].startswith(sorted_classes(page)[0][0])
        assert len(rows) == 10


def test_names_that_are_markup_do_nothing_and_a_second_cache_can_be_chosen(browser, digits, tmp_path):
    labels = np.repeat(np.arange(4), (120, 40, 10, 8))
    logits = caches.random_logits(len(labels), 2, 4)
    path = caches.write_cache(tmp_path / "evil<b>.h5", logits, labels=labels, classes=NAMES).path
    record = json.loads(digits.teacher.with_suffix(".json").read_text())
    names = [*NAMES, *record["classes"][4:]]
    (tmp_path / "evil.json").write_text(json.dumps(record | {"classes": names}))
    out = tmp_path / "evil.html"
    dive.write_report([tmp_path / "evil.json", path, digits.cache], out)
    with opened(browser, out) as page:
        drawn(page)
        page.click("#classes-0 ~ details summary")
        page.wait_for_selector("#classes-0 ~ details tbody tr")
        listed = [row.text_content() for row in page.query_selector_all("#classes-0 ~ details tbody th")]
        assert listed == list(NAMES)
        assert page.evaluate("window.hacked") is None
        assert page.query_selector("img[src=x]") is None
        page.select_option("#which", "1")
        assert not page.is_visible("#classes-0") and page.is_visible("#classes-1")
        page.wait_for_selector("#classes-1 .main-svg")
        assert page.query_selector_all(".of-cache[data-cache='1'] .target li")


def test_eight_thousand_classes_follow_the_slider(browser, tmp_path):
    classes, generator = 8142, np.random.default_rng(0)
    counts = np.geomspace(1000, 2, classes).astype(int)
    shots = {shot: 1.0 for shot in ("many", "medium", "few")}
    positions = [
        content.Position(ratio, generator.exponential(20, classes).tolist(), shots, 1.0, None)
        for ratio in np.geomspace(0.5, 50, 80).round(3).tolist()
    ]
    cache = content.CachePart(
        "c.h5", "teacher", (counts.sum(), 1, classes), [f"species {c}" for c in range(classes)],
        counts.tolist(), shots, False, None, positions, None, "", b"", "", [], "",
    )  # fmt: skip
    (tmp_path / "c.html").write_bytes(document.document(content.Page("large", [], [cache])))
    with opened(browser, tmp_path / "c.html") as page:
        drawn(page)
        page.focus("#ratio-0")
        first = traces(page, "classes-0", "y")[3][:50]
        milliseconds = page.evaluate(
            """async () => {
              const slider = document.getElementById("ratio-0"), begin = performance.now();
              for (let step = 0; step < 5; step++) {
                slider.value = 5 + step;
                slider.dispatchEvent(new Event("input"));
                await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
              }
              return (performance.now() - begin) / 5;
            }"""
        )
        assert traces(page, "classes-0", "y")[3][:50] != first
        assert milliseconds < 2000  # some 100 on a quiet machine


def test_without_scripts_the_page_says_so_and_its_tables_have_the_numbers(browser, report, digits):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert "the slider, the figures and the virtual examples of every class" in page.inner_text("noscript")
    summary = page.locator("#curves-0 + details summary")
    summary.click()
    shown = page.locator("#curves-0 + details").inner_text()
    (pair,) = chain.succeed("tune-tau", "--cache", digits.cache, "--tau", 3, "--power", 1, "--json").document[
        "pairs"
    ]
    (row,) = (line.split() for line in shown.splitlines() if line.split()[:1] == ["3"])
    assert row[1:4] == [f"{pair[shot]:.1f}" for shot in ("many", "medium", "few")]
    context.close()


def test_the_papers_figure_is_shown_when_it_is_asked_for(browser, report):
    with opened(browser, report, scheme="dark") as page:
        assert not page.is_visible(".paper")
        page.click(".cache > details summary")
        shown = page.query_selector(".paper")
        shown.scroll_into_view_if_needed()
        assert page.evaluate("image => image.decode().then(() => image.naturalWidth)", shown) > 500
        assert page.evaluate("getComputedStyle(document.querySelector('.paper')).backgroundColor") == (
            "rgb(255, 255, 255)"
        )


def test_it_is_printed_in_light_colours_without_its_controls(browser, report):
    with opened(browser, report, scheme="dark") as page:
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert not page.is_visible(".top") and not page.is_visible("#tau-0")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 33, 40)"
        figures = page.query_selector_all(".figure")
        assert all(figure.query_selector(".main-svg") for figure in figures)  # also those far below
        assert {figure.query_selector(".main-svg").get_attribute("width") for figure in figures} == {"640"}
        assert traces(page, "classes-0", "marker")[1]["color"] == "#0072b2"
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert traces(page, "classes-0", "marker")[1]["color"] == "#56b4e9"
        assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) >= 3
