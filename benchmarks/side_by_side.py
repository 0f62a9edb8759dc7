"""Contestants side by side: they take turns, round by round and one at a time. For a CPU."""

import contextlib
from statistics import median

import startup
from driver import CannotRunError, check_same_network, launch, say
from paired import alternating

EVALUATIONS = 3
DECAYS = ("0.998", "0.999", "0.9995", "0.9998", "0.9999", "0.99", "0.95", "0.9")
COUNTS = (0, 1, 2, 4, 8)  # of decays

# Name on the command line: what it is called in the table, its script and arguments.
CONTESTANTS = {
    "ours-float32": ("train.py, float32", "ours.py --precision float32"),
    "ours-bfloat16": ("train.py, bfloat16", "ours.py --precision bfloat16"),
    "torch-float32": ("PyTorch, float32", "pytorch.py --precision float32"),
    "torch-bfloat16": ("PyTorch, bfloat16", "pytorch.py --precision bfloat16"),
    "torch-float32-compiled": ("PyTorch, float32, compiled", "pytorch.py --precision float32 --compile"),
    "torch-bfloat16-compiled": ("PyTorch, bfloat16, compiled", "pytorch.py --precision bfloat16 --compile"),
    "habit": ("TF 1.x habit", "habit.py"),
    "ceiling-float32": ("convolutions alone, float32", "ceiling.py --precision float32"),
    "ceiling-bfloat16": ("convolutions alone, bfloat16", "ceiling.py --precision bfloat16"),
}
OTHERS = ("averages", "evaluation", "startup")


def measure(options):
    """Everything asked for by --only; what of it goes into the result."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("batch_size", "width", "device")]
    arguments = [*sizes, *(f"--{name}={getattr(options, name)}" for name in ("train_size", "test_size"))]
    started = startup.measure(sizes, options.data_dir) if "startup" in options.only else {}
    with contextlib.ExitStack() as stack:
        names = [name for name in CONTESTANTS if name in options.only]
        contestants, skipped = start({name: CONTESTANTS[name][1] for name in names}, arguments, stack)
        check_same_network({name: contestant.about for name, contestant in contestants.items()})
        turns = take_turns(contestants, [list(contestants)] * options.rounds, options.steps)
        ours = fastest(turns, "ours")
        evaluations = []
        if "evaluation" in options.only and ours:
            evaluations = [contestants[ours].ask("evaluate")["seconds"] for _ in range(EVALUATIONS)]
    described = describe(contestants, turns)
    precision = described[ours]["about"]["precision"] if ours else "auto"
    averages = measure_averages(arguments, precision, options, skipped) if "averages" in options.only else None
    return {
        "contestants": described,
        "averages": averages,
        "skipped": {CONTESTANTS[name][0] if name in CONTESTANTS else name: why for name, why in skipped.items()},
        "evaluation": evaluations,
        "startup": started,
    }


def start(commands, arguments, stack):
    """Starts contestants one after another, each warm before the next.

    Args:
      commands: name to script and its own arguments.
      arguments: of all.
      stack: contextlib.ExitStack, which ends them.

    Returns:
      (name to Contestant, name to why it cannot run).
    """
    contestants, skipped = {}, {}
    for name, command in commands.items():
        say(f"warming up {name}")
        script, *own = command.split()
        try:
            contestants[name] = launch(script, *arguments, *own)
            stack.callback(contestants[name].close)
        except CannotRunError as error:
            skipped[name] = str(error)
            say(f"skipping {name}: {error}")
    return contestants, skipped


def take_turns(contestants, orders, steps):
    """One contestant at a time, in each round in the order given; name to answers, one for each round."""
    turns = {name: [] for name in contestants}
    for number, order in enumerate(orders, 1):
        say(f"round {number} of {len(orders)}")
        for name in order:
            turns[name].append(contestants[name].ask("run", steps))
    return turns


def fastest(turns, prefix):
    """The contestant with the least median of seconds of those whose name begins with `prefix`, or None."""
    names = [name for name in turns if name.startswith(prefix)]
    return min(names, key=lambda name: median(turn["seconds"] for turn in turns[name]), default=None)


def describe(contestants, turns):
    return {
        name: {
            "title": CONTESTANTS[name][0],
            "about": contestant.about,
            "seconds": [turn["seconds"] for turn in turns[name]],
            "peak_bytes": turns[name][-1]["peak_bytes"],
        }
        for name, contestant in contestants.items()
    }


def measure_averages(arguments, precision, options, skipped):
    """What averages cost: train.py with 0, 1, 2, 4 and 8 decays in many short rounds, at its faster precision.

    A turn is short, so that the turns of a round see the same machine; the rounds are many, so that their median is
    known to a fraction of a percent.

    Returns:
      The dict that the result keeps, or None where a contestant could not run; `skipped` then says why.
    """
    commands = {str(count): f"ours.py --precision {precision} {averages_flags(count)}" for count in COUNTS}
    with contextlib.ExitStack() as stack:
        contestants, failed = start(commands, arguments, stack)
        if failed:
            skipped["the cost of averages"] = next(iter(failed.values()))
            return None
        turns = take_turns(contestants, alternating(contestants, options.average_rounds), options.average_steps)
        return {
            "precision": contestants["1"].about["precision"],
            "steps": options.average_steps,
            "seconds": {count: [turn["seconds"] for turn in turns[count]] for count in contestants},
        }


def averages_flags(count):
    """The flags of ours.py for so many decays; few test images, because warming up evaluates every average on them."""
    return (f"--ema_decay {' '.join(DECAYS[:count])}" if count else "--no_ema") + " --test_size=20"
