"""Where a run's replicas are: --strategy resolved into one device, the devices of this process, or several processes.

What the three differ in, for `main` of train.py: the device that the log names, the scope that the graph is built in,
the session, and the trainer. What several replicas are to the graph is in training.replicas.
"""

import contextlib
import hashlib
import json
import time

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training import device, replicas, workers
from training.cli import SIGNALS, UserError, resume_command
from training.trainer import Follower, Trainer

SAME_EVERYWHERE = 8  # bytes of a digest that the workers compare
LOST = (  # what a session fails with when another worker is gone
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
OWN = {"run_dir", "data_dir", "device"}  # settings that may differ between workers


def choose(flags):
    """Resolves --device, --strategy and --devices and, of several workers, waits for the others.

    Returns:
      OneDevice, Mirrored or Workers.

    Raises:
      UserError: the flags, TF_CONFIG or the devices do not go together, or a worker cannot be reached.
    """
    if flags.strategy == "none":
        if flags.devices:
            raise UserError("--devices is for several replicas: say --strategy mirrored or multiworker too", 2)
        return OneDevice(device.choose(flags.device))
    task = workers.read() if flags.strategy == "multiworker" else None
    chosen = device.choose(flags.device)
    devices = _local_devices(flags, chosen, task)
    count = len(devices) * (len(task.workers) if task else 1)
    if flags.batch_size % count:
        fitting = max(n for n in range(1, count) if flags.batch_size % n == 0)  # a resumed run keeps its batches
        remedy = f"train on {fitting}" if task else f"train on {fitting} (--devices {fitting})"
        if not flags.resume:
            remedy = f"ask for {max(1, round(flags.batch_size / count)) * count}, or {remedy}"
        raise UserError(f"--batch_size {flags.batch_size} cannot be split over {count} replicas: {remedy}", 2)
    if count == 1:
        return OneDevice(chosen)
    if flags.xla == "on":
        raise UserError(f"--xla on is for one device: with {count} replicas say --xla auto", 2)
    return Workers(flags, chosen, devices, task) if task else Mirrored(chosen, devices)


def _local_devices(flags, chosen, task):
    """The names of the devices that this process has replicas on."""
    if chosen.kind == "cpu":
        count = flags.devices or 1
        if task and count > 1:
            raise UserError(
                "--devices: on CPUs a worker is one replica: start more workers, each with its TF_CONFIG", 2
            )
    else:
        gpus = tf2.config.list_physical_devices("GPU")
        count = flags.devices or len(gpus)
        if count > len(gpus):
            raise UserError(f"--devices {count} is more than the {len(gpus)} GPUs that TensorFlow sees", 2)
        with contextlib.suppress(RuntimeError):  # they are in use already: the names alone choose
            tf2.config.set_visible_devices(gpus[:count], "GPU")
    return [f"{chosen.kind.upper()}:{index}" for index in range(count)]


class OneDevice:
    """A run on one device, and what the others are made from."""

    replicas = 1
    chief = True  # whether this process writes the run directory

    def __init__(self, chosen):
        self.device = chosen

    def scope(self):
        """What the graph is built in."""
        return contextlib.nullcontext()

    def session(self):
        """The session that the run is trained in, a context manager."""
        return device.session()

    def trainer(self, settings, dataset, graph, directory, session, stop):
        """The Trainer of the run."""
        return Trainer(settings, dataset, graph, directory, session, stop)


class Mirrored(OneDevice):
    """A replica on each of several devices of this process."""

    def __init__(self, chosen, devices):
        super().__init__(_described(chosen, f"{len(devices)} replicas on {', '.join(devices)}"))
        self.devices, self.replicas = devices, len(devices)

    @contextlib.contextmanager
    def scope(self):
        strategy = tf.distribute.MirroredStrategy([f"/{name}" for name in self.devices])
        with strategy.scope(), tf.variable_creator_scope(replicas.one_local_copy):
            yield

    def session(self):
        config = device.session_config()
        if self.device.kind == "cpu":
            config.device_count["CPU"] = len(self.devices)
        config.inter_op_parallelism_threads = len(self.devices)
        return tf.Session(config=config)


class Workers(OneDevice):
    """A replica on each device of several processes, of which this is one; the first is the chief."""

    def __init__(self, flags, chosen, devices, task):
        self.task = task
        self.replicas = len(devices) * len(task.workers)
        first, *others = (address for _, address in task.workers)
        more = others if len(others) < 2 else [f"{len(others)} more workers"]
        where = " and ".join([first, *more])
        # A measurement may come out otherwise on another worker: on CPUs --precision auto is float32.
        alike = chosen._replace(has_bfloat16=chosen.has_bfloat16 and chosen.kind == "gpu")
        self.device = _described(alike, f"{self.replicas} replicas on {', '.join(devices)} of {where}")
        self.chief = task.chief
        workers.go_past_proxies(task)
        self.strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
        try:
            self.server = tf.train.Server(task.cluster, task.job, task.index, config=self._config())
        except tf.errors.OpError:
            address = dict(task.workers)[task.name]
            raise UserError(
                f"TF_CONFIG says that this is {task.name} at {address}, but that port cannot be listened on: "
                "end what uses it, or choose another in TF_CONFIG on every worker"
            ) from None
        workers.wait_for(task.others)
        self._check_one_place()
        self.watchdog = workers.Watchdog(task.others, resume_command(flags.run_dir))

    def _check_one_place(self):
        """Checks that this process is one worker; one with another's index answers under two addresses."""
        config = tf.ConfigProto(operation_timeout_in_ms=1000 * workers.START)  # not ours, which hides the other workers
        with tf.Session(self.server.target, config=config) as session:
            incarnations = [one.incarnation for one in session.list_devices()]
        if len(set(incarnations)) < len(incarnations):
            raise UserError(
                f"TF_CONFIG says that this is {self.task.name}, but this process answers at another worker's address "
                "too: give each worker the index of its own address",
                2,
            )

    def _config(self):
        config = device.session_config()
        config.inter_op_parallelism_threads, config.use_per_session_threads = 0, False  # a server refuses the latter
        return self.strategy.update_config_proto(config)

    @contextlib.contextmanager
    def scope(self):
        with self.strategy.scope(), tf.variable_creator_scope(replicas.one_local_copy):
            # First of all, while the graphs of all workers are the same whatever their flags.
            self.said = tf.placeholder(tf.float32, [len(SIGNALS) + SAME_EVERYWHERE])
            heard = self.strategy.run(lambda: replicas.all_reduce(replicas.MEAN, [tf.identity(self.said)])[0])
            self.heard = self.strategy.experimental_local_results(heard)[0]
            yield

    @contextlib.contextmanager
    def session(self):
        with tf.Session(self.server.target, config=self._config()) as self._session:
            try:
                yield self._session
            except LOST as error:
                time.sleep(workers.NOTICED)  # the watchdog ends this process meanwhile where it can say who is gone
                raise UserError(lost(error.message, self.watchdog.sentence)) from None
            finally:
                self.watchdog.off.set()  # one may end sooner than another
            with contextlib.suppress(tf.errors.OpError):  # all is done: a worker that ended a moment sooner is no loss
                self.agree()

    def agree(self, signal=None, same=bytes(SAME_EVERYWHERE)):
        """Tells the other workers of a signal, waits for them, and returns that of any of them, or None.

        Raises:
          ValueError: `same` is not the same on all workers.
        """
        said = [*(float(signal == number) for number in SIGNALS), *same]
        heard = self._session.run(self.heard, {self.said: said})
        if list(heard[len(SIGNALS) :]) != list(same):
            raise ValueError
        return next((number for number, share in zip(SIGNALS, heard, strict=False) if share > 0), None)

    def trainer(self, settings, dataset, graph, directory, session, stop):
        values = vars(settings) | {"tensorflow": tf.__version__}
        values |= {name: split.labels.tobytes().hex() for name, split in dataset.evaluated.items()}
        values["train"] = dataset.train.labels.tobytes().hex()
        self._check_same(
            {name: value for name, value in values.items() if name not in OWN},
            "was started with other flags, data or versions: start all with the same command, data and versions",
        )
        arguments = settings, dataset, graph, directory, session, AgreedStop(self, stop)
        trainer = Trainer(*arguments) if self.task.chief else Follower(*arguments)
        self._check_same(
            trainer.step,
            f"resumed from another step (here {trainer.step}): {directory.path} has to be one directory for all",
        )
        self.watchdog.begun = True
        return trainer

    def _check_same(self, what, otherwise):
        digest = hashlib.sha256(json.dumps(what, default=str, sort_keys=True).encode()).digest()[:SAME_EVERYWHERE]
        try:
            self.agree(same=digest)
        except ValueError:
            self.watchdog.off.set()
            raise UserError(f"one of the workers {otherwise}", 2) from None


def lost(message, sentence):
    """What to say of an error of a session of several workers; sentence: of the Watchdog."""
    if "that group has size" in message:
        return "the workers' TF_CONFIGs name clusters of different sizes: give all of them the same cluster"
    lines = [line for line in message.splitlines() if line.strip()]
    remote = [i for i, line in enumerate(lines) if line.startswith("From /job:")]  # what comes before is a stack
    return sentence(f"the workers lost each other ({lines[min(remote[-1] + 1, len(lines) - 1) if remote else 0]})")


def _described(chosen, replicas):
    return chosen._replace(description=f"{replicas}: {chosen.description}")


class AgreedStop:
    """A command.Stop of all workers together: a signal to one of them stops all, at the same step."""

    def __init__(self, workers, own):
        self.workers, self.own, self.agreed = workers, own, None

    @property
    def signal(self):
        """Asked at the same moments by all workers, because they wait for each other here."""
        if self.agreed is None:
            self.agreed = self.workers.agree(self.own.signal)
            if self.agreed is not None:
                self.workers.watchdog.off.set()  # one may end sooner than another
        return self.agreed
