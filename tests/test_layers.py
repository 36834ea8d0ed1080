"""Every import of the source keeps to the table of layers in docs/architecture.md."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "oxidicom"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LONGEST_FILE = 450
"""Lines."""

LOOPS = {"asyncio", "uvloop"}

CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+(?P<origin>[\w.]+)\s+c?import\s+\(?(?P<names>[^)#]+)|c?import\s+(?P<modules>[^#]+))"
)


class Layers(NamedTuple):
    """The rules of docs/architecture.md."""

    of_module: dict[str, str]
    """Layers by module or package below oxidicom."""
    may_import: dict[str, set[str]]
    """Layers that a layer may import, by its name."""
    without_loop: frozenset[str]
    """Modules and packages that must not know of an event loop."""

    def of(self, module: str) -> str | None:
        """Return the layer of a module such as `wire.acceptor`; None if the table has none."""
        parts = module.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((self.of_module[name] for name in prefixes if name in self.of_module), None)

    def is_without_loop(self, module: str) -> bool:
        return any(f"{module}.".startswith(f"{name}.") for name in self.without_loop)


def layers_of(page: str) -> Layers:
    """Read the table of layers and the list of modules without a loop.

    Raises ValueError where a mark is missing, a module is in two layers, or an unknown layer is
    named.
    """
    of_module: dict[str, str] = {}
    columns: dict[str, str] = {}
    for line in marked(page, "layers").splitlines()[2:]:
        layer, modules, _, imported = (cell.strip() for cell in line.strip("|").split("|"))
        (name,) = code_of(layer)
        columns[name] = imported
        for module in code_of(modules):
            if of_module.setdefault(module, name) != name:
                raise ValueError(f"{module} is in two layers")
    may_import = {}
    for name, imported in columns.items():
        named = set(code_of(imported))
        if unknown := named - columns.keys():
            raise ValueError(f"{name} may import unknown layers: {sorted(unknown)}")
        may_import[name] = columns.keys() - named if "all but" in imported else named
    return Layers(of_module, may_import, frozenset(code_of(marked(page, "without loop"))))


def marked(page: str, name: str) -> str:
    """Return the text between two marks. Raises ValueError where they are missing."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    return page[page.index(begin) + len(begin) : page.index(end)]


def code_of(text: str) -> list[str]:
    """Return what is in backticks."""
    return re.findall(r"`([^`]+)`", text)


def modules_of(source: Path) -> dict[str, list[Path]]:
    """Return files by module below oxidicom: `.pyx`, `.pxd` and `.pyi` are one module, and a
    package has the name of its folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(source.rglob("*")):
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi"}:
            parts = path.relative_to(source).with_suffix("").parts
            if parts[-1] == "__init__" and len(parts) > 1:
                parts = parts[:-1]
            found.setdefault(".".join(parts), []).append(path)
    return found


def python_imports(text: str, package: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (origin, names) of every import, also inside functions; `package` is the file's own."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield absolute(origin, package), [alias.name for alias in node.names]


def cython_imports(text: str, package: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the same for the import and cimport lines of Cython, which ast cannot read.

    Names on further lines are not read; their origin is.
    """
    for line in text.splitlines():
        match = CYTHON_IMPORT.match(line)
        if not match:
            continue
        if match["origin"]:
            names = [name.split()[0] for name in match["names"].split(",") if name.strip()]
            yield absolute(match["origin"], package), names
        else:
            for name in match["modules"].split(","):
                yield name.split()[0], []


def absolute(origin: str, package: str) -> str:
    relative = origin.lstrip(".")
    level = len(origin) - len(relative)
    if not level:
        return origin
    parents = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*parents, *filter(None, [relative])])


def imports_of(source: Path) -> dict[str, set[str]]:
    """Return what each module imports: ours as names below oxidicom, others by their first part
    after a `/`."""
    modules = modules_of(source)
    imports: dict[str, set[str]] = {}
    for module, paths in modules.items():
        imports[module] = set()
        for path in paths:
            package = ".".join(["oxidicom", *path.relative_to(source).parts[:-1]])
            read = cython_imports if path.suffix in {".pyx", ".pxd"} else python_imports
            for origin, names in read(path.read_text(), package):
                top, _, below = origin.partition(".")
                if top != "oxidicom":
                    imports[module].add("/" + top)
                    continue
                inner = [f"{below}.{name}".lstrip(".") for name in names]
                ours = {name for name in inner if name in modules}
                if not ours or len(ours) < len(inner):  # something of the package itself
                    ours.add(below or "__init__")
                imports[module] |= ours - {module}
    return imports


def broken_rules(source: Path, layers: Layers) -> list[str]:
    faults = []
    for module, imported in imports_of(source).items():
        layer = layers.of(module)
        if layer is None:
            faults.append(f"{module} belongs to no layer: add it to docs/{ARCHITECTURE.name}")
            continue
        for name in sorted(imported):
            if name.startswith("/"):
                if layers.is_without_loop(module) and name[1:] in LOOPS:
                    faults.append(f"{module} imports {name[1:]}: it must not know of a loop")
            elif layers.of(name) not in layers.may_import[layer]:
                faults.append(f"{module} imports {name}: {layer} may not")
    return faults


def cycle_in(source: Path) -> list[str]:
    ours = {
        module: {name for name in imported if not name.startswith("/")}
        for module, imported in imports_of(source).items()
    }
    try:
        graphlib.TopologicalSorter(ours).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def long_files(source: Path) -> list[str]:
    lengths = {
        path: len(path.read_text().splitlines())
        for paths in modules_of(source).values()
        for path in paths
    }
    return [f"{path.name}: {n} lines" for path, n in lengths.items() if n > LONGEST_FILE]


LAYERS = layers_of(ARCHITECTURE.read_text())


def test_every_module_imports_only_what_its_layer_may() -> None:
    assert broken_rules(SOURCE, LAYERS) == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycle_in(SOURCE) == []


def test_no_file_is_too_long() -> None:
    assert long_files(SOURCE) == []


def test_every_module_of_the_table_exists() -> None:
    modules = modules_of(SOURCE)
    packages = {name.partition(".")[0] for name in modules if "." in name}
    named = LAYERS.of_module.keys() | LAYERS.without_loop
    assert named - modules.keys() - packages == set()


def test_the_sources_were_really_read() -> None:
    imports = imports_of(SOURCE)
    assert {"errors", "constants", "ports"} <= imports.keys()
    assert "/msgspec" in imports["ports"]
    assert LAYERS.of("wire.acceptor") == "wire"
    assert LAYERS.of("admin.model") == "admin.model"
    assert LAYERS.of("admin.health") == "admin"
    assert LAYERS.of("settings.model") == "base"
    assert LAYERS.of("helpers") is None
    assert "cli" not in LAYERS.may_import["app"]
    assert LAYERS.may_import["_pdu"] == set()


def test_the_samples_import_nothing_of_oxidicom() -> None:
    """A sender must not share the mistakes of the receiver."""
    folder = ROOT / "samples"
    imported = {
        origin.partition(".")[0]
        for path in folder.glob("*.py")
        for origin, _ in python_imports(path.read_text(), "samples")
    }
    assert "pydicom" in imported
    assert imported.isdisjoint({"oxidicom", "tests", "benchmarks"})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small source tree that keeps every rule."""
    write(tmp_path, "errors.py", "import asyncio\n")
    write(tmp_path, "_pdu.pyx", "from libc.string cimport memcpy\nimport struct\n")
    write(tmp_path, "_dataset.pyx", "")
    write(tmp_path, "wire/__init__.py", "from .state import State\n")
    write(
        tmp_path, "wire/state.py", "from oxidicom import _pdu\nfrom ..errors import InternalError\n"
    )
    write(tmp_path, "net/server.py", "import asyncio\nfrom oxidicom.wire import State\n")
    write(tmp_path, "store/__init__.py", "from oxidicom._dataset import Walk\n")
    write(tmp_path, "series/tracker.py", "from oxidicom.errors import InternalError\n")
    write(tmp_path, "notify/lonk_publisher.py", "def late():\n    import oxidicom.errors\n")
    write(tmp_path, "app/__init__.py", "from oxidicom import net, store\nimport oxidicom.wire\n")
    write(tmp_path, "admin/model.py", "import oxidicom.errors\n")
    write(tmp_path, "admin/status_board.py", "from oxidicom.admin.model import Status\n")
    write(tmp_path, "cli/status.py", "from oxidicom.admin import model\n")
    write(tmp_path, "cli/serve.py", "from oxidicom.app import serve\n")
    write(tmp_path, "__main__.py", "from oxidicom.cli import serve\n")
    return tmp_path


def write(tree: Path, name: str, text: str) -> None:
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text(text)


def test_a_tree_that_keeps_the_rules_passes(tree: Path) -> None:
    assert broken_rules(tree, LAYERS) == []
    assert cycle_in(tree) == []
    assert long_files(tree) == []


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("errors.py", "from oxidicom import wire", "errors imports wire: base may not"),
        ("errors.py", "from oxidicom.wire.state import *", "errors imports wire.state: base may"),
        (
            "_pdu.pyx",
            "from oxidicom.errors import InternalError",
            "_pdu imports errors: _pdu may not",
        ),
        ("_pdu.pyx", "from oxidicom._dataset cimport X", "_pdu imports _dataset: _pdu may not"),
        ("_pdu.pyx", "cimport oxidicom._dataset as d", "_pdu imports _dataset: _pdu may not"),
        ("_pdu.pxd", "from . cimport _dataset", "_pdu imports _dataset: _pdu may not"),
        ("_pdu.pyx", "import uvloop, struct", "_pdu imports uvloop: it must not know"),
        ("_writer.pyx", "    cimport oxidicom._pdu", "_writer imports _pdu: _writer may not"),
        ("wire/state.py", "from ..net import server", "wire.state imports net.server: wire may"),
        ("wire/state.py", "from oxidicom import _dataset", "wire.state imports _dataset: wire"),
        ("wire/dimse.py", "import asyncio.events", "wire.dimse imports asyncio: it must not"),
        ("net/server.py", "import oxidicom.store", "net.server imports store: net may not"),
        ("net/server.py", "import oxidicom._pdu", "net.server imports _pdu: net may not"),
        ("store/part10.py", "from oxidicom.series import tracker", "store.part10 imports series"),
        ("store/part10.py", "def f():\n    from .. import notify", "store.part10 imports notify"),
        ("series/tracker.py", "from asyncio import sleep", "series.tracker imports asyncio: it"),
        ("series/journal.py", "from oxidicom import app", "series.journal imports app: series"),
        (
            "notify/lonk_publisher.py",
            "if x:\n    from oxidicom import wire",
            "notify.lonk_publisher imports wire",
        ),
        ("telemetry/logs.py", "from oxidicom import notify", "telemetry.logs imports notify"),
        ("scu/find.py", "from oxidicom import notify", "scu.find imports notify"),
        ("app/serve.py", "from oxidicom import cli", "app.serve imports cli: app may not"),
        ("cli/send.py", "from oxidicom import wire", "cli.send imports wire: cli may not"),
        (
            "cli/send.py",
            "from oxidicom.admin import status_board",
            "cli.send imports admin.status_board: cli",
        ),
        (
            "admin/model.py",
            "from oxidicom.admin import status_board",
            "admin.model imports admin.status_board",
        ),
        (
            "admin/status_board.py",
            "from oxidicom.series import tracker",
            "admin.status_board imports series",
        ),
        (
            "admin/status_board.py",
            "import asyncio",
            "admin.status_board imports asyncio: it must not know",
        ),
        ("helpers.py", "", "helpers belongs to no layer"),
    ],
)
def test_a_broken_rule_is_found(tree: Path, name: str, text: str, fault: str) -> None:
    write(tree, name, text + "\n")
    for package in ("net", "notify", "series", "cli"):
        (tree / package / "__init__.py").touch()
    found = broken_rules(tree, LAYERS)
    assert [line for line in found if line.startswith(fault)], found


def test_a_cycle_within_a_layer_is_found(tree: Path) -> None:
    write(tree, "series/journal.py", "from .tracker import Tracker\n")
    write(tree, "series/tracker.py", "def f():\n    from oxidicom.series import journal\n")
    assert set(cycle_in(tree)) == {"series.journal", "series.tracker"}


def test_a_package_that_imports_its_own_modules_is_no_cycle(tree: Path) -> None:
    write(tree, "wire/__init__.py", "from oxidicom.wire.state import State\n")
    write(tree, "wire/dimse.py", "from oxidicom.wire import state\n")
    assert cycle_in(tree) == []


def test_a_long_file_is_found(tree: Path) -> None:
    write(tree, "errors.py", "\n" * (LONGEST_FILE + 1))
    assert long_files(tree) == [f"errors.py: {LONGEST_FILE + 1} lines"]


def test_the_table_decides(tree: Path) -> None:
    rows = {"wire": "`wire`, `_pdu`", "_pdu": "", "net": "`wire`, `net`"}

    def page(more: dict[str, str]) -> str:
        table = "".join(f"| `{n}` | `{n}` | | {i} |\n" for n, i in {**rows, **more}.items())
        return (
            f"<!-- layers -->\n| a | b | c | d |\n|---|---|---|---|\n{table}<!-- /layers -->\n"
            "<!-- without loop -->\n`wire`\n<!-- /without loop -->\n"
        )

    def found(more: dict[str, str]) -> list[str]:
        return [
            fault
            for fault in broken_rules(tree, layers_of(page(more)))
            if fault.startswith(("wire", "net")) and "errors" not in fault
        ]

    assert found({}) == []
    assert found({"net": "all but `_pdu`"}) == []
    assert found({"net": "`net`"}) == ["net.server imports wire: net may not"]
    assert found({"wire": "`wire`"}) == ["wire.state imports _pdu: wire may not"]
    with pytest.raises(ValueError, match="unknown layers"):
        layers_of(page({"net": "`missing`"}))
    with pytest.raises(ValueError, match="substring not found"):
        layers_of(page({}).replace("<!-- layers -->", ""))
    with pytest.raises(ValueError, match="two layers"):
        layers_of(page({}).replace("| `_pdu` | `_pdu` |", "| `_pdu` | `wire` |"))
