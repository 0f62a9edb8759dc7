"""What is worth knowing of a GPU, in rows that are ordered by importance and share a time budget.

Every contestant is a process of its own, and one computes at a time. train.py with the guide's batch stays until the
end: the rows about the steps of one session.run, evaluation and averages ask it again.
"""

import contextlib
from typing import NamedTuple

from budget import Budget, Row
from driver import CannotRunError, NotHereError, check_same_network, launch
from machine import gpu_memory
from paired import alternating
from side_by_side import averages_flags

MIB = 2**20


class Sizes(NamedTuple):
    device: str
    width: float
    train_size: int
    test_size: int
    batches: tuple  # of all rows; the first is the guide's
    other_batches: tuple  # of lesser importance
    first_steps: int  # from whose speed the steps of a turn are taken
    turn_seconds: float
    turns: int
    steps_per_run: tuple
    decays: int  # of the row about the cost of each
    average_rounds: int
    evaluations: int
    matrix: int  # rows and columns
    long_steps: int


SIZES = Sizes(
    device="gpu",
    width=1.0,
    train_size=50_000,
    test_size=10_000,
    batches=(64, 512),
    other_batches=(256, 1024, 2048),
    first_steps=100,
    turn_seconds=1.5,
    turns=5,
    steps_per_run=(1, 10, 100, 1000),
    decays=8,
    average_rounds=20,
    evaluations=3,
    matrix=8192,
    long_steps=200_000,
)
REHEARSAL = SIZES._replace(
    device="cpu",
    width=0.05,
    train_size=64,
    test_size=20,
    batches=(4, 8),
    other_batches=(16,),
    first_steps=2,
    turn_seconds=0.02,
    turns=2,
    steps_per_run=(1, 10),
    decays=2,
    average_rounds=3,
    evaluations=1,
    matrix=64,
    long_steps=20,
)


def measure(sizes, budget, keep):
    """Measures every row that fits into `budget` seconds; see Budget.run."""
    with contextlib.ExitStack() as stack:
        rows = Rows(sizes, stack)
        return Budget(budget).run(rows.in_order(), keep)


class Rows:
    """The rows, and train.py with the guide's batch, which several of them ask. `stack` ends it."""

    def __init__(self, sizes, stack, launch=launch):
        self.sizes, self.stack, self.launch = sizes, stack, launch
        self.reference, self.reference_rate = None, None  # steps a second
        self.xla = "auto"
        self.abouts, self.not_here = {}, {}  # script to why it never runs here

    def in_order(self):
        sizes = self.sizes
        guide, *batches = sizes.batches
        more = sizes.other_batches
        return [
            Row(f"train.py, batch {guide}, bfloat16", "ours", 60, self.measure_reference),
            self.torch("compiled", sizes.batches),
            self.torch("eager", sizes.batches),
            *map(self.ours, batches),
            Row("ceilings", "ceilings", 40, self.ceilings),
            Row("steps in one session.run", "reference", 10, self.steps_per_run),
            Row("evaluation", "reference", 10, self.evaluation),
            Row("cost of averages", "averages", 120, self.averages),
            Row(f"train.py, batch {guide}, XLA the other way", "plain", 40, self.other_xla),
            self.torch("eager", more),
            self.torch("compiled", more),
            *map(self.ours, more),
            self.ours(guide, "float32"),
            self.torch("compiled", [guide], "float32"),
            Row(f"{sizes.long_steps:,} steps of {guide}", "long", self.long_seconds, self.long_run),
        ]

    # Rows, and what they measure: generators of (name, what is kept), each until its deadline

    def measure_reference(self, deadline):
        """train.py with the guide's batch; where XLA does not compile it, from then on without XLA."""
        before = gpu_memory()
        try:
            self.reference = self.start_ours(deadline)
        except CannotRunError:
            self.xla = "off"
            self.reference = self.start_ours(deadline)
        self.stack.callback(self.reference.close)
        kept = self.described(self.reference, self.sizes.batches[0], before)
        self.reference_rate = max(turn["steps"] / turn["seconds"] for turn in kept["turns"])
        yield f"ours-bfloat16-{self.sizes.batches[0]}", kept

    def ours(self, batch, precision="bfloat16"):
        def measure(deadline):
            before = gpu_memory()
            with contextlib.closing(self.start_ours(deadline, batch, precision)) as contestant:
                yield f"ours-{precision}-{batch}", self.described(contestant, batch, before)

        return Row(f"train.py, batch {batch}, {precision}", "ours", 60, measure)

    def other_xla(self, deadline):
        batch = self.sizes.batches[0]
        compiled = self.xla == "auto" and self.sizes.device == "gpu"
        other = "off" if compiled else "on"
        with contextlib.closing(self.start_ours(deadline, xla=other)) as contestant:
            yield f"ours-bfloat16-{batch}-xla-{other}", self.described(contestant, batch)

    def torch(self, mode, batches, precision="bfloat16"):
        flags, expected = (["--compile"], 60) if mode == "compiled" else ([], 25)

        def measure(deadline):
            before = gpu_memory()
            with contextlib.closing(self.start(deadline, "pytorch.py", batches[0], precision, *flags)) as contestant:
                for batch in batches:
                    more = contestant.ask("batch", batch) if batch != batches[0] else {}
                    kept = self.described(contestant, batch, before)
                    kept["about"] = kept["about"] | {key: more[key] for key in ("first_step_seconds",) if key in more}
                    yield f"torch-{mode}-{precision}-{batch}", kept

        return Row(f"PyTorch, {mode}, batch {text(batches)}, {precision}", mode, expected, measure)

    def ceilings(self, deadline):
        """Through PyTorch where it runs, else through TensorFlow."""
        for precision in ("bfloat16", "float32"):
            arguments = (deadline, self.sizes.batches[0], precision)
            with self.ceiling(*arguments) as contestant:
                for batch in self.sizes.batches:
                    contestant.ask("batch", batch)
                    yield f"ceiling-{precision}-{batch}", self.described(contestant, batch)
                contestant.ask("matrix", self.sizes.matrix)
                kept = {"about": contestant.about, "turns": self.turns(contestant)}
                yield f"matrix-{precision}", kept | {"size": self.sizes.matrix}

    @contextlib.contextmanager
    def ceiling(self, deadline, *arguments):
        try:
            contestant = self.start(deadline, "torch_ceiling.py", *arguments)
        except CannotRunError:
            contestant = self.start(deadline, "ceiling.py", *arguments)
        with contextlib.closing(contestant):
            yield contestant

    def steps_per_run(self, deadline):
        for steps in self.sizes.steps_per_run:
            turns = self.turns(self.asked(deadline), steps)
            yield f"steps_per_run-{steps}", {"batch": self.sizes.batches[0], "turns": turns}

    def evaluation(self, deadline):
        asked = self.asked(deadline)
        yield "evaluation", {"seconds": [asked.ask("evaluate")["seconds"] for _ in range(self.sizes.evaluations)]}

    def averages(self, deadline):
        """No average, one and several, in turns."""
        contestants = {"1": self.asked(deadline)}
        with contextlib.ExitStack() as stack:
            for count in (0, self.sizes.decays):
                flags = averages_flags(count).split()
                contestants[str(count)] = self.start_ours(deadline, flags=flags)
                stack.callback(contestants[str(count)].close)
            steps = self.steps_of_turn(self.reference_rate, 0.4)
            seconds = {count: [] for count in contestants}
            for order in alternating(sorted(contestants, key=int), self.sizes.average_rounds):
                for count in order:
                    seconds[count].append(contestants[count].ask("run", steps)["seconds"])
            yield "averages", {"precision": "bfloat16", "steps": steps, "seconds": seconds}

    def long_seconds(self):
        """About how long the long run takes."""
        return 1.05 * self.sizes.long_steps / self.reference_rate if self.reference_rate else 0.0

    def long_run(self, deadline):
        answer = self.asked(deadline).ask("run", self.sizes.long_steps)
        yield "long", {"steps": self.sizes.long_steps, "seconds": answer["seconds"]}

    # What they share

    def start(self, deadline, script, batch, precision, *flags):
        sizes = self.sizes
        shared = [f"--{name}={getattr(sizes, name)}" for name in ("device", "width", "train_size", "test_size")]
        arguments = [*shared, f"--batch_size={batch}", f"--precision={precision}", *flags]
        if script in self.not_here:
            raise self.not_here[script]
        try:
            contestant = self.launch(script, *arguments, deadline=deadline)
        except NotHereError as error:
            self.not_here[script] = error
            raise
        self.abouts[f"{script} {' '.join(arguments)}"] = contestant.about
        check_same_network(self.abouts)
        return contestant

    def start_ours(self, deadline, batch=None, precision="bfloat16", flags=(), xla=None):
        """train.py, with the guide's batch unless told otherwise."""
        return self.start(
            deadline, "ours.py", batch or self.sizes.batches[0], precision, f"--xla={xla or self.xla}", *flags
        )

    def asked(self, deadline):
        """train.py with the guide's batch, until `deadline`."""
        if not self.reference or self.reference.closed:
            raise CannotRunError(f"train.py does not run with batch {self.sizes.batches[0]}")
        self.reference.deadline = deadline
        return self.reference

    def described(self, contestant, batch, used_before=None):
        """What is kept of a contestant that has just become warm: its turns and its memory."""
        turns = self.turns(contestant)
        used = gpu_memory()
        held = None if used is None or used_before is None else (used - used_before) * MIB
        return {"about": contestant.about, "batch": batch, "turns": turns, "held_bytes": held}

    def turns(self, contestant, *arguments):
        """The answers of a contestant to some turns of about a second, each with its steps."""
        first = self.sizes.first_steps
        steps = self.steps_of_turn(first / contestant.ask("run", first, *arguments)["seconds"], self.sizes.turn_seconds)
        return [{"steps": steps} | contestant.ask("run", steps, *arguments) for _ in range(self.sizes.turns)]

    def steps_of_turn(self, rate, seconds):
        """Steps that take about so many seconds, in whole runs of `first_steps`."""
        first = self.sizes.first_steps
        return max(1, round(rate * seconds / first)) * first


def text(batches):
    """(64, 512) as "64 and 512"."""
    return " and ".join(", ".join(map(str, part)) for part in (batches[:-1], batches[-1:]) if part)
