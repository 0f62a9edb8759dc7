"""Tables and figures over seeds, from run directories alone; no TensorFlow but for the gallery of images.

    python report.py runs/a runs/b runs/c           # three run directories, into report/
    python report.py runs/seeds --output docs       # a directory of runs

Runs that differ only by seed make one group: means with 95% t-intervals over its seeds, the gain of EMA paired seed
by seed. Writes report.html, which holds everything, and beside it each figure as PNG and SVG, and report.json.
"""

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(realpath(__file__)))  # which PYTHONSAFEPATH keeps out
    from analysis import flags
    from training import cli

    cli.run_cli("report", flags.report_parser().parse_args)

import json
import re
from pathlib import Path

from analysis import annealing, figures, formatting, groups, page, run_files
from training.cli import UserError
from training.files import write_whole

FIGURE = re.compile(r"(\d+-)?(accuracy|gain|horizon|annealing)\.(png|svg)")


def main(arguments):
    """Reads the runs, writes the report, and prints its tables.

    Raises:
      UserError: a run is missing, damaged or given twice, or the output cannot be written.
    """
    found = groups.make_groups([run_files.read_run(path) for path in run_files.resolve_runs(arguments.runs)])
    pairs = annealing.find_pairs(found)
    compared = [annealing.compare(pair) for pair in pairs]
    over_groups = [figure for each in numbered(pairs) for figure in annealing.draw(*each)]
    sections = [section(*each, arguments.data_dir) for each in numbered(found)]
    content = {"groups": list(map(as_json, sections)), "annealing": [table._asdict() for table in compared]}
    html = page.page(sections, compared, over_groups).encode("utf-8", "backslashreplace")  # of paths that are none
    files = {"report.html": html, "report.json": f"{json.dumps(content, indent=2)}\n".encode()}
    for figure in over_groups + [figure for one in sections for figure in one.figures]:
        files |= {f"{figure.name}.png": figure.png, f"{figure.name}.svg": figure.svg}
    output = Path(arguments.output)
    write(output, files)
    for group, notes, shown, _, images, *_ in sections:
        print(group.title, *notes, *map(formatting.as_text, shown), images.sentence, "", sep="\n\n")
    print(*map(formatting.as_text, compared), f"report: {output / 'report.html'}", sep="\n\n")


def numbered(items):
    """Each item, and what the names of its figures begin with."""
    return [(item, f"{number}-" if len(items) > 1 else "") for number, item in enumerate(items, 1)]


def section(group, prefix, data_dir):
    """What the page says of a group; the names of its figures begin with the prefix."""
    found, missing = groups.predictions_of(group)
    shown = [formatting.accuracy_table(group), formatting.predictions_table(group, found)]
    return page.Section(
        group=group,
        # Where there are no predictions at all, the gallery says why.
        notes=[*group.notes, *(f"Not in loss, calibration and churn: {phrase}." for phrase in missing if found)],
        tables=[table for table in shown if table],
        figures=figures.draw_group(group, prefix),
        gallery=page.gallery(group, found, missing, data_dir),
        runs=formatting.run_table(group),
        flags=formatting.Table("Flags of every run of this group", ["flag", "value"], list(group.shape.items())),
    )


def as_json(section):
    """What report.json says of a group: its numbers by label, accuracies at its last epoch by seed, and its tables."""
    group = section.group
    numbers = {"title": group.title, "average": group.average, "against": group.against, "epoch": group.epochs[-1]}
    accuracy = {label: values.tolist() for label, values in group.final.items()}
    shown = {"notes": section.notes, "tables": [table._asdict() for table in section.tables]}
    return numbers | {"seeds": group.seeds, "accuracy": accuracy} | shown


def write(output, files):
    """Writes files, name to bytes, into a directory, and deletes figures of an earlier report that had more of them."""
    is_report = (output / "report.json").exists()
    for name in files:
        if (output / name).exists() and not is_report:
            raise UserError(f"{output / name} exists and is not part of a report: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    for name, content in sorted(files.items(), key=lambda item: item[0] != "report.json"):  # marks the directory first
        write_whole(output / name, content)
    for file in output.iterdir() if is_report else []:
        if FIGURE.fullmatch(file.name) and file.name not in files:
            file.unlink()
