"""evaluate.py export: a SavedModel with the run's predictions, its manifest, and failures that leave nothing."""

import hashlib
import json
import os
import signal

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
    """Exports a label once and returns the directory."""
    directories = {}

    def exported(label):
        if label not in directories:
            directories[label] = tmp_path_factory.mktemp("exported") / "model [1]"  # TensorFlow treats [ as a pattern
            directories[label].mkdir()  # an empty directory is allowed
            export.write(restored, Label.parse(label), directories[label])
        return directories[label]

    return exported


def outputs_of(directory, images):
    """Returns the outputs of a SavedModel by name, from TensorFlow's 1.x loader."""
    with tf.Graph().as_default(), tf.Session() as session, working_directory(directory):
        (signature,) = tf.saved_model.load(session, ["serve"], ".").signature_def.values()
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
        return session.run(outputs, {signature.inputs["images"].name: images})


@pytest.mark.parametrize("label", [*LABELS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_LABELS)])
def test_export_predicts_what_the_run_does(exported, restored, label):
    outputs = outputs_of(exported(label), restored.dataset.test.images)
    expected = scipy.special.softmax(restored.test_logits(Label.parse(label)).astype(np.float64), axis=1)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
    np.testing.assert_array_equal(outputs["class_ids"], expected.argmax(1))
    assert [name.decode() for name in outputs["class_names"]] == [CLASSES[i] for i in outputs["class_ids"]]


def test_classifiers_differ(restored):
    """Otherwise the test above would pass with one label in place of another."""
    logits = [restored.test_logits(Label.parse(label)) for label in LABELS + SLOW_LABELS]
    for index, first in enumerate(logits):
        assert all(np.abs(first - second).max() > 1e-3 for second in logits[:index])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_images(exported, restored, count):
    outputs = outputs_of(exported(LABELS[1]), restored.dataset.test.images[:count])
    assert (outputs["probabilities"].dtype, outputs["probabilities"].shape) == (np.float32, (count, 10))
    assert (outputs["class_ids"].dtype, outputs["class_ids"].shape) == (np.int64, (count,))
    assert outputs["class_names"].shape == (count,)
    np.testing.assert_allclose(outputs["probabilities"].sum(1), 1, rtol=1e-5)


def test_single_typed_signature(exported):
    with tf.Graph().as_default(), tf.Session() as session, working_directory(exported("raw")):
        signatures = tf.saved_model.load(session, ["serve"], ".").signature_def
        assert list(signatures) == ["serving_default"]
        (images,) = signatures["serving_default"].inputs.values()
        assert images.dtype == tf.uint8.as_datatype_enum
        assert [size.size for size in images.tensor_shape.dim] == [-1, 32, 32, 3]
        devices = {node.device for node in session.graph.as_graph_def().node}
        assert devices <= {"", "/device:CPU:0"}  # loads on any machine


@pytest.mark.parametrize(
    ("text", "suffix", "parts"),
    [("raw", "", ("raw", None, "raw")), (LABELS[1], "/ExponentialMovingAverage", ("ema", "0.90", "averaged"))],
)
def test_weights_and_manifest(exported, restored, text, suffix, parts):
    """Every value of an EMA with averaged statistics is a shadow, none of the raw weights is."""
    directory, saved = exported(text), checkpoint_values(restored.path)
    weights = read_arrays(directory / "weights.npz")
    assert weights.keys() == {variable.op.name for variable in restored.network.variables}
    for name, value in weights.items():
        np.testing.assert_array_equal(value, saved[name + suffix], err_msg=name)
    manifest = export.read_manifest(directory)
    assert (manifest["weights"], manifest["decay"], manifest["batch_stats"]) == parts
    assert manifest["classes"] == CLASSES
    assert manifest["run"] == json.loads((restored.path / "config.json").read_text())
    assert (manifest["step"], manifest["made"]) == (16, "after step 16, epoch 2 of 2")
    assert manifest["versions"].keys() == {"python", "tensorflow", "numpy"}
    assert manifest["test_accuracy"] == read_rows(restored.path)[-1]["classifiers"][text]
    assert manifest["verified"]["test_images"] == 64
    assert manifest["verified"]["largest_difference"] <= manifest["verified"]["tolerance"] == 1e-5
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json"]
    digests = {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert manifest["sha256"] == digests


@pytest.mark.parametrize("output", ["", "file", "missing/model"])
def test_bad_output_is_refused_first(tmp_path, output):
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="--output"):
        export.main(arguments("export", "--run_dir", "nowhere", "--output", tmp_path / output))
    assert contents(tmp_path) == before


def save_wrong_weights(save):
    def save_raw(run, directory):
        run.use(RAW)
        save(run, directory)

    return save_raw


def save_and_be_stopped(save):
    def save_and_stop(run, directory):
        save(run, directory)
        os.kill(os.getpid(), signal.SIGTERM)

    return save_and_stop


@pytest.mark.parametrize(
    ("replacement", "status"), [(save_wrong_weights, 1), (save_and_be_stopped, 128 + signal.SIGTERM)]
)
def test_failed_export_leaves_nothing(restored, tmp_path, monkeypatch, replacement, status):
    (tmp_path / ".model.new").mkdir()
    (tmp_path / ".model.new" / "file").write_text("mine")
    before = contents(tmp_path)
    monkeypatch.setattr(export, "save_model", replacement(export.save_model))
    with pytest.raises(UserError, match="nothing was exported") as error:
        export.write(restored, Label.parse("ema/0.90/averaged"), tmp_path / "model")
    assert error.value.status == status
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", [{}, {"probabilities": 1e-3}, {"probabilities": np.nan}, {"class_ids": -1}, "name"])
def test_verify_notices_every_difference(random, change):
    logits = random.normal(size=(5, 10))
    ids = logits.argmax(1)
    probabilities = scipy.special.softmax(logits, axis=1).astype(np.float32)
    outputs = {"probabilities": probabilities, "class_ids": ids, "class_names": np.array(CLASSES, "S")[ids]}
    if change == "name":
        outputs["class_names"][4] = b"zebra"
    else:
        for name, difference in change.items():
            outputs[name][4, ...] += difference
    if not change:
        assert export.verify(outputs, logits, CLASSES, 1e-5)["largest_difference"] < 1e-6
        return
    with pytest.raises(UserError, match="nothing was exported"):
        export.verify(outputs, logits, CLASSES, 1e-5)
    if change == {"probabilities": 1e-3}:
        verified = export.verify(outputs, logits, CLASSES, 2e-3)
        assert verified["largest_difference"] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"classifier": "emb/0.9/raw", "sha256": {}}'])
def test_invalid_manifest_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="export again"):
        export.read_manifest(tmp_path)


def test_changed_file_is_noticed(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"model")
    manifest = {"classifier": "raw", "classes": CLASSES, "made": "", "sha256": export.digests(tmp_path)}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "notes.txt").write_text("mine")
    assert export.read_manifest(tmp_path) == manifest
    (tmp_path / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(UserError, match="export again"):
        export.read_manifest(tmp_path)
