"""The loop around the graph: steps, evaluations, checkpoints and the log, from wherever the run directory left off."""

import math
import shlex
import sys
import time

import numpy as np
import tqdm
import tqdm.contrib.logging

import ema
import runs
import signals
from errors import UserError
from runs import log

MAX_SKIPPED = 10  # steps in a row without a finite loss and gradient end the run


def baseline(label):
    """What the gain of an EMA classifier is measured against: the raw one, with recomputed statistics if it has such.

    The raw weights have no averaged statistics of their own, so "averaged" is measured against plain "raw".
    """
    return "raw/recomputed" if label.endswith("/recomputed") else "raw"


def share_correct(logits, labels):
    """Accuracy, a fraction, of logits [N, 10] for labels [N]."""
    return float(np.mean(logits.argmax(1) == labels))


class Run:
    """One run. `train` does it all; the other methods are its parts.

    Args:
      flags: the command line.
      dataset: data.Dataset.
      graph: train.Graph.
      session: with every variable initialized.
      path: the run directory.
      stop: signals.Stop.
    """

    def __init__(self, flags, dataset, graph, session, path, stop):
        self.flags, self.graph, self.session, self.path, self.stop = flags, graph, session, path, stop
        self.labels = dataset.test.labels
        self.validation_labels = dataset.validation.labels if dataset.validation else None
        self.epoch_steps = len(dataset.train.labels) // flags.batch_size
        self.total_steps = flags.epochs * self.epoch_steps
        self.primary = next(label for label in graph.logits if label.startswith("ema/"))
        state = {"step": 0, "seconds": 0.0, "training_seconds": 0.0, "interval_start": 0, "rows": []}
        if flags.resume and runs.checkpoints(path):  # a run that was killed before its first one begins again
            state = runs.restore_checkpoint(path, graph.saver, session)
        self.step = self.saved_step = state["step"]
        self.saved_at = time.monotonic()
        self.training_seconds = state["training_seconds"]  # since the last evaluation
        self.interval_start = state["interval_start"]  # the step of the last evaluation
        self.started = time.monotonic() - state["seconds"]
        self.evaluated = state["rows"]  # before this process
        self.predictions = {}  # label to test logits, of the last evaluation

    def train(self, about):
        """Trains to the last epoch and writes what is left at the end; `about` goes into summary.json.

        Raises:
          UserError: a signal or a failure to write ended the run early; the message says how to go on.
        """
        try:
            self.metrics = runs.Metrics(self.path, self.evaluated)
            runs.forget_after(self.path, self.step)
            self.run()
            self.finish(about)
        except OSError as error:
            raise UserError(
                f"{error.filename or self.path} could not be written ({error.strerror}): make room, then continue "
                f"with: {self.resume_command}"
            ) from None

    @property
    def resume_command(self):
        return f"python train.py --resume --run_dir {shlex.quote(str(self.path))}"

    def run(self):
        self.log_start()
        bar = tqdm.tqdm(
            total=self.total_steps * self.flags.batch_size,
            initial=self.step * self.flags.batch_size,
            unit=" images",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )
        with bar, tqdm.contrib.logging.logging_redirect_tqdm([log]):
            self.session.run(self.graph.shuffle)
            while True:
                if self.evaluation_is_due():
                    row = self.evaluate()
                    self.save(row)  # first of all: metrics.jsonl never tells more than the checkpoints
                    self.metrics.append(row)
                    log.info(self.line(row))
                elif self.checkpoint_is_due():
                    self.save()
                if self.step >= self.total_steps:
                    break
                if self.stop.signal:
                    self.stop_early()
                bar.update(self.run_steps() * self.flags.batch_size)

    def evaluation_is_due(self):
        interval = self.flags.eval_every * self.epoch_steps
        at_boundary = self.step > 0 and (self.step % interval == 0 or self.step >= self.total_steps)
        return at_boundary and not self.was_evaluated()

    def was_evaluated(self):
        return bool(self.metrics.rows) and self.metrics.rows[-1]["step"] == self.step

    def checkpoint_is_due(self):
        every = self.flags.checkpoint_every
        overdue = time.monotonic() - self.saved_at >= every.seconds
        return self.step > self.saved_step and (overdue or (every.steps and self.step % every.steps == 0))

    def run_steps(self):
        """Drives the device for a few steps, within one epoch and between two snapshots; returns how many."""
        if self.step % self.epoch_steps == 0:
            self.session.run(self.graph.shuffle)
        if self.was_evaluated():
            self.session.run(self.graph.reset)
            self.training_seconds, self.interval_start = 0.0, self.step
        started, before = time.monotonic(), self.step
        until = min(self.step + self.flags.steps_per_run, self.next_boundary(), self.next_checkpoint())
        self.step, skipped_in_a_row = map(int, self.session.run(self.graph.train, {self.graph.until: until}))
        self.training_seconds += time.monotonic() - started
        if skipped_in_a_row >= MAX_SKIPPED:
            sentence = (
                f"training stopped at step {self.step}: the loss or its gradients were not finite for {MAX_SKIPPED} "
                f"steps in a row; start anew with a --learning_rate below {self.flags.learning_rate:g}"
            )
            log.error(sentence)  # for train.log
            raise UserError(sentence)
        if self.graph.averages.powers and self.step == self.next_boundary(before):
            runs.save_snapshot(self.path, self.step, self.snapshot())
        return self.step - before

    def next_boundary(self, after=None):
        """The first step after `after` at which an epoch ends or the power-function averages are to be kept."""
        after = self.step if after is None else after
        epoch = after // self.epoch_steps
        count = self.flags.snapshots if self.graph.averages.powers else 1
        steps = (epoch * self.epoch_steps + (k + 1) * self.epoch_steps // count for k in range(count))
        return next(step for step in steps if step > after)

    def next_checkpoint(self):
        """The next step at which --checkpoint_every, where it counts steps, wants a checkpoint."""
        every = self.flags.checkpoint_every.steps
        return (self.step // every + 1) * every if every else math.inf

    def snapshot(self):
        """The power-function averages: {"<width>/<variable>": array}."""
        shadows = {
            f"{one.name}/{variable.op.name}": one.weights.average(variable)
            for one in self.graph.averages.powers
            for variable in self.graph.var_class
        }
        return self.session.run(shadows | {"updates": self.graph.averages.updates})

    def evaluate(self):
        """One row of metrics.jsonl: training since the last evaluation, and every classifier on the whole test set."""
        losses, corrects, skipped = map(float, self.session.run(self.graph.sums))
        steps = self.step - self.interval_start
        counted = max(1, steps - skipped)
        accuracy, validation, seconds = {}, {}, {}
        for label in self.graph.logits:
            if self.stop.signal:  # the evaluation is done again on resumption, bit for bit
                self.stop_early()
            started = time.monotonic()
            self.predictions[label] = self.predict(label)
            accuracy[label] = share_correct(self.predictions[label], self.labels)
            if label in self.graph.validation:
                held_out = self.session.run(self.graph.validation[label])
                validation[label] = share_correct(held_out, self.validation_labels)
            seconds[label] = time.monotonic() - started
        if skipped:
            log.warning(f"{skipped:.0f} of {steps} steps had no finite loss and gradients, and were skipped")
        row = {
            "epoch": self.step // self.epoch_steps,
            "step": self.step,
            "train_loss": losses / counted,
            "train_accuracy": corrects / counted / self.flags.batch_size,
            "raw_accuracy": accuracy["raw"],
            "ema_accuracy": accuracy[self.primary],
            "images_per_second": steps * self.flags.batch_size / self.training_seconds,
            "seconds": time.monotonic() - self.started,
            "skipped_steps": int(skipped),
            "classifiers": accuracy,
            "evaluation_seconds": seconds,
        }
        return row | ({"validation": validation} if validation else {})

    def predict(self, label):
        """Test logits [N, 10] of one classifier, after its batch statistics are recomputed where that is its policy."""
        if label in self.graph.recompute:
            self.session.run(self.graph.recompute[label])
        return self.session.run(self.graph.logits[label])

    def save(self, *new_rows):
        """Saves a checkpoint, with the rows of every evaluation so far and of `new_rows`."""
        state = {
            "step": self.step,
            "seconds": time.monotonic() - self.started,
            "training_seconds": self.training_seconds,
            "interval_start": self.interval_start,
            "rows": [*self.metrics.rows, *new_rows],
        }
        runs.save_checkpoint(self.path, self.graph.saver, self.session, state)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def stop_early(self):
        self.save()
        raise UserError(
            f"stopped by {signals.NAMES[self.stop.signal]} at step {self.step}, checkpoint saved; "
            f"continue with: {self.resume_command}",
            128 + self.stop.signal,
        )

    def finish(self, about):
        """summary.json, predictions.npz, curves.png and the last lines of the log."""
        last = self.metrics.rows[-1]
        predictions = self.predictions or {label: self.predict(label) for label in self.graph.logits}
        runs.save_arrays(self.path / "predictions.npz", {"labels": self.labels} | predictions)
        gain = last["ema_accuracy"] - last["raw_accuracy"]
        runs.write_json(
            self.path / "summary.json", {**last, "gain": gain, "parameters": self.graph.parameters, **about}
        )
        runs.draw_curves(self.path, self.metrics.rows)
        for text in split_gains(last["classifiers"]):
            log.info(text)
        if len(last["classifiers"]) > 2:
            costs = ", ".join(f"{label} {seconds:.1f}" for label, seconds in last["evaluation_seconds"].items())
            log.info(f"seconds per evaluation: {costs}")
        log.info(
            f"done: raw {100 * last['raw_accuracy']:.2f}%, {self.primary} {100 * last['ema_accuracy']:.2f}%, "
            f"{100 * gain:+.2f} over raw after {last['epoch']} epochs; everything is in {self.path}"
        )

    def log_start(self):
        flags = self.flags
        log.info(f"training   {flags.epochs} epochs of {self.epoch_steps} steps of {flags.batch_size} images")
        updates = self.total_steps // flags.ema_every
        for decay in self.graph.averages.decay_values:
            horizon = 1 / (1 - decay)
            share = ema.initial_share(decay**flags.ema_every, flags.ema_start, updates)
            log.info(
                f"ema        decay {decay}, start {flags.ema_start}: horizon {horizon:.4g} steps = "
                f"{horizon / self.epoch_steps:.2g} epochs; {share:.1%} of the initial weights left at the end"
            )
            if share > 0.01:
                log.warning(
                    f"warning: decay {decay} is long for {self.total_steps} steps: train longer, average over less, "
                    "or use --ema_start warmup"
                )
        log.info(f"run        {self.path}" + (f", resumed at step {self.step}" if self.flags.resume else ""))
        columns = "".join(f"  {label:>8}" for label in self.graph.logits)
        log.info(f"epoch    step  train loss  train acc{columns}     gain  images/s   seconds")

    def line(self, row):
        """One evaluation as a line of the log; the gain is the primary EMA's over the raw weights at equal policy."""
        accuracy = row["classifiers"]
        columns = "".join(f"  {100 * value:>{max(len(label), 8) - 1}.2f}%" for label, value in accuracy.items())
        gain = accuracy[self.primary] - accuracy[baseline(self.primary)]
        return (
            f"{row['epoch']:5d} {row['step']:7d} {row['train_loss']:11.4f} {100 * row['train_accuracy']:9.2f}%{columns}"
            f" {100 * gain:+8.2f} {row['images_per_second']:9.1f} {row['seconds']:9.1f}"
        )


def split_gains(accuracy):
    """Splits what each EMA classifier has over raw into the averaging of weights and the batch statistics.

    Args:
      accuracy: label to accuracy.

    Returns:
      Lines of text, for the classifiers whose statistics are not the raw network's.
    """
    lines = []
    for label, value in accuracy.items():
        _, _, policy = label.rpartition("/")
        reference = baseline(label) if policy == "recomputed" else label.replace("/averaged", "/raw")
        if not label.startswith("ema/") or policy == "raw" or reference not in accuracy:
            continue
        whole, step = 100 * (value - accuracy["raw"]), 100 * (value - accuracy[reference])
        weights, stats = (step, whole - step) if policy == "recomputed" else (whole - step, step)
        lines.append(
            f"{label} over raw: {whole:+.2f} points = {weights:+.2f} weights {stats:+.2f} batch statistics, "
            f"by way of {reference}"
        )
    return lines
