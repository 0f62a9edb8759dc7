"""What a run says, to stdout and its train.log: its preamble, its progress, every evaluation, its ending."""

import contextlib
import datetime
import logging
import math
import sys
import textwrap
import time

import tqdm
import tqdm.contrib.logging

from training.labels import Label

WIDTH = 120
SECONDS = 60  # between two lines of progress
MAX_COLUMNS = 4  # classifiers in a line; more are shown as a grid

log = logging.getLogger("train")


def send_log_to(path):
    """Sends the log to stdout and, appended, to the file `path`."""
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(path, encoding="utf-8")]
    logging.raiseExceptions = False  # a closed pipe (| head) must not end a run
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = handlers


def preamble(settings, source, graph, where):
    """The lines before the first step; `where` is the run directory, and from which step on."""
    count = parameters(graph.var_class)
    reason = f"; {settings.precision_reason}" if settings.precision_reason else ""
    lines = [
        f"device     {settings.device.description}",
        f"precision  {settings.precision} convolutions, float32 variables{reason}",
        *f"data       {source}".replace("; ", f"\n{'':11}").splitlines(),
        f"network    {count:,} trainable parameters, width {settings.width:g}, dropout {settings.dropout:g}",
        f"training   {settings.epochs} epochs of {settings.epoch_steps} steps of {settings.batch_size} images",
        *graph.averages.describe(settings.total_steps, settings.epoch_steps),
    ]
    if snapshots := settings.epochs * settings.snapshots:
        size = 4 * count * len(settings.ema_power) * snapshots
        lines.append(f"snapshots  {snapshots} in all, {size / 1e6:,.0f} MB on the disk at the end")
    lines.append(f"run        {where}")
    return lines if as_grid(settings.labels) else [*lines, header(settings.labels)]


def parameters(variables):
    return sum(math.prod(variable.shape.as_list()) for variable in variables)


# ---------------------------------------------------------------------------------------------------------------
# Progress


class Progress:
    """Epoch, step, loss, speed and the time that is left: a bar on a terminal, elsewhere a line of the log a minute.

    A context manager; within it the log stays above the bar.

    Args:
      settings: training.settings.Settings.
      step: the number of steps done before.
      shown: whether there is a bar on a terminal.
    """

    def __init__(self, settings, step, shown=True):
        self.settings, self.step = settings, step
        self.batch_size = settings.batch_size
        self.bar = tqdm.tqdm(
            total=settings.total_steps * self.batch_size,
            initial=step * self.batch_size,
            unit=" images",
            unit_scale=True,
            disable=not (shown and sys.stderr.isatty()),
        )
        self.started, self.first_step = time.monotonic(), step
        self.said_at, self.losses, self.steps = self.started, 0.0, 0  # since the last line

    def __enter__(self):
        self.redirected = tqdm.contrib.logging.logging_redirect_tqdm([log])
        self.redirected.__enter__()
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError):  # the terminal is gone
            self.bar.close()
        self.redirected.__exit__(*error)

    def update(self, steps, loss):
        """So many more steps are done, with this mean loss."""
        self.step += steps
        if math.isfinite(loss):  # it is not where no step was
            self.losses, self.steps = self.losses + steps * loss, self.steps + steps
        with contextlib.suppress(OSError):  # a terminal that was closed must not end the run before it is saved
            self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self.bar.update(steps * self.batch_size)
        if self.bar.disable and time.monotonic() - self.said_at >= SECONDS:
            log.info(self.line())
            self.said_at, self.losses, self.steps = time.monotonic(), 0.0, 0

    def line(self):
        pace = (self.step - self.first_step) / (time.monotonic() - self.started)  # steps a second, evaluations included
        left = datetime.timedelta(seconds=round((self.settings.total_steps - self.step) / pace))
        loss = self.losses / self.steps if self.steps else math.nan
        epoch = math.ceil(self.step / self.settings.epoch_steps)  # of the last step done
        return (
            f"epoch {epoch}, step {self.step} of {self.settings.total_steps}: "
            f"loss {loss:.4f}, {pace * self.batch_size:.1f} images/s, {left} left"
        )


# ---------------------------------------------------------------------------------------------------------------
# Evaluations


def as_grid(labels):
    """Whether so many classifiers are shown as a grid and not side by side in a line."""
    return len(labels) > MAX_COLUMNS or len(header(labels)) > WIDTH


def header(labels):
    columns = "".join(f"  {label!s:>8}" for label in labels)
    return f"epoch    step  train loss  train acc{columns}     gain  images/s   seconds"


def evaluation(row, primary):
    """Lines of the log for one evaluation; the gain is the primary EMA's over its baseline."""
    accuracy = row["classifiers"]
    gain = 100 * (accuracy[str(primary)] - accuracy[str(primary.baseline)])
    if as_grid(accuracy):
        return [
            f"epoch {row['epoch']}, step {row['step']}: train loss {row['train_loss']:.4f}, train acc "
            f"{100 * row['train_accuracy']:.2f}%, {primary} {gain:+.2f} over {primary.baseline}, "
            f"{row['images_per_second']:.1f} images/s, {row['seconds']:.1f} s",
            *grid(accuracy),
        ]
    columns = "".join(f"  {100 * value:>{max(len(label), 8) - 1}.2f}%" for label, value in accuracy.items())
    return [
        f"{row['epoch']:5d} {row['step']:7d} {row['train_loss']:11.4f} {100 * row['train_accuracy']:9.2f}%{columns}"
        f" {gain:+8.2f} {row['images_per_second']:9.1f} {row['seconds']:9.1f}"
    ]


def grid(accuracy):
    """Accuracies in %, weights down and batch statistics across.

    Args:
      accuracy: label, as text, to accuracy.
    """
    labels = {Label.parse(text): value for text, value in accuracy.items()}
    statistics = list(dict.fromkeys(label.statistics for label in labels))
    rows = list(dict.fromkeys((label.weights, label.decay) for label in labels))
    names = [weights if decay is None else f"{weights}/{decay}" for weights, decay in rows]
    width = max(map(len, names))
    lines = [" " * (width + 4) + "".join(f"{name:>12}" for name in statistics)]
    for name, key in zip(names, rows, strict=True):
        values = (labels.get(Label(*key, policy)) for policy in statistics)
        cells = (f"{'-':>12}" if value is None else f"{100 * value:11.2f}%" for value in values)
        lines.append(f"    {name:<{width}}{''.join(cells)}")
    return lines


# ---------------------------------------------------------------------------------------------------------------
# The end


def ending(summary, primary, path):
    """The last lines of the log."""
    accuracy, lines = summary["classifiers"], []
    if len(accuracy) > 2:
        lines = split_gains(accuracy)
        costs = ", ".join(f"{label} {seconds:.1f}" for label, seconds in summary["evaluation_seconds"].items())
        lines += textwrap.wrap(f"seconds per evaluation: {costs}", WIDTH, subsequent_indent="    ")
    compared = dict.fromkeys(["raw", str(primary.baseline), str(primary)])
    shown = ", ".join(f"{label} {100 * accuracy[label]:.2f}%" for label in compared)
    return [
        *lines,
        f"done: {shown}, gain {100 * summary['gain']:+.2f} over {summary['baseline']} after {summary['epoch']} epochs; "
        f"everything is in {path}",
    ]


def split_gains(accuracy):
    """Splits what each EMA classifier has over raw into the averaging of weights and the batch statistics.

    Args:
      accuracy: label, as text, to accuracy.

    Returns:
      Lines of text, for the classifiers whose statistics are not the raw network's.
    """
    lines = []
    for text, value in accuracy.items():
        label = Label.parse(text)
        recomputed = label.statistics == "recomputed"
        reference = str(label.baseline if recomputed else label._replace(statistics="raw"))
        if label.weights != "ema" or label.statistics == "raw" or reference not in accuracy:
            continue
        whole, step = 100 * (value - accuracy["raw"]), 100 * (value - accuracy[reference])
        weights, stats = (step, whole - step) if recomputed else (whole - step, step)
        lines.append(
            f"{text} over raw: {whole:+.2f} points = {weights:+.2f} weights {stats:+.2f} batch statistics, "
            f"by way of {reference}"
        )
    return lines
