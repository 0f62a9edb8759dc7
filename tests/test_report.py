"""The report: statistics against scipy, grouping, bad input, figures, gallery, and the page in a real browser."""

import base64
import html
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import flags as command_line
import matplotlib.image
import numpy as np
import pytest
import scipy.stats
from errors import UserError

import data
import report
from analysis import figures as report_figures
from analysis import finished, groups, statistics, tables
from analysis import gallery as report_gallery
from analysis import page as report_page

ROOT = Path(__file__).parent.parent
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RAW, EMA = [0.60, 0.70, 0.75], [0.20, 0.71, 0.78]


def write_run(path, *argv, raw=RAW, ema=EMA, classifiers=None, epochs=None, **config):
    """A run directory as train.py leaves it, with the flags of a command line; classifiers: label to final accuracy."""
    path.mkdir(parents=True)
    flags = command_line.build_parser().parse_args(["--epochs", str(len(raw)), *map(str, argv)])
    made = {"precision": "float32", "device": "CPU", "versions": {"numpy": "2.0.0"}, "git_commit": "c0ffee"}
    (path / "config.json").write_text(json.dumps({"flags": vars(flags), **made, **config}))
    with (path / "metrics.jsonl").open("w") as file:
        for epoch, one, other in zip(epochs or range(1, len(raw) + 1), raw, ema, strict=True):
            both = classifiers or {"raw": one, "ema/0.998/raw": other}
            row = {"epoch": epoch, "step": epoch, "raw_accuracy": one, "ema_accuracy": other, "classifiers": both}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def seeds(tmp_path, random):
    """A directory of four runs that differ by seed, and their accuracies, raw and EMA [4, 3]."""
    raw, ema = random.uniform(0.5, 0.9, (2, 4, 3))
    for seed in range(4):
        write_run(tmp_path / "seeds" / f"seed-{seed}", "--seed", seed, raw=raw[seed].tolist(), ema=ema[seed].tolist())
    return tmp_path / "seeds", raw, ema


def groups_of(*paths):
    return groups.make_groups([finished.read_run(path) for path in finished.expand(paths)])


# ---------------------------------------------------------------------------------------------------------------
# Statistics


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_t_quantile_equals_scipy(confidence):
    freedoms = np.arange(1, 201)
    ours = [statistics.t_quantile(int(freedom), confidence) for freedom in freedoms]
    np.testing.assert_allclose(ours, scipy.stats.t.ppf((1 + confidence) / 2, freedoms), rtol=1e-9)


def test_mean_interval_equals_scipy(random):
    values = random.normal(size=(5, 7))
    mean, half = statistics.mean_interval(values)
    expected = scipy.stats.ttest_1samp(values, 0, axis=0).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half, mean + half], expected, rtol=1e-9)


def test_a_single_seed_has_no_interval():
    mean, half = statistics.mean_interval([[0.5, 0.7]])
    assert mean.tolist() == [0.5, 0.7] and half is None


def test_the_summary_is_that_of_scipy_and_the_gain_is_paired(seeds):
    directory, raw, ema = seeds
    (group,) = groups_of(directory)
    table = tables.summary_table(group)
    assert "4 seeds (0, 1, 2, 3)" in table.caption and "epoch 3" in table.caption
    raw, ema = 100 * raw[:, -1], 100 * ema[:, -1]
    expected = [
        (raw.mean(), *scipy.stats.ttest_1samp(raw, 0).confidence_interval(0.95)),
        (ema.mean(), *scipy.stats.ttest_1samp(ema, 0).confidence_interval(0.95)),
        ((ema - raw).mean(), *scipy.stats.ttest_rel(ema, raw).confidence_interval(0.95)),
    ]
    found = [[float(text) for text in re.findall(r"[-+]?[\d.]+", " ".join(row[1:]))] for row in table.rows]
    np.testing.assert_allclose(found, expected, atol=0.00501)


def test_the_gain_at_equal_statistics_is_taken_against_the_raw_network_with_the_same(tmp_path):
    accuracies = {
        "raw": 0.70, "raw/recomputed": 0.75,
        "ema/0.9/raw": 0.72, "ema/0.9/averaged": 0.76, "ema/0.9/recomputed": 0.79,
    }  # fmt: skip
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=accuracies))
    table = tables.classifier_table(group)
    over_raw = {row[0]: row[3] for row in table.rows}
    fair = {row[0]: row[5] for row in table.rows}
    assert list(over_raw.values()) == ["-", "+5.00", "+2.00", "+6.00", "+9.00"]
    assert list(fair.values()) == ["-", "-", "+2.00", "-", "+4.00"]


def test_raw_and_one_ema_need_no_second_table(tmp_path):
    (group,) = groups_of(write_run(tmp_path / "run"))
    assert tables.classifier_table(group) is None


def test_text_columns_line_up():
    table = tables.Table("what", ["", "mean"], [["raw", "7.00"], ["longer", "+12.00"]])
    assert tables.as_text(table) == "what\n          mean\nraw       7.00\nlonger  +12.00"


# ---------------------------------------------------------------------------------------------------------------
# Grouping


def test_what_does_not_shape_the_numbers_does_not_separate_runs(tmp_path):
    write_run(tmp_path / "a", "--seed", 2, "--run_dir", "a", "--data_dir", "x", "--device", "cpu")
    write_run(tmp_path / "b", "--seed", 1, "--run_dir", "b", "--eval_every", 1)
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    assert [run.flags.seed for run in group.runs] == [1, 2]


def test_what_shapes_the_numbers_separates_runs_and_names_their_groups(tmp_path):
    write_run(tmp_path / "a", "--width", 0.5, "--seed", 1)
    write_run(tmp_path / "b", "--width", 0.25)
    write_run(tmp_path / "c", "--width", 0.5)
    found = groups_of(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert [group.title for group in found] == ["width 0.5", "width 0.25"]
    assert [len(group.runs) for group in found] == [2, 1]


def test_the_precision_used_separates_runs_that_asked_for_auto(tmp_path):
    write_run(tmp_path / "a", precision="float32")
    write_run(tmp_path / "b", "--seed", 1, precision="bfloat16")
    assert [group.title for group in groups_of(tmp_path / "a", tmp_path / "b")] == [
        "precision float32",
        "precision bfloat16",
    ]


def test_a_directory_named_beside_its_own_runs_counts_them_once(seeds):
    directory, _, _ = seeds
    (group,) = groups_of(directory, directory / "seed-1")
    assert len(group.runs) == 4


def test_runs_of_different_length_are_cut_to_what_they_share_and_it_says_so(tmp_path):
    write_run(tmp_path / "long", "--seed", 1, raw=[0.5, 0.6, 0.7], ema=[0.5, 0.6, 0.7])
    write_run(tmp_path / "short", raw=[0.1, 0.2], ema=[0.3, 0.4])
    (group,) = groups_of(tmp_path / "long", tmp_path / "short")
    assert group.epochs == [1, 2]
    assert group.raw.tolist() == [[0.1, 0.2], [0.5, 0.6]]
    assert [accuracy.tolist() for accuracy in group.classifiers.values()] == [[0.2, 0.6], [0.4, 0.6]]
    (note,) = group.notes
    assert "long at epoch 3" in note and "short at epoch 2" in note and "cut to the 2" in note


def test_a_run_that_stopped_early_and_a_classifier_that_only_some_have_are_told(tmp_path):
    write_run(tmp_path / "a", "--epochs", 9)
    both = {"raw": 0.75, "ema/0.998/raw": 0.78}
    write_run(tmp_path / "b", "--epochs", 9, "--seed", 1, classifiers={**both, "ema/0.9/raw": 0.7}, git_commit="bad")
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    told = " ".join(group.notes)
    assert "stopped at epoch 3 of 9" in told and "ema/0.9/raw" in told and "different commits" in told
    assert list(group.classifiers) == ["raw", "ema/0.998/raw"]


def test_rows_without_classifiers_are_enough(tmp_path):
    path = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps({key: row[key] for key in row if key != "classifiers"}) + "\n" for row in rows)
    )
    (group,) = groups_of(path)
    assert group.ema[0].tolist() == EMA and group.ema_label is None


# ---------------------------------------------------------------------------------------------------------------
# Bad input


def test_a_torn_last_line_is_what_a_crash_leaves(tmp_path):
    path = write_run(tmp_path / "run")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "raw_acc')
    assert len(finished.read_run(path).rows) == 3


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{torn\n", "damaged"),
        ("[1]\n", "damaged"),
        ('{"epoch": 1}\n', "raw_accuracy"),
        ('{"epoch": 1, "raw_accuracy": NaN, "ema_accuracy": 0.5}\n', "no fraction"),
        ('{"epoch": 1, "raw_accuracy": 75.0, "ema_accuracy": 0.5}\n', "no fraction"),
        ('{"epoch": 1, "raw_accuracy": "0.5", "ema_accuracy": 0.5}\n', "damaged"),
        ('{"epoch": "1", "raw_accuracy": 0.5, "ema_accuracy": 0.5}\n', "epoch '1'"),
        ('{"epoch": 1, "raw_accuracy": 0.5, "ema_accuracy": 0.5, "classifiers": [1]}\n', "damaged"),
        ("\udcff\udcfe\n", "damaged"),
    ],
)
def test_damaged_metrics_are_named(tmp_path, line, what):
    path = write_run(tmp_path / "run")
    file = path / "metrics.jsonl"
    file.write_bytes(line.encode(errors="surrogateescape") + file.read_bytes())
    with pytest.raises(UserError, match=what) as error:
        finished.read_run(path)
    assert str(file) in str(error.value)


def test_a_run_without_an_evaluation_is_named(tmp_path):
    path = write_run(tmp_path / "run")
    (path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=f"{path} holds no evaluation yet"):
        groups_of(path)
    (path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=f"{path} holds no evaluation yet"):
        groups_of(path)


def test_a_failed_seed_is_named_not_passed_over(seeds):
    directory, _, _ = seeds
    (directory / "seed-4").mkdir()
    with pytest.raises(UserError, match="seed-4 holds no run"):
        groups_of(directory)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"flags": {"width": -1}}', '{"flags": {}, "versions": 1}'])
def test_a_damaged_config_is_named(tmp_path, content):
    path = write_run(tmp_path / "run")
    (path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"run/config\.json is damaged"):
        groups_of(path)


def test_one_seed_may_not_count_twice(tmp_path):
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="seed 0"):
        groups_of(tmp_path / "a", tmp_path / "b")


def test_runs_with_no_epoch_in_common_are_refused(tmp_path):
    write_run(tmp_path / "a", raw=[0.5], ema=[0.5], epochs=[2])
    write_run(tmp_path / "b", "--seed", 1, raw=[0.5], ema=[0.5], epochs=[3])
    with pytest.raises(UserError, match="no epoch was evaluated in all of"):
        groups_of(tmp_path / "a", tmp_path / "b")


def test_the_command_fails_in_one_sentence(run, tmp_path):
    for arguments, status in (([], 2), ([tmp_path, "--colour"], 2), ([tmp_path / "missing"], 1), ([tmp_path], 1)):
        result = run("report.py", *arguments)
        assert result.returncode == status
        assert "Traceback" not in result.stderr and result.stderr.splitlines()[-1].startswith("report.py: ")
        assert not result.stdout


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--output"):
        report.main([str(tmp_path / "run"), "--output", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine"


# ---------------------------------------------------------------------------------------------------------------
# Figures


def test_the_curves_are_the_means_and_bands_over_seeds(seeds):
    _, raw, ema = seeds
    axes = report_figures.accuracy_figure([1, 2, 3], 100 * raw, 100 * ema).axes[0]
    bold = [line for line in axes.lines if line.get_linewidth() == 2]
    np.testing.assert_allclose([line.get_ydata() for line in bold], [100 * raw.mean(0), 100 * ema.mean(0)])
    low, high = scipy.stats.ttest_1samp(100 * raw, 0, axis=0).confidence_interval(0.95)
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [low.min(), high.max()])
    assert len(axes.lines) == 2 + 2 * 4  # and each seed


def test_a_single_seed_is_drawn_without_a_band_and_zero_is_in_the_picture():
    axes = report_figures.gain_figure([1, 2], np.array([[3.0, 4.0]])).axes[0]
    assert not axes.collections
    assert axes.get_ylim()[0] < 0 < 4 < axes.get_ylim()[1]


def test_decays_are_drawn_where_there_are_several():
    one, many = {"raw": 1, "ema/0.998/raw": 2}, {"raw": 1, "ema/0.9/raw": 2, "ema/0.99/raw": 3, "ema/power/raw": 4}
    assert report_figures.decays(one) == {}
    assert report_figures.decays(many) == {"raw": {"0.9": 2, "0.99": 3}}


def test_every_figure_is_written_as_png_and_svg(tmp_path):
    accuracies = {"raw": 0.75, "ema/0.9/raw": 0.7, "ema/0.998/raw": 0.78, "ema/0.9995/raw": 0.6}
    write_run(tmp_path / "a", classifiers=accuracies)
    write_run(tmp_path / "b", "--seed", 1, classifiers=accuracies)
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    figures = report_figures.draw(group, tmp_path, "2-")
    assert list(figures) == ["accuracy", "gain", "decay"]
    for name, (_, svg) in figures.items():
        image = matplotlib.image.imread(tmp_path / f"2-{name}.png")
        assert image.shape[1] >= 800 and image.std() > 0.01
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert (tmp_path / f"2-{name}.svg").read_text() == svg


# ---------------------------------------------------------------------------------------------------------------
# Gallery

LABELS = np.array([3, 1, 4, 1, 5])
RAW_ANSWERS, EMA_ANSWERS = np.array([3, 2, 4, 1, 0]), np.array([3, 1, 9, 1, 7])  # EMA mends 1 and breaks 2


def write_predictions(path, labels=LABELS, raw=RAW_ANSWERS, ema=EMA_ANSWERS):
    scores = np.eye(10, dtype=np.float32)
    np.savez(path / "predictions.npz", **{"labels": labels, "raw": scores[raw], "ema/0.998/raw": scores[ema]})
    return path


@pytest.fixture
def images_of_labels(monkeypatch, random):
    """Stands in for the data set: random images of LABELS."""
    split = data.Split(random.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8), LABELS)
    monkeypatch.setattr(report_gallery, "load_test_split", lambda *arguments: split)
    return split.images


def gallery_of(path, data_dir=None):
    (group,) = groups_of(path)
    return report_gallery.gallery(group, data_dir)


def test_the_gallery_shows_what_ema_fixed_and_broke(tmp_path, images_of_labels):
    gallery = gallery_of(write_predictions(write_run(tmp_path / "run")))
    (fixed,), (broken,) = gallery.fixed, gallery.broken
    assert (fixed.truth, fixed.raw, fixed.ema) == ("automobile", "bird", "automobile")
    assert (broken.truth, broken.raw, broken.ema) == ("deer", "deer", "truck")
    np.testing.assert_array_equal(fixed.image, images_of_labels[1])
    np.testing.assert_array_equal(broken.image, images_of_labels[2])
    assert "right on 1 test images" in gallery.sentence and "wrong on 1" in gallery.sentence


def test_the_gallery_reads_cifar10_where_data_dir_says(tmp_path, tiny_cifar10):
    labels = tiny_cifar10.labels["test"]
    run_dir = write_run(tmp_path / "run", "--data_dir", "elsewhere")
    write_predictions(run_dir, labels, (labels + 1) % 10, labels)
    gallery = gallery_of(run_dir, str(tiny_cifar10.directory))
    assert [tile.truth for tile in gallery.fixed] == [data.CLASSES[label] for label in labels]
    np.testing.assert_array_equal([tile.image for tile in gallery.fixed], tiny_cifar10.images["test"])


def test_a_synthetic_run_needs_no_directory(tmp_path):
    labels = data.load("synthetic", test_size=30).test.labels
    run_dir = write_run(tmp_path / "run", "--dataset", "synthetic", "--test_size", 30)
    gallery = gallery_of(write_predictions(run_dir, labels, (labels + 1) % 10, labels))
    assert len(gallery.fixed) == report_gallery.TILES and not gallery.broken
    assert gallery.fixed[0].truth == f"class {labels[0]}"


def test_without_predictions_or_data_one_sentence_says_so(tmp_path, monkeypatch):
    run_dir = write_run(tmp_path / "run")
    assert "predictions.npz" in gallery_of(run_dir).sentence
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("would download the data set"))
    gallery = gallery_of(write_predictions(run_dir), str(tmp_path))
    assert "CIFAR-10 is not in" in gallery.sentence and not gallery.fixed


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({}, "lacks an array"),
        ({"labels": LABELS, "raw": np.zeros((5, 10), np.float32)}, "lacks an array"),
        ({"labels": LABELS, "raw": np.zeros((5, 9)), "ema/0.998/raw": np.zeros((5, 9))}, "damaged"),
        ({"labels": LABELS / 2, "raw": np.zeros((5, 10)), "ema/0.998/raw": np.zeros((5, 10))}, "labels"),
        ({"labels": LABELS, "raw": np.full((5, 10), np.nan), "ema/0.998/raw": np.zeros((5, 10))}, "not finite"),
        ({"labels": np.array([{}, {}]), "raw": np.zeros((2, 10)), "ema/0.998/raw": np.zeros((2, 10))}, "damaged"),
        ({"labels": LABELS[:4], "raw": np.zeros((4, 10)), "ema/0.998/raw": np.zeros((4, 10))}, "other test images"),
    ],
)
def test_predictions_that_cannot_be_used_are_named(tmp_path, images_of_labels, arrays, what):
    run_dir = write_run(tmp_path / "run")
    np.savez(run_dir / "predictions.npz", **arrays)
    gallery = gallery_of(run_dir)
    assert what in gallery.sentence and not gallery.fixed and not gallery.broken


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_torn_predictions_file_is_named(tmp_path, images_of_labels, content):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "predictions.npz").write_bytes(content)
    assert "predictions.npz is damaged" in gallery_of(run_dir).sentence


# ---------------------------------------------------------------------------------------------------------------
# The page


class Sources(html.parser.HTMLParser):
    """Collects everything that a browser would load, and the tags."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]


@pytest.fixture
def page(tmp_path, images_of_labels):
    """report.html of three seeds with predictions, in a directory whose name HTML would misread."""
    accuracies = {
        "raw": 0.75, "raw/recomputed": 0.76, "ema/0.9/raw": 0.7, "ema/0.998/raw": 0.78, "ema/0.9995/recomputed": 0.6,
    }  # fmt: skip
    for seed in range(3):
        write_predictions(
            write_run(tmp_path / "<script>&" / f"seed-{seed}", "--seed", seed, classifiers=accuracies, device="G" * 80)
        )
    np.savez(  # the primary EMA of these runs is the first in their rows
        tmp_path / "<script>&" / "seed-0" / "predictions.npz",
        **{"labels": LABELS, "raw": np.eye(10)[RAW_ANSWERS], "ema/0.9/raw": np.eye(10)[EMA_ANSWERS]},
    )
    report.main([str(tmp_path / "<script>&"), "--output", str(tmp_path / "out")])
    return tmp_path / "out" / "report.html"


def test_the_page_holds_everything_and_loads_nothing(page):
    text = page.read_text()
    parsed = Sources(text)
    assert parsed.tags.count("img") == 3 + 2 and parsed.tags.count("table") == 4
    assert all(source.startswith("data:") for source in parsed.sources)
    assert not re.search(r"@import|url\(", text)
    assert "script" not in parsed.tags and "&lt;script&gt;&amp;" in text
    assert {"accuracy.png", "gain.svg", "decay.png"} <= {file.name for file in page.parent.iterdir()}


def test_an_image_keeps_its_pixels_on_the_page(page, images_of_labels):
    tiles = re.findall(r"data:image/png;base64,([^\"]+)", page.read_text())
    decoded = [matplotlib.image.imread(io.BytesIO(base64.b64decode(tile)))[..., :3] for tile in tiles]
    np.testing.assert_array_equal(np.round(255 * np.array(decoded)), images_of_labels[[1, 2]])


def test_the_same_runs_give_the_same_bytes(page):
    before = page.read_bytes()
    report.main([str(page.parent.parent / "<script>&"), "--output", str(page.parent)])
    assert page.read_bytes() == before


def test_two_groups_print_their_tables_and_keep_their_figures_apart(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "--width", 0.5)
    report.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed.count("one seed (0), so no interval") == 2 and printed.count("+3.00") == 2
    assert {"1-gain.png", "2-gain.png"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_tensorflow_is_not_imported_where_there_are_no_images_to_show(tmp_path):
    run_dir = write_run(tmp_path / "run")
    code = f"import report, sys; report.main([{str(run_dir)!r}, '--output', {str(tmp_path / 'out')!r}])"
    code += "; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, capture_output=True)


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


def test_the_policy_forbids_the_network():
    assert "default-src 'none'; img-src data:" in report_page.HEAD
