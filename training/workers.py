"""The workers of --strategy multiworker: TF_CONFIG, and whether they are alive. Pure Python.

TF_CONFIG is the environment variable by which TensorFlow's distribution engine learns who takes part:

    {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}
"""

import json
import os
import socket
import threading
import time
from typing import NamedTuple

from training.cli import UserError, exit_now

EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
JOBS = ("chief", "worker")
START = 30  # seconds that the workers have to come up
ANSWER = 10  # seconds in which a worker that lives answers
PAUSE = 1  # seconds between two questions
FAILURES = 3  # in a row, and a worker is gone
NOTICED = 10  # seconds in which the end of a process is noticed
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # how gRPC begins, with empty settings
SETTINGS = 4  # the type of frame that is its answer


class Task(NamedTuple):
    """This process's place among the workers."""

    cluster: dict  # job to addresses, as TF_CONFIG has it
    job: str
    index: int

    @property
    def workers(self):
        """(name, address) of every worker, the chief first."""
        return [(f"{job} {i}", address) for job in JOBS for i, address in enumerate(self.cluster.get(job, []))]

    @property
    def name(self):
        return f"{self.job} {self.index}"

    @property
    def chief(self):
        return self.name == self.workers[0][0]

    @property
    def others(self):
        return [worker for worker in self.workers if worker[0] != self.name]


def read(text=None):
    """TF_CONFIG as a Task.

    Raises:
      UserError: it is missing, or is not what TensorFlow takes.
    """
    text = os.environ.get("TF_CONFIG") if text is None else text
    if not text:
        raise UserError(
            f"--strategy multiworker needs the environment variable TF_CONFIG, such as TF_CONFIG='{EXAMPLE}'", 2
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is not JSON: {error}") from None
    cluster, task = (config.get(key) if isinstance(config, dict) else None for key in ("cluster", "task"))
    if not isinstance(cluster, dict) or not cluster or not isinstance(task, dict):
        raise _malformed("it has no cluster, or no task")
    for job, addresses in cluster.items():
        if job not in JOBS:
            raise _malformed(f"a job is {job!r}, and not {' or '.join(JOBS)}")
        if not isinstance(addresses, list) or not addresses or not all(map(_is_address, addresses)):
            raise _malformed(f"the addresses of {job} are not a list of host:port")
    if len(cluster.get("chief", [0])) != 1:
        raise _malformed("it has several chiefs")
    found = Task(cluster, task.get("type"), task.get("index"))
    every = [address for _, address in found.workers]
    if len(set(every)) < len(every):
        raise _malformed("an address is there twice")
    if type(found.index) is not int or found.name not in dict(found.workers):
        raise _malformed(f"its task {json.dumps(task)} is none of the cluster's: {', '.join(dict(found.workers))}")
    return found


def _is_address(address):
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def _malformed(reason):
    return UserError(f"TF_CONFIG is malformed ({reason}); it has to be like TF_CONFIG='{EXAMPLE}'", 2)


def go_past_proxies(task):
    """Has gRPC ask no proxy for the other workers: it obeys http_proxy even for addresses of this machine."""
    hosts = [address.rpartition(":")[0].strip("[]") for _, address in task.workers]
    os.environ["no_grpc_proxy"] = ",".join(hosts)  # noqa: SIM112 - gRPC reads it by this name


def answers(address, seconds=ANSWER):
    """Whether a gRPC server answers at "host:port"; a process that is stopped or hangs does not."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as connection:
            connection.settimeout(seconds)
            connection.sendall(HELLO)
            frame = b""
            while len(frame) < 9 and (more := connection.recv(9 - len(frame))):
                frame += more
            return len(frame) == 9 and frame[3] == SETTINGS
    except (OSError, ValueError):  # the latter where no name server can know such a name
        return False


def wait_for(workers, seconds=START):
    """Waits until every one of `workers`, (name, address), answers.

    Raises:
      UserError: names the first one that does not in so many seconds.
    """
    until = time.monotonic() + seconds
    for name, address in workers:
        say_at = time.monotonic() + ANSWER
        while not answers(address, seconds=min(ANSWER, max(PAUSE, until - time.monotonic()))):
            if time.monotonic() > say_at:
                print(f"waiting for {name} at {address}, {seconds} seconds in all", flush=True)
                say_at = until + ANSWER
            if time.monotonic() > until:
                raise UserError(
                    f"{name} of TF_CONFIG cannot be reached at {address} within {seconds} seconds: start it there, "
                    "let the firewall pass that port, or mend TF_CONFIG on every worker"
                )
            time.sleep(PAUSE)


class Watchdog:
    """A thread that asks the other workers every second whether they live, and ends this process when one does not.

    The main thread cannot: it waits in session.run for numbers of the worker that is gone, for ever in some cases.
    What is on the disk is whole whenever a process ends.

    `begun` is to be set once the run has begun, of which the sentence then says how to go on with it.

    Args:
      workers: (name, address) of the others.
      resume_command: for the sentence.
    """

    def __init__(self, workers, resume_command):
        self.workers, self.resume_command, self.begun = workers, resume_command, False
        self.off = threading.Event()
        for worker in workers:
            threading.Thread(target=self._watch, args=worker, daemon=True).start()

    def _watch(self, name, address):
        failures = 0
        while not self.off.wait(PAUSE):
            failures = 0 if answers(address) else failures + 1
            if failures == FAILURES and not self.off.is_set():
                self.end(f"{name} at {address} is gone")

    def end(self, reason):
        """Ends the process with one sentence."""
        self.off.set()
        exit_now(self.sentence(reason), 1)

    def sentence(self, reason):
        if self.begun:
            return f"{reason}; continue on every worker, of the same or another number, with: {self.resume_command}"
        return f"{reason}, before the training began: start all workers again"
