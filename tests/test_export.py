"""An exported classifier is the run's own and says where it comes from; anything else leaves nothing."""

import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import tensorflow.compat.v1 as tf
from support.evaluating import CLASSES, arguments
from support.files import checkpoint_values, contents, read_arrays, read_rows

from analysis import export
from training.checkpoints import working_directory
from training.cli import UserError
from training.labels import RAW, Label

LABELS = ["raw", "ema/0.90/averaged"]
SLOW_LABELS = ["raw/recomputed", "ema/0.90/raw", "ema/0.80/averaged", "ema/0.80/recomputed"]


@pytest.fixture(scope="module")
def exported(restored, tmp_path_factory):
    """Label to the directory that it was exported to, made once."""
    made = {}

    def exported(label):
        if label not in made:
            made[label] = tmp_path_factory.mktemp("exported") / "model [1]"  # brackets are a pattern to TensorFlow
            made[label].mkdir()  # an empty directory may be there
            export.write(restored, Label.parse(label), made[label])
        return made[label]

    return exported


def answers_of(directory, images):
    """The outputs of a SavedModel, by name, from TensorFlow's 1.x loader."""
    with tf.Graph().as_default(), tf.Session() as session, working_directory(directory):
        (signature,) = tf.saved_model.load(session, ["serve"], ".").signature_def.values()
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
        return session.run(outputs, {signature.inputs["images"].name: images})


@pytest.mark.parametrize("label", [*LABELS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_LABELS)])
def test_exported_classifier_predicts_what_the_run_does(exported, restored, label):
    answers = answers_of(exported(label), restored.dataset.test.images)
    expected = scipy.special.softmax(restored.test_logits(Label.parse(label)).astype(np.float64), axis=1)
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-6)
    np.testing.assert_array_equal(answers["class_ids"], expected.argmax(1))
    assert [name.decode() for name in answers["class_names"]] == [CLASSES[i] for i in answers["class_ids"]]


def test_the_classifiers_differ(restored):
    """Otherwise the test above would pass with one in the place of another."""
    logits = [restored.test_logits(Label.parse(label)) for label in LABELS + SLOW_LABELS]
    for index, one in enumerate(logits):
        assert all(np.abs(one - other).max() > 1e-3 for other in logits[:index])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_images(exported, restored, count):
    answers = answers_of(exported(LABELS[1]), restored.dataset.test.images[:count])
    assert (answers["probabilities"].dtype, answers["probabilities"].shape) == (np.float32, (count, 10))
    assert (answers["class_ids"].dtype, answers["class_ids"].shape) == (np.int64, (count,))
    assert answers["class_names"].shape == (count,)
    np.testing.assert_allclose(answers["probabilities"].sum(1), 1, rtol=1e-5)


def test_signature_is_the_only_one_and_typed(exported):
    with tf.Graph().as_default(), tf.Session() as session, working_directory(exported("raw")):
        signatures = tf.saved_model.load(session, ["serve"], ".").signature_def
        assert list(signatures) == ["serving_default"]
        (images,) = signatures["serving_default"].inputs.values()
        assert images.dtype == tf.uint8.as_datatype_enum
        assert [size.size for size in images.tensor_shape.dim] == [-1, 32, 32, 3]
        devices = {node.device for node in session.graph.as_graph_def().node}
        assert devices <= {"", "/device:CPU:0"}  # loads wherever there is a processor


@pytest.mark.parametrize(
    ("text", "suffix", "parts"),
    [("raw", "", ("raw", None, "raw")), (LABELS[1], "/ExponentialMovingAverage", ("ema", "0.90", "averaged"))],
)
def test_archive_and_manifest_say_what_it_is_and_where_from(exported, restored, text, suffix, parts):
    """Of the EMA with averaged statistics every value is a shadow, of raw none."""
    directory, saved = exported(text), checkpoint_values(restored.path)
    weights = read_arrays(directory / "weights.npz")
    assert weights.keys() == {variable.op.name for variable in restored.network.variables}
    for name, value in weights.items():
        np.testing.assert_array_equal(value, saved[name + suffix], err_msg=name)
    manifest = export.read_manifest(directory)
    assert (manifest["weights"], manifest["decay"], manifest["batch_stats"]) == parts
    assert manifest["run"] == json.loads((restored.path / "config.json").read_text())
    assert (manifest["step"], manifest["made"]) == (16, "after step 16, epoch 2 of 2")
    assert manifest["versions"].keys() == {"python", "tensorflow", "numpy"}
    assert manifest["test_accuracy"] == read_rows(restored.path)[-1]["classifiers"][text]
    assert manifest["verified"]["test_images"] == 64
    assert manifest["verified"]["largest_difference"] <= manifest["verified"]["tolerance"] == 1e-5
    files = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert manifest["sha256"] == {name: digest for name, digest in digests.items() if name != "manifest.json"}


# ---------------------------------------------------------------------------------------------------------------
# What is refused


def test_output_that_is_taken_is_refused_before_all_else_and_left_alone(tmp_path, monkeypatch):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    missing = tmp_path / "missing"
    for output in (tmp_path, tmp_path / "kept", tmp_path / "link", ".", missing / "model"):
        with pytest.raises(
            UserError, match=f"mkdir -p {missing}" if output == missing / "model" else "another --output"
        ):
            export.main(arguments("export", "--run_dir", "nowhere", "--output", output))
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "empty", "link"}
    assert (tmp_path / "link").is_symlink()


def save_other(run, directory):
    run.use(RAW)
    export.save_model(run, directory)


def save_nothing(run, directory):
    pass


def save_and_be_stopped(run, directory):
    export.save_model(run, directory)
    os.kill(os.getpid(), signal.SIGTERM)


def save_and_be_overtaken(run, directory):
    export.save_model(run, directory)
    Path("../model").mkdir()
    Path("../model/file").write_text("another's")


def test_an_output_that_another_export_wrote_meanwhile_is_left_alone(restored, tmp_path):
    with pytest.raises(UserError, match="model exists already"):
        export.write(restored, Label.parse("ema/0.90/averaged"), tmp_path / "model", save_and_be_overtaken)
    assert [file.name for file in tmp_path.rglob("*")] == ["model", "file"]


@pytest.mark.parametrize(
    ("save", "sentence", "status"),
    [
        (save_other, "does not predict what the run does", 1),
        (save_nothing, "does not load by itself", 1),
        (save_and_be_stopped, "SIGTERM", 128 + signal.SIGTERM),
    ],
)
def test_export_that_fails_leaves_nothing_of_its_own_and_what_was_there(restored, tmp_path, save, sentence, status):
    (tmp_path / ".model.new").mkdir()
    (tmp_path / ".model.new" / "file").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        export.write(restored, Label.parse("ema/0.90/averaged"), tmp_path / "model", save)
    assert error.value.status == status
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("spoilt", [{}, {"probabilities": 1e-3}, {"probabilities": np.nan}, {"class_ids": -1}, "name"])
def test_one_prediction_that_differs_is_enough(random, spoilt):
    logits = random.normal(size=(5, 10))
    ids = logits.argmax(1)
    probabilities = scipy.special.softmax(logits, axis=1).astype(np.float32)
    answers = {"probabilities": probabilities, "class_ids": ids, "class_names": np.array(CLASSES, "S")[ids]}
    if spoilt == "name":
        answers["class_names"][4] = b"zebra"
    else:
        for name, change in spoilt.items():
            answers[name][4, ...] += change
    if not spoilt:
        assert export.verify(answers, logits, CLASSES, 1e-5)["largest_difference"] < 1e-6
        return
    with pytest.raises(UserError, match="nothing was exported"):
        export.verify(answers, logits, CLASSES, 1e-5)
    if spoilt == {"probabilities": 1e-3}:
        found = export.verify(answers, logits, CLASSES, 2e-3)
        assert found["largest_difference"] == pytest.approx(1e-3, rel=1e-3)


MANIFEST = {"classifier": "raw", "classes": list(CLASSES), "made": "", "sha256": {}}
UNSOUND = [
    {"classifier": "emb/0.9/raw"},
    {"classes": ["cat"] * 5},
    {"classes": [1] * 10},
    {"sha256": 3},
]


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "\x00", *(json.dumps(MANIFEST | one) for one in UNSOUND)])
def test_directory_without_a_sound_manifest_is_no_model(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"evaluate\.py export"):
        export.read_manifest(tmp_path)


def test_file_that_has_changed_since_is_no_part_of_the_model_and_others_may_lie_beside(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"model")
    manifest = {"classifier": "raw", "classes": CLASSES, "made": "", "sha256": export.digests(tmp_path)}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "notes.txt").write_text("mine")
    assert export.read_manifest(tmp_path) == manifest
    (tmp_path / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(UserError, match=r"evaluate\.py export"):
        export.read_manifest(tmp_path)
