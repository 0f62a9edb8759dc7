"""results/experiments.py: the commands of every run, how finished runs are recognized, and what is archived."""

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
PARENTS = {run.parent.name: run.parent for run in experiments.RUNS if run.parent}


@pytest.mark.parametrize("run", experiments.RUNS, ids=lambda run: run.name)
def test_train_accepts_flags(run):
    parsed = flags.parse(run.flags.split())
    assert run.name.split("/")[0] in experiments.EXPERIMENTS and run.name.endswith(f"{parsed.seed}")
    if run.parent:  # its end is the start of the cooldown
        epochs = flags.parse(run.parent.flags.split()).epochs
        assert epochs == parsed.epochs - (parsed.lr_cooldown or epochs // 4)


@pytest.fixture
def make(tmp_path, monkeypatch, capsys):
    """Runs the printed commands, but writes finished runs instead of training; returns the names of the runs."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        experiments.main(names, tmp_path / "results")
        trained = []
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("python train.py "):
                parsed = flags.parse(shlex.split(line)[2:])  # compares them with the flags of a resumed run
                path = Path(parsed.run_dir)
                trained.append(str(path.relative_to(tmp_path / "runs")))
                assert parsed.resume == path.exists()
                shutil.rmtree(path, ignore_errors=True)
                write_experiment(tmp_path / "runs", (RUNS | PARENTS)[trained[-1]], {})
            else:
                subprocess.run(["sh", "-ec", line], check=True)
        return trained

    return make


def test_runs_continue_their_parents(make, tmp_path):
    both = ("augment", "augment_cooldown")
    names = ["augment/parent-0", "augment/seed-0", "augment/parent-1", "augment/seed-1"]
    assert make(*both) == [*names, "augment_cooldown/seed-0", "augment_cooldown/seed-1"]  # each parent once
    experiments.main([*both, "--collect"], tmp_path / "results")
    assert len(list(tmp_path.glob("results/*/*/config.json"))) == 4  # without the parents
    shutil.rmtree(tmp_path / "runs")
    assert make(*both) == []
    shutil.rmtree(tmp_path / "results" / "augment_cooldown" / "seed-1")
    assert make(*both) == ["augment/parent-1", "augment_cooldown/seed-1"]


def test_interrupted_runs_continue(make, tmp_path):
    """An unfinished parent, an unfinished copy, a copy that was not continued, and a run with an old summary.json."""
    runs = tmp_path / "runs"
    (write_experiment(runs, PARENTS["augment/parent-0"], {}) / "summary.json").unlink()
    (runs / "augment" / "seed-0.new").mkdir(parents=True)
    shutil.copytree(write_experiment(runs, PARENTS["augment/parent-1"], {}), runs / "augment" / "seed-1")
    (write_experiment(runs, RUNS["noise/seed-1"], {}) / "summary.json").write_text(json.dumps({"epoch": 16}))
    experiments.main(["augment", "noise", "--collect"], tmp_path / "results")
    assert not (tmp_path / "results").exists()
    assert make("augment") == ["augment/parent-0", "augment/seed-0", "augment/seed-1"]
    assert make("noise") == ["noise/seed-0", "noise/seed-1", "noise/seed-2"]


def test_flags_identify_runs(tmp_path):
    for flag in ("--dataset synthetic", "--seed 9", "--eval_every 2", "--epochs 8"):
        path = write_experiment(tmp_path, RUNS["noise/seed-0"], {}, argv=flag.split())
        assert not experiments.is_finished(RUNS["noise/seed-0"], tmp_path)
        shutil.rmtree(path)
    for name, finished in {"guide/seed-0": True, "float32/seed-0": False, "gain/seed-3": True}.items():
        write_experiment(tmp_path, RUNS[name], {}, argv=["--precision", "auto"], precision="bfloat16")
        assert experiments.is_finished(RUNS[name], tmp_path) == finished


def test_some_flags_do_not_matter(tmp_path):
    run, argv = RUNS["noise/seed-0"], "--device cpu --xla off --checkpoint_every 1 --data_dir /x --precision auto"
    write_experiment(tmp_path, run, {}, argv=argv.split(), precision="float32")
    assert experiments.is_finished(run, tmp_path)


@pytest.mark.parametrize("argv", [[], ["--collect"], ["gian"]])
def test_experiment_name_is_required(argv):
    with pytest.raises(UserError, match=", ".join(experiments.EXPERIMENTS)) as error:
        experiments.main(argv)
    assert error.value.status == 2


def test_archive_has_no_local_paths(tmp_path):
    runs, name = tmp_path / "a machine" / "runs", "starts/warmup-seed0"
    path = write_experiment(runs, RUNS[name], {}, argv=["--data_dir", "/my data", "--run_dir", str(runs / name)])
    log = f"CIFAR-10 from /my data/cifar10/3.0.2, 50000\nrun {path}\npython '{runs.parent}/evaluate.py' '{path}'\n"
    (path / "train.log").write_text(log)
    experiments.main(["starts", "--collect"], tmp_path, runs)
    log = f"CIFAR-10 from cifar10/3.0.2, 50000\nrun runs/{name}\npython 'evaluate.py' 'runs/{name}'\n"
    assert (tmp_path / name / "train.log").read_text() == log
    saved = json.loads((tmp_path / name / "config.json").read_text())["flags"]
    assert (saved["run_dir"], saved["data_dir"]) == (f"runs/{name}", None)


def test_report_follows_archived_runs(tmp_path):
    results = tmp_path / "results"
    metrics = write_experiment(results, RUNS["noise/seed-0"], {"raw": 0.6}, {"raw": 0.9}) / "metrics.jsonl"
    experiments.main(["noise", "--collect"], results)
    experiments.main(["--check"], results)
    metrics.write_text(metrics.read_text().replace("0.6,", "0.61,"))
    with pytest.raises(UserError, match="--collect"):
        experiments.main(["--check"], results)
