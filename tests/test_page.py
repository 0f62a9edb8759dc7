"""report.html: self-contained, escaped, readable from a keyboard, and whole in a real browser."""

import base64
import html
import html.parser
import io
import json
import re
import shutil
import subprocess

import jinja2
import matplotlib.image
import numpy as np
import pytest
from support.finished_runs import EMA_ANSWERS, RAW_ANSWERS, level, stand_in_images, write_predictions, write_run

import report
from analysis import page as report_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(html.parser.HTMLParser):
    """Collects everything that a browser would load, the tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data

    def count(self, tag):
        return len(self.all(tag))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def images_of_labels(monkeypatch, random):
    return stand_in_images(monkeypatch, random)


@pytest.fixture
def page(tmp_path, images_of_labels):
    """report.html of three seeds with predictions, in a directory whose name HTML would misread."""
    accuracies = {
        "raw": 0.75, "raw/recomputed": 0.76, "ema/0.9/raw": 0.7, "ema/0.998/raw": 0.78, "ema/0.9995/recomputed": 0.6,
    }  # fmt: skip
    for seed in range(3):
        path = tmp_path / "<script>&" / f"seed-{seed}"
        write_run(path, "--seed", seed, classifiers=level(accuracies), device="<b>" + "G" * 80)
        write_predictions(path, **({"ema/0.9/raw": EMA_ANSWERS, "ema/0.998/raw": RAW_ANSWERS} if seed < 2 else {}))
    report.main([str(tmp_path / "<script>&"), "--output", str(tmp_path / "out")])
    return tmp_path / "out" / "report.html"


def test_the_page_holds_everything_and_loads_nothing(page):
    text = page.read_text()
    parsed = Page(text)
    assert parsed.count("img") == 3 + 2 and parsed.count("table") == 5
    assert all(source.startswith("data:") for source in parsed.sources)
    assert not re.search(r"@import|url\(", text)
    assert {"accuracy.png", "gain.svg", "horizon.png"} <= {file.name for file in page.parent.iterdir()}


def test_what_runs_and_paths_hold_is_text_on_the_page(page):
    parsed = Page(page.read_text())
    assert not parsed.count("script") and not parsed.count("b")
    assert "<script>&" in parsed.text and "<b>GGG" in parsed.text
    assert "&lt;script&gt;&amp;" in page.read_text()


def test_the_policy_forbids_the_network(page):
    (policy,) = [meta["content"] for meta in Page(page.read_text()).all("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_eyes_are_not_needed(page):
    parsed = Page(page.read_text())
    assert parsed.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in parsed.all("img"))
    assert {cell["scope"] for cell in parsed.all("th")} == {"col", "row"}
    scrolling = [box for box in parsed.all("div") if box.get("class") == "scroll"]
    assert len(scrolling) == parsed.count("table")
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in scrolling)


def test_columns_of_words_stand_left_and_numbers_right(page):
    text = page.read_text()
    assert '<th scope="col">gain, points</th>' in text and '<th scope="col" class="text">against</th>' in text
    assert '<td class="text">raw/recomputed</td>' in text and "<td>75.00</td>" in text


def test_the_page_names_the_baseline_and_who_is_left_out(page):
    parsed = Page(page.read_text())
    assert "gain over raw, points" in parsed.text
    assert "the classifier ema/0.9/raw is right on 1 test images that raw gets wrong" in parsed.text
    assert "raw: bird" in parsed.text and "EMA: automobile" in parsed.text
    assert "Beyond accuracy, after epoch 3, mean of 2 seeds (0, 1)" in parsed.text
    assert "seed-2/predictions.npz lacks an array" in parsed.text


def test_an_image_keeps_its_pixels_on_the_page(page, images_of_labels):
    tiles = re.findall(r"data:image/png;base64,([^\"]+)", page.read_text())
    decoded = [matplotlib.image.imread(io.BytesIO(base64.b64decode(tile)))[..., :3] for tile in tiles]
    np.testing.assert_array_equal(np.round(255 * np.array(decoded)), images_of_labels[[1, 2]])


def test_a_figure_on_the_page_is_its_file(page):
    figures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page.read_text())
    files = [(page.parent / f"{name}.svg").read_bytes() for name in ("accuracy", "gain", "horizon")]
    assert [base64.b64decode(figure) for figure in figures] == files


def test_the_same_runs_give_the_same_bytes(page):
    before = page.read_bytes()
    report.main([str(page.parent.parent / "<script>&"), "--output", str(page.parent)])
    assert page.read_bytes() == before


def test_a_name_that_the_template_misspells_is_no_empty_cell():
    template = report_page.environment().from_string("<td>{{ section.titel }}</td>")
    with pytest.raises(jinja2.UndefinedError, match="titel"):
        template.render(section=report_page.Section("title", [], [], [], None, None, None))


# Runs inside the page. A window cannot be narrower than 500 pixels, a frame can.
PROBE = """<script>addEventListener("load", () => { parent.document.title = JSON.stringify({
  width: innerWidth,
  page: document.documentElement.scrollWidth,
  images: document.images.length,
  missing: [...document.images].filter((image) => !image.naturalWidth).length,
  letters: Math.min(...[...document.querySelectorAll("p, td, th, figcaption")].map(
    (element) => parseFloat(getComputedStyle(element).fontSize))),
}); });</script></body>"""


def browse(page, width, profile):
    """What PROBE sees on the page in a headless browser, `width` pixels wide, and the lines of its console."""
    allowed = page.read_text().replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    probed = html.escape(allowed.replace("</body>", PROBE))
    frame = page.with_name("frame.html")
    frame.write_text(f'<meta charset="utf-8"><iframe width="{width}" height="900" frameborder="0" srcdoc="{probed}">')
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    flags += " disable-component-update disable-sync dump-dom enable-logging=stderr window-size=1500,1000"
    command = [BROWSER, *(f"--{flag}" for flag in flags.split()), f"--user-data-dir={profile}", frame.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = json.loads(html.unescape(re.search("<title>(.*?)</title>", result.stdout)[1]))
    return seen, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(not BROWSER, reason="no chromium on PATH")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_real_browser_shows_the_page_whole(page, tmp_path, width):
    seen, console = browse(page, width, tmp_path / "profile")
    assert not console
    assert seen["width"] == width and seen["page"] <= width  # tables scroll in their boxes, the page does not
    assert seen["images"] == 5 and seen["missing"] == 0
    assert seen["letters"] >= 14


@pytest.mark.skipif(not BROWSER, reason="no chromium on PATH")
def test_the_browser_test_can_fail(page, tmp_path):
    harm = '<img src="data:image/png;base64,AAAA"><img src="https://example.com/x.png"><p style="width:99em">wide</p>'
    page.write_text(page.read_text().replace("</main>", harm + "</main>"))
    seen, console = browse(page, 400, tmp_path / "profile")
    assert seen["missing"] == 2 and seen["page"] > 400 and "example.com" in " ".join(console)
