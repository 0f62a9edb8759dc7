"""The command evaluate.py: usage errors, a run that is not there, and one choice of all. Its sub-commands have tests."""

import json

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
        "export --run_dir x",
        "export --run_dir x --output y --decay 2",
        "export --run_dir x --output y --weights both",
        "predict a.png",
        "predict --run_dir x",
        "predict --run_dir x --model y a.png",
    ],
)
def test_usage_errors_have_status_2(argv):
    with pytest.raises(SystemExit) as error:
        arguments(*argv.split())
    assert error.value.code == 2


@pytest.mark.parametrize(
    "command", [["table"], ["posthoc"], ["export", "--output", "x"], ["predict", "a.png"]], ids=str
)
def test_no_run_is_one_sentence(forked, tmp_path, command):
    result = forked("evaluate.py", *command, "--run_dir", tmp_path / "nowhere")
    assert result.stdout == ""
    assert_one_sentence(result, 1, tmp_path / "nowhere", "train.py")


def test_all_commands_choose_the_average_that_is_best_on_the_images_held_out(forked, tmp_path):
    run, image = tmp_path / "run", tmp_path / "image.png"
    flags = "--ema_decay 0.9 0.5 --ema_batch_stats raw recomputed --ema_power 0.05 0.1 --validation_size 64 --epochs 2"
    assert forked("train.py", *TINY_RUN, *flags.split(), "--run_dir", run).returncode == 0
    validation = read_rows(run)[-1]["validation"]
    best = max((label for label in validation if label.startswith("ema/")), key=validation.get)
    answers = {}
    for name, more in {
        "table": ["--format", "json"],
        "export": ["--output", tmp_path / "model"],
        "predict": [image, "--json"],
        "posthoc": ["--widths", 0.05, 0.1],
    }.items():
        result = forked("evaluate.py", name, "--run_dir", run, *more)
        assert result.returncode == (1 if name == "predict" else 0), result.stderr  # there is no such image
        answers[name] = result.stdout
    (chosen,) = (row["label"] for row in json.loads(answers["table"]) if row["chosen"])
    assert chosen == json.loads((tmp_path / "model" / "manifest.json").read_text())["classifier"] == best
    assert json.loads(answers["predict"])["classifiers"][1] == best
    assert "on the validation images" in answers["export"]
    posthoc = json.loads((run / "posthoc.json").read_text())
    assert posthoc["chosen"] == max(posthoc["widths"], key=lambda row: row["validation"])["width"]
