"""The command evaluate.py: usage errors, and a run that is not there. Its sub-commands have test files of their own."""

import pytest
from support.commands import assert_one_sentence
from support.evaluating import arguments
from training.errors import UserError

from analysis import posthoc, table


@pytest.mark.parametrize(
    "argv",
    [[], ["table"], ["tables", "--run_dir", "x"], ["table", "--run_dir", "x", "--format", "xml"], ["table", "--run"]],
    ids=str,
)
def test_usage_errors_have_status_2(argv):
    with pytest.raises(SystemExit) as error:
        arguments(*argv)
    assert error.value.code == 2


@pytest.mark.parametrize("command", [table, posthoc], ids=["table", "posthoc"])
def test_no_run_is_one_sentence(command, tmp_path):
    with pytest.raises(UserError, match="train"):
        command.main(arguments(command.__name__.partition(".")[2], "--run_dir", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["table"], ["posthoc"], ["export", "--output", "x"], ["predict", "a.png"]], ids=str
)
def test_mistake_is_one_sentence_with_status_1(run, tmp_path, command):
    result = run("evaluate.py", *command, "--run_dir", tmp_path / "nowhere")
    assert result.stdout == ""
    assert_one_sentence(result, 1, tmp_path / "nowhere")
