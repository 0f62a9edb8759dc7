"""The layout, read from the sources: who may import whom, and how long and how many things may get."""

import ast

import pytest
from support.commands import ROOT

DOOR = {"train", "evaluate", "report", "model", "ema", "data"}  # the modules at the root
PACKAGES = {"training", "analysis"}
ALL = DOOR | PACKAGES | {"results"}
MAY_IMPORT = {  # module or package to modules, or packages with all that is in them
    "model": set(),
    "ema": set(),
    "training": {"training"},
    "data": {"training.cli", "training.cifar10", "training.synthetic", "training.replicas"},
    "analysis": {"training", "analysis", "model", "ema", "data"},
    "train": ALL - {"evaluate", "report", "results"},
    "evaluate": ALL - {"train", "report", "results"},
    "report": ALL - {"train", "evaluate", "results"},
    "results": ALL - {"train", "evaluate", "report"},
}
SOURCES = sorted(file for top in MAY_IMPORT for file in [*ROOT.glob(f"{top}.py"), *(ROOT / top).rglob("*.py")])


def imports(source):
    """The modules that a source imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import hides what it imports"
            modules = {alias.name for alias in node.names if (ROOT / node.module / f"{alias.name}.py").exists()}
            found |= {f"{node.module}.{name}" for name in modules} or {node.module}
    return found


def forbidden(source, top):
    """The modules of ours that a source of the module or package `top` imports and may not."""
    ours = {name for name in imports(source) if name.partition(".")[0] in ALL | {"benchmarks", "support"}}
    return {name for name in ours if not {name, name.partition(".")[0]} & MAY_IMPORT[top]}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down_the_layers(file):
    assert forbidden(file.read_text(), file.relative_to(ROOT).with_suffix("").parts[0]) == set()


@pytest.mark.parametrize(("package", "most"), [("training", 17), ("analysis", 14), ("benchmarks", 9)])
def test_a_package_holds_no_more_modules_than_can_be_kept_in_mind(package, most):
    modules = {file.stem for file in (ROOT / package).glob("*.py")} - {"__init__"}
    assert len(modules) <= most, sorted(modules)


def test_the_guide_is_at_the_door_fits_a_screen_and_does_not_know_of_devices():
    assert {file.stem for file in ROOT.glob("*.py")} == DOOR
    source = (ROOT / "train.py").read_text()
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node in functions.items()}
    assert lengths["main"] <= 12 and lengths["build"] <= 45 and len(source.splitlines()) <= 125
    assert "strategy." not in source
