"""The log of a run, on stdout and in train.log: the preamble, progress, evaluations and the last lines."""

import contextlib
import datetime
import logging
import math
import shlex
import sys
import textwrap
import time

import tqdm.contrib.logging

from training.cli import display_path, script
from training.labels import RAW, STATISTICS, Label, choose

MAX_WIDTH = 80  # columns of a line, except for paths
PROGRESS_INTERVAL = 60  # seconds between two progress lines
COSTLY_SHARE = 0.2  # evaluation time over training time; above, the log suggests fewer evaluations
MIN_SHARE = 0.01  # of the initial weights in an average; smaller shares are not worth a warning
SHORT_NAMES = STATISTICS | {"raw": "raw net's"}  # of batch statistics, above a column

log = logging.getLogger("train")


def send_log_to(path):
    """Sends the log to stdout and appends it to the file `path`."""
    logging.raiseExceptions = False  # a closed pipe (| head) must not end a run
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = [logging.StreamHandler(sys.stdout), logging.FileHandler(path, encoding="utf-8")]


def wrap(text, first="", others="    "):
    """Returns `text` in lines of at most MAX_WIDTH columns with these indents; words, and thus paths, stay whole."""
    indents = {"initial_indent": first, "subsequent_indent": others}
    return textwrap.fill(text, MAX_WIDTH, **indents, break_long_words=False, break_on_hyphens=False)


def preamble(settings, source, graph, run):
    """Returns the lines before the first step; `run` is the text for the run directory."""

    def add(name, text):
        lines.append(wrap(text, f"{name:<11}", " " * 11))

    lines, count = [], parameters(graph.var_class)
    reason = f"; {settings.precision_reason}" if settings.precision_reason else ""
    add("device", settings.device.description)
    add("precision", f"{settings.precision} convolutions, float32 variables{reason}")
    for number, part in enumerate(source.split("; ")):
        add("" if number else "data", part)
    add("network", f"{count:,} parameters, width {settings.width:g}, dropout {settings.dropout:g}")
    add("training", f"{settings.epochs} epochs of {settings.epoch_steps} steps of {settings.batch_size} images")
    for line in describe(graph.averages, settings.total_steps, settings.epoch_steps):
        add("average", line)
    if snapshots := settings.epochs * settings.snapshots:
        size = 4 * count * len(settings.ema_power) * snapshots
        add("snapshots", f"{snapshots} in all, {size / 1e6:,.0f} MB on disk at the end")
    add("run", run)
    return lines + header(settings.labels)


def parameters(variables):
    """Returns the number of elements of all variables."""
    return sum(math.prod(variable.shape.as_list()) for variable in variables)


def describe(averages, total_steps, epoch_steps):
    """Returns lines about the decays of an ema.MovingAverages in a run of `total_steps`, and about unsuitable ones."""
    lines, warmup_steps = [], {}
    for decay, average in averages.decays.items():
        horizon = 1 / (1 - float(decay))
        epochs = f"{horizon / epoch_steps:.2g} epochs"
        lines.append(f"decay {decay}, start {averages.start}: horizon {horizon:.4g} steps = {epochs}")
        warmup_steps[decay] = average.schedule.warmup_steps()
    same = [decay for decay, steps in warmup_steps.items() if steps > total_steps / 2]
    if len(same) > 1:
        until = f"step {min(total_steps, *(warmup_steps[decay] for decay in same)):,} of {total_steps:,}"
        equal = f"warmup makes the averages of decays {', '.join(same)} equal"
        lines.append(f"{equal} until {until}: use --ema_start unbiased")
    elif same and warmup_steps[same[0]] > total_steps:
        lines.append(f"warmup shortens the average of decay {same[0]} until step {warmup_steps[same[0]]:,}")
    for decay, average in averages.decays.items():
        share = average.schedule.initial_share(total_steps)
        if share > MIN_SHARE:
            warning = f"warning: after {total_steps} steps the average of decay {decay} is still {share:.0%} initial"
            lines.append(f"{warning} weights: train longer, use a smaller --ema_decay or --ema_start warmup")
    return lines


class ProgressBar:
    """Epoch, step, loss, speed and the time left: a bar on a terminal, elsewhere one line of the log a minute.

    A context manager; inside it, lines of the log appear above the bar. `step` counts the steps done before, `clock`
    returns seconds, `write` takes a line, and `visible=False` hides the bar even on a terminal.
    """

    def __init__(self, settings, step, visible=True, clock=time.monotonic, write=log.info):
        self.settings, self.step, self.clock, self.write = settings, step, clock, write
        size, hidden = settings.batch_size, not (visible and sys.stderr.isatty())
        images = {"total": settings.total_steps * size, "initial": step * size, "unit": " images", "unit_scale": True}
        self.bar = tqdm.tqdm(desc="training", dynamic_ncols=True, leave=False, disable=hidden, **images)
        self.started, self.first_step = clock(), step
        self.evaluation_running = False
        self.written_at, self.loss_sum, self.loss_steps = self.started, 0.0, 0  # sums since the last line

    def __enter__(self):
        self.redirection = tqdm.contrib.logging.logging_redirect_tqdm([log])
        self.redirection.__enter__()
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError):  # the terminal is closed
            self.bar.close()
        self.redirection.__exit__(*error)

    def update(self, steps, loss):
        """Counts `steps` more steps with the mean loss `loss`, which is NaN if all of them were skipped."""
        self.step += steps
        if math.isfinite(loss):
            self.loss_sum, self.loss_steps = self.loss_sum + steps * loss, self.loss_steps + steps
        with contextlib.suppress(OSError):  # a closed terminal must not end the run before it is saved
            if self.evaluation_running:
                self.evaluation_running, self.bar.bar_format = False, None
                self.bar.unpause()  # leaves the evaluation out of the speed
            self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self.bar.update(steps * self.settings.batch_size)
        self.write_when_due(self.line)

    def evaluating(self, number, count):
        """Shows that classifier `number` of `count` is being evaluated."""
        with contextlib.suppress(OSError):
            self.evaluation_running, self.bar.bar_format = True, f"evaluating {number} of {count}"
            self.bar.refresh()
        self.write_when_due(lambda: f"step {self.step}: evaluating {number} of {count}")

    def write_when_due(self, line):
        if self.bar.disable and self.clock() - self.written_at >= PROGRESS_INTERVAL:
            self.write(line())
            self.written_at, self.loss_sum, self.loss_steps = self.clock(), 0.0, 0

    def line(self):
        speed = (self.step - self.first_step) / (self.clock() - self.started)  # steps per second, with evaluations
        left = datetime.timedelta(seconds=round((self.settings.total_steps - self.step) / speed))
        loss = self.loss_sum / self.loss_steps if self.loss_steps else math.nan
        epoch = math.ceil(self.step / self.settings.epoch_steps)
        steps = f"epoch {epoch}, step {self.step} of {self.settings.total_steps}"
        return f"{steps}: loss {loss:.4f}, {speed * self.settings.batch_size:.1f} images/s, {left} left"


def header(labels):
    """Returns the lines above the evaluations, or [] if they would be too wide: then each evaluation is a grid."""
    names = join_cells("epoch    step   loss   train", {label: label.weights_name for label in labels})
    lines = [f"{names}    gain   img/s  seconds"]
    if any(label.statistics != "raw" for label in labels):
        statistics = {label: SHORT_NAMES[label.statistics] for label in labels}
        lines = [join_cells(f"{'batch statistics:':>28}", statistics), f"{names}    gain   img/s"]
    return lines if len(lines[-1]) <= MAX_WIDTH else []


def join_cells(line, cells):
    """Returns `line` with the cells (Label to text) appended, each in the column of its label."""
    for label, text in cells.items():
        width = max(7, len(label.weights_name), len(SHORT_NAMES[label.statistics]))
        line += f" {text:>{width}}"
    return line


def percent(accuracy):
    """Returns an accuracy in percent as shown, so that differences of shown numbers add up."""
    return round(100 * accuracy, 2)


def format_evaluation(row, primary):
    """Returns the lines for one row of metrics.jsonl; the gain is that of the Label `primary` over its baseline."""
    accuracy = {Label.parse(text): value for text, value in row["classifiers"].items()}
    gain = percent(accuracy[primary]) - percent(accuracy[primary.baseline])
    train, titles = f"{100 * row['train_accuracy']:.2f}%", header(accuracy)
    if not titles:
        steps = f"epoch {row['epoch']}, step {row['step']}: loss {row['train_loss']:.4f}, train acc {train}"
        first = f"{steps}, {row['images_per_second']:.1f} images/s, {row['seconds']:.1f} s"
        return [first, *grid(accuracy), f"    gain of {primary.display_name}: {gain:+.2f}"]
    steps = f"{row['epoch']:5d} {row['step']:7d} {row['train_loss']:6.4f} {train:>7}"
    accuracies = {label: f"{percent(value):.2f}%" for label, value in accuracy.items()}
    line = f"{join_cells(steps, accuracies)} {gain:+7.2f} {row['images_per_second']:7.1f}"
    return [line if len(titles) > 1 else f"{line} {row['seconds']:8.1f}"]


def grid(accuracy):
    """Returns lines of accuracies (Label to fraction) in percent, weights down and batch statistics across."""
    policies = list(dict.fromkeys(label.statistics for label in accuracy))
    title = "    batch statistics:"
    lines = [title + "".join(f"{STATISTICS[policy]:>16}" for policy in policies)]
    for weights in dict.fromkeys(label._replace(statistics="raw") for label in accuracy):
        line = f"    {weights.weights_name}".ljust(len(title))
        for policy in policies:
            value = accuracy.get(weights._replace(statistics=policy))
            cell = "-" if value is None else f"{percent(value):.2f}%"
            line += f"{cell:>16}"
        lines.append(line)
    return lines


def explain_deficit(primary, accuracy, initial_share):
    """Returns why an average is behind its baseline and which flag helps, or None if it is not behind.

    `accuracy` maps the labels (text) of all classifiers; `initial_share` is the initial weights' share in the average.
    """
    if accuracy[str(primary)] >= accuracy[str(primary.baseline)]:
        return None
    reasons = []
    if initial_share >= MIN_SHARE:
        reasons.append(f"{initial_share:.0%} of the average is still the initial weights (use --ema_start warmup)")
    fair = primary._replace(statistics="recomputed")
    if primary.statistics == "raw" and str(fair) not in accuracy:
        reasons.append("its batch statistics are the raw network's (use --ema_batch_stats recomputed)")
    elif primary.statistics == "raw" and accuracy[str(fair)] >= accuracy[str(fair.baseline)]:
        reasons.append("its batch statistics are the raw network's: it is ahead with recomputed statistics")
    noise = "it may lag while the weights improve quickly (try a smaller --ema_decay), or this is noise"
    return wrap(f"{primary.weights_name} is behind: {', and '.join(reasons or [noise])}")


def eval_cost_hint(evaluation_seconds, training_seconds, interval, epochs):
    """Returns a hint at --eval_every if an evaluation costs much, or None; `interval` is the current --eval_every."""
    share = evaluation_seconds / training_seconds
    longer = min(math.ceil(interval * share / COSTLY_SHARE), epochs)
    if share <= COSTLY_SHARE or longer == interval:
        return None
    times = f"evaluation took {evaluation_seconds:.1f} s, training {training_seconds:.1f} s"
    return f"{times}: --eval_every {longer} would evaluate less often"


def final_lines(summary, primary, path):
    """Returns the last lines of the log: gains, the chosen average, commands that come next, and the result."""
    accuracy = summary["classifiers"]
    raw, ema = percent(accuracy[str(primary.baseline)]), percent(accuracy[str(primary)])
    statistics = "" if primary.baseline == RAW else f", {primary.statistics}"
    name, run_dir = primary.weights_name, shlex.quote(display_path(path))
    lines = [wrap(line) for line in split_gains(accuracy)] if len(accuracy) > 2 else []
    if "validation" in summary:
        text, reason = choose(str(primary), [summary["validation"]])
        chosen, test = Label.parse(text), percent(accuracy[text])
        gain = test - percent(accuracy[str(chosen.baseline)])
        result = f"({percent(summary['validation'][text]):.2f}%): test {test:.2f}% ({gain:+.2f})"
        lines.append(wrap(f"chosen:  {chosen.display_name}, {reason} {result}", others=" " * 9))
    return [
        *lines,
        f"curves:  {display_path(path / 'curves.png')}",
        f"compare: {script('evaluate')} table --run_dir {run_dir}",
        f"export:  {script('evaluate')} export --run_dir {run_dir} --output model",
        f"done: raw {raw:.2f}%, {name} {ema:.2f}% ({ema - raw:+.2f}){statistics}, in {display_path(path)}",
    ]


def split_gains(accuracy):
    """Returns lines that split the gain of each average over raw; `accuracy` maps the labels of all classifiers."""
    lines = []
    for label in map(Label.parse, accuracy):
        reference = label.baseline if label.recomputed else label._replace(statistics="raw")
        if label.weights == "raw" or label.statistics == "raw" or str(reference) not in accuracy:
            continue
        total = percent(accuracy[str(label)]) - percent(accuracy["raw"])
        step = percent(accuracy[str(label)]) - percent(accuracy[str(reference)])
        averaging = step if label.recomputed else total - step
        lines.append(
            f"{label.display_name}: {total:+.2f} over raw = {averaging:+.2f} from averaging weights, "
            f"{total - averaging:+.2f} from batch statistics"
        )
    return lines
