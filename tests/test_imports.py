"""The imports between modules, read from the sources; test_run_cli.py checks --help without TensorFlow."""

import ast

import pytest
from support.commands import ROOT

ROOT_MODULES = {"train", "evaluate", "report", "model", "ema", "data"}
OURS = ROOT_MODULES | {"training", "analysis", "results", "benchmarks", "support"}
LIBRARY = {"training", "analysis", "model", "ema", "data"}
MAY_IMPORT = {  # module or package to modules, or to packages with all their modules
    "model": set(),
    "ema": set(),
    "training": {"training"},
    "data": {"training.cli", "training.cifar10", "training.synthetic", "training.replicas"},
    "analysis": LIBRARY,
    "train": LIBRARY,
    "evaluate": LIBRARY,
    "report": LIBRARY,
    "results": LIBRARY | {"results"},
}
SOURCES = sorted(file for top in MAY_IMPORT for file in [*ROOT.glob(f"{top}.py"), *(ROOT / top).rglob("*.py")])


def imports(source):
    """Returns the modules that a source imports, in functions too."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            submodules = [alias.name for alias in node.names if (ROOT / node.module / f"{alias.name}.py").exists()]
            modules |= {f"{node.module}.{name}" for name in submodules} or {node.module}
    return modules


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_layers(file):
    allowed = MAY_IMPORT[file.relative_to(ROOT).with_suffix("").parts[0]]
    for name in imports(file.read_text()):
        package = name.partition(".")[0]
        assert package not in OURS or {name, package} & allowed, name
