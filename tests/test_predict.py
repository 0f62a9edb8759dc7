"""What evaluate.py predict says about image files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image
from support import evaluating
from support.commands import TINY_RUN
from training.errors import UserError

import data
from analysis import export, predict
from data import CLASSES
from training import config
from training.labels import Label


def arguments(*argv):
    return evaluating.arguments("predict", *argv)


@pytest.fixture
def image_files(restored, tmp_path):
    """The first test images of the run as PNG files in a directory, with their number."""
    directory = tmp_path / "images"
    directory.mkdir()
    for number, image in enumerate(restored.dataset.test.images[:5]):
        Image.fromarray(image).save(directory / f"{number}.png")
    return directory


def expected(restored, label):
    return scipy.special.softmax(restored.test_logits(Label.parse(label)).astype(np.float64), axis=1)[:5]


def test_raw_and_ema_say_what_the_run_says(restored, image_files, capsys):
    predict.main(arguments("--run_dir", restored.path, image_files, "--json"))
    document = json.loads(capsys.readouterr().out)
    assert document["classifiers"] == ["raw", "ema/0.90/averaged"]
    assert [entry["image"] for entry in document["images"]] == [str(image_files / f"{i}.png") for i in range(5)]
    for label in document["classifiers"]:
        for entry, probabilities in zip(document["images"], expected(restored, label), strict=True):
            prediction = entry["predictions"][label]
            assert prediction["class"] == CLASSES[probabilities.argmax()]
            assert prediction["probability"] == pytest.approx(probabilities.max(), abs=1e-6)
            assert list(prediction["probabilities"]) == list(CLASSES)
            assert list(prediction["probabilities"].values()) == pytest.approx(probabilities.tolist(), abs=1e-6)


def test_table_has_them_side_by_side_and_errors_stand_apart(restored, image_files, capsys):
    (image_files / "2.png").write_bytes(b"no image")
    missing = image_files / "missing.png"
    with pytest.raises(SystemExit) as end:
        predict.main(arguments("--run_dir", restored.path, missing, image_files))
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"evaluate.py: {missing}: does not exist",
        f"evaluate.py: {image_files / '2.png'}: is not a JPEG, PNG, GIF, BMP or WebP image",
    ]
    header, *lines = out.splitlines()
    assert header.split() == ["image", "raw", "ema/0.90/averaged"]
    raw, ema = (expected(restored, label) for label in ("raw", "ema/0.90/averaged"))
    assert len(lines) == 4
    for line, number in zip(lines, (0, 1, 3, 4), strict=True):
        name, *cells = line.split()
        assert name == str(image_files / f"{number}.png")
        assert cells[::2] == [CLASSES[one[number].argmax()] for one in (raw, ema)]
        percents = [100 * one[number].max() for one in (raw, ema)]
        assert [float(cell.rstrip("%")) for cell in cells[1::2]] == pytest.approx(percents, abs=0.0051)


def test_nothing_but_errors(restored, capsys):
    with pytest.raises(SystemExit):
        predict.main(arguments("--run_dir", restored.path, "missing.png"))
    assert capsys.readouterr().out == ""


def test_exported_classifier_is_alone_in_its_table(restored, image_files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "verify", lambda *_: {})  # tested elsewhere
    export.write(restored, Label("ema", "0.90"), tmp_path / "model")
    predict.main(arguments("--model", tmp_path / "model", image_files, "--json"))
    document = json.loads(capsys.readouterr().out)
    assert document["classifiers"] == ["ema/0.90/raw"]
    for entry, probabilities in zip(document["images"], expected(restored, "ema/0.90/raw"), strict=True):
        assert entry["predictions"]["ema/0.90/raw"]["probability"] == pytest.approx(probabilities.max(), abs=1e-6)


@pytest.mark.parametrize(
    "argv",
    [[], ["a.png"], ["--run_dir", "x"], ["--run_dir", "x", "--model", "y", "a.png"]],
    ids=str,
)
def test_usage_errors_have_status_2(argv):
    with pytest.raises(SystemExit) as error:
        arguments(*argv)
    assert error.value.code == 2


@pytest.mark.parametrize("source", ["--run_dir", "--model"])
def test_no_run_and_no_model_are_one_sentence(tmp_path, source):
    with pytest.raises(UserError, match="python train.py" if source == "--run_dir" else "evaluate.py export"):
        predict.main(arguments(source, tmp_path / "nowhere", "a.png"))


def test_names_cannot_steer_the_terminal():
    assert predict.shown(Path("a\x1b[2J\n.png")) == "a?[2J?.png"
    assert predict.shown(Path(os.fsdecode(b"\xff.png"))).endswith(".png")


@pytest.mark.slow
def test_recomputed_statistics_are_recomputed(run, tmp_path):
    directory = tmp_path / "run"
    argv = ["--ema_batch_stats", "recomputed", "--ema_decay", "0.8", "--epochs", 1, "--run_dir", directory]
    assert run("train.py", *TINY_RUN, *argv).returncode == 0
    image = tmp_path / "image.png"
    test = data.load_for(config.parse(TINY_RUN)).test
    Image.fromarray(test.images[0]).save(image)
    result = run("evaluate.py", "predict", "--run_dir", directory, image, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    answers = json.loads(result.stdout)["images"][0]["predictions"]
    with np.load(directory / "predictions.npz", allow_pickle=False) as logits:
        for label in ("raw/recomputed", "ema/0.8/recomputed"):
            probability = scipy.special.softmax(logits[label][0].astype(np.float64)).max()
            assert answers[label]["probability"] == pytest.approx(probability, abs=1e-5)
