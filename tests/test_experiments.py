"""results/experiments.py: which runs are made, from what, and that train.py takes their flags."""

import json
import runpy
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.commands import ROOT
from support.files import read_arrays
from support.finished_runs import EMA_ANSWERS, write_predictions, write_run

from analysis import finished, predictions
from training import config

MODULE = runpy.run_path(str(ROOT / "results" / "experiments.py"))
Run, Experiment = MODULE["Run"], MODULE["Experiment"]
RUNS = [(name, run) for name, experiment in MODULE["EXPERIMENTS"].items() for run in experiment.runs]


@pytest.mark.parametrize(("name", "run"), RUNS, ids=[f"{name}/{run.name}" for name, run in RUNS])
def test_train_takes_the_flags_of_every_run(name, run):
    trunk = next((one for other, one in RUNS if f"{other}/{one.name}" == run.trunk), None)
    assert bool(trunk) == bool(run.trunk)
    flags = config.parse(shlex.split(f"{trunk.flags if trunk else ''} {run.flags}"))
    assert flags.dataset == "cifar10"
    if trunk:
        assert flags.epochs > config.parse(shlex.split(trunk.flags)).epochs


@pytest.fixture
def experiments(tmp_path):
    """experiments.py with two experiments of one seed that share a trunk, and what it calls written down."""
    module = runpy.run_path(str(ROOT / "results" / "experiments.py"))
    names = module["main"].__globals__
    names["ROOT"] = tmp_path
    names["EXPERIMENTS"] = {
        "gain": Experiment(
            "", (Run("trunk-0", "--epochs 2", kept=False), Run("seed-0", "--epochs 3", trunk="gain/trunk-0"))
        ),
        "cooldown": Experiment("", (Run("seed-0", "--epochs 3 --lr_cooldown 1", trunk="gain/trunk-0"),)),
    }
    names["called"] = []

    def call(script, *arguments):
        names["called"].append(shlex.join(map(str, arguments)).replace(f"{tmp_path}/", ""))
        if script == "report.py":
            (tmp_path / "results" / "gain" / "report").mkdir(parents=True)
            (tmp_path / "results" / "gain" / "report" / "report.html").touch()
            return
        path = arguments[arguments.index("--run_dir") + 1]
        epoch = int(arguments[arguments.index("--epochs") + 1])
        if not path.exists():
            write_predictions(write_run(path), **{"ema/0.99/raw": EMA_ANSWERS})
        (path / "summary.json").write_text(json.dumps({"epoch": epoch}))

    names["call"] = call
    return names


def make(experiments, *names):
    experiments["called"].clear()
    experiments["main"](["--run", *names, "--runs", str(experiments["ROOT"] / "runs")])
    return experiments["called"]


def test_runs_continue_copies_of_their_trunk_and_are_kept(experiments):
    assert make(experiments) == [
        "--run_dir runs/gain/trunk-0 --epochs 2",
        "--resume --run_dir runs/gain/seed-0 --epochs 3",
        "--resume --run_dir runs/cooldown/seed-0 --epochs 3 --lr_cooldown 1",
    ]
    kept = [str(path.relative_to(experiments["ROOT"])) for path in experiments["ROOT"].glob("results/*/*")]
    assert sorted(kept) == ["results/cooldown/seed-0", "results/gain/seed-0"]
    assert make(experiments) == []


def test_a_trunk_is_made_again_only_for_a_run_that_is_still_missing(experiments):
    make(experiments)
    runs, kept = experiments["ROOT"] / "runs", experiments["ROOT"] / "results"
    runs.rename(experiments["ROOT"] / "elsewhere")
    assert make(experiments) == []
    (kept / "cooldown" / "seed-0" / "summary.json").unlink()
    assert make(experiments) == [
        "--run_dir runs/gain/trunk-0 --epochs 2",
        "--resume --run_dir runs/cooldown/seed-0 --epochs 3 --lr_cooldown 1",
    ]


def test_a_run_whose_trunk_is_missing_makes_it_first(experiments):
    assert make(experiments, "cooldown") == [
        "--run_dir runs/gain/trunk-0 --epochs 2",
        "--resume --run_dir runs/cooldown/seed-0 --epochs 3 --lr_cooldown 1",
    ]


def test_a_copy_that_was_cut_off_is_made_again(experiments, monkeypatch):
    make(experiments, "gain")

    def cut_off(source, target):
        target.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(experiments["shutil"], "copytree", cut_off)
        make(experiments, "cooldown")
    assert make(experiments, "cooldown") == ["--resume --run_dir runs/cooldown/seed-0 --epochs 3 --lr_cooldown 1"]


@pytest.fixture
def reported(experiments):
    """The same, with a report of gain over both experiments."""
    experiments["EXPERIMENTS"]["gain"] = experiments["EXPERIMENTS"]["gain"]._replace(report=True, beside=("cooldown",))
    return experiments


BOTH = "results/gain/seed-0 results/cooldown/seed-0 --output results/gain/report"


def test_a_report_is_made_anew_over_what_is_kept_of_all_its_runs(reported):
    assert make(reported, "gain")[-1] == "results/gain/seed-0 --output results/gain/report"
    assert make(reported, "cooldown")[-1] == BOTH
    (reported["ROOT"] / "runs").rename(reported["ROOT"] / "elsewhere")
    assert make(reported, "gain") == [BOTH]
    assert (reported["ROOT"] / "results" / "gain" / "report").is_dir()


def test_the_predictions_kept_are_those_that_a_report_reads(reported):
    make(reported)
    for run in ("gain/seed-0", "cooldown/seed-0"):
        before, after = (finished.read_run(reported["ROOT"] / place / run) for place in ("runs", "results"))
        kept = read_arrays(after.path / "predictions.npz")
        assert list(kept) == ["labels", "raw", "ema/0.998/raw"]
        for one, other in zip(predictions.read_predictions(before), predictions.read_predictions(after), strict=True):
            if not isinstance(one, finished.FinishedRun):
                np.testing.assert_array_equal(one, other)


def test_predictions_that_no_report_reads_are_not_kept(experiments):
    make(experiments)
    assert not list(experiments["ROOT"].glob("results/*/*/predictions.npz"))


def test_ctrl_c_lets_the_run_save_first(tmp_path):
    """The run is a stand-in that takes a second to save; a status other than 0 ends everything with it."""
    script = tmp_path / "train.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        "    pathlib.Path(sys.argv[1]).write_text('saved')\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, save)\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
        "time.sleep(60)\n"
    )
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'results')!r}); import experiments, pathlib; "
        f"experiments.ROOT = pathlib.Path({str(tmp_path)!r}); experiments.call('train.py', *sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, saved, begun], stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c
    )
    while not begun.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, saved.read_text(), stderr) == (130, "saved", b"")


def heed_ctrl_c():
    """A process started in the background of a shell ignores Ctrl-C; a test under nohup would hand that down."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_copy_of_a_trunk_that_was_not_continued_goes_on(experiments):
    make(experiments, "gain")
    path = experiments["ROOT"] / "runs" / "gain" / "seed-0"
    (path / "summary.json").write_text(json.dumps({"epoch": 2}))
    (experiments["ROOT"] / "results" / "gain" / "seed-0" / "summary.json").unlink()
    experiments["main"](["--collect", "gain", "--runs", str(experiments["ROOT"] / "runs")])
    assert not (experiments["ROOT"] / "results" / "gain" / "seed-0" / "summary.json").exists()
    assert make(experiments, "gain") == ["--resume --run_dir runs/gain/seed-0 --epochs 3"]
