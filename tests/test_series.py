"""train.py --seeds: which runs are made, with which flags, how a signal reaches them, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.commands import ROOT, TINY_RUN

from analysis import series
from training import config
from training.errors import UserError


def parse(*argv):
    return config.parse(list(map(str, argv)))


class Processes:
    """Stands for train.py and report.py: does what they do to the run directory, and keeps what it was asked.

    `fail` maps a seed, or "report", to the status that it ends with; 2 is a refusal before anything was begun.
    """

    def __init__(self, monkeypatch):
        self.runs, self.reports, self.fail = [], [], {}
        monkeypatch.setattr(series, "run_to_end", self.run)

    def run(self, arguments):
        python, script, *argv = arguments
        assert (python, Path(script).parent) == (sys.executable, ROOT)
        return {"train.py": self.train, "report.py": self.report}[Path(script).name](argv)

    def report(self, argv):
        self.reports.append(argv)
        return self.fail.get("report", 0)

    def train(self, argv):
        asked = config.parse(argv)
        assert "seeds" not in asked
        self.runs.append(asked)
        if self.fail.get(asked.seed) == 2:
            return 2
        directory = Path(asked.run_dir)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps({"flags": config.saved_flags(asked)}))
        if asked.seed in self.fail:
            return self.fail[asked.seed]
        (directory / "summary.json").write_text(json.dumps({"epoch": asked.epochs}))
        return 0


def train_all(*argv):
    """Trains every seed and makes the report; the status."""
    with pytest.raises(SystemExit) as end:
        series.main(parse(*argv))
    return end.value.code


@pytest.fixture
def processes(monkeypatch):
    return Processes(monkeypatch)


# ---------------------------------------------------------------------------------------------------------------
# Flags


def test_a_plain_run_knows_nothing_of_seeds():
    assert "seeds" not in parse()


@pytest.mark.parametrize(
    "argv", [["--seeds"], ["--seeds", "1", "--seed", "1"], ["--seeds", "1", "1"], ["--seeds", "-1"]], ids=" ".join
)
def test_usage_errors_have_status_2(argv):
    with pytest.raises(SystemExit) as error:
        parse(*argv)
    assert error.value.code == 2


def test_each_run_has_the_same_flags_but_its_seed_and_directory(processes, tmp_path):
    argv = [*TINY_RUN, "--ema_decay", "0.990", 0.9, "--augment", "--ema_power", 0.1]
    assert train_all(*argv, "--seeds", 4, 2, "--run_dir", tmp_path / "runs") == 0
    for run, seed in zip(processes.runs, (4, 2), strict=True):
        expected = parse(*argv, "--seed", seed, "--run_dir", tmp_path / "runs" / f"seed-{seed}")
        assert vars(run) == vars(expected)
        assert list(map(str, run.ema_decay)) == ["0.990", "0.9"]
    assert processes.reports == [[str(tmp_path / "runs"), "--output", str(tmp_path / "runs" / "report")]]


# ---------------------------------------------------------------------------------------------------------------
# Stopping and going on


def test_resumption_skips_the_finished_continues_the_begun_and_begins_the_rest(processes, tmp_path, capsys):
    processes.fail = {1: 130}
    argv = ["--seeds", 0, 1, 2, "--run_dir", tmp_path / "my runs"]
    with pytest.raises(UserError) as error:
        series.main(parse("--width", 0.5, *argv))
    assert error.value.status == 130
    command = f"python train.py --resume --run_dir '{tmp_path / 'my runs'}' --seeds 0 1 2"
    assert str(error.value) == f"seed 1 has not come to its end; continue all of them with: {command}"
    assert processes.reports == []

    processes.fail, processes.runs = {}, []
    assert train_all("--resume", *argv) == 0
    assert [(run.seed, run.resume, run.width) for run in processes.runs] == [(1, True, 0.5), (2, False, 0.5)]
    assert capsys.readouterr().out == f"{tmp_path / 'my runs' / 'seed-0'} is finished\n"
    assert len(processes.reports) == 1


def test_more_epochs_and_more_seeds_may_be_asked_for_later(processes, tmp_path):
    assert train_all("--epochs", 2, "--seeds", 0, "--run_dir", tmp_path / "runs") == 0
    processes.runs = []
    assert train_all("--resume", "--epochs", 3, "--seeds", 7, 0, "--run_dir", tmp_path / "runs") == 0
    assert [(run.seed, run.resume, run.epochs) for run in processes.runs] == [(7, False, 3), (0, True, 3)]


def test_resumption_with_other_flags_is_refused(processes, tmp_path):
    assert train_all("--seeds", 0, "--run_dir", tmp_path / "runs") == 0
    with pytest.raises(UserError, match=r"was trained with --width 1\.0") as error:
        parse("--resume", "--width", 2, "--seeds", 0, 1, "--run_dir", tmp_path / "runs")
    assert error.value.status == 2


def test_nothing_to_resume_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        parse("--resume", "--seeds", 0, "--run_dir", tmp_path)


def test_refusal_of_the_first_run_stands_alone(processes, tmp_path):
    processes.fail = {0: 2}
    assert train_all("--seeds", 0, 1, "--run_dir", tmp_path / "runs") == 2
    assert len(processes.runs) == 1
    assert list(tmp_path.iterdir()) == []


def test_status_of_the_report_is_that_of_the_series(processes, tmp_path):
    processes.fail = {"report": 1}
    assert train_all("--seeds", 0, "--run_dir", tmp_path / "runs") == 1


def test_directory_with_something_in_it_is_refused_and_left_alone(processes, tmp_path):
    (tmp_path / "kept").write_text("kept")
    for directory in (tmp_path, tmp_path / "kept"):
        with pytest.raises(UserError, match="another --run_dir"):
            series.main(parse("--seeds", 0, "--run_dir", directory))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert processes.runs == []


def test_what_a_kill_before_the_first_run_began_leaves_is_begun_anew(processes, tmp_path):
    path = tmp_path / "runs" / "seed-0"
    path.mkdir(parents=True)
    for name in (".lock", ".config.json.new"):
        (path / name).touch()
    assert train_all("--seeds", 0, 1, "--run_dir", tmp_path / "runs") == 0
    assert [(run.seed, run.resume) for run in processes.runs] == [(0, False), (1, False)]


def test_a_finished_seed_that_is_to_have_another_cooldown_is_left_to_itself_to_refuse(processes, tmp_path):
    argv = ["--seeds", 0, "--run_dir", tmp_path / "runs", "--epochs", 2]
    assert train_all(*argv) == 0
    processes.runs, processes.fail = [], {0: 2}
    with pytest.raises(UserError) as error:
        series.main(parse("--resume", *argv, "--lr_cooldown", 1))
    assert error.value.status == 2
    assert [(run.seed, run.resume, run.lr_cooldown) for run in processes.runs] == [(0, True, 1)]


def test_directory_of_a_single_run_is_refused(processes, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"flags": vars(parse())}))
    with pytest.raises(UserError, match="holds a single run"):
        series.main(parse("--resume", "--seeds", 0, "--run_dir", tmp_path))
    assert processes.runs == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epoch": null}', '{"epoch": 1}'])
def test_damaged_or_earlier_summary_is_no_end(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    assert not series.is_finished(tmp_path, parse("--epochs", 2))


# ---------------------------------------------------------------------------------------------------------------
# Processes

WAIT_FOR_SIGNALS = """
import signal, sys, time
got = []
signal.signal({number}, lambda number, _: got.append(number))
open(sys.argv[1], "w").close()
while not got:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(100 + len(got))
"""


def send_when(exists, number):
    """Sends this process a signal once the file exists."""

    def wait():
        while not exists.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_run_once_and_waits_for_it(tmp_path, number):
    before = signal.getsignal(number)
    send_when(tmp_path / "ready", number)
    code = WAIT_FOR_SIGNALS.format(number=int(number))
    assert series.run_to_end([sys.executable, "-c", code, str(tmp_path / "ready")]) == 101
    assert signal.getsignal(number) is before


def test_ctrl_c_in_a_terminal_reaches_the_run_once_too(tmp_path):
    """A terminal sends it to every process of the foreground group."""
    ready = tmp_path / "ready"
    run = [sys.executable, "-c", WAIT_FOR_SIGNALS.format(number=int(signal.SIGINT)), str(ready)]
    script = "import sys; from analysis import series; sys.exit(series.run_to_end(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", script, *run], cwd=ROOT, start_new_session=True)
    while process.poll() is None and not ready.exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 101


def test_a_signal_that_comes_too_late_for_the_run_ends_the_series(tmp_path):
    code = "import signal, sys, time; signal.signal(2, lambda *_: sys.exit(0)); open(sys.argv[1], 'w'); time.sleep(30)"
    send_when(tmp_path / "ready", signal.SIGINT)
    assert series.run_to_end([sys.executable, "-c", code, str(tmp_path / "ready")]) == 130


@pytest.mark.parametrize(("code", "status"), [("", 0), ("exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_status_is_the_runs_own(code, status):
    assert series.run_to_end([sys.executable, "-c", code]) == status


@pytest.mark.slow
def test_interrupted_series_goes_on_to_its_report(start, run, tmp_path):
    directory = tmp_path / "runs"
    process = start("train.py", *TINY_RUN, "--epochs", 300, "--seeds", 0, 1, "--run_dir", directory)
    assert any(line.startswith("epoch  ") for line in process.stdout)
    process.stdout.readline()  # the first evaluation
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130
    own, whole = stderr.splitlines()
    assert "checkpoint saved" in own
    assert whole.endswith(f"python train.py --resume --run_dir {directory} --seeds 0 1")
    epochs = len((directory / "seed-0" / "metrics.jsonl").read_text().splitlines()) + 1

    result = run("train.py", "--resume", "--run_dir", directory, "--seeds", 0, 1, "--epochs", epochs)
    assert (result.returncode, result.stderr) == (0, "")
    for seed in (0, 1):
        config = json.loads((directory / f"seed-{seed}" / "config.json").read_text())["flags"]
        assert (config["seed"], config["epochs"], config["width"]) == (seed, epochs, 0.05)
        assert "seeds" not in config
    assert (directory / "report" / "report.html").exists()
    assert "mean of 2 seeds (0, 1)" in result.stdout
