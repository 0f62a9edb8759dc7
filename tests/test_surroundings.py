"""What a process may find around itself, and that every remedy which a sentence names works when it is followed."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.commands import EPOCH_STEPS, ROOT, TINY_RUN, ended, wait_until
from support.files import read_rows, rows_without_timings
from support.finished_runs import write_predictions, write_run

from training import checkpoints, cifar10
from training.cli import UserError

TRAINING = [*TINY_RUN, "--ema_decay", "0.90", "--epochs", "2"]  # that of `finished_run`
PYTHON = {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}  # `python` is this one
PERSON = "setpriv --bounding-set=-dac_override,-dac_read_search,-fowner"  # who has no privileges over files
needs_setpriv = pytest.mark.skipif(not shutil.which("setpriv") or os.geteuid() != 0, reason="needs setpriv and root")


def shell(command, cwd=ROOT, **environment):
    """Runs a line of bash; a CompletedProcess."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env={**os.environ, **PYTHON, "CUDA_VISIBLE_DEVICES": "-1", **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
    )


def quoted(*arguments):
    return shlex.join(map(str, arguments))


# ---------------------------------------------------------------------------------------------------------------
# Surroundings


def test_a_run_in_odd_surroundings_is_one_in_ordinary_ones(finished_run, tmp_path):
    """A notebook's matplotlib, a user's LaTeX, no directory for temporary files or settings, ASCII, another's git."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: nonsense\n")
    (tmp_path / "keras.json").write_text('{"floatx": "bfloat16", "image_data_format": "x"}')
    directory = tmp_path / "räksmörgås [1]  x"
    nowhere = dict.fromkeys(["TMPDIR", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"], "/proc/nonexistent")  # cannot be made
    result = shell(
        f"{quoted('python', ROOT / 'train.py', *TRAINING, '--run_dir', directory)} <&-",
        cwd=tmp_path,
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        MATPLOTLIBRC=str(tmp_path),
        PYTHONIOENCODING="ascii",
        LC_ALL="C",
        GIT_DIR="/nonexistent",
        COLUMNS="1",
        PYTHONSAFEPATH="1",
        TQDM_NCOLS="abc",
        TQDM_DISABLE="maybe",
        KERAS_BACKEND="theano",
        KERAS_HOME=str(tmp_path),
        SOURCE_DATE_EPOCH="",
        **nowhere,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert rows_without_timings(directory) == rows_without_timings(finished_run[0])
    assert (directory / "curves.png").stat().st_size > 1000
    assert "r\\xe4ksm\\xf6rg\\xe5s" in result.stdout  # what cannot be encoded is spelt


@pytest.mark.parametrize("script", ["train.py --epochs 0", "evaluate.py table --run_dir .", "report.py ."])
def test_a_command_that_is_called_by_a_link_uses_its_own_modules(tmp_path, script):
    """A person keeps links to the commands beside modules of the same names."""
    for module in ("data", "model", "ema"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(77)")
    name = script.split()[0]
    (tmp_path / name).symlink_to(ROOT / name)
    result = shell(f"python {tmp_path}/{script}", cwd=tmp_path, PYTHONSAFEPATH="1")
    assert result.returncode in (1, 2) and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("arguments", "status"), [("--bogus", 2), ("--resume --run_dir /nonexistent", 1)])
def test_closed_streams_change_no_exit_status(closed, arguments, status):
    result = shell(f"python train.py {arguments} {closed}")
    assert result.returncode == status
    if "2>" not in closed:
        assert len(result.stderr.splitlines()) == 1


def test_a_full_disk_under_stdout_is_said(tmp_path):
    write_run(tmp_path / "run")
    report = quoted("python", "report.py", tmp_path / "run", "--output", tmp_path / "out")
    for command, unbuffered in ((report, ""), (report, "1")):
        result = shell(f"{command} > /dev/full", PYTHONUNBUFFERED=unbuffered)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1 and "make room" in result.stderr
        assert unbuffered or "again" not in result.stderr  # a run or an export is not to be made again
        assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("command", "status"), [("train.py --bogus", 2), ("report.py /nowhere", 1), ("report.py -h", 0)]
)
def test_a_full_disk_under_stderr_changes_no_status(command, status):
    assert shell(f"python {command} 2> /dev/full", PYTHONUNBUFFERED="").returncode == status


@needs_setpriv
@pytest.mark.parametrize("script", ["train.py --dataset synthetic", "report.py RUN", "evaluate.py table --run_dir RUN"])
def test_a_directory_to_stand_in_that_one_may_not_enter_is_refused(tmp_path, script):
    """As after `sudo -u somebody` in a home of mode 700."""
    command = script.replace("train.py", f"train.py {quoted(*TINY_RUN, '--run_dir', tmp_path / 'run')}")
    (tmp_path / "home").mkdir()
    command = f"chmod 0 .; {PERSON} python {ROOT}/{command}"
    result = shell(command, cwd=tmp_path / "home")
    assert result.returncode == 1 and not (tmp_path / "run").exists()
    assert len(result.stderr.splitlines()) == 1 and "cd to another" in result.stderr


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="needs a virtual environment")
def test_what_is_not_installed_is_installed_where_pip_may(tmp_path):
    """A distribution keeps pip from its own Python; TFDS is imported when it is needed."""
    train, requirements = quoted(ROOT / "train.py"), quoted(ROOT / "requirements.txt")
    result = shell(f"{sys._base_executable} -I {train} --dataset synthetic", cwd=tmp_path)
    if result.returncode == 1:  # it has no TensorFlow
        assert f"/bin/python -m pip install -r {requirements}" in result.stderr and "venv" in result.stderr
    missing = 'ModuleNotFoundError("No module named x", name="tensorflow_datasets")'
    (tmp_path / "tensorflow_datasets.py").write_text(f"raise {missing}")
    result = shell(f"python {train} --epochs 1", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1 and not list((tmp_path / "runs").iterdir())
    sentence = f"the package tensorflow_datasets is not installed: {sys.executable} -m pip install -r {requirements}"
    assert result.stderr == f"train.py: {sentence}\n"


@pytest.mark.parametrize("command", ["evaluate.py --help", "report.py --help", "evaluate.py export --help"])
def test_help_that_nobody_reads(command):
    assert (result := shell(f"python {command} | true; exit ${{PIPESTATUS[0]}}")).returncode == 0, result.stderr
    full = shell(f"python {command} > /dev/full", PYTHONUNBUFFERED="")
    assert (full.returncode, len(full.stderr.splitlines())) == (1, 1) and "make room" in full.stderr


@pytest.mark.slow
def test_determinism_that_is_asked_for_needs_nothing_else(tmp_path):
    program = "import model; from training import device; device.bfloat16_speed(model.classifier)"
    path = tmp_path / "run"
    train = quoted("train.py", *TINY_RUN, "--epochs", 1, "--strategy", "mirrored", "--devices", 2, "--run_dir", path)
    for command in (train, quoted("evaluate.py", "table", "--run_dir", path), quoted("-c", program)):
        assert (result := shell(f"python {command}", TF_DETERMINISTIC_OPS="1")).returncode == 0, result.stderr


@pytest.mark.slow
def test_an_export_from_a_python_that_ignores_the_environment_loads_so(bank_run, tmp_path):
    """PYTHONPATH is of another Python."""
    (tmp_path / "numpy.py").write_text("raise ImportError")
    export = quoted("evaluate.py", "export", "--run_dir", bank_run, "--output", tmp_path / "model")
    result = shell(f"python -E {export}", PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything(unbuffered):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    program = "from training import cli; command.mend_surroundings(); print('x' * 10**6); command.end('', 0)"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=writer, env=environment) as process:
        os.close(writer)
        time.sleep(0.5)  # until the pipe is full
        with open(reader) as pipe:
            assert len(pipe.read()) == 10**6 + 1
    assert process.returncode == 0


@needs_setpriv
@pytest.mark.parametrize("mode", [pytest.param(0o000, marks=pytest.mark.slow), 0o644])
def test_a_directory_that_may_not_be_read_beside_the_runs_is_passed_over(tmp_path, mode):
    """Or that is linked to, or that held the images; what may be read is all there."""
    secret = tmp_path / "runs" / "lost+found"
    for seed in range(3):
        write_run(tmp_path / "runs" / str(seed), "--seed", seed, "--data_dir", secret)
    answers = np.eye(10)
    write_predictions(tmp_path / "runs" / "0", np.arange(10), {"raw": answers, "ema/0.998/raw": answers})
    (secret / "x").mkdir(parents=True)
    (tmp_path / "runs" / "link.png").symlink_to(secret / "x")
    (tmp_path / "runs" / "picture.png").touch()
    secret.chmod(mode)
    report = quoted("python", "report.py", tmp_path / "runs", "--output", tmp_path / "out")
    result = shell(f"{PERSON} {report}")
    assert (result.returncode, result.stderr.count("passed over: ")) == (0, 2), result.stderr
    assert "3 seeds (0, 1, 2)" in result.stdout and "name the directory that holds it" in result.stdout
    program = "import sys; from analysis import predict; print(len(predict.expand(sys.argv[1:])[0]))"
    assert shell(f"{PERSON} {quoted('python', '-c', program, tmp_path / 'runs')}").stdout == "2\n"


@pytest.mark.slow
def test_a_run_needs_no_stream(tmp_path):
    directory = tmp_path / "run"
    assert shell(f"{quoted('python', 'train.py', *TRAINING, '--run_dir', directory)} <&- >&- 2>&-").returncode == 0
    assert [row["epoch"] for row in read_rows(directory)] == [1, 2]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_narrow_encoding_loses_characters_but_not_the_sentence(encoding):
    result = shell("python train.py --resume --run_dir '/no\U0001f600 run'", PYTHONIOENCODING=encoding)
    assert result.returncode == 1
    assert "\\U0001f600" in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_run_of_another_locale_is_read(tmp_path):
    """Its config.json names directories that this one cannot name."""
    for seed, name in enumerate(("räksmörgås", "a\u200cb", "a\u00a0b")):
        write_run(tmp_path / "runs" / str(seed), "--seed", seed, "--run_dir", f"/{name}", "--data_dir", f"/{name}")
    report = quoted("python", "report.py", tmp_path / "runs", "--output", tmp_path / "out")
    result = shell(report, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("kilobytes", [100_000, 400_000, 700_000])
def test_too_little_memory_is_said_and_no_traceback(tmp_path, kilobytes):
    result = shell(f"ulimit -v {kilobytes}; {quoted('python', 'train.py', *TRAINING, '--run_dir', tmp_path / 'run')}")
    assert result.returncode != 0
    assert "memory" in result.stderr.lower() and "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_file_system_without_fsync_of_directories_and_locks_holds_a_run(finished_run, tmp_path):
    """As CIFS, FUSE, VirtualBox and WSL mounts; several ways of saying so."""
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler for a library that answers in place of the system")
    source, library = tmp_path / "fsync.c", tmp_path / "fsync.so"
    source.write_text("""
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <errno.h>
        #include <stdlib.h>
        #include <sys/stat.h>
        int flock(int descriptor, int operation) {
            errno = ENOSYS;
            return -1;
        }
        int fsync(int descriptor) {
            struct stat found;
            if (fstat(descriptor, &found) == 0 && S_ISDIR(found.st_mode)) {
                errno = atoi(getenv("FSYNC_ERRNO"));
                return -1;
            }
            return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(descriptor);
        }
    """)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    command = [sys.executable, "-c", "import sys, pathlib; from training.files import flush_to_disk; "
               "flush_to_disk(pathlib.Path(sys.argv[1]))", tmp_path]  # fmt: skip
    for name, status in (("EINVAL", 0), ("ENOTSUP", 0), ("EBADF", 0), ("EACCES", 0), ("EIO", 1), ("ENOSPC", 1)):
        number = getattr(errno, name)
        environment = {**os.environ, "LD_PRELOAD": str(library), "FSYNC_ERRNO": str(number)}
        assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True).returncode == status, name
    directory = tmp_path / "run"
    result = shell(
        quoted("python", "train.py", *TRAINING, "--run_dir", directory), LD_PRELOAD=str(library), FSYNC_ERRNO="22"
    )
    assert result.returncode == 0, result.stderr
    assert "cannot be locked" in result.stdout
    assert rows_without_timings(directory) == rows_without_timings(finished_run[0])


@pytest.mark.slow
def test_the_commit_is_that_of_these_sources_or_none(tmp_path):
    program = "import json; from training.run_directory import source_version; print(json.dumps(source_version()))"

    def version(cwd, **environment):
        result = shell(quoted("python", "-c", program), cwd=cwd, **environment)
        return json.loads(result.stdout.splitlines()[-1])

    inside = tmp_path / "other" / "project"
    shutil.copytree(ROOT / "training", inside / "training")
    quiet = "git -c user.name=n -c user.email=e"
    shell(f"git init -q . && {quiet} commit -q --allow-empty -m one", cwd=tmp_path / "other")
    none = {"git_commit": None, "git_changed": None}
    assert version(inside) == none
    assert version(working_directory, GIT_DIR=str(tmp_path / "other" / ".git"), GIT_WORK_TREE=str(inside)) == none
    shell(f"git init -q . && git add . && {quiet} commit -q -m two", cwd=inside)
    found = version(working_directory, GIT_DIR=str(tmp_path / "other" / ".git"))
    assert re.fullmatch("[0-9a-f]{40}", found["git_commit"]) and found["git_changed"] is False
    (inside / "training" / "loop.py").write_text("")
    assert version(inside) == found | {"git_changed": True}


# ---------------------------------------------------------------------------------------------------------------
# Paths


@pytest.mark.slow
def test_runs_without_a_name_have_directories_of_their_own(tmp_path):
    command = quoted("python", ROOT / "train.py", *TINY_RUN, "--epochs", 1)
    result = shell(f"{command} & {command}; wait", cwd=tmp_path)
    assert result.stdout.count("done: ") == 2, result.stderr
    made = sorted((tmp_path / "runs").iterdir())
    assert len(made) == 2 and all((directory / "summary.json").exists() for directory in made)
    result = shell(f"{command} --test_size 99999", cwd=tmp_path)
    assert result.returncode == 2
    assert sorted((tmp_path / "runs").iterdir()) == made  # a start that came to nothing leaves nothing
    process = subprocess.Popen(shlex.split(command), cwd=tmp_path, stderr=subprocess.PIPE, env=os.environ | PYTHON)
    wait_until(lambda: sorted((tmp_path / "runs").iterdir()) != made, process)
    process.terminate()  # while the graph is built
    assert process.wait(timeout=600) == 143
    assert sorted((tmp_path / "runs").iterdir()) == made


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("tfds/cifar10", "tfds"),
        ("tfds/cifar10/3.0.2", "tfds"),
        (".", "tfds"),
        ("archive/cifar-10-binary.tar.gz", "archive"),
        ("archive/notes.txt", "archive"),
        ("dangling", "/proc/nonexistent"),
        ("missing", "mkdir -p"),
    ],
)
def test_a_data_directory_that_is_none_is_called_what_it_is(tiny_cifar10, tmp_path, named, said):
    for file in ("cifar-10-binary.tar.gz", "notes.txt"):
        (tmp_path / "archive").mkdir(exist_ok=True)
        (tmp_path / "archive" / file).write_text("")
    (tmp_path / "dangling").symlink_to("/proc/nonexistent")
    version = tiny_cifar10.folder.name
    with pytest.raises(UserError) as error:
        cifar10.load(str(tmp_path / named.replace("3.0.2", version)))
    expected = said if said in ("mkdir -p", "/proc/nonexistent") else f"--data_dir {tmp_path / said}"
    assert expected in str(error.value)


def test_a_link_to_nothing_in_the_place_of_the_runs_is_named(tmp_path):
    (tmp_path / "runs").symlink_to("/proc/nonexistent")
    result = shell(quoted("timeout", 100, "python", ROOT / "train.py", *TINY_RUN), cwd=tmp_path)
    assert result.returncode == 1
    assert "runs cannot be written" in result.stderr and "--run_dir" in result.stderr


@pytest.mark.slow
def test_a_run_whose_directory_is_taken_away_says_so(tmp_path):
    directory = tmp_path / "run"
    argv = [*TINY_RUN, "--epochs", "100000", "--checkpoint_every", "0.0001", "--run_dir", str(directory)]
    command = [sys.executable, str(ROOT / "train.py"), *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: checkpoints.last_step(directory), process)
    directory.rename(tmp_path / "away")
    stopped = ended(process)
    assert stopped.returncode == 1 and "taken away" in stopped.stderr
    assert not directory.exists()
    command = re.search(r"\((.* --resume --run_dir) ITS_NEW_NAME\)", stopped.stderr)[1]
    result = shell(
        f"{command} {tmp_path / 'away'} --epochs {checkpoints.last_step(tmp_path / 'away') // EPOCH_STEPS + 1}"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("flags", ["", "--run_dir r", "--data_dir d"])
def test_a_directory_to_stand_in_that_is_no_utf8_is_refused_before_anything_is_trained(tmp_path, flags):
    script = shlex.quote(str(ROOT / "train.py"))
    result = shell(f"mkdir $'nu\\xff'; cd $'nu\\xff'; python {script} {quoted(*TINY_RUN)} {flags}", cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert len(result.stderr.splitlines()) == 1 and "UTF-8" in result.stderr


@needs_setpriv
@pytest.mark.parametrize("place", [".", "dataset_info.json", "cifar10-train.tfrecord-00000-of-00001"])
def test_data_that_may_not_be_read_are_not_called_damaged(tiny_cifar10, tmp_path, place):
    (tiny_cifar10.folder / place).chmod(0)
    argv = ["--data_dir", tiny_cifar10.directory, "--run_dir", tmp_path / "run", "--batch_size", 4]
    result = shell(f"{PERSON} {quoted('python', 'train.py', *argv)}")
    (tiny_cifar10.folder / place).chmod(0o700)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and "get access" in result.stderr and "rm -r" not in result.stderr


LOADING = """
import pathlib, sys
from training import cifar10
from training.cli import UserError
root = pathlib.Path(sys.argv[1])
for path in map(root.__truediv__, sys.argv[2:]):
    mode = path.stat().st_mode
    path.chmod(mode & ~0o222 if path.is_dir() else 0)
    try:
        cifar10.load(root)
    except UserError as error:
        print(error)
    path.chmod(mode)
"""


def said_without_rights(root, *paths):
    """What a person hears of the data in `root` who may not write each of some directories, or read a file."""
    return shell(f"{PERSON} {quoted('python', '-c', LOADING, root, *paths)}").stdout.splitlines()


@needs_setpriv
def test_damaged_data_that_one_may_not_delete_are_to_be_mended(tiny_cifar10):
    tiny_cifar10.shard("train").write_bytes(b"")
    folder = tiny_cifar10.folder.relative_to(tiny_cifar10.directory)
    said = said_without_rights(tiny_cifar10.directory, folder, folder.parent)
    assert len(said) == 2
    assert all("contained only 0 elements.): have it mended, or name another directory" in line for line in said)


@needs_setpriv
def test_an_archive_that_may_not_be_read_is_not_to_be_fetched_again(tmp_path):
    (tmp_path / cifar10.ARCHIVE).write_bytes(b"x")
    *_, said = said_without_rights(tmp_path, cifar10.ARCHIVE)
    assert "get access" in said and "fetch" not in said


READING = """
import pathlib, sys
from analysis import export, posthoc, run_files
from training.cli import UserError
path, model = map(pathlib.Path, sys.argv[1:])
run = run_files.FinishedRun(path, None, {}, [])
for file, function, argument in (
    (path / "metrics.jsonl", run_files.read_run, path),
    (path / "predictions.npz", lambda run: run_files.read_predictions(run, "ema/0.90/raw"), run),
    (sorted((path / "snapshots").iterdir())[-1], posthoc.Snapshots, path),
    (model / "saved_model.pb", export.read_manifest, model),
):
    file.chmod(0)
    try:
        function(argument)
    except UserError as error:
        print(error)
    file.chmod(0o600)
"""


@needs_setpriv
def test_files_that_may_not_be_read_are_not_called_damaged(bank_run, tmp_path):
    shutil.copytree(bank_run, tmp_path / "run")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"x")
    manifest = {"classifier": "raw", "classes": ["c"] * 10, "made": "", "sha256": {}}
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    program = quoted("python", "-c", READING, tmp_path / "run", tmp_path / "model")
    said = shell(f"{PERSON} {program}").stdout.splitlines()
    assert len(said) == 4 and all(line.endswith("cannot be read: get access") for line in said), said


@pytest.mark.parametrize("command", ["train.py --run_dir", "train.py --data_dir", "evaluate.py export --output"])
@pytest.mark.parametrize("path", [r"$'/tmp/\xff'", "ü" * 126])
def test_a_path_that_cannot_be_written_is_refused_at_once(command, path):
    result = shell(f"python {command} {path}")
    assert result.returncode == 2
    assert command.split()[-1] in result.stderr and "name" in result.stderr


@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs unshare, and to be root")
@pytest.mark.parametrize("full", [pytest.param("TMPDIR", marks=pytest.mark.slow), "data"])
def test_a_full_disk_is_said_to_be_full(tmp_path, full):
    """That of the temporary files is needed by nothing; on that of the data CIFAR-10 cannot be prepared."""
    (tmp_path / "data").mkdir()
    (tmp_path / "TMPDIR").mkdir()
    argv = [*TINY_RUN, "--run_dir", tmp_path / "run"]
    if full == "data":
        argv += ["--dataset", "cifar10", "--data_dir", tmp_path / "data"]
    script = f"""
        mount -t tmpfs -o size=100k none {tmp_path / full} &&
        dd if=/dev/zero of={tmp_path / full}/{cifar10.ARCHIVE} bs=1k count=99 2>/dev/null
        TMPDIR={tmp_path / "TMPDIR"} {quoted("python", "train.py", *argv)}
    """
    result = shell(f"unshare --mount bash -c {shlex.quote(script)}")
    if full == "data":
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1 and "make room" in result.stderr
    else:
        assert (result.returncode, result.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------------------------
# Remedies


def test_a_python_that_one_stands_beside_is_not_looked_for_elsewhere():
    command = f"./{os.path.basename(sys.executable)} {quoted(ROOT / 'train.py')}"
    result = shell(f"{command} --bogus", cwd=os.path.dirname(sys.executable), PATH="/usr/bin:/bin")
    assert f"every flag: {command} --help" in result.stderr


def test_a_stopped_run_goes_on_by_the_command_that_it_names(tmp_path):
    """From the directory that the person stands in, which is not that of the sources."""
    name = 'it\'s -a  [1]* "?" $x'
    argv = [*TINY_RUN, "--epochs", "100000", "--checkpoint_every", "0.0001", "--run_dir", name]
    command = [sys.executable, str(ROOT / "train.py"), *argv]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: checkpoints.last_step(tmp_path / name), process)
    process.send_signal(signal.SIGUSR1)
    stopped = ended(process)
    assert stopped.returncode == 128 + signal.SIGUSR1
    going_on = re.search("continue with: (.*)", stopped.stderr)[1]
    step = checkpoints.last_step(tmp_path / name)
    result = shell(f"{going_on} --epochs {step // EPOCH_STEPS + 1}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert read_rows(tmp_path / name)[-1]["epoch"] == step // EPOCH_STEPS + 1
    compare = re.search("compare: (.*)", result.stdout)[1]
    assert shell(compare, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_resumption_on_a_number_of_devices_that_does_not_fit_names_one_that_does(forked, tmp_path):
    directory = tmp_path / "run"
    assert forked("train.py", *TINY_RUN, "--epochs", 1, "--run_dir", directory).returncode == 0
    again = ["train.py", "--resume", "--run_dir", directory, "--epochs", 2, "--strategy", "mirrored"]
    refused = forked(*again, "--devices", 3)
    assert refused.returncode == 2
    devices = re.search(r"--devices (\d+)\)", refused.stderr)[1]
    assert forked(*again, "--devices", devices).returncode == 0
    assert [row["epoch"] for row in read_rows(directory)] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "snapshots"])
def test_what_stands_in_the_place_of_a_directory_of_a_run_is_named(forked, bank_run, tmp_path, name):
    """A link to a disk that was cleaned."""
    directory = tmp_path / "run"
    shutil.copytree(bank_run, directory)
    place = directory / name
    shutil.rmtree(place)
    place.symlink_to("/proc/nonexistent")
    refused = forked("train.py", "--resume", "--run_dir", directory, "--epochs", 3)
    assert refused.returncode == 1
    assert str(place) in refused.stderr and "remove what is in its place" in refused.stderr
    place.unlink()
    assert forked("train.py", "--resume", "--run_dir", directory, "--epochs", 3).returncode == 0
    assert [row["epoch"] for row in read_rows(directory)] == [1, 2, 3]


@pytest.mark.parametrize(
    "flag", ["--epochs", "--batch_size", "--train_size", "--eval_every", "--lr_cooldown", "--devices"]
)
@pytest.mark.parametrize("value", ["1000000000000000000000", "9999999999999999", "-1", "1e3", "0x10"])
def test_a_count_beyond_all_use_is_refused(flag, value):
    result = shell(f"python train.py {flag}={value}")
    assert result.returncode == 2
    assert flag in result.stderr and len(result.stderr.splitlines()) == 1
