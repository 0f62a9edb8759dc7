"""Tables and figures over seeds, from run directories. Only the gallery of images needs TensorFlow.

    python report.py runs/a runs/b runs/c           # three run directories, into report/
    python report.py runs/seeds --output docs       # a directory of runs

Runs that differ only by seed form a group: means with 95% t-intervals, gains of EMA paired by seed. Writes report.html,
which is self-contained, report.json, and each figure as PNG and SVG.
"""

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(realpath(__file__)))  # PYTHONSAFEPATH=1 leaves it out
    from analysis import flags
    from training import cli

    cli.run_cli("report", flags.report_parser().parse_args)

import itertools
import json
import re
from pathlib import Path

from analysis import annealing, figures, formatting, groups, page, run_files
from training.cli import UserError
from training.files import write_whole

FIGURE = re.compile(r"(\d+-)?(accuracy|gain|horizon|annealing)\.(png|svg)")


def main(arguments):
    """Reads the runs, writes the report and prints its tables; UserError if a run or the output cannot be used."""
    runs = [run_files.read_run(path) for path in run_files.resolve_runs(arguments.runs)]
    sections, tables, drawings = load(runs, arguments.data_dir)
    output = Path(arguments.output)
    write(output, render(sections, tables, drawings))
    for section in sections:
        texts = map(formatting.as_text, section.tables)
        print(section.group.title, *section.notes, *texts, section.gallery.sentence, "", sep="\n\n")
    print(*map(formatting.as_text, tables), f"report: {output / 'report.html'}", sep="\n\n")


def load(runs, data_dir):
    """Returns (a page.Section for each group, tables over several groups, figures over several groups)."""
    sections, tables, drawings = [], [], []
    members = groups.make_groups(runs)
    for number, group in enumerate(members, 1):
        sections.append(make_section(group, f"{number}-" if len(members) > 1 else "", data_dir))
    pairs = annealing.find_pairs(members)
    for number, pair in enumerate(pairs, 1):
        tables.append(annealing.compare(pair))
        drawings += annealing.draw(pair, f"{number}-" if len(pairs) > 1 else "")
    return sections, tables, drawings


def make_section(group, prefix, data_dir):
    predictions, problems = groups.predictions_of(group)
    notes, tables = list(group.notes), [formatting.accuracy_table(group)]
    if predictions:  # or else the gallery gives the reason
        notes += [f"Not in loss, calibration and churn: {problem}." for problem in problems]
        tables.append(formatting.predictions_table(group, predictions))
    drawings, gallery = figures.draw_group(group, prefix), page.make_gallery(group, predictions, problems, data_dir)
    flags = formatting.Table("Flags of every run of this group", ["flag", "value"], list(group.config.items()))
    return page.Section(group, notes, tables, drawings, gallery, formatting.run_table(group), flags)


def render(sections, tables, drawings):
    """Returns the files of the report: name to bytes."""
    content = {"groups": list(map(page.as_json, sections)), "annealing": [table._asdict() for table in tables]}
    html = page.render(sections=sections, tables=tables, figures=drawings)
    files = {"report.html": html.encode("utf-8", "backslashreplace")}  # a path may not be UTF-8
    files["report.json"] = f"{json.dumps(content, indent=2)}\n".encode()
    for figure in itertools.chain(drawings, *(section.figures for section in sections)):
        files |= {f"{figure.name}.png": figure.png, f"{figure.name}.svg": figure.svg}
    return files


def write(output, files):
    """Writes {name: bytes} into a directory, then deletes leftover figures of an earlier report there."""
    is_report = (output / "report.json").exists()
    for name in files:
        if (output / name).exists() and not is_report:
            raise UserError(f"{output / name} exists and is not part of a report: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    for name, content in sorted(files.items(), key=lambda item: item[0] != "report.json"):  # report.json comes first
        write_whole(output / name, content)
    for file in output.iterdir() if is_report else []:
        if FIGURE.fullmatch(file.name) and file.name not in files:
            file.unlink()
