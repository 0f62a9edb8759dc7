"""An exported classifier is the run's own and says where it comes from; anything else leaves nothing."""

import hashlib
import json
import os
import signal

import numpy as np
import pytest
import scipy.special
import tensorflow.compat.v1 as tf
from support.evaluating import arguments
from support.files import checkpoint_values, contents, read_arrays, read_rows

from analysis import export
from training.command import UserError
from training.labels import RAW, Label

CLASSES = [f"class {number}" for number in range(10)]  # of synthetic images
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
    with tf.Graph().as_default(), tf.Session() as session:
        (signature,) = tf.saved_model.load(session, ["serve"], str(directory)).signature_def.values()
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
        return session.run(outputs, {signature.inputs["images"].name: images})


@pytest.fixture
def plain(exported, tmp_path):
    """As `exported`, under a name without brackets."""

    def plain(label):
        (tmp_path / "plain").symlink_to(exported(label))
        return tmp_path / "plain"

    return plain


@pytest.mark.parametrize("label", [*LABELS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_LABELS)])
def test_exported_classifier_predicts_what_the_run_does(plain, restored, label):
    answers = answers_of(plain(label), restored.dataset.test.images)
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
def test_any_number_of_images(plain, restored, count):
    answers = answers_of(plain(LABELS[1]), restored.dataset.test.images[:count])
    assert (answers["probabilities"].dtype, answers["probabilities"].shape) == (np.float32, (count, 10))
    assert (answers["class_ids"].dtype, answers["class_ids"].shape) == (np.int64, (count,))
    assert answers["class_names"].shape == (count,)
    np.testing.assert_allclose(answers["probabilities"].sum(1), 1, rtol=1e-5)


def test_signature_is_the_only_one_and_typed(plain):
    with tf.Graph().as_default(), tf.Session() as session:
        signatures = tf.saved_model.load(session, ["serve"], str(plain("raw"))).signature_def
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
    raw = export.read_manifest(exported("raw"))
    assert (raw["weights"], raw["decay"], raw["batch_stats"]) == ("raw", None, "raw")
    directory = exported("ema/0.90/averaged")
    manifest = export.read_manifest(directory)
    assert (manifest["weights"], manifest["decay"], manifest["batch_stats"]) == ("ema", "0.90", "averaged")
    assert manifest["run"] == json.loads((restored.path / "config.json").read_text())
    assert (manifest["step"], manifest["made"]) == (16, "after step 16, epoch 2 of 2")
    assert manifest["versions"].keys() == {"python", "tensorflow", "numpy"}
    assert manifest["test_accuracy"] == read_rows(restored.path)[-1]["classifiers"]["ema/0.90/averaged"]
    assert manifest["verified"]["test_images"] == 64
    assert manifest["verified"]["largest_difference"] <= manifest["verified"]["tolerance"] == 1e-5
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert set(manifest["sha256"]) == files - {"manifest.json"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest


# ---------------------------------------------------------------------------------------------------------------
# What is refused


def export_to(output):
    export.main(arguments("export", "--run_dir", "nowhere", "--output", output))


def test_output_that_is_taken_is_refused_before_all_else_and_left_alone(tmp_path, monkeypatch):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    for output in (tmp_path, tmp_path / "kept", tmp_path / "link", "."):
        with pytest.raises(UserError, match="another --output"):
            export_to(output)
    with pytest.raises(UserError, match=f"mkdir -p {tmp_path / 'missing'}"):
        export_to(tmp_path / "missing" / "model")
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


@pytest.mark.parametrize(
    ("save", "sentence", "status"),
    [
        (save_other, "does not predict what the run does", 1),
        (save_nothing, "does not load by itself", 1),
        (save_and_be_stopped, "SIGTERM", 128 + signal.SIGTERM),
    ],
)
def test_export_that_fails_leaves_nothing_of_its_own_and_what_was_there(restored, tmp_path, save, sentence, status):
    for name in (".model.new", ".model.1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        export.write(restored, Label.parse("ema/0.90/averaged"), tmp_path / "model", save)
    assert error.value.status == status
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 2


def answering(logits):
    ids = logits.argmax(1)
    probabilities = scipy.special.softmax(logits, axis=1).astype(np.float32)
    return {"probabilities": probabilities, "class_ids": ids, "class_names": np.array(CLASSES, "S")[ids]}


def test_predictions_within_the_tolerance_agree(random):
    logits = random.normal(size=(5, 10))
    answers = answering(logits)
    answers["probabilities"][2, 3] += 1e-3
    assert export.verify(answers, logits, CLASSES, 2e-3)["largest_difference"] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("spoil", ["probability", "nan", "class", "name"])
def test_one_prediction_that_differs_is_enough(random, spoil):
    logits = random.normal(size=(5, 10))
    answers = answering(logits)
    if spoil == "class":
        answers["class_ids"][4] = (answers["class_ids"][4] + 1) % 10
    elif spoil == "name":
        answers["class_names"][4] = b"zebra"
    else:
        answers["probabilities"][4, 4] += {"probability": 1e-3, "nan": np.nan}[spoil]
    with pytest.raises(UserError, match="nothing was exported"):
        export.verify(answers, logits, CLASSES, 1e-5)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"classifier": "raw", "sha256": 3}', "\x00"])
def test_directory_without_a_sound_manifest_is_no_model(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="evaluate.py export"):
        export.read_manifest(tmp_path)


def test_file_that_has_changed_since_is_no_part_of_the_model_and_others_may_lie_beside(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"model")
    manifest = {"classifier": "raw", "classes": CLASSES, "made": "", "sha256": export.digests(tmp_path)}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "notes.txt").write_text("mine")
    assert export.read_manifest(tmp_path) == manifest
    (tmp_path / "saved_model.pb").write_bytes(b"other")
    with pytest.raises(UserError, match="evaluate.py export"):
        export.read_manifest(tmp_path)


@pytest.mark.slow
def test_export_and_predict_as_processes(bank_run, run, tmp_path):
    model, image = tmp_path / "b [1]" / "model", tmp_path / "image.png"
    model.parent.mkdir()
    result = run("evaluate.py", "export", "--run_dir", bank_run, "--output", model)
    assert (result.returncode, result.stderr) == (0, "")
    for words in (
        "EMA 0.90, averaged statistics",
        "after step 16, epoch 2 of 2",
        "primary",
        "--decay",
        "64 test images",
    ):
        assert words in " ".join(result.stdout.split())
    with tf.Graph().as_default(), tf.Session() as session:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        image.write_bytes(session.run(tf.io.encode_png(pixels)))
    answers = {}
    for source in (["--model", model], ["--run_dir", bank_run]):
        result = run("evaluate.py", "predict", *source, image, "n" * 300, "--json")
        assert (result.returncode, result.stderr) == (1, "")
        document = json.loads(result.stdout)
        assert "error" in document["images"][1]
        answers[source[0]] = document["images"][0]["predictions"]["ema/0.90/averaged"]["probability"]
    assert answers["--model"] == pytest.approx(answers["--run_dir"], abs=1e-6)
