"""results/experiments.py: which runs are made, from what, how they are known, and what is kept of them."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support.finished_runs import write_experiment

from results import experiments
from training import flags
from training.cli import UserError

RUNS = {run.name: run for run in experiments.RUNS}
TRUNKS = {run.trunk.name: run.trunk for run in experiments.RUNS if run.trunk}


@pytest.mark.parametrize("run", experiments.RUNS, ids=lambda run: run.name)
def test_train_takes_the_flags_of_every_run(run):
    asked = flags.parse(run.flags.split())
    assert run.name.split("/")[0] in experiments.EXPERIMENTS and run.name.endswith(f"{asked.seed}")
    if run.trunk:
        done = flags.parse(run.trunk.flags.split()).epochs
        assert done == asked.epochs - (asked.lr_cooldown or done // 4)  # where a cooldown begins


@pytest.fixture
def make(tmp_path, monkeypatch, capsys):
    """Carries out the commands printed, but for training only writes its end; returns what was trained."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        experiments.main(names, tmp_path / "results")
        trained = []
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("python train.py "):
                asked = flags.parse(shlex.split(line)[2:])  # which compares them with those of a run that is resumed
                path = Path(asked.run_dir)
                trained.append(str(path.relative_to(tmp_path / "runs")))
                assert asked.resume == path.exists() and not (path / "stale").exists()
                shutil.rmtree(path, ignore_errors=True)
                write_experiment(tmp_path / "runs", (RUNS | TRUNKS)[trained[-1]], {})
            else:
                subprocess.run(["sh", "-ec", line], check=True)
        return trained

    return make


def test_runs_continue_copies_of_their_trunk_and_are_kept(make, tmp_path):
    both = ("augment", "augment_cooldown")
    names = ["augment/trunk-0", "augment/seed-0", "augment/trunk-1", "augment/seed-1"]
    assert make(*both) == [*names, "augment_cooldown/seed-0", "augment_cooldown/seed-1"]  # each trunk once
    experiments.main([*both, "--collect"], tmp_path / "results")
    assert len(list(tmp_path.glob("results/*/*/config.json"))) == 4  # without the trunks
    shutil.rmtree(tmp_path / "runs")
    assert make(*both) == []
    shutil.rmtree(tmp_path / "results" / "augment_cooldown" / "seed-1")
    assert make(*both) == ["augment/trunk-1", "augment_cooldown/seed-1"]


def test_what_was_cut_off_goes_on(make, tmp_path):
    """A trunk amid training, a copy amid copying, one that was not continued, a run that has a summary of before."""
    runs = tmp_path / "runs"
    (write_experiment(runs, TRUNKS["augment/trunk-0"], {}) / "summary.json").unlink()
    (runs / "augment" / "seed-0.new" / "stale").mkdir(parents=True)
    shutil.copytree(write_experiment(runs, TRUNKS["augment/trunk-1"], {}), runs / "augment" / "seed-1")
    (write_experiment(runs, RUNS["noise/seed-1"], {}) / "summary.json").write_text(json.dumps({"epoch": 16}))
    experiments.main(["--collect"], tmp_path / "results")
    assert not (tmp_path / "results").exists()
    assert make("augment") == ["augment/trunk-0", "augment/seed-0", "augment/seed-1"]
    assert make("noise") == ["noise/seed-0", "noise/seed-1"]


@pytest.mark.parametrize("place", ["runs/noise", "results/noise", "results/noise_cooldown", "trunk"])
@pytest.mark.parametrize("other", ["--dataset synthetic --epochs 8", "--seed 9", "--eval_every 2"])
def test_another_run_of_the_right_name_is_not_taken(make, tmp_path, place, other):
    folder, _, name = place.partition("/")
    run = RUNS[f"{name}/seed-0"] if name else TRUNKS["noise_cooldown/trunk-0"]
    write_experiment(tmp_path / (folder if name else "runs"), run, {}, argv=other.split())
    with pytest.raises(UserError, match=rf"{run.name} is another run, by its .*{other.split()[0]}.*\(mv "):
        make("noise", "noise_cooldown")


@pytest.mark.parametrize("made", ["float32", "bfloat16"])
def test_the_precision_that_was_used_counts(tmp_path, made):
    for name, others in (("gain/seed-0", ()), ("float32/seed-0", ("bfloat16",)), ("gain/seed-3", ("float32",))):
        path = write_experiment(tmp_path, RUNS[name], {}, argv=["--precision", "auto"], precision=made)
        assert experiments.differences(RUNS[name], path) == (["--precision"] if made in others else [])


def test_what_is_kept_names_no_directory_of_the_machine(tmp_path):
    runs, name = tmp_path / "a machine" / "made", "starts/warmup-seed0"
    path = write_experiment(runs, RUNS[name], {}, argv=["--data_dir", "/my data", "--run_dir", "/x/y"])
    log = f"CIFAR-10 from /my data/cifar10/3.0.2, 50000\nrun {path}\npython '{runs.parent}/evaluate.py' '{path}'\n"
    (path / "train.log").write_text(log)
    experiments.main(["starts", "--collect", "--runs", str(runs)], tmp_path)
    log = f"CIFAR-10 from cifar10/3.0.2, 50000\nrun runs/{name}\npython 'evaluate.py' 'runs/{name}'\n"
    assert (tmp_path / name / "train.log").read_text() == log
    saved = json.loads((tmp_path / name / "config.json").read_text())["flags"]
    assert (saved["run_dir"], saved["data_dir"]) == (f"runs/{name}", None)


def test_a_report_is_what_its_runs_make(tmp_path):
    results = tmp_path / "results"
    metrics = write_experiment(results, RUNS["noise/seed-0"], {"raw": 0.6}, {"raw": 0.9}) / "metrics.jsonl"
    experiments.main(["noise", "--collect"], results)
    experiments.main(["--check"], results)
    metrics.write_text(metrics.read_text().replace("0.6,", "0.61,"))
    with pytest.raises(UserError, match=r"python results/experiments\.py --collect noise"):
        experiments.main(["--check"], results)
