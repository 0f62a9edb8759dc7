"""The trainer around the graph: steps, evaluations, checkpoints and the log, from wherever the run left off."""

import time

import numpy as np
import tensorflow.compat.v1 as tf

from training import checkpoints
from training.cli import ERRNO_HINTS, SIGNALS, UserError, display_path, resume_command, show_status
from training.files import write_arrays, write_json
from training.log import (
    ProgressBar,
    eval_cost_hint,
    explain_deficit,
    final_lines,
    format_evaluation,
    log,
    parameters,
    preamble,
)
from training.loop import MAX_SKIPPED
from training.metrics import Records
from training.replicas import Saver

DIVERGED = "the loss or its gradients were not finite"


class Trainer:
    """Trains one run. `train` does it all; the other methods are its parts.

    Args:
      settings: training.settings.Settings.
      dataset: train, test and perhaps validation, each with `labels`; `evaluated`, name to such; `source`.
      graph: step, loop, shuffle, averages, tested, var_class and feeds, as train.Graph, built in the default graph.
      directory: training.run_directory.RunDirectory, entered.
      session: on the default graph.
      stop: training.cli.Stop.
    """

    shows_progress = True

    def __init__(self, settings, dataset, graph, directory, session, stop):
        self.settings, self.dataset, self.graph = settings, dataset, graph
        self.directory, self.session, self.stop = directory, session, stop
        self.saver = Saver()
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], graph.feeds)
        state = directory.restore(self.saver, session) or {}
        self.step = self.saved_step = state.get("step", 0)
        self.saved_at = time.monotonic()
        self.training_seconds = state.get("training_seconds", 0.0)  # since the last evaluation
        self.interval_start = state.get("interval_start", 0)  # the step of the last evaluation
        self.started = time.monotonic() - state.get("seconds", 0.0)
        self.evaluated = state.get("rows", [])  # before this process
        self.predictions = {}  # label to test logits, of the last evaluation

    def train(self):
        """Trains to the last epoch and writes what is left at the end.

        Raises:
          UserError: a signal or a failure to write ended the run early; the message says how to go on.
        """
        try:
            self.begin()
            self.run()
            self.finish()
            return self.records.rows
        except OSError as error:
            hint = f"{ERRNO_HINTS[error.errno]} and " if error.errno in ERRNO_HINTS else ""
            raise UserError(
                f"{error.filename or self.directory.path} could not be written ({error.strerror or error}): {hint}"
                f"continue with: {resume_command(self.directory.path)}"
            ) from None

    def begin(self):
        self.directory.begin(self.settings.resolved(), self.step)
        self.records = Records(self.directory.path, self.evaluated)

    def run(self):
        settings = self.settings
        show_status("")
        resumed = f", resumed at step {self.step}" if self.directory.resume else ""
        for line in preamble(
            settings, self.dataset.source, self.graph, f"{display_path(self.directory.path)}{resumed}"
        ):
            log.info(line)
        with ProgressBar(settings, self.step, self.shows_progress) as progress:
            self.session.run(self.graph.shuffle)
            while True:
                if self.evaluation_is_due():
                    row = self.evaluate(progress)
                    self.save(row)  # first of all: metrics.jsonl never tells more than the checkpoints
                    self.records.append(row)
                    for line in [*format_evaluation(row, settings.primary), *self.hints()]:
                        log.info(line)
                elif self.checkpoint_is_due():
                    self.save()
                if self.step >= settings.total_steps:
                    break
                if self.stop.signal:
                    self.stop_early()
                before = self.step
                loss = self.run_steps()
                progress.update(self.step - before, loss)

    def evaluation_is_due(self):
        interval = self.settings.eval_every * self.settings.epoch_steps
        at_boundary = self.step > 0 and (self.step % interval == 0 or self.step >= self.settings.total_steps)
        return at_boundary and not self.was_evaluated()

    def was_evaluated(self):
        return bool(self.records.rows) and self.records.rows[-1]["step"] == self.step

    def checkpoint_is_due(self):
        overdue = time.monotonic() - self.saved_at >= 60 * self.settings.checkpoint_every
        return self.step > self.saved_step and overdue

    def run_steps(self):
        """Drives the device for a few steps, within one epoch and between two snapshots; returns their mean loss."""
        loop, before = self.graph.loop, self.step
        if self.step % self.settings.epoch_steps == 0:
            self.session.run(self.graph.shuffle)
        if self.was_evaluated():
            self.session.run(loop.reset)
            self.training_seconds, self.interval_start = 0.0, self.step
        started = time.monotonic()
        until = min(self.step + self.settings.steps_per_run, self.next_boundary())
        progress = self.session.run(loop.train, {loop.until: until})
        self.step = int(progress.step)
        self.training_seconds += time.monotonic() - started
        if progress.skipped_in_a_row >= MAX_SKIPPED:
            self.stop_diverged(f"{DIVERGED} for {MAX_SKIPPED} steps in a row")
        if self.settings.snapshots and self.step == self.next_boundary(before):
            self.directory.save_snapshot(self.step, self.snapshot())
        return float(progress.loss)

    def next_boundary(self, after=None):
        """The first step after `after` at which an epoch ends or the power-function averages are to be kept."""
        after = self.step if after is None else after
        epoch_steps, parts = self.settings.epoch_steps, self.settings.snapshots or 1
        epoch = after // epoch_steps
        steps = (epoch * epoch_steps + (k + 1) * epoch_steps // parts for k in range(parts))
        return next(step for step in steps if step > after)

    def snapshot(self):
        """The power-function averages: {"<width>/<variable>": array}."""
        shadows = {
            f"{one.name}/{variable.op.name}": one.weights_ema.average(variable)
            for one in self.graph.averages.power_averages
            for variable in self.graph.var_class
        }
        return self.session.run(shadows | {"updates": self.graph.averages.updates})

    def hints(self):
        """Lines for the log after the first format_evaluation, and after the first that finds the average behind."""
        settings, rows, primary = self.settings, self.records.rows, self.settings.primary
        share = self.graph.averages.initial_share(primary.decay, self.step)
        *before, behind = (explain_deficit(primary, row["classifiers"], share) for row in rows)
        lines = [behind] if behind and not any(before) else []
        if len(rows) == 1 and self.step < settings.total_steps:
            seconds = sum(rows[0]["evaluation_seconds"].values())
            lines += filter(
                None, [eval_cost_hint(seconds, self.training_seconds, settings.eval_every, settings.epochs)]
            )
        return lines

    def evaluate(self, progress):
        """One row of metrics.jsonl: training since the last format_evaluation, and every classifier on every whole set."""
        totals = self.session.run(self.graph.loop.totals)
        steps = self.step - self.interval_start
        counted = steps - int(totals.skipped)
        if not counted:
            self.stop_diverged(f"{DIVERGED} in any of the {steps} steps since the last evaluation")
        accuracy, seconds = {name: {} for name in self.dataset.evaluated}, {}
        for number, label in enumerate(self.graph.test_classifiers, 1):
            progress.evaluating(number, len(self.graph.test_classifiers))
            if self.stop.signal:  # the evaluation is done again on resumption, bit for bit
                self.stop_early()
            started = time.monotonic()
            logits = self.predict(label)
            self.predictions[str(label)] = logits["test"]
            for name, split in self.dataset.evaluated.items():
                accuracy[name][str(label)] = float(np.mean(logits[name].argmax(1) == split.labels))
            seconds[str(label)] = time.monotonic() - started
        if totals.skipped:
            log.warning(f"{totals.skipped} of {steps} steps had no finite loss and gradients, and were skipped")
        row = {
            "epoch": self.step // self.settings.epoch_steps,
            "step": self.step,
            "train_loss": float(totals.loss) / counted,
            "train_accuracy": int(totals.correct) / counted / self.settings.batch_size,
            "raw_accuracy": accuracy["test"]["raw"],
            "ema_accuracy": accuracy["test"][str(self.settings.primary)],
            "images_per_second": steps * self.settings.batch_size / self.training_seconds,
            "seconds": time.monotonic() - self.started,
            "skipped_steps": int(totals.skipped),
            "classifiers": accuracy.pop("test"),
            "evaluation_seconds": seconds,
        }
        return row | accuracy

    def predict(self, label):
        """ "test" and perhaps "validation" to logits [N, 10] of one classifier, its batch statistics recomputed first
        where that is its policy."""
        tested = self.graph.test_classifiers[label]
        if tested.recompute is not None:
            self.session.run(tested.recompute)
        return self.session.run(tested.logits)

    def last_predictions(self):
        """Test logits of every classifier, by label as text."""
        predictions = self.predictions or {
            str(label): self.predict(label)["test"] for label in self.graph.test_classifiers
        }
        if not all(np.isfinite(logits).all() for logits in predictions.values()):  # by the last few steps
            self.stop_diverged("the logits are not finite")
        return predictions

    def save(self, *new_rows):
        """Saves a checkpoint, with the rows of every evaluation so far and of `new_rows`."""
        state = {
            "step": self.step,
            "seconds": time.monotonic() - self.started,
            "training_seconds": self.training_seconds,
            "interval_start": self.interval_start,
            "rows": [*self.records.rows, *new_rows],
        }
        checkpoints.save(self.directory.path, self.saver, self.session, state)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def stop_early(self):
        self.save()
        raise UserError(
            f"stopped by {SIGNALS[self.stop.signal]} at step {self.step}, checkpoint saved; "
            f"continue with: {resume_command(self.directory.path)}",
            128 + self.stop.signal,
        )

    def stop_diverged(self, how):
        sentence = (
            f"training stopped at step {self.step}: {how}; start anew with a --learning_rate below "
            f"{self.settings.learning_rate:g}"
        )
        log.error(sentence)  # for train.log
        raise UserError(sentence)

    def finish(self):
        """summary.json, predictions.npz, curves.png and the last lines of the log."""
        path, last = self.directory.path, self.records.rows[-1]
        primary = self.settings.primary
        write_arrays(path / "predictions.npz", {"labels": self.dataset.test.labels} | self.last_predictions())
        summary = {
            **last,
            "gain": last["ema_accuracy"] - last["classifiers"][str(primary.baseline)],
            "baseline": str(primary.baseline),
            "parameters": parameters(self.graph.var_class),
            "device": self.settings.device.description,
            "precision": self.settings.precision,
        }
        write_json(path / "summary.json", summary)
        for line in final_lines(summary, primary, path):
            log.info(line)


class Follower(Trainer):
    """Trains and evaluates in step with the chief of several workers, and writes nothing."""

    shows_progress = False

    def begin(self):
        self.records = Rows(self.evaluated)

    def save(self, *new_rows):
        self.saved_step = self.step

    def finish(self):
        self.last_predictions()


class Rows:
    """training.metrics.Records without files."""

    def __init__(self, rows):
        self.rows = list(rows)
        self.append = self.rows.append
