"""train.py as its users meet it: a process, its exit status, what it prints and what it leaves behind."""

import json
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from support.commands import EPOCH_STEPS, PARAMETERS, TINY_RUN, assert_one_sentence, ended
from support.files import contents, read_rows

from training import config

COLUMNS = ("epoch", "step", "train_loss", "train_accuracy", "raw_accuracy", "ema_accuracy", "images_per_second")


# ---------------------------------------------------------------------------------------------------------------
# A run from beginning to end


def test_finished_run_leaves_every_file(finished_run):
    directory, _ = finished_run
    assert {path.name for path in directory.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "train.log",
        "curves.png",
        "checkpoints",
        "tensorboard",
    }
    assert [path.name for path in sorted((directory / "checkpoints").iterdir())] == ["step-000000008", "step-000000016"]
    curves = {str(path.parent.relative_to(directory / "tensorboard")) for path in directory.rglob("events.out.*")}
    assert curves >= {"raw", "ema/0.90/raw"}


def test_metrics_have_a_row_for_each_epoch(finished_run):
    rows = read_rows(finished_run[0])
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 8), (2, 16)]
    for row in rows:
        assert row.keys() >= {*COLUMNS, "seconds", "classifiers"}
        for name in ("train_accuracy", "raw_accuracy", "ema_accuracy"):
            assert 0 <= row[name] <= 1
        # The whole test set of 64 images counts, nothing is dropped: accuracies are whole 64ths.
        assert row["raw_accuracy"] * 64 == int(row["raw_accuracy"] * 64)
        assert row["classifiers"] == {"raw": row["raw_accuracy"], "ema/0.90/raw": row["ema_accuracy"]}
        assert 0 < row["train_loss"] < 10
        assert row["images_per_second"] > 0
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"] < 120


def test_raw_and_ema_are_different_classifiers(finished_run):
    with np.load(finished_run[0] / "predictions.npz", allow_pickle=False) as logits:
        assert np.abs(logits["raw"] - logits["ema/0.90/raw"]).max() > 0


def test_summary_is_the_last_row_with_the_gain(finished_run):
    directory, _ = finished_run
    summary, last = json.loads((directory / "summary.json").read_text()), read_rows(directory)[-1]
    assert {name: summary[name] for name in last} == last
    assert summary["gain"] == last["ema_accuracy"] - last["raw_accuracy"]
    assert summary["baseline"] == "raw"
    assert summary["parameters"] == PARAMETERS
    assert summary["device"].startswith("CPU")
    assert summary["precision"] == "float32"


def test_config_holds_every_flag_and_what_is_needed_to_repeat_the_run(finished_run):
    saved = json.loads((finished_run[0] / "config.json").read_text())
    assert saved["flags"].keys() == vars(config.parse([])).keys()
    assert (saved["flags"]["width"], saved["flags"]["epochs"]) == (0.05, 2)
    assert saved["versions"].keys() >= {"python", "tensorflow", "numpy"}
    assert saved["device"].startswith("CPU")
    assert saved["precision"] == "float32"
    assert "git_commit" in saved
    assert saved["decays"] == ["0.90"]
    assert [entry["step"] for entry in saved["history"]] == [0]


def test_decay_is_labelled_as_it_was_typed_after_a_resumption_too(finished_run):
    resumed = config.parse(["--resume", "--run_dir", str(finished_run[0])])
    assert list(map(str, resumed.ema_decay)) == ["0.90"]


def test_log_says_first_what_is_used_then_a_line_for_each_evaluation_then_the_result(finished_run):
    directory, stdout = finished_run
    assert (directory / "train.log").read_text() == stdout
    lines = stdout.splitlines()
    rows = read_rows(directory)
    header = next(number for number, line in enumerate(lines) if line.startswith("epoch"))
    heading = "\n".join(lines[:header])
    for part in ("CPU", "float32", "synthetic", "256 training and 64 test images", f"{PARAMETERS:,}", str(directory)):
        assert part in heading
    table = lines[header + 1 : header + 3]
    assert len({len(line) for line in [lines[header], *table]}) == 1  # fixed width
    for line, row in zip(table, rows, strict=True):
        numbers = [float(number) for number in re.findall(r"[-+]?\d+\.?\d*", line)]
        assert numbers[:2] == [row["epoch"], row["step"]]
        percents = [100 * row["raw_accuracy"], 100 * row["ema_accuracy"]]
        percents.append(percents[1] - percents[0])
        assert numbers[4:7] == pytest.approx(percents, abs=0.0051)
    assert lines[header + 3 :] == [lines[-1]]
    last = rows[-1]
    raw, ema = f"{100 * last['raw_accuracy']:.2f}%", f"{100 * last['ema_accuracy']:.2f}%"
    gain = f"{100 * (last['ema_accuracy'] - last['raw_accuracy']):+.2f}"
    done = f"done: raw {raw}, ema/0.90/raw {ema}, gain {gain} over raw after 2 epochs; everything is in {directory}"
    assert lines[-1] == done


# ---------------------------------------------------------------------------------------------------------------
# What is refused, before anything is written


def test_existing_run_is_refused_and_left_alone(finished_run, run):
    directory, _ = finished_run
    before = contents(directory)
    result = run("train.py", *TINY_RUN, "--run_dir", directory)
    assert_one_sentence(result, 1, directory, "--resume", "--run_dir")
    assert contents(directory) == before


def test_resume_with_another_architecture_is_refused_and_the_run_left_alone(finished_run, run):
    directory, _ = finished_run
    before = contents(directory)
    result = run("train.py", "--resume", "--run_dir", directory, "--width", "0.1")
    assert_one_sentence(result, 2, directory, "--width 0.05")
    assert contents(directory) == before


@pytest.mark.parametrize("argv", [["--ema_decay", "1.5"], ["--shadow"], ["--resume"]], ids=lambda argv: argv[0])
def test_usage_error_is_one_sentence_with_status_2(run, argv):
    result = run("train.py", *argv)
    assert result.stdout == ""
    assert_one_sentence(result, 2, argv[0])


@pytest.mark.parametrize(
    ("argv", "status", "parts"),
    [
        (["--device", "gpu"], 1, ["--device gpu", "requirements/gpu.txt", "--device cpu"]),
        (["--batch_size", "257"], 2, ["--batch_size 257", "256"]),
        (["--dataset", "cifar10", "--data_dir", "nowhere"], 1, ["nowhere", "mkdir"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistake_is_one_sentence_and_leaves_no_directory(run, tmp_path, argv, status, parts):
    result = run("train.py", *TINY_RUN, *argv, "--run_dir", tmp_path / "run")
    assert_one_sentence(result, status, *parts)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_run_directory_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = run("train.py", *TINY_RUN, "--run_dir", tmp_path / "file" / "run")
    assert_one_sentence(result, 1, tmp_path / "file" / "run", "cannot be written", "--run_dir")
    assert (tmp_path / "file").read_text() == "kept"


def test_failed_download_is_one_sentence_with_the_ways_out_in_time(run, tmp_path):
    started = time.monotonic()
    result = run("train.py", "--data_dir", tmp_path, "--device", "cpu", "--run_dir", tmp_path / "run")
    assert time.monotonic() - started < 30
    assert_one_sentence(result, 1, "cifar-10-binary.tar.gz", tmp_path, "make demo")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------
# Stopping and going on


def wait_for(process, text):
    """Reads stdout up to the first line that holds `text`."""
    assert any(text in line for line in process.stdout), f"ended without {text!r}"


def test_interrupted_run_says_how_to_go_on_and_goes_on_to_the_end(start, run, tmp_path):
    directory = tmp_path / "run"
    process = start("train.py", *TINY_RUN, "--epochs", 1000, "--run_dir", directory)
    wait_for(process, "epoch  ")
    process.stdout.readline()  # the first evaluation
    process.send_signal(signal.SIGINT)
    result = ended(process)
    resume = f"python train.py --resume --run_dir {directory}"
    assert_one_sentence(result, 130, "Ctrl-C", "checkpoint saved", resume)
    first = int(re.search(r"at step (\d+)", result.stderr)[1])
    assert (directory / "checkpoints" / f"step-{first:09d}").is_dir()
    assert not (directory / "summary.json").exists()

    process = start(*resume.split()[1:])
    wait_for(process, f"resumed at step {first}")
    wait_for(process, "epoch  ")
    process.stdout.readline()  # the next evaluation: more than one epoch is done
    process.terminate()
    result = ended(process)
    assert_one_sentence(result, 143, "SIGTERM", resume)
    second = int(re.search(r"at step (\d+)", result.stderr)[1])
    assert second >= first

    result = run(*resume.split()[1:], "--epochs", 1)
    assert_one_sentence(result, 2, "--epochs 1", "already")

    epochs = second // EPOCH_STEPS + 2
    result = run(*resume.split()[1:], "--epochs", epochs)
    assert result.returncode == 0, result.stderr
    rows = read_rows(directory)
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    assert [row["step"] for row in rows] == [EPOCH_STEPS * row["epoch"] for row in rows]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert json.loads((directory / "summary.json").read_text())["epoch"] == epochs


def test_interrupt_while_tensorflow_is_imported_is_one_sentence(start, tmp_path):
    process = start("train.py", *TINY_RUN, "--run_dir", tmp_path / "run")
    maps = Path(f"/proc/{process.pid}/maps")
    while "tensorflow" not in maps.read_text():  # the import takes seconds from here
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    result = ended(process)
    assert_one_sentence(result, 130, "interrupted")
    assert list(tmp_path.iterdir()) == []


def test_reader_that_goes_away_does_not_end_the_run(start, tmp_path):
    """As in `python train.py | head -1`."""
    directory = tmp_path / "run"
    process = start("train.py", *TINY_RUN, "--epochs", 2, "--run_dir", directory)
    process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=600) == 0, stderr
    assert stderr == ""
    assert len(read_rows(directory)) == 2
    assert (directory / "summary.json").exists()
    assert "done:" in (directory / "train.log").read_text().splitlines()[-1]
