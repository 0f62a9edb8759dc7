"""report.html and its gallery: self-contained, escaped, readable from a keyboard."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import constant, groups_of, make_report, write_predictions, write_run

import data
from analysis import page as report_page
from analysis.formatting import display_name
from analysis.groups import predictions_of

SYNTHETIC = ["--dataset", "synthetic", "--test_size", 30]
AVERAGES = {
    "raw": 0.75, "raw/recomputed": 0.76, "ema/0.9/recomputed": 0.7, "ema/0.998/recomputed": 0.78,
    "ema/0.9995/recomputed": 0.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def split():
    return data.load("synthetic", None, None, 30).test


def wrong(classes):
    return (classes + 1) % 10


def gallery_of(*paths, data_dir=None):
    (group,) = groups_of(*paths)
    return report_page.make_gallery(group, *predictions_of(group), data_dir)


def write_synthetic(path, split, *argv, **config):
    """A run whose primary average fixes image 1 and breaks image 2 of its baseline."""
    write_run(path, *SYNTHETIC, *argv, classifiers=constant(AVERAGES), **config)
    labels, baseline, average = split.labels, split.labels.copy(), split.labels.copy()
    baseline[1], average[2] = wrong(labels[1]), wrong(labels[2])
    answers = {"raw": wrong(labels), "raw/recomputed": baseline, "ema/0.9/recomputed": average}
    return write_predictions(path, labels, answers)


def test_gallery_shows_fixed_and_broken_images(tmp_path, split):
    gallery = gallery_of(write_synthetic(tmp_path / "run", split))
    (fixed,), (broken,) = gallery.fixed, gallery.broken
    names = [f"class {label}" for label in split.labels]
    wrong_names = [f"class {label}" for label in wrong(split.labels)]
    np.testing.assert_array_equal(fixed.pop("image"), split.images[1])
    np.testing.assert_array_equal(broken.pop("image"), split.images[2])
    assert list(fixed.values()) == [names[1], wrong_names[1], names[1]]  # truth, baseline, average
    assert list(broken.values()) == [names[2], names[2], wrong_names[2]]
    assert display_name("ema/0.9/recomputed") in gallery.sentence and display_name("raw/recomputed") in gallery.sentence


def test_gallery_of_the_second_run(tmp_path, split):
    run = write_run(tmp_path / "a", *SYNTHETIC)
    assert str(run) in gallery_of(run).sentence
    write_run(tmp_path / "b", *SYNTHETIC, "--seed", 1)
    answers = {"raw": wrong(split.labels), "ema/0.998/raw": split.labels}
    write_predictions(tmp_path / "b", split.labels, answers)
    gallery = gallery_of(tmp_path / "a", tmp_path / "b")
    assert str(tmp_path / "b") in gallery.sentence and "30" in gallery.sentence
    assert len(gallery.fixed) == report_page.TILES and not gallery.broken


def test_gallery_reads_data_dir_without_download(tmp_path, tiny_cifar10):
    labels = tiny_cifar10.labels["test"]
    run = write_run(tmp_path / "run", "--data_dir", tmp_path / "elsewhere")
    write_predictions(run, labels, {"raw": wrong(labels), "ema/0.998/raw": labels})
    gallery = gallery_of(run, data_dir=str(tiny_cifar10.directory))
    assert [tile["truth"] for tile in gallery.fixed] == [
        data.DATASETS["cifar10"].class_names[label] for label in labels
    ]
    np.testing.assert_array_equal([tile["image"] for tile in gallery.fixed], tiny_cifar10.images["test"])
    gallery = gallery_of(run)
    assert str(tmp_path / "elsewhere") in gallery.sentence and not gallery.fixed
    assert not (tmp_path / "elsewhere").exists()


def test_gallery_refuses_other_test_images(tmp_path, split):
    run = write_run(tmp_path / "run", *SYNTHETIC)
    write_predictions(run, wrong(split.labels), {"raw": split.labels, "ema/0.998/raw": wrong(split.labels)})
    gallery = gallery_of(run)
    assert not gallery.fixed and not gallery.broken


class Page(html.parser.HTMLParser):
    """Collects the sources that a browser would load, the tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path, split):
    """report.html of three seeds, two with predictions, in a directory whose name needs escaping."""
    for seed in range(3):
        path = tmp_path / "<script>&" / f"seed-{seed}"
        write_synthetic(path, split, "--seed", seed, device="<b>" + "G" * 80)
    (path / "predictions.npz").unlink()
    make_report(tmp_path / "<script>&", "--output", tmp_path / "out")
    return tmp_path / "out" / "report.html"


def test_page_is_self_contained(page):
    text = page.read_text()
    parsed = Page(text)
    assert len(parsed.all("img")) == 3 + 2 and len(parsed.all("table")) == 4
    assert all(source.startswith("data:") for source in parsed.sources)
    assert not re.search(r"@import|url\(", text)
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f"{page.parents[1] / '<script>&' / 'seed-2'}" in parsed.text  # escaped
    assert not parsed.all("script") and not parsed.all("b") and "<b>GGG" in parsed.text


def test_page_is_accessible(page):
    parsed = Page(page.read_text())
    assert parsed.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in parsed.all("img"))
    assert {cell["scope"] for cell in parsed.all("th")} == {"col", "row"}
    scrolling = [box for box in parsed.all("div") if box.get("class") == "scroll"]
    assert len(scrolling) == len(parsed.all("table"))
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in scrolling)


def test_page_shows_images_and_figures(page, split):
    text = page.read_text()
    tiles = re.findall(r"data:image/png;base64,([^\"]+)", text)
    decoded = [np.array(Image.open(io.BytesIO(base64.b64decode(tile)))) for tile in tiles]
    np.testing.assert_array_equal(decoded, split.images[[1, 2]])
    figures = [base64.b64decode(figure) for figure in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)]
    assert figures == [(page.parent / f"{name}.svg").read_bytes() for name in ("accuracy", "gain", "horizon")]


def test_same_runs_give_same_bytes(page):
    before = page.read_bytes()
    make_report(page.parents[1] / "<script>&", "--output", page.parent)
    assert page.read_bytes() == before
