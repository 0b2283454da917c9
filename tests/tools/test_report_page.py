"""The report's page: it is self-contained, keeps names as text, and works in a real browser."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tools.chromium import find_chromium, open_browser
from tests.tools.report_runs import HOSTILE, NAMES, even_grid, write_run
from tools.report.__main__ import main, report
from tools.report.page import inline_json, policy_hash

PROGRAM = find_chromium()
in_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium: the page is not tried in a browser")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def text(run) -> str:
    return report(run)


def data_of(text: str) -> dict:
    """The values in a page, read as a browser reads them."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_stands_alone(text):
    outside = [url for url in re.findall(r"https?://[^\s\"'`]+", text) if url != "http://www.w3.org/2000/svg"]
    assert outside == []
    assert not re.search(r"<(script|img|iframe|object)[^>]*\ssrc=|<link(?![^>]*href=\"data:)|@import|url\(", text)


def test_only_its_own_script_and_style_may_run(text):
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none';")
    assert f"script-src '{policy_hash(script)}'" in policy
    assert f"style-src '{policy_hash(style)}'" in policy


def test_names_stay_within_the_data(text):
    assert HOSTILE not in text
    assert text.count("</script>") == 2
    assert data_of(text)["names"] == NAMES
    assert data_of(text)["name"] == "a <i>run</i>"


def test_inline_json_is_the_same_value():
    value = {"<!--": ["</script>", "&lt;", "\u2028", 1.5, None]}
    assert json.loads(inline_json(value)) == value
    assert not set("<>&") & set(inline_json(value))
    with pytest.raises(ValueError, match=r"[Nn]a[Nn]|Out of range"):
        inline_json({"x": float("nan")})


def test_values_are_those_of_the_run(run, text):
    data = data_of(text)
    metrics = json.loads((run / "coarse" / "metrics.json").read_text())
    rows = data["classes"]
    assert [row["AP"]["official"]["coarse"] for row in rows] == pytest.approx(metrics["AP_official"], abs=1e-5)
    # 25 frames at 0.2 s, both ends included: class 0 at 0.6..2.0 and 3.0..3.4, class 1 at 1.6..4.4, class 2 from 4.0
    assert [row["positives"] for row in rows] == [3 * 11, 3 * 15, 3 * 5, 0]
    assert [row["chance"] for row in rows] == [0.33, 0.45, 0.15, 0]  # 4 videos with 25 frames each
    good = data["videos"][0]
    assert good["why"] == "Best prediction"
    assert good["classes"] == [0, 1, 2, 3]
    assert [frame for frame, _ in good["chosen"]] == pytest.approx(even_grid(), abs=0.05)


# --- in the browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(PROGRAM, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def html(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def page(browser, html):
    browser.look()
    browser.open(html)
    return browser


def texts(page, selector: str) -> list[str]:
    return page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.textContent)")


def attributes(page, selector: str, name: str) -> list[float]:
    """One attribute, in percent, of all elements that match a selector."""
    nodes = f"[...document.querySelectorAll({json.dumps(selector)})]"
    return [float(value.removesuffix("%")) for value in page.run(f"{nodes}.map((node) => node.getAttribute('{name}'))")]


def centre(page, selector: str, along: float = 0.5) -> tuple[float, float]:
    """Scroll an element into view. Returns a point at the fraction `along` of its width."""
    page.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{ block: 'center' }})")
    box = page.run(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
    return box["left"] + along * box["width"], box["top"] + box["height"] / 2


@in_browser
def test_loads_without_complaint_and_without_network(page, html):
    assert page.errors == []
    assert {url.split(",")[0] for url in page.requests} == {html.as_uri(), "data:image/jpeg;base64"}
    assert texts(page, "h2") == ["Results", "Videos", "Classes", "Training", "The run"]
    assert page.run("document.querySelectorAll('.chart').length") == 8
    assert page.run("document.querySelectorAll('.strip img').length") == 3 * 12
    assert page.run("[...document.images].every((image) => image.naturalWidth === 32)")


@in_browser
def test_names_are_text_in_the_page(page):
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('.hacked, h1 i').length") == 0
    assert texts(page, "h1") == ["a <i>run</i>"]
    assert HOSTILE in texts(page, ".label")


@in_browser
def test_the_policy_stops_other_scripts(page):
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 2\">'); 0")
    page.run("new Promise((done) => setTimeout(done, 50))")
    assert page.run("window.hacked") is None
    assert any("Content Security Policy" in error for error in page.errors)


@in_browser
def test_sorting(page):
    def column(number: int) -> list[str]:
        return texts(page, f".classes tbody tr > :nth-child({number})")

    def sort(key: str) -> list[str | None]:
        page.run(f"document.querySelector('.classes button[data-key={key}]').click()")
        return page.run("[...document.querySelectorAll('.classes thead th')].map((th) => th.getAttribute('aria-sort'))")

    coarse = column(5)
    numbers = [float(value) for value in coarse[:-1]]
    assert numbers == sorted(numbers, reverse=True)
    assert coarse[-1] == "\u2013"  # undefined, last in both orders
    assert sort("coarse")[4] == "ascending"
    assert column(5) == [*reversed(coarse[:-1]), "\u2013"]
    assert sort("positives")[1] == "descending"
    assert column(2) == ["45", "33", "15", "0"]
    sort("name")
    assert [name.split(" positives")[0][:5] for name in column(1)] == sorted(name[:5] for name in NAMES)
    assert page.errors == []


@in_browser
def test_search_and_rule(page, text):
    page.run("document.querySelector('input[type=search]').value = 'RUN'")
    page.run("document.querySelector('input[type=search]').dispatchEvent(new Event('input'))")
    assert texts(page, "[role=status]") == ["1 of 4 classes"]
    page.run("document.querySelector('input[value=released]').click()")
    released = {row["name"]: row["AP"]["released"]["coarse"] for row in data_of(text)["classes"]}
    shown = texts(page, ".classes tbody td:nth-child(5)")
    assert float(shown[-1]) == pytest.approx(100 * released["running & jumping"], abs=0.06)


@in_browser
def test_the_pointer_reads_class_time_and_score(page, text):
    page.point(*centre(page, ".row", along=0.401))  # the first row, official frame 11 of 25 at 2 s
    (tip,) = texts(page, "#tip")
    video = data_of(text)["videos"][0]
    assert tip.startswith("sittingtime2.00")
    assert "ground truth0.50 to 2.10" in tip
    coarse, fine = (video["scores"][stage]["rows"][0][10] for stage in ("coarse", "fine"))
    assert f"Coarse-Fine{coarse:.3f}, frame 11 of 25Fine stream{fine:.3f}, frame 11 of 25" in tip
    assert page.run("getComputedStyle(document.querySelector('.hair')).opacity") == "0.7"


@in_browser
def test_the_keyboard_reads_the_same(page):
    centre(page, ".row")
    page.run("document.querySelector('.strip').focus()")
    page.press("Tab")
    page.press("Home")
    page.press("ArrowRight")
    value = page.run("document.activeElement.getAttribute('aria-valuetext')")
    assert value.startswith("sitting, time 0.20")
    assert page.run("document.querySelector('#tip').hidden") is False
    page.press("Escape")
    assert page.run("document.querySelector('#tip').hidden") is True


@in_browser
def test_every_chart_can_be_read(page):
    spoken = page.run("[...document.querySelectorAll('.plot')].map((plot) => plot.getAttribute('aria-valuetext'))")
    assert spoken[:2] == ["Epoch 0.5, step 1, training 1.000", "Epoch 0.5, step 1, training clips 5.0"]
    assert spoken[3] == "Up to epoch 0.5, seconds per step, waiting for data 0.250, computing 0.750"
    assert "waiting for data, 25.0% in total" in texts(page, ".key span")
    assert attributes(page, ".plot .best", "x1")[0] == pytest.approx(100 * 4 / 6, abs=0.01)


@in_browser
def test_one_time_axis(page, text):
    """Grid Pool's marks, actions and the coarse frame under the pointer are at their times."""
    video = data_of(text)["videos"][0]
    marks = attributes(page, ".video:first-of-type .mark", "x1")
    assert sorted(marks) == pytest.approx([100 * time / 5 for _, time in video["chosen"]], abs=0.01)
    assert attributes(page, ".row .zone", "x")[:2] == [10, 60]
    assert attributes(page, ".row .zone", "width")[:2] == [32, 10]
    page.point(*centre(page, ".chosen", along=0.0))
    assert "Coarse frame 1 of 8" in texts(page, "#tip")[0]
    assert page.run("document.querySelectorAll('.video:first-of-type .gauss.on').length") == 1


@in_browser
def test_screenshots_are_not_blank_and_follow_the_colour_scheme(page):
    def pixels() -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), float)

    centre(page, ".video")
    light = pixels()
    assert light.shape == (900, 1280)
    assert len(np.unique(light)) > 50
    assert (np.abs(light - np.median(light)) > 20).mean() > 0.05
    page.look(dark=True)
    assert np.median(pixels()) < 60 < 200 < np.median(light)


@in_browser
def test_fits_a_phone_and_paper(page):
    page.look(width=360, height=800)
    assert page.run("document.documentElement.scrollWidth") == 360
    page.look(width=700, media="print")
    assert page.run("document.documentElement.scrollWidth") <= 700
    assert page.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
    assert page.run("getComputedStyle(document.querySelector('.classes')).maxHeight") == "none"


def first_lines(run: Path, count: int) -> None:
    """Stage 3 before its first validation."""
    coarse = run / "coarse"
    log = (coarse / "metrics.jsonl").read_text().splitlines(keepends=True)
    (coarse / "metrics.jsonl").write_text("".join(log[:count]))
    (coarse / "metrics.json").unlink()
    (coarse / "checkpoints" / "best.pt").unlink()
    shutil.rmtree(coarse / "predictions")


def nothing_but(run: Path, *names: str) -> None:
    """Delete all other files of both stages."""
    for stage in ("fine", "coarse"):
        for path in (run / stage).iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut_short(run: Path) -> None:
    log = run / "coarse" / "metrics.jsonl"
    log.write_text(log.read_text()[:-9])


UNFINISHED = {  # changes that make the run unfinished, and the resulting text of its page
    "stage 1 alone": (lambda run: shutil.rmtree(run / "coarse"), "finished after 6 epochs"),
    "before a validation": (lambda run: first_lines(run, 2), "1 of at most 6 epochs"),
    "one line": (lambda run: first_lines(run, 1), "0.5 of at most 6 epochs"),
    "just started": (lambda run: nothing_but(run, "config.yaml"), "No data yet"),
    "killed while writing": (cut_short, "its last line (line 15) is incomplete"),
    "only evaluated": (lambda run: nothing_but(run, "metrics.json", "predictions"), "no config.yaml"),
    "empty": (nothing_but, "No validation yet"),
}


@in_browser
@pytest.mark.parametrize("state", UNFINISHED)
def test_unfinished_runs(browser, run, tmp_path, state):
    young = shutil.copytree(run, tmp_path / "run")
    spoil, said = UNFINISHED[state]
    spoil(young)
    assert main([str(young)]) == 0
    browser.look()
    browser.open(young / "report.html")
    assert browser.errors == []
    assert said in browser.run("document.body.innerText")
