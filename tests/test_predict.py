"""evaluate.py predict: probabilities of image files, as a table and as JSON."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image
from support import evaluating
from support.evaluating import CLASSES

from analysis import export, predict
from training.cli import UserError
from training.labels import Label


def arguments(*argv):
    return evaluating.arguments("predict", *argv)


@pytest.fixture
def images(restored, tmp_path):
    """A directory with the first test images of the run as PNG files, and two other files."""
    directory = tmp_path / "images"
    (directory / "below").mkdir(parents=True)
    for number, image in enumerate(restored.dataset.test.images[:5]):
        Image.fromarray(image).save(directory / f"{number}.png")
    for name in ("notes.txt", "labels.csv"):
        (directory / name).write_text("x")
    return directory


def expected(restored, label):
    return scipy.special.softmax(restored.test_logits(Label.parse(label)).astype(np.float64), axis=1)[:5]


@pytest.mark.parametrize(
    ("argv", "labels"),
    [
        ([], ["raw", "ema/0.90/averaged"]),
        (["--decay", "0.80", "--batch_stats", "recomputed"], ["raw/recomputed", "ema/0.80/recomputed"]),
    ],
    ids=str,
)
def test_json_agrees_with_the_run(restored, images, capsys, argv, labels):
    predict.main(arguments("--run_dir", restored.path, images, "--json", *argv))
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["classifiers", "chosen", "passed_over", "images"]
    assert document["classifiers"] == labels
    assert document["chosen"].startswith(f"{Label.parse(labels[1]).display_name}, after step 16, epoch 2 of 2: ")
    assert document["passed_over"] == 2
    assert [entry["image"] for entry in document["images"]] == [str(images / f"{i}.png") for i in range(5)]
    for label in labels:
        for entry, probabilities in zip(document["images"], expected(restored, label), strict=True):
            prediction = entry["predictions"][label]
            assert prediction["class"] == CLASSES[probabilities.argmax()]
            assert prediction["probability"] == pytest.approx(probabilities.max(), abs=1e-5)
            assert list(prediction["probabilities"]) == CLASSES
            assert list(prediction["probabilities"].values()) == pytest.approx(probabilities.tolist(), abs=1e-5)


def test_table_agrees_with_the_run(restored, images, capsys):
    (images / "2.png").write_bytes(b"no image")
    missing = images / ("n" * 300)
    with pytest.raises(SystemExit) as end:
        predict.main(arguments("--run_dir", restored.path, missing, images))
    assert end.value.code == 1
    out, err = capsys.readouterr()
    for line, name in zip(err.splitlines(), (missing, images / "2.png", "2 files"), strict=True):
        assert line.startswith("evaluate.py: ") and str(name) in line
    header, *lines = out[out.index("image ") :].splitlines()
    assert header.split() == ["image", "raw", "weights", "EMA", "0.90"]
    raw, ema = (expected(restored, label) for label in ("raw", "ema/0.90/averaged"))
    for line, number in zip(lines, (0, 1, 3, 4), strict=True):
        name, _, raw_class, raw_percent, _, ema_class, ema_percent = line.split()
        assert name == str(images / f"{number}.png")
        assert [int(raw_class), int(ema_class)] == [raw[number].argmax(), ema[number].argmax()]
        percents = [float(raw_percent.rstrip("%")), float(ema_percent.rstrip("%"))]
        assert percents == pytest.approx([100 * raw[number].max(), 100 * ema[number].max()], abs=0.0051)


def test_names_cannot_steer_the_terminal(restored, images, capsys):
    odd = Path(os.fsdecode(os.fsencode(images) + b"/\xff\x1b[2J\n.png"))
    odd.write_bytes((images / "0.png").read_bytes())
    predict.main(arguments("--run_dir", restored.path, odd, "--json"))
    (entry,) = json.loads(capsys.readouterr().out)["images"]
    assert entry["image"] == str(odd)
    predict.main(arguments("--run_dir", restored.path, odd))
    assert "\x1b" not in capsys.readouterr().out


def test_exported_classifier(restored, images, tmp_path, capsys):
    model = tmp_path / "mod[1]"
    export.write(restored, Label("ema", "0.90"), model)
    predict.main(arguments("--model", model, images, "--json"))
    document = json.loads(capsys.readouterr().out)
    assert document["classifiers"] == ["ema/0.90/raw"]
    for entry, probabilities in zip(document["images"], expected(restored, "ema/0.90/raw"), strict=True):
        prediction = entry["predictions"]["ema/0.90/raw"]
        assert prediction["class"] == CLASSES[probabilities.argmax()]
        assert prediction["probability"] == pytest.approx(probabilities.max(), abs=1e-6)


@pytest.mark.parametrize(
    ("argv", "name", "status"),
    [
        (["--run_dir"], "nowhere", 1),
        (["--model"], "export", 1),
        (["--decay", "0.9", "--model"], "--decay", 2),
    ],
)
def test_unusable_source_is_refused(tmp_path, argv, name, status):
    with pytest.raises(UserError, match=name) as error:
        predict.main(arguments("a.png", *argv, tmp_path / "nowhere"))
    assert error.value.status == status
