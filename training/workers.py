"""The worker processes of --strategy multiworker: TensorFlow's TF_CONFIG, and whether peers live. No TensorFlow."""

import json
import os
import socket
import threading
import time
from typing import NamedTuple

from training.cli import UserError, exit_now

EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
JOBS = ("chief", "worker")
STARTUP_TIMEOUT = 30  # seconds for all workers to start
PING_TIMEOUT = 10  # seconds
PING_INTERVAL = 1  # seconds
MAX_MISSED_PINGS = 3  # in a row
EXIT_GRACE = 10  # seconds in which the watchdog notices that a peer ended
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # opens a gRPC connection


class Task(NamedTuple):
    """This process's place among the workers."""

    cluster: dict  # job to addresses
    job: str
    index: int

    @property
    def name(self):
        return f"{self.job} {self.index}"

    @property
    def workers(self):
        """Name to "host:port" of every worker, the chief first."""
        addresses = {job: self.cluster.get(job, []) for job in JOBS}
        return {f"{job} {index}": address for job in JOBS for index, address in enumerate(addresses[job])}

    @property
    def peers(self):
        """The other workers, name to "host:port"."""
        return {name: address for name, address in self.workers.items() if name != self.name}

    @property
    def is_chief(self):
        return self.name == next(iter(self.workers))


def read_tf_config():
    """Returns the Task that the environment variable TF_CONFIG describes.

    Raises:
      UserError: it is missing or malformed.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise UserError(f"--strategy multiworker needs the environment variable TF_CONFIG, such as '{EXAMPLE}'", 2)
    try:
        config = json.loads(text)
        task = Task(config["cluster"], config["task"]["type"], config["task"]["index"])
        addresses = list(task.workers.values())
        if set(task.cluster) - set(JOBS) or not all(isinstance(hosts, list) for hosts in task.cluster.values()):
            raise ValueError(f"the cluster maps {' and '.join(JOBS)} to lists of host:port")
        if not all(map(_is_address, addresses)):
            raise ValueError("an address is not host:port")
        if len(task.cluster.get("chief", [])) > 1 or len(set(addresses)) < len(addresses):
            raise ValueError("there are two chiefs or an address appears twice")
        if type(task.index) is not int or task.name not in task.workers:
            raise ValueError(f"the task is not one of {', '.join(task.workers)}")
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(f"TF_CONFIG is malformed ({error!r}): it has to look like '{EXAMPLE}'", 2) from None
    return task


def _is_address(address):
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def bypass_proxy(task):
    """Makes gRPC connect to the workers directly: it uses http_proxy even for addresses of this machine."""
    hosts = [address.rpartition(":")[0].strip("[]") for address in task.workers.values()]
    os.environ["no_grpc_proxy"] = ",".join(hosts)  # noqa: SIM112 - gRPC reads this name


def ping(address, timeout=PING_TIMEOUT):
    """Returns whether a gRPC server answers at "host:port"; a stopped process accepts connections but is silent."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout) as connection:
            connection.sendall(HTTP2_PREFACE)
            return len(connection.recv(1)) > 0
    except (OSError, ValueError):  # ValueError: not a valid host name
        return False


def wait_for(peers, timeout=STARTUP_TIMEOUT):
    """Waits until every peer, name to "host:port", answers.

    Raises:
      UserError: names a peer that does not answer in time.
    """
    deadline = time.monotonic() + timeout
    for name, address in peers.items():
        while not ping(address, timeout=PING_INTERVAL):
            if time.monotonic() > deadline:
                raise UserError(
                    f"{name} of TF_CONFIG cannot be reached at {address} within {timeout} seconds: start it, open "
                    "the port in the firewall, or correct TF_CONFIG"
                )
            time.sleep(PING_INTERVAL)


class Watchdog:
    """Threads that ping the peers and end this process if one is lost.

    The main thread may wait in session.run forever for a lost peer. Set `off` before a regular end, and
    `training_started` when the run can be resumed (with the shell command `resume_command`).
    """

    def __init__(self, peers, resume_command):
        self.resume_command, self.training_started, self.off = resume_command, False, threading.Event()
        for peer in peers.items():
            threading.Thread(target=self._watch, args=peer, daemon=True).start()

    def _watch(self, name, address):
        missed = 0
        while not self.off.wait(PING_INTERVAL):
            missed = 0 if ping(address) else missed + 1
            if missed == MAX_MISSED_PINGS and not self.off.is_set():
                exit_now(self.sentence(f"{name} at {address} is gone"), 1)

    def sentence(self, reason):
        """Returns the error message for a lost peer."""
        if self.training_started:
            return f"{reason}; continue on every worker (any number of them) with: {self.resume_command}"
        return f"{reason} before the training started: start all workers again"
