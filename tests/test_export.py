"""An exported classifier is the run's own and says where it comes from; anything else leaves nothing."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import tensorflow.compat.v1 as tf
from support.evaluating import arguments, leave_open
from support.files import checkpoint_values, read_arrays, read_rows
from training.errors import UserError
from training.options import Decay

from analysis import export
from data import CLASSES
from training.labels import Label

LABELS = ["raw", "ema/0.90/averaged"]
SLOW_LABELS = ["raw/recomputed", "ema/0.90/raw", "ema/0.80/averaged", "ema/0.80/recomputed"]


@pytest.fixture(scope="module")
def exported(restored, tmp_path_factory):
    """Label to the directory that it was exported to, made once."""
    made = {}

    def exported(label):
        if label not in made:
            made[label] = tmp_path_factory.mktemp("exported") / "model"
            made[label].mkdir()  # an empty directory may be there
            export.write(restored, Label.parse(label), made[label])
        return made[label]

    return exported


def ask(directory, images):
    """The outputs of a SavedModel, by name, from TensorFlow's 1.x loader."""
    with tf.Graph().as_default(), tf.Session() as session:
        (signature,) = tf.saved_model.load(session, ["serve"], str(directory)).signature_def.values()
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
        return session.run(outputs, {signature.inputs["images"].name: images})


def labels(*names, slow=()):
    return pytest.mark.parametrize("label", [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)])


@labels(*LABELS, slow=SLOW_LABELS)
def test_exported_classifier_predicts_what_the_run_does(exported, restored, label):
    answers = ask(exported(label), restored.dataset.test.images)
    expected = scipy.special.softmax(restored.test_logits(Label.parse(label)).astype(np.float64), axis=1)
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-6)
    np.testing.assert_array_equal(answers["class_ids"], expected.argmax(1))
    assert [name.decode() for name in answers["class_names"]] == [CLASSES[i] for i in answers["class_ids"]]


def test_the_classifiers_differ(restored):
    """Otherwise the test above would pass with one in the place of another."""
    probabilities = {
        label: scipy.special.softmax(restored.test_logits(Label.parse(label)), axis=1) for label in LABELS + SLOW_LABELS
    }
    for label, values in probabilities.items():
        for other in set(probabilities) - {label}:
            assert np.abs(values - probabilities[other]).max() > 1e-4, (label, other)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_images(exported, restored, count):
    images = restored.dataset.test.images[:count]
    answers = ask(exported(LABELS[1]), images)
    assert (answers["probabilities"].dtype, answers["probabilities"].shape) == (np.float32, (count, 10))
    assert (answers["class_ids"].dtype, answers["class_ids"].shape) == (np.int64, (count,))
    assert answers["class_names"].shape == (count,)
    np.testing.assert_allclose(answers["probabilities"].sum(1), 1, rtol=1e-5)


def test_signature_is_the_only_one_and_typed(exported):
    with tf.Graph().as_default(), tf.Session() as session:
        signatures = tf.saved_model.load(session, ["serve"], str(exported("raw"))).signature_def
        assert list(signatures) == ["serving_default"]
        (images,) = signatures["serving_default"].inputs.values()
        assert images.dtype == tf.uint8.as_datatype_enum
        assert [size.size for size in images.tensor_shape.dim] == [-1, 32, 32, 3]
        devices = {node.device for node in session.graph.as_graph_def().node}
        assert devices <= {"", "/device:CPU:0"}  # loads wherever there is a processor


def test_weights_are_in_a_plain_archive_under_plain_names(exported, restored):
    """Of the EMA with averaged statistics every value is a shadow, of raw none."""
    saved = checkpoint_values(restored.path)
    for label, suffix in (("raw", ""), ("ema/0.90/averaged", "/ExponentialMovingAverage")):
        weights = read_arrays(exported(label) / "weights.npz")
        names = {variable.op.name for variable in restored.network.variables}
        assert weights.keys() == names >= {"class/conv1_1/conv/weights", "class/dense/var"}
        for name, value in weights.items():
            np.testing.assert_array_equal(value, saved[name + suffix], err_msg=name)


def test_manifest_says_what_it_is_and_where_from(exported, restored):
    directory = exported("ema/0.90/averaged")
    manifest = export.read_manifest(directory)
    assert (manifest["weights"], manifest["decay"], manifest["batch_stats"]) == ("ema", "0.90", "averaged")
    assert manifest["run"] == json.loads((restored.path / "config.json").read_text())
    assert manifest["step"] == 16
    assert manifest["versions"].keys() == {"python", "tensorflow", "numpy"}
    assert manifest["test_accuracy"] == read_rows(restored.path)[-1]["classifiers"]["ema/0.90/averaged"]
    assert manifest["verified"]["test_images"] == 64
    assert manifest["verified"]["largest_difference"] <= manifest["verified"]["tolerance"] == 1e-5
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert set(manifest["sha256"]) == files - {"manifest.json"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest


def test_manifest_of_raw_has_no_decay(exported):
    manifest = export.read_manifest(exported("raw"))
    assert (manifest["weights"], manifest["decay"], manifest["batch_stats"]) == ("raw", None, "raw")


# ---------------------------------------------------------------------------------------------------------------
# Which classifier


def choose(run, weights="ema", decay=None, policy=None):
    return export.choose(run, weights, decay, policy)


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ({}, "ema/0.90/averaged"),
        ({"decay": "0.80"}, "ema/0.80/averaged"),
        ({"policy": "recomputed"}, "ema/0.90/recomputed"),
        ({"weights": "raw"}, "raw"),
        ({"weights": "raw", "policy": "recomputed"}, "raw/recomputed"),
    ],
    ids=str,
)
def test_classifier_asked_for(restored, asked, label):
    assert choose(restored, **asked) == Label.parse(label)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"decay": "0.7"}, "holds no ema/0.7/averaged, but raw, "),
        ({"weights": "raw", "decay": "0.90"}, "knows no averages"),
        ({"weights": "raw", "policy": "averaged"}, "knows no averages"),
    ],
    ids=str,
)
def test_classifier_that_is_not_there_is_a_usage_error(restored, asked, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        choose(restored, **asked)
    assert error.value.status == 2


@pytest.mark.parametrize(
    "argv", [[], ["--output", "x", "--decay", "2"], ["--output", "x", "--weights", "both"]], ids=str
)
def test_usage_errors_have_status_2(argv):
    with pytest.raises(SystemExit) as error:
        arguments("export", "--run_dir", "x", *argv)
    assert error.value.code == 2


# ---------------------------------------------------------------------------------------------------------------
# What is refused


def test_output_that_holds_something_is_refused_before_all_else_and_left_alone(tmp_path):
    (tmp_path / "kept").write_text("kept")
    for output in (tmp_path, tmp_path / "kept"):
        with pytest.raises(UserError, match="another --output"):
            export.main(SimpleNamespace(output=output, run_dir="nowhere"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "kept"


def test_output_without_a_parent_is_refused(tmp_path):
    with pytest.raises(UserError, match="mkdir -p"):
        export.main(SimpleNamespace(output=tmp_path / "missing" / "model", run_dir="nowhere"))
    assert list(tmp_path.iterdir()) == []


def test_export_of_other_weights_is_found_out_and_leaves_nothing(restored, tmp_path, monkeypatch):
    save = export.save_model

    def save_other(run, directory):
        run.take(Label("raw"))
        save(run, directory)

    monkeypatch.setattr(export, "save_model", save_other)
    with pytest.raises(UserError, match="does not predict what the run does"):
        export.write(restored, Label.parse("ema/0.90/averaged"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_export_that_does_not_load_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not load by itself"):
        export.ask(tmp_path, np.zeros((1, 32, 32, 3), np.uint8))


def test_interrupted_export_leaves_nothing(restored, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.write(restored, Label("raw"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def agreeing(logits):
    ids = logits.argmax(1)
    probabilities = scipy.special.softmax(logits, axis=1).astype(np.float32)
    return {"probabilities": probabilities, "class_ids": ids, "class_names": np.array(CLASSES, "S")[ids]}


def verify(monkeypatch, logits, answers, tolerance=1e-5):
    monkeypatch.setattr(export, "ask", lambda *_: answers)
    return export.verify(Path("model"), None, logits, tolerance)


def test_predictions_within_the_tolerance_agree(monkeypatch, random):
    logits = random.normal(size=(5, 10))
    answers = agreeing(logits)
    answers["probabilities"][2, 3] += 1e-3
    assert verify(monkeypatch, logits, answers, 2e-3)["largest_difference"] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("spoil", ["probability", "nan", "class", "name"])
def test_one_prediction_that_differs_is_enough(monkeypatch, random, spoil):
    logits = random.normal(size=(5, 10))
    answers = agreeing(logits)
    if spoil == "class":
        answers["class_ids"][4] = (answers["class_ids"][4] + 1) % 10
    elif spoil == "name":
        answers["class_names"][4] = b"zebra"
    else:
        answers["probabilities"][4, 4] += {"probability": 1e-3, "nan": np.nan}[spoil]
    with pytest.raises(UserError, match="nothing was exported"):
        verify(monkeypatch, logits, answers)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"classifier": "raw", "sha256": 3}', "\x00"])
def test_directory_without_a_sound_manifest_is_no_model(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="that evaluate"):
        export.read_manifest(tmp_path)


def test_file_that_has_changed_since_is_named(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"model")
    manifest = {"classifier": "raw", "sha256": export.digests(tmp_path)}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert export.read_manifest(tmp_path) == manifest
    (tmp_path / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(UserError, match=r"saved_model\.pb is not the file that was exported"):
        export.read_manifest(tmp_path)


def test_command_says_what_was_checked(restored, tmp_path, monkeypatch, capsys):
    leave_open(monkeypatch, export, restored)
    monkeypatch.setattr(export, "verify", lambda *_: {"test_images": 64, "largest_difference": 0.0})
    export.main(arguments("export", "--run_dir", "run", "--weights", "raw", "--output", tmp_path / "model"))
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'model'}: raw, test accuracy ")
    assert "64 test images" in out
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@pytest.mark.slow
def test_export_and_predict_as_processes(bank_run, run, tmp_path):
    result = run("evaluate.py", "export", "--run_dir", bank_run, "--output", tmp_path / "model")
    assert (result.returncode, result.stderr) == (0, "")
    image = tmp_path / "image.png"
    with tf.Graph().as_default(), tf.Session() as session:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        image.write_bytes(session.run(tf.io.encode_png(pixels)))
    answers = {}
    for source in (["--model", tmp_path / "model"], ["--run_dir", bank_run]):
        result = run("evaluate.py", "predict", *source, image, tmp_path / "missing.png", "--json")
        assert (result.returncode, result.stderr) == (1, "")
        document = json.loads(result.stdout)
        assert document["images"][1]["error"] == "does not exist"
        answers[source[0]] = document["images"][0]["predictions"]["ema/0.90/averaged"]["probability"]
    assert answers["--model"] == pytest.approx(answers["--run_dir"], abs=1e-6)


def test_decay_0_is_the_decay_that_is_asked_for(restored):
    with pytest.raises(UserError, match="holds no ema/0/averaged"):
        export.choose(restored, "ema", Decay("0"), None)


def test_the_directory_that_one_is_in_and_a_link_are_refused_before_all_else(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    for output in (".", tmp_path / "link"):
        with pytest.raises(UserError, match="another --output"):
            export.main(SimpleNamespace(output=output, run_dir="nowhere"))
    assert (tmp_path / "link").is_symlink()
