"""The layout, read from the sources: who may import whom, and how long and how many things may get."""

import ast

import pytest
from support.commands import ROOT

DOOR = {"train", "evaluate", "report", "model", "ema", "data"}  # the modules at the root
COMMANDS = {"train", "evaluate", "report"}
PACKAGES = {"training", "analysis"}
OURS = DOOR | PACKAGES | {"benchmarks", "results", "support"}

# Module or package to what it may import of ours: whole modules, or packages with all that is in them.
MAY_IMPORT = {
    "model": set(),
    "ema": set(),
    "training": {"training"},
    "data": {"training.command", "training.cifar10", "training.synthetic", "training.replicas"},
    "analysis": {"training", "analysis", "model", "ema", "data"},
    "train": (DOOR | PACKAGES) - {"evaluate", "report"},
    "evaluate": (DOOR | PACKAGES) - {"train", "report"},
    "report": (DOOR | PACKAGES) - {"train", "evaluate"},
    "results": (DOOR | PACKAGES | {"results"}) - COMMANDS,
}
SOURCES = [*ROOT.glob("*.py"), *(file for folder in (*PACKAGES, "results") for file in (ROOT / folder).rglob("*.py"))]


def name_of(file):
    """The module in a file of this project."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(source):
    """The modules of ours that a source imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import hides what it imports"
            found |= {_member(node.module, alias.name) for alias in node.names}
    return {name for name in found if name.partition(".")[0] in OURS}


def _member(base, name):
    """The module `base`.`name` where there is such, else `base`, which `name` is taken from."""
    path = ROOT.joinpath(*base.split("."), name)
    return f"{base}.{name}" if path.with_suffix(".py").exists() or path.is_dir() else base


def forbidden(source, module):
    """The modules of ours that `module` imports and may not."""
    allowed = MAY_IMPORT[module.partition(".")[0]]
    parents = lambda name: {".".join(name.split(".")[:count]) for count in range(1, name.count(".") + 2)}  # noqa: E731
    return {name for name in imports(source) if not parents(name) & allowed}


@pytest.mark.parametrize("file", sorted(SOURCES), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down_the_layers(file):
    assert forbidden(file.read_text(), name_of(file)) == set()


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("model", "import tensorflow, numpy", set()),
        ("model", "from training.command import UserError", {"training.command"}),
        ("ema", "def f():\n    import model", {"model"}),
        ("training.trainer", "from training import checkpoints\nfrom training.log import log", set()),
        ("training.trainer", "import data", {"data"}),
        ("training.trainer", "try:\n    from analysis.table import main\nfinally:\n    pass", {"analysis.table"}),
        ("data", "from training import cifar10, device", {"training.device"}),
        ("data", "import training", {"training"}),
        ("analysis.table", "import data, ema, model, training.log\nfrom analysis import statistics", set()),
        ("analysis.export", "if True:\n    from train import build", {"train"}),
        ("train", "from analysis import tables\nfrom ema import ema_getter\nimport report", {"report"}),
    ],
)
def test_a_wrong_import_is_found(module, source, found):
    assert forbidden(source, module) == found


def test_the_root_holds_six_modules():
    assert {file.stem for file in ROOT.glob("*.py")} == DOOR


@pytest.mark.parametrize(("package", "most"), [("training", 17), ("analysis", 14), ("benchmarks", 9)])
def test_a_package_holds_no_more_modules_than_can_be_kept_in_mind(package, most):
    modules = {file.stem for file in (ROOT / package).glob("*.py")} - {"__init__"}
    assert len(modules) <= most, sorted(modules)


def test_the_guide_fits_a_screen_and_does_not_know_of_devices():
    source = (ROOT / "train.py").read_text()
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node in functions.items()}
    assert (lengths["main"] <= 12, lengths["build"] <= 45, len(source.splitlines()) <= 125) == (True, True, True), (
        lengths
    )
    assert "strategy." not in source
