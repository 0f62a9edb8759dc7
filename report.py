"""Tables and figures over seeds, from run directories alone; no TensorFlow but for the gallery of images.

    python report.py runs/a runs/b runs/c           # three run directories, into report/
    python report.py runs/seeds --output docs       # a directory of runs, as train.py --seeds writes it

Runs that differ only by seed make one group: means with 95% t-intervals over its seeds, the gain of EMA paired seed
by seed. Writes report.html, which holds everything, and beside it each figure as PNG and SVG, and report.json with
the tables.
"""

if __name__ == "__main__":
    from analysis import arguments
    from training import command

    command.run("report", arguments.report_parser().parse_args)

import json
from pathlib import Path

from analysis import annealing, beyond, figures, gallery, groups, page, run_files, tables
from training.command import UserError


def main(arguments):
    """Reads the runs, prints the tables, and writes the report.

    Raises:
      UserError: a run is missing, damaged or given twice, or the output cannot be written.
    """
    found = groups.make_groups([run_files.read_run(path) for path in run_files.expand(arguments.runs)])
    output = open_output(arguments.output)
    pairs = annealing.find_pairs(found)
    compared = [annealing.compare(pair) for pair in pairs]
    names = [f"annealing-{number}" if len(pairs) > 1 else "annealing" for number, _ in enumerate(pairs, 1)]
    drawn_pairs = [annealing.draw(pair, output, name) for pair, name in zip(pairs, names, strict=True)]
    sections, texts, content = [], [], {"groups": [], "annealing": [table._asdict() for table in compared]}
    for number, group in enumerate(found, 1):
        predicted, missing = run_files.read_all(group)
        measured = beyond.measure(group, predicted, missing)
        notes = group.notes + measured.notes
        shown = [tables.summary_table(group), tables.classifier_table(group), tables.beyond_table(group, measured)]
        shown = [table for table in shown if table]
        drawn = figures.draw(group, output, f"{number}-" if len(found) > 1 else "")
        images = gallery.gallery(group, predicted, missing, arguments.data_dir)
        runs, flags = tables.run_table(group), tables.flag_table(group)
        sections.append(page.Section(group.title, notes, shown, list(drawn.values()), images, runs, flags))
        texts += [group.title, *notes, *map(tables.as_text, shown), images.sentence]
        content["groups"].append({"title": group.title, "notes": notes, "tables": [it._asdict() for it in shown]})
    texts += map(tables.as_text, compared)
    (output / "report.html").write_text(page.page(sections, compared, drawn_pairs), encoding="utf-8")
    (output / "report.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(*texts, f"report: {output / 'report.html'}", sep="\n\n")  # last: a closed pipe (| head) costs no file


def open_output(name):
    output = Path(name)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): choose another --output") from None
    return output
