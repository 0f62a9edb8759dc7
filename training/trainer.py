"""Trains one run: steps, evaluations, checkpoints and the log."""

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
from training.metrics import MetricsWriter
from training.replicas import Saver
from training.run_directory import RunDirectory

DIVERGED = "the loss or its gradients were not finite"


class Trainer:
    """Trains one run, from step 0 or from its newest checkpoint. `train` does everything; it calls the other methods.

    All workers of --strategy multiworker train and evaluate in step; only the chief writes files.

    Args:
      settings: training.settings.Settings.
      dataset: data.Dataset.
      graph: train.Graph, built in the default graph.
      session: on the default graph.
      stop: training.cli.StopRequest.

    Raises:
      UserError: the run directory cannot be used, or no checkpoint can be restored.
    """

    def __init__(self, settings, dataset, graph, session, stop):
        self.settings, self.dataset, self.graph = settings, dataset, graph
        self.session, self.stop = session, stop
        self.chief = settings.strategy.chief
        self.directory = RunDirectory(settings)
        self.saver = Saver()
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], graph.feeds)
        state = self.directory.restore(self.saver, session)
        self.step = self.saved_step = state.get("step", 0)
        self.saved_at = time.monotonic()
        self.training_seconds = state.get("training_seconds", 0.0)  # since the last evaluation
        self.interval_start = state.get("interval_start", 0)  # step of the last evaluation
        self.started = time.monotonic() - state.get("seconds", 0.0)
        self.rows = state.get("rows", [])  # of metrics.jsonl
        self.logits = {}  # label as text to test logits [N, K], of the last evaluation

    def train(self, draw_curves):
        """Trains to the last epoch and writes the files of a finished run; draw_curves(path, rows) writes curves.png.

        Raises:
          UserError: a signal or a write error ended the run early; the message names the command that resumes it.
        """
        try:
            if self.chief:
                self.directory.start_log(self.step)
                self.metrics = MetricsWriter(self.directory.path, self.rows)
            self.run()
            self.finish(draw_curves)
        except OSError as error:
            hint = f"{ERRNO_HINTS[error.errno]} and " if error.errno in ERRNO_HINTS else ""
            file = error.filename or self.directory.path
            resume = resume_command(self.directory.path)
            raise UserError(
                f"{file} could not be written ({error.strerror or error}): {hint}continue with: {resume}"
            ) from None

    def run(self):
        settings = self.settings
        show_status("")
        resumed = f", resumed at step {self.step}" if self.directory.resume else ""
        for line in preamble(
            settings, self.dataset.source, self.graph, f"{display_path(self.directory.path)}{resumed}"
        ):
            log.info(line)
        with ProgressBar(settings, self.step, self.chief) as progress:
            self.session.run(self.graph.shuffle)
            while True:
                if self.evaluation_is_due():
                    self.add_row(self.evaluate(progress))
                elif self.checkpoint_is_due():
                    self.save()
                if self.step >= settings.total_steps:
                    break
                if self.stop.signal:
                    self.stop_early()
                first_step = self.step
                loss = self.run_steps()
                progress.update(self.step - first_step, loss)

    def evaluation_is_due(self):
        interval = self.settings.eval_every * self.settings.epoch_steps
        at_boundary = self.step > 0 and (self.step % interval == 0 or self.step >= self.settings.total_steps)
        return at_boundary and not self.was_evaluated()

    def was_evaluated(self):
        return bool(self.rows) and self.rows[-1]["step"] == self.step

    def checkpoint_is_due(self):
        overdue = time.monotonic() - self.saved_at >= 60 * self.settings.checkpoint_every
        return self.step > self.saved_step and overdue

    def run_steps(self):
        """Runs a few steps on the device, within one epoch and between two snapshots; returns their mean loss."""
        loop, first_step = self.graph.loop, self.step
        if self.step % self.settings.epoch_steps == 0:
            self.session.run(self.graph.shuffle)
        if self.was_evaluated():
            self.session.run(loop.reset)
            self.training_seconds, self.interval_start = 0.0, self.step
        boundary = self.next_boundary()
        start = time.monotonic()
        result = self.session.run(loop.train, {loop.until: min(first_step + self.settings.steps_per_run, boundary)})
        self.training_seconds += time.monotonic() - start
        self.step = int(result.step)
        if result.skipped_in_a_row >= MAX_SKIPPED:
            self.stop_diverged(f"{DIVERGED} for {MAX_SKIPPED} steps in a row")
        if self.settings.snapshots and self.step == boundary:
            snapshot = self.snapshot()
            if self.chief:
                self.directory.save_snapshot(self.step, snapshot)
        return float(result.loss)

    def next_boundary(self):
        """Returns the next step at which an epoch ends or a snapshot is due."""
        epoch_steps, parts = self.settings.epoch_steps, self.settings.snapshots or 1
        epoch = self.step // epoch_steps
        boundaries = [epoch * epoch_steps + part * epoch_steps // parts for part in range(1, parts + 1)]
        return next(boundary for boundary in boundaries if boundary > self.step)

    def snapshot(self):
        """Returns the power-function averages: {"<std>/<variable>": array}, and the number of updates."""
        shadows = {
            f"{average.name}/{variable.op.name}": average.weights_ema.average(variable)
            for average in self.graph.averages.power_averages
            for variable in self.graph.var_class
        }
        return self.session.run(shadows | {"updates": self.graph.averages.updates})

    def add_row(self, row):
        """Saves a checkpoint, then writes the row: metrics.jsonl never has more rows than the newest checkpoint."""
        self.rows.append(row)
        self.save()
        if self.chief:
            self.metrics.append(row)
        for line in [*format_evaluation(row, self.settings.primary), *self.hints()]:
            log.info(line)

    def hints(self):
        """Returns lines for the log after the first evaluation, and after the first that finds the average behind."""
        settings, primary = self.settings, self.settings.primary
        share = self.graph.averages.decays[primary.decay].schedule.initial_share(self.step)
        *earlier, current = (explain_deficit(primary, row["classifiers"], share) for row in self.rows)
        lines = [current] if current and not any(earlier) else []
        if len(self.rows) == 1 and self.step < settings.total_steps:
            seconds = sum(self.rows[0]["evaluation_seconds"].values())
            hint = eval_cost_hint(seconds, self.training_seconds, settings.eval_every, settings.epochs)
            lines += [hint] if hint else []
        return lines

    def evaluate(self, progress):
        """Evaluates every classifier on every whole split; returns the row of metrics.jsonl."""
        settings, totals = self.settings, self.session.run(self.graph.loop.totals)
        steps = self.step - self.interval_start
        applied = steps - int(totals.skipped)
        if not applied:
            self.stop_diverged(f"{DIVERGED} in any of the {steps} steps since the last evaluation")
        if totals.skipped:
            log.warning(f"{totals.skipped} of {steps} steps had no finite loss and gradients, and were skipped")
        accuracy, seconds = self.evaluate_classifiers(progress)
        test, primary = accuracy.pop("test"), settings.primary
        return {
            "epoch": self.step // settings.epoch_steps,
            "step": self.step,
            "train_loss": float(totals.loss) / applied,
            "train_accuracy": int(totals.correct) / applied / settings.batch_size,
            "raw_accuracy": test["raw"],
            "ema_accuracy": test[str(primary)],
            "gain": test[str(primary)] - test[str(primary.baseline)],
            "baseline": str(primary.baseline),
            "images_per_second": steps * settings.batch_size / self.training_seconds,
            "seconds": time.monotonic() - self.started,
            "skipped_steps": int(totals.skipped),
            "classifiers": test,
            "evaluation_seconds": seconds,
            **accuracy,
        }

    def evaluate_classifiers(self, progress):
        """Returns {split: {label as text: accuracy}} and {label as text: seconds}."""
        classifiers = self.graph.test_classifiers
        accuracy, seconds = {name: {} for name in self.dataset.evaluated}, {}
        for number, label in enumerate(classifiers, 1):
            progress.evaluating(number, len(classifiers))
            if self.stop.signal:  # a resumed run repeats the evaluation
                self.stop_early()
            start = time.monotonic()
            logits = self.predict(label)
            self.logits[str(label)] = logits["test"]
            for name, split in self.dataset.evaluated.items():
                accuracy[name][str(label)] = float(np.mean(logits[name].argmax(1) == split.labels))
            seconds[str(label)] = time.monotonic() - start
        return accuracy, seconds

    def predict(self, label):
        """Returns {split: logits [N, K]} of one classifier, after recomputing its batch statistics if it has any."""
        test_classifier = self.graph.test_classifiers[label]
        if test_classifier.recompute is not None:
            self.session.run(test_classifier.recompute)
        return self.session.run(test_classifier.logits)

    def save(self):
        """Saves a checkpoint with all rows so far."""
        if self.chief:
            state = {
                "step": self.step,
                "seconds": time.monotonic() - self.started,
                "training_seconds": self.training_seconds,
                "interval_start": self.interval_start,
                "rows": self.rows,
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

    def stop_diverged(self, reason):
        message = (
            f"training stopped at step {self.step}: {reason}; start again with a --learning_rate below "
            f"{self.settings.learning_rate:g}"
        )
        log.error(message)  # for train.log
        raise UserError(message)

    def finish(self, draw_curves):
        """Writes predictions.npz, summary.json, curves.png and the last lines of the log."""
        settings, path = self.settings, self.directory.path
        logits = self.logits or {str(label): self.predict(label)["test"] for label in self.graph.test_classifiers}
        if not all(np.isfinite(values).all() for values in logits.values()):
            self.stop_diverged("the logits are not finite")
        if not self.chief:
            return
        write_arrays(path / "predictions.npz", {"labels": self.dataset.test.labels} | logits)
        about = {
            "parameters": parameters(self.graph.var_class),
            "device": settings.device.description,
            "precision": settings.precision,
        }
        summary = self.rows[-1] | about
        write_json(path / "summary.json", summary)
        draw_curves(path, self.rows)
        for line in final_lines(summary, settings.primary, path):
            log.info(line)
