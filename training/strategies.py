"""--strategy resolved: one device, several devices of this process, or several worker processes.

A strategy says how the graph is built (`scope`), which session runs it, and which process is the chief, the one that
writes the run directory. What replicas mean for the graph is in training.replicas.
"""

import contextlib
import time

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training import device, replicas, workers
from training.cli import SIGNALS, UserError, resume_command

SHARED_BYTES = 8  # of the digest that all workers compare; signals need fewer
PEER_LOST_ERRORS = (  # raised by a session if another worker is gone
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def choose(flags):
    """Resolves --device, --strategy and --replicas; with several workers, waits for the others.

    Returns:
      SingleDevice, Mirrored or MultiWorker.

    Raises:
      UserError: the flags, TF_CONFIG or the devices do not fit together, or a worker cannot be reached.
    """
    if flags.strategy == "none":
        if flags.replicas:
            raise UserError("--replicas needs --strategy mirrored or --strategy multiworker", 2)
        return SingleDevice(device.choose(flags.device))
    task = workers.read_tf_config() if flags.strategy == "multiworker" else None
    chosen = device.choose(flags.device)
    devices = _local_devices(flags, chosen, task)
    count = len(devices) * (len(task.workers) if task else 1)
    if flags.batch_size % count:
        raise UserError(f"--batch_size {flags.batch_size} is not divisible by {count} replicas: change one of them", 2)
    if count == 1:
        return SingleDevice(chosen)
    if flags.xla == "on":
        raise UserError(f"--xla on needs one device, not {count} replicas: use --xla auto", 2)
    return MultiWorker(flags, chosen, devices, task) if task else Mirrored(chosen, devices)


def _local_devices(flags, chosen, task):
    """Returns the names of this process's devices, one per replica."""
    count = flags.replicas or 1
    if chosen.kind == "cpu" and task and count > 1:
        raise UserError("--replicas: a worker on a CPU is one replica; start more workers instead", 2)
    if chosen.kind == "gpu":
        gpus = tf2.config.list_physical_devices("GPU")
        count = flags.replicas or len(gpus)
        if count > len(gpus):
            raise UserError(f"--replicas {count}: TensorFlow sees only {len(gpus)} GPUs", 2)
        tf2.config.set_visible_devices(gpus[:count], "GPU")
    return [f"{chosen.kind.upper()}:{index}" for index in range(count)]


class SingleDevice:
    """One replica in this process; the base class of the other strategies."""

    num_replicas = 1
    chief = True

    def __init__(self, chosen, prefix=""):
        self.device = chosen._replace(description=f"{prefix}{chosen.description}")

    def scope(self):
        """Returns the context manager in which the graph is built."""
        return contextlib.nullcontext()

    def session(self, digest):
        """Returns a session as a context manager; `digest` has to be the same in all workers."""
        return device.session()

    def share_stop(self, stop):
        """Returns the StopRequest that the trainer asks; with several workers, a signal to any of them counts."""
        return stop


class Mirrored(SingleDevice):
    """One replica on each of several devices of this process."""

    def __init__(self, chosen, devices):
        super().__init__(chosen, f"{len(devices)} replicas on {', '.join(devices)}: ")
        self.devices, self.num_replicas = devices, len(devices)

    @contextlib.contextmanager
    def scope(self):
        strategy = tf.distribute.MirroredStrategy([f"/{name}" for name in self.devices])
        with strategy.scope(), tf.variable_creator_scope(replicas.one_local_copy):
            yield

    def session(self, digest):
        config = device.session_config()
        if self.device.kind == "cpu":
            config.device_count["CPU"] = len(self.devices)
        config.inter_op_parallelism_threads = len(self.devices)
        return tf.Session(config=config)


class MultiWorker(SingleDevice):
    """Replicas in several processes, of which this is one; the first is the chief."""

    def __init__(self, flags, chosen, devices, task):
        # Only GPUs may choose bfloat16: on CPUs each worker's timing could come to a different answer.
        chosen = chosen._replace(has_bfloat16=chosen.has_bfloat16 and chosen.kind == "gpu")
        self.num_replicas = len(devices) * len(task.workers)
        addresses = ", ".join(task.workers.values())
        super().__init__(chosen, f"{self.num_replicas} replicas on {', '.join(devices)} of {addresses}: ")
        self.chief = task.is_chief
        workers.bypass_proxy(task)
        self.strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
        try:
            self.server = tf.train.Server(task.cluster, task.job, task.index, config=self._config())
        except tf.errors.OpError:
            address = task.workers[task.name]
            raise UserError(f"{task.name} cannot listen at {address}: is the port in use? Change TF_CONFIG") from None
        workers.wait_for(task.peers)
        self.watchdog = workers.Watchdog(task.peers, resume_command(flags.run_dir))

    def _config(self):
        config = device.session_config()
        config.inter_op_parallelism_threads = 0
        config.use_per_session_threads = False  # a server refuses it
        return self.strategy.update_config_proto(config)

    @contextlib.contextmanager
    def scope(self):
        with self.strategy.scope(), tf.variable_creator_scope(replicas.one_local_copy):
            self.barrier = Barrier(self.strategy)  # first, where the graphs are equal whatever the flags
            yield

    @contextlib.contextmanager
    def session(self, digest):
        with tf.Session(self.server.target, config=self._config()) as session:
            try:
                self.barrier.session = session
                if list(self.barrier.sync(digest[:SHARED_BYTES])) != list(digest[:SHARED_BYTES]):
                    raise UserError("the workers differ in flags, data, versions or checkpoints: make them equal", 2)
                yield session
            except PEER_LOST_ERRORS as error:
                time.sleep(workers.EXIT_GRACE)  # the watchdog ends this process meanwhile if it knows who is gone
                reason = error.message.splitlines()[0]
                raise UserError(self.watchdog.sentence(f"the workers lost each other ({reason})")) from None
            finally:
                self.watchdog.off.set()  # the workers may end at different moments
            with contextlib.suppress(tf.errors.OpError):  # a worker that ended a moment sooner is not lost
                self.barrier.sync([])

    def share_stop(self, stop):
        return SharedStop(self.barrier, self.watchdog, stop)


class Barrier:
    """Exchanges a few small numbers between all workers. Built in the strategy's scope; `session` is set afterwards."""

    def __init__(self, strategy):
        self.local_values = tf.placeholder(tf.float32, [SHARED_BYTES])
        mean = strategy.run(lambda: replicas.all_reduce(replicas.MEAN, [tf.identity(self.local_values)])[0])
        self.mean = strategy.experimental_local_results(mean)[0]

    def sync(self, values):
        """Waits until every worker calls it; returns the mean of their values, padded with zeros."""
        padded = [*values, *[0.0] * (SHARED_BYTES - len(values))]
        return self.session.run(self.mean, {self.local_values: padded})


class SharedStop:
    """A StopRequest of all workers: a signal to any of them stops all at the same step."""

    def __init__(self, barrier, watchdog, local):
        self.barrier, self.watchdog, self.local, self.agreed = barrier, watchdog, local, None

    @property
    def signal(self):
        """The signal that any worker received, or None. All workers have to ask equally often."""
        if self.agreed is None:
            shares = self.barrier.sync([float(self.local.signal == number) for number in SIGNALS])
            self.watchdog.training_started = True  # every worker has come this far
            self.agreed = next((number for number, share in zip(SIGNALS, shares, strict=False) if share > 0), None)
            if self.agreed:
                self.watchdog.off.set()  # the workers may end at different moments
        return self.agreed
