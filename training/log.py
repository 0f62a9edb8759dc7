"""What a run says, to stdout and its train.log: its preamble, its progress, every evaluation, its ending."""

import contextlib
import datetime
import logging
import math
import shlex
import sys
import textwrap
import time

import tqdm
import tqdm.contrib.logging

from training.cli import display_path, script
from training.labels import RAW, STATISTICS, Label, choose

NARROW = 80  # columns; what a default run says is no wider
WIDTH = 120  # nothing is wider
SECONDS = 60  # between two lines of progress
COSTLY = 0.2  # of the training time: what an evaluation may take before the log says how to have fewer
SHORT = STATISTICS | {"raw": "raw net's"}  # above a column

log = logging.getLogger("train")


def send_log_to(path):
    """Sends the log to stdout and, appended, to the file `path`."""
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(path, encoding="utf-8")]
    logging.raiseExceptions = False  # a closed pipe (| head) must not end a run
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = handlers


def wrapped(text, first="", others="    "):
    """`text` in lines of at most NARROW columns, by their indents; words, and so paths, stay whole."""
    indents = {"initial_indent": first, "subsequent_indent": others}
    return textwrap.fill(text, NARROW, **indents, break_long_words=False, break_on_hyphens=False)


def field(name, text):
    """`text` behind its name."""
    return wrapped(text, f"{name:<11}", " " * 11)


def preamble(settings, source, graph, where):
    """The lines before the first step; `where` is the run directory, and from which step on."""
    count = parameters(graph.var_class)
    reason = f"; {settings.precision_reason}" if settings.precision_reason else ""
    lines = [
        field("device", settings.device.description),
        field("precision", f"{settings.precision} convolutions, float32 variables{reason}"),
        *(field("" if number else "data", part) for number, part in enumerate(source.split("; "))),
        field("network", f"{count:,} parameters, width {settings.width:g}, dropout {settings.dropout:g}"),
        field("training", f"{settings.epochs} epochs of {settings.epoch_steps} steps of {settings.batch_size} images"),
        *(field("average", line) for line in graph.averages.describe(settings.total_steps, settings.epoch_steps)),
    ]
    if snapshots := settings.epochs * settings.snapshots:
        size = 4 * count * len(settings.ema_power) * snapshots
        lines.append(field("snapshots", f"{snapshots} in all, {size / 1e6:,.0f} MB on the disk at the end"))
    lines.append(field("run", where))
    return lines if as_grid(settings.labels) else [*lines, *header(settings.labels)]


def parameters(variables):
    return sum(math.prod(variable.shape.as_list()) for variable in variables)


# ---------------------------------------------------------------------------------------------------------------
# Progress


class ProgressBar:
    """Epoch, step, loss, speed and the time that is left: a bar on a terminal, elsewhere a line of the log a minute.

    A context manager; within it the log stays above the bar.

    Args:
      settings: training.settings.Settings.
      step: the number of steps done before.
      shown: whether there is a bar on a terminal.
      clock, say: functions that give the time in seconds, and take a line.
    """

    def __init__(self, settings, step, shown=True, clock=time.monotonic, say=log.info):
        self.settings, self.step, self.clock, self.say = settings, step, clock, say
        self.bar = tqdm.tqdm(
            desc="training",
            total=settings.total_steps * settings.batch_size,
            initial=step * settings.batch_size,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,  # its numbers are not those of the log
            disable=not (shown and sys.stderr.isatty()),
        )
        self.started, self.first_step, self.paused = clock(), step, False
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
            if self.paused:  # by an evaluation, whose time is not training's
                self.paused, self.bar.bar_format = False, None
                self.bar.unpause()
            self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self.bar.update(steps * self.settings.batch_size)
        self.say_once_a_minute(self.line)

    def evaluating(self, number, count):
        """Classifier `number` of `count` is being evaluated."""
        with contextlib.suppress(OSError):
            self.paused, self.bar.bar_format = True, f"evaluating {number} of {count}"
            self.bar.refresh()
        self.say_once_a_minute(lambda: f"step {self.step}: evaluating {number} of {count}")

    def say_once_a_minute(self, line):
        if self.bar.disable and self.clock() - self.said_at >= SECONDS:
            self.say(line())
            self.said_at, self.losses, self.steps = self.clock(), 0.0, 0

    def line(self):
        pace = (self.step - self.first_step) / (self.clock() - self.started)  # steps a second, evaluations included
        left = datetime.timedelta(seconds=round((self.settings.total_steps - self.step) / pace))
        loss = self.losses / self.steps if self.steps else math.nan
        epoch = math.ceil(self.step / self.settings.epoch_steps)  # of the last step done
        return (
            f"epoch {epoch}, step {self.step} of {self.settings.total_steps}: "
            f"loss {loss:.4f}, {pace * self.settings.batch_size:.1f} images/s, {left} left"
        )


# ---------------------------------------------------------------------------------------------------------------
# Evaluations


def as_grid(labels):
    """Whether so many classifiers are shown as a grid and not side by side in a line."""
    return max(map(len, header(labels))) > NARROW


def header(labels):
    """The lines above the evaluations: weights, and above those their batch statistics where they differ."""
    columns = "".join(f" {label.weights_name:>{width_of(label)}}" for label in labels)
    names = f"epoch    step   loss   train{columns}    gain   img/s"
    if all(label.statistics == "raw" for label in labels):
        return [f"{names}  seconds"]
    statistics = "".join(f" {SHORT[label.statistics]:>{width_of(label)}}" for label in labels)
    return [f"{'batch statistics:':>28}{statistics}", names]


def width_of(label):
    """Of a column: what stands above its numbers, or these."""
    return max(7, len(label.weights_name), len(SHORT[label.statistics]))


def points(accuracy, less=0.0):
    """An accuracy, or by how much it is higher than another, in percent, from figures rounded as they are shown."""
    return round(100 * accuracy, 2) - round(100 * less, 2)


def format_evaluation(row, primary):
    """Lines of the log for one evaluation; the gain is the primary EMA's over its baseline."""
    accuracy = {Label.parse(text): value for text, value in row["classifiers"].items()}
    gain = points(accuracy[primary], accuracy[primary.baseline])
    if as_grid(accuracy):
        return [
            f"epoch {row['epoch']}, step {row['step']}: loss {row['train_loss']:.4f}, train acc "
            f"{100 * row['train_accuracy']:.2f}%, {row['images_per_second']:.1f} images/s, {row['seconds']:.1f} s",
            *grid(accuracy),
            f"    gain of {primary.display_name}: {gain:+.2f}",
        ]
    columns = "".join(f" {points(value):>{width_of(label) - 1}.2f}%" for label, value in accuracy.items())
    line = (
        f"{row['epoch']:5d} {row['step']:7d} {row['train_loss']:6.4f} {100 * row['train_accuracy']:6.2f}%{columns}"
        f" {gain:+7.2f} {row['images_per_second']:7.1f}"
    )
    return [line if len(header(accuracy)) > 1 else f"{line} {row['seconds']:8.1f}"]


def grid(accuracy):
    """Accuracies in %, weights down and batch statistics across.

    Args:
      accuracy: Label to accuracy.
    """
    statistics = list(dict.fromkeys(label.statistics for label in accuracy))
    rows = list(dict.fromkeys((label.weights, label.decay) for label in accuracy))
    corner = "batch statistics:"
    lines = [f"    {corner}" + "".join(f"{STATISTICS[policy]:>16}" for policy in statistics)]
    for weights, decay in rows:
        values = (accuracy.get(Label(weights, decay, policy)) for policy in statistics)
        cells = (f"{'-':>16}" if value is None else f"{points(value):15.2f}%" for value in values)
        lines.append(f"    {Label(weights, decay).weights_name:<{len(corner)}}{''.join(cells)}")
    return lines


def explain_deficit(primary, accuracy, initial_share):
    """Why an average is behind its baseline, and which flag mends it: one sentence, wrapped; None where it is not.

    Args:
      primary: its Label.
      accuracy: text of the label of every classifier to its accuracy.
      initial_share: the share of the initial weights in it now.
    """
    if accuracy[str(primary)] >= accuracy[str(primary.baseline)]:
        return None
    reasons = []
    if initial_share >= 0.01:
        reasons.append(f"{initial_share:.0%} of it is still the initial weights (--ema_start warmup mends that)")
    fair = primary._replace(statistics="recomputed")
    if primary.statistics == "raw" and str(fair) not in accuracy:
        reasons.append("its batch statistics are the raw network's (--ema_batch_stats recomputed)")
    elif primary.statistics == "raw" and accuracy[str(fair)] >= accuracy[str(fair.baseline)]:
        reasons.append("its batch statistics are the raw network's: with recomputed ones it is ahead")
    if not reasons:
        reasons = ["perhaps it lags, as the weights improve fast (a smaller --ema_decay lags less), or by chance"]
    return wrapped(f"{primary.weights_name} is behind: {', and '.join(reasons)}")


def eval_cost_hint(evaluation_seconds, training_seconds, interval, epochs):
    """What the first evaluation cost and how to have fewer; None where it cost little, or there cannot be fewer.

    Args:
      evaluation_seconds, training_seconds: of the evaluation, and of the training before it.
      interval: epochs between two evaluations.
      epochs: of the whole run.
    """
    share = evaluation_seconds / training_seconds
    fewer = min(math.ceil(interval * share / COSTLY), epochs)
    if share <= COSTLY or fewer == interval:
        return None
    took = f"this evaluation took {evaluation_seconds:.1f} s, its training {training_seconds:.1f} s"
    return f"{took}: --eval_every {fewer} has fewer"


# ---------------------------------------------------------------------------------------------------------------
# The end


def final_lines(summary, primary, path):
    """The last lines of the log."""
    accuracy = {Label.parse(text): value for text, value in summary["classifiers"].items()}
    lines = map(wrapped, split_gains(summary["classifiers"])) if len(accuracy) > 2 else []
    statistics = "" if primary.baseline == RAW else f", {primary.statistics}"
    raw, ema = points(accuracy[primary.baseline]), points(accuracy[primary])
    name, where = primary.weights_name, shlex.quote(display_path(path))
    if "validation" in summary:
        lines = [*lines, wrapped(what_is_chosen(summary, primary), others=" " * 9)]
    return [
        *lines,
        f"curves:  {display_path(path / 'curves.png')}",
        f"compare: {script('evaluate')} table --run_dir {where}",
        f"export:  {script('evaluate')} export --run_dir {where} --output model",
        f"done: raw {raw:.2f}%, {name} {ema:.2f}% ({ema - raw:+.2f}){statistics}, in {display_path(path)}",
    ]


def what_is_chosen(summary, primary):
    """The average that is best on the validation images, in words, with its test accuracy and gain."""
    label, reason = choose(str(primary), [summary["validation"]])
    accuracy, chosen = summary["classifiers"], Label.parse(label)
    gain = points(accuracy[label], accuracy[str(chosen.baseline)])
    found = f"{points(accuracy[label]):.2f}% ({gain:+.2f})"
    return f"chosen:  {chosen.display_name}, {reason} ({points(summary['validation'][label]):.2f}%): test {found}"


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
        reference = label.baseline if recomputed else label._replace(statistics="raw")
        if label.weights != "ema" or label.statistics == "raw" or str(reference) not in accuracy:
            continue
        whole, step = points(value, accuracy["raw"]), points(value, accuracy[str(reference)])
        weights, stats = (step, whole - step) if recomputed else (whole - step, step)
        lines.append(
            f"{label.display_name}: {whole:+.2f} over raw weights with the raw network's = {weights:+.2f} by the weights, "
            f"{stats:+.2f} by the batch statistics"
        )
    return lines
