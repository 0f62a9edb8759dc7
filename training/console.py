"""What a run says while it trains: its preamble, a line for each evaluation, its ending, and the progress bar."""

import contextlib
import math
import sys

import tqdm
import tqdm.contrib.logging

from training.labels import Label
from training.log import log


def preamble(settings, source, graph, where):
    """The lines before the first step; `where` is the run directory, and from which step on."""
    flags, count = settings.flags, parameters(graph.var_class)
    return [
        f"device     {settings.device.description}",
        f"precision  {settings.precision} convolutions, float32 variables",
        f"data       {source}",
        f"network    {count:,} trainable parameters, width {flags.width:g}, dropout {flags.dropout:g}",
        f"training   {flags.epochs} epochs of {settings.epoch_steps} steps of {flags.batch_size} images",
        *graph.averages.describe(settings.total_steps, settings.epoch_steps),
        f"run        {where}",
        header(settings.labels),
    ]


def parameters(variables):
    return sum(math.prod(variable.shape.as_list()) for variable in variables)


@contextlib.contextmanager
def bar(total, done):
    """A progress bar over images on a terminal, none elsewhere; the log stays above it."""
    shown = tqdm.tqdm(total=total, initial=done, unit=" images", unit_scale=True, disable=not sys.stderr.isatty())
    with shown, tqdm.contrib.logging.logging_redirect_tqdm([log]):
        yield shown


def header(labels):
    columns = "".join(f"  {label!s:>8}" for label in labels)
    return f"epoch    step  train loss  train acc{columns}     gain  images/s   seconds"


def line(row, primary):
    """One evaluation as a line of the log; the gain is the primary EMA's over its baseline."""
    accuracy = row["classifiers"]
    columns = "".join(f"  {100 * value:>{max(len(label), 8) - 1}.2f}%" for label, value in accuracy.items())
    gain = accuracy[str(primary)] - accuracy[str(primary.baseline)]
    return (
        f"{row['epoch']:5d} {row['step']:7d} {row['train_loss']:11.4f} {100 * row['train_accuracy']:9.2f}%{columns}"
        f" {100 * gain:+8.2f} {row['images_per_second']:9.1f} {row['seconds']:9.1f}"
    )


def ending(summary, primary, path):
    """The last lines of the log."""
    lines = split_gains(summary["classifiers"])
    if len(summary["classifiers"]) > 2:
        costs = ", ".join(f"{label} {seconds:.1f}" for label, seconds in summary["evaluation_seconds"].items())
        lines.append(f"seconds per evaluation: {costs}")
    accuracy = summary["classifiers"]
    compared = [primary.baseline, primary] if str(primary.baseline) == "raw" else ["raw", primary.baseline, primary]
    shown = ", ".join(f"{label} {100 * accuracy[str(label)]:.2f}%" for label in compared)
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
