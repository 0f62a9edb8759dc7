"""The tables of benchmarks, from their JSON alone: for the terminal, as Markdown, and in benchmarks/README.md.

python benchmarks/tables.py --write      # puts the tables of results/bench/*.json into benchmarks/README.md
python benchmarks/tables.py --check      # status 1 where they are not there as they should be
python benchmarks/tables.py              # prints the short table, one row for each processor
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

import cpu_tables
import figures
import gpu_tables
from gpu_tables import device as device_of  # noqa: F401 - for the name of a result's file
from layout import as_markdown, fixed_width, show

HERE = Path(__file__).resolve().parent
README, RESULTS = HERE / "README.md", HERE.parent / "results" / "bench"
BEGIN = "<!-- from here on made by: python benchmarks/tables.py --write -->"
END = "<!-- made so far -->"


def parts(result):
    return (gpu_tables if result.get("kind") == "gpu" else cpu_tables).parts(result)


def text(result):
    return "\n\n".join(part if isinstance(part, str) else fixed_width(*part) for part in parts(result))


def markdown(result):
    return "\n\n".join(part if isinstance(part, str) else as_markdown(*part) for part in parts(result))


def load(folder=RESULTS):
    """Every result, by the name of its file."""
    return {
        path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"), key=lambda path: path.stem)
    }


def short(results):
    """One row for each processor on which train.py was measured beside PyTorch."""
    header = ["processor", "train.py, images/s", "PyTorch's best, images/s", "ratio", "of the convolutions' ceiling"]
    return header, [row for result in results.values() if (row := short_row(result))]


def short_row(result):
    if result.get("kind") == "gpu":
        batch = result["settings"]["batches"][0]
        ours, peer, ceiling = (
            gpu_tables.best(result, names, batch) for names in (["ours"], gpu_tables.PEERS, ["ceiling"])
        )
        name, shares = gpu_tables.device(result), (gpu_tables.ratio(ours, peer), gpu_tables.ratio(ours, ceiling))
    else:
        names = figures.ours(result), figures.fastest(result, figures.PEERS)
        if None in names:
            return None
        ours, peer = (median(figures.rates(result, name)) for name in names)
        name, shares = cpu_tables.heading(result).split(";")[0], (figures.of_peer(result), figures.of_ceiling(result))
    return [name, show(ours, "{:,.0f}"), show(peer, "{:,.0f}"), show(shares[0], "{:.2f}"), show(shares[1], "{:.1%}")]


def generated(results):
    """What stands between the marks in benchmarks/README.md."""
    blocks = [as_markdown(*short(results))]
    for name, result in results.items():
        blocks.append(f"### {name}\n\n{markdown(result)}\n\n[every sample](../results/bench/{name}.json)")
    return "\n\n".join(blocks)


def with_tables(readme, tables):
    """The text of a README with `tables` between its marks.

    Raises:
      ValueError: it does not have each mark once.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or readme.count(BEGIN) + readme.count(END) > 2:
        raise ValueError(f"the README needs the lines {BEGIN!r} and {END!r}, once each")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def main(argv=None, readme=README, folder=RESULTS):
    parser = argparse.ArgumentParser(
        prog="tables.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="write the tables into benchmarks/README.md")
    what.add_argument("--check", action="store_true", help="check that they are there")
    options, results = parser.parse_args(argv), load(folder)
    if not (options.write or options.check):
        print(as_markdown(*short(results)))
        return
    written = readme.read_text()
    expected = with_tables(written, generated(results))
    if options.write:
        readme.write_text(expected)
    elif written != expected:
        sys.exit("tables.py: benchmarks/README.md is not made from results/bench: python benchmarks/tables.py --write")


if __name__ == "__main__":
    main()
