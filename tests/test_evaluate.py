"""evaluate.py as a process: usage errors, and one choice of classifier for all sub-commands."""

import json
import shlex

import pytest
from support.commands import TINY_RUN, assert_one_sentence
from support.evaluating import arguments
from support.files import read_rows


@pytest.mark.parametrize(
    "argv",
    [
        "",
        "table",
        "tables --run_dir x",
        "table --run_dir x --format xml",
        "table --run",
        "export --run_dir x --output y --decay 2",
        "predict --run_dir x --model y a.png",
        "predict --run_dir x ''",
    ],
)
def test_usage_errors_have_status_2(argv):
    with pytest.raises(SystemExit) as error:
        arguments(*shlex.split(argv))
    assert error.value.code == 2


@pytest.mark.parametrize("command", ["table", "posthoc", "export --output x", "predict a.png"])
def test_missing_run_is_one_sentence(forked, tmp_path, command):
    result = forked("evaluate.py", *command.split(), "--run_dir", tmp_path / "nowhere")
    assert result.stdout == ""
    assert_one_sentence(result, 1, tmp_path / "nowhere")


def test_commands_choose_the_same_average(forked, tmp_path):
    run, model, image = tmp_path / "run", tmp_path / "b [1]" / "model", tmp_path / "image.png"
    flags = "--ema_decay 0.9 0.5 --ema_batch_stats raw recomputed --ema_power 0.05 0.1 --validation_size 64 --epochs 2"
    assert forked("train.py", *TINY_RUN, *flags.split(), "--run_dir", run).returncode == 0
    validation = read_rows(run)[-1]["validation"]
    best = max((label for label in validation if label.startswith("ema/")), key=validation.get)
    model.parent.mkdir()
    image.write_bytes((run / "curves.png").read_bytes())

    def evaluate(*argv, status=0):
        result = forked("evaluate.py", *argv)
        assert (result.returncode, result.stderr) == (status, "")
        return result.stdout

    rows = json.loads(evaluate("table", "--run_dir", run, "--format", "json"))
    assert [row["label"] for row in rows if row["chosen"]] == [best]
    assert best in evaluate("export", "--run_dir", run, "--output", model)
    assert json.loads((model / "manifest.json").read_text())["classifier"] == best
    probabilities = []
    for source in (["--run_dir", run], ["--model", model]):
        document = json.loads(evaluate("predict", *source, image, "n" * 300, "--json", status=1))
        assert document["classifiers"][-1] == best and "error" in document["images"][1]
        probabilities.append(document["images"][0]["predictions"][best]["probability"])
    assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)
    evaluate("posthoc", "--run_dir", run, "--stds", 0.05, 0.1)
    posthoc = json.loads((run / "posthoc.json").read_text())
    assert posthoc["chosen"] == max(posthoc["stds"], key=lambda row: row["validation"])["std"]
