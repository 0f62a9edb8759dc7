"""One-line errors: exit status, one line on stderr, and the flag, path or variable that it names."""

import importlib
import shlex

import pytest
from support.commands import RESUME, TINY_RUN, assert_one_sentence
from support.files import contents

from analysis.flags import evaluate_parser, report_parser
from training import flags
from training.cli import one_line_errors

PARSERS = {"train": flags.parse, "evaluate": evaluate_parser().parse_args, "report": report_parser().parse_args}
USAGE = [  # arguments of train.py, the part that is named
    ("--bogus", "--bogus"),
    ("--epoch 3", "--epoch"),
    ("run", "run"),
    ("--resume", "--run_dir"),
    ("--ema_decay 0.9 0.90", "--ema_decay"),
    ("--ema_power 0.05 0.0500000001", "--ema_power"),
    ("--ema_batch_stats raw raw", "--ema_batch_stats"),
    ("--replicas 2", "--strategy"),
    ("--strategy mirrored --replicas 3", "--batch_size 32"),
    ("--strategy mirrored --replicas 2 --xla on", "--xla"),
    ("--strategy multiworker", "--run_dir"),
    ("--strategy multiworker --run_dir {new}", "TF_CONFIG"),
    ("--batch_size 257", "--batch_size 257"),
    ("--test_size 99999", "--test_size 99999"),
    ("--validation_size 256", "--validation_size 256"),
    ("--lr_cooldown 3 --epochs 2", "--lr_cooldown 3"),
    ("--resume --run_dir {run} --width 0.1", "--width 0.05"),
    ("--resume --run_dir {run} --epochs 1", "--epochs 1"),
]
FAILURES = [
    ("train --device gpu", "--device gpu"),
    ("train --device gpu", "requirements/gpu.txt"),
    ("train --run_dir {run}", "--resume"),
    ("train --run_dir {run}", "{run}"),
    ("train --run_dir {notes}", "--run_dir"),
    ("train --run_dir {notes}/notes.txt", "--run_dir"),
    ("train --run_dir {notes}/notes.txt/run", "--run_dir"),
    ("train --resume --run_dir {new}", "{new}"),
    ("train --dataset cifar10 --data_dir {new}", "{new}"),
    ("evaluate table --run_dir {new}", "{new}"),
    ("evaluate export --run_dir {run} --output {notes}", "{notes}"),
    ("evaluate predict --run_dir {run} --decay 0.5 {notes}", "--decay"),
    ("report {new}", "{new}"),
]
ROWS = [(f"train {argv}", 2, named) for argv, named in USAGE]
ROWS += [("evaluate", 2, "COMMAND"), ("evaluate table", 2, "--run_dir"), ("report", 2, "RUN")]
ROWS += [(argv, 2 if "--decay" in argv else 1, named) for argv, named in FAILURES]


@pytest.mark.parametrize(("line", "status", "named"), ROWS, ids=[f"{line}-{named}" for line, _, named in ROWS])
def test_error_names_flag_or_path(finished_run, tmp_path, monkeypatch, capsys, line, status, named):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    paths = {"run": finished_run[0], "new": tmp_path / "new", "notes": tmp_path / "notes"}
    paths["notes"].mkdir()
    (paths["notes"] / "notes.txt").write_text("kept")
    before = contents(finished_run[0]) | contents(tmp_path)
    script, *argv = shlex.split(line.format(**paths))
    if script == "train" and "--resume" not in argv:
        argv = [*TINY_RUN, *argv]  # a flag that is given twice has its last value
    with pytest.raises(SystemExit) as caught, one_line_errors():
        arguments = PARSERS[script](argv)
        importlib.import_module(script).main(arguments)
    output = capsys.readouterr()
    assert (caught.value.code, output.out) == (status, "")
    (sentence,) = output.err.splitlines()
    assert named.format(**paths) in sentence
    assert contents(finished_run[0]) | contents(tmp_path) == before


def test_errors_of_real_commands(forked, finished_run, tmp_path):
    directory = finished_run[0]
    assert_one_sentence(forked("train.py", *TINY_RUN, "--run_dir", directory), 1, directory, "--resume")
    assert_one_sentence(forked(*RESUME, directory, "--width", 0.1), 2, directory, "--width 0.05")
    assert_one_sentence(forked("evaluate.py", "table", "--run_dir", tmp_path), 1, tmp_path)
    assert_one_sentence(forked("report.py", tmp_path, "--bogus"), 2, "--bogus")
