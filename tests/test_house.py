"""The laws of the house (docs/contributing.md). The source is read, not run, wherever that is enough."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "scvi_pp"
MODELS = PACKAGE / "_backend" / "models"
KERNELS = PACKAGE / "_backend" / "kernels"
NAMESPACES = ("tl", "get", "pl", "pp", "datasets")

ANNOTATED = {"anndata", "mudata", "muon", "scanpy"}  # packages that know annotated data
SERIALISERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}  # reading what they wrote runs code
MAKERS = {"simulate"}  # tools that return a new object and leave theirs alone
VAGUE = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}


class Source(NamedTuple):
    path: Path
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def package(self) -> list[str]:
        return list(self.path.relative_to(ROOT).parent.parts)

    def within(self, *folders: str) -> bool:
        return any(self.path.is_relative_to(PACKAGE / folder) for folder in folders)


class Verb(NamedTuple):
    namespace: str
    name: str
    call: Callable

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"


@cache
def sources() -> tuple[Source, ...]:
    return tuple(Source(path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py")))


@cache
def verbs() -> tuple[Verb, ...]:
    """Every public function of every namespace."""
    found = []
    for namespace in NAMESPACES:
        module = import_module(f"scvi_pp.{namespace}")
        found += [Verb(namespace, name, getattr(module, name)) for name in module.__all__]
    return tuple(found)


def of(namespace: str) -> tuple[Verb, ...]:
    return tuple(verb for verb in verbs() if verb.namespace == namespace)


def model_names() -> list[str]:
    return sorted(path.stem for path in MODELS.glob("*.py") if path.stem != "__init__")


def imports(source: Source) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in a file, in full, with the line; `from x import y` gives x.y too."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = source.package[: len(source.package) + 1 - node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield start, node.lineno
            yield from ((f"{start}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"} and node.args:
            if isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno


def called(node: ast.Call) -> str:
    """The last name of what is called: `a.b.c()` gives c."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def calls(source: Source) -> Iterator[tuple[str, ast.Call]]:
    """Every call with what is called as it is written: `torch.load`, `eval`."""
    yield from ((ast.unparse(node.func), node) for node in ast.walk(source.tree) if isinstance(node, ast.Call))


def lines_where(found: Iterator[tuple[Source, int, str]]) -> str:
    return "\n".join(f"{source.name}:{line}: {what}" for source, line, what in found)


def imports_of(packages: set[str], wanted: Callable[[Source], bool]) -> str:
    """The lines of the wanted files that import one of the packages, one per line of text: empty is what we want."""
    return lines_where(
        (source, line, name)
        for source in sources()
        if wanted(source)
        for name, line in imports(source)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    )


# Law 1: the wall


def test_torch_is_imported_only_below_the_wall():
    assert not imports_of({"torch", "triton"}, lambda source: not source.within("_backend"))


def test_annotated_data_is_unknown_below_the_wall():
    assert not imports_of(ANNOTATED, lambda source: source.within("_backend"))


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "scanpy", "mudata", "anndata", "matplotlib", "numba", "pandas", "scipy"]
    code = f"import sys, scvi_pp; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_importing_every_namespace_loads_no_torch():
    code = "import sys, scvi_pp as svp; svp.tl, svp.get, svp.pl, svp.pp, svp.datasets; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]


# Law 2: one direction


def test_data_and_backend_do_not_know_each_other():
    assert not imports_of({"scvi_pp._backend"}, lambda source: source.within("_data"))
    assert not imports_of({"scvi_pp._data"}, lambda source: source.within("_backend"))


def test_no_lower_floor_imports_a_verb():
    assert not imports_of(
        {f"scvi_pp.{namespace}" for namespace in NAMESPACES}, lambda source: source.within("_data", "_backend")
    )


# Law 3: composition


def test_every_network_is_a_plain_module():
    for source in sources():
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ClassDef):
                continue
            bases = [ast.unparse(base) for base in node.bases]
            where = f"{source.name}:{node.lineno}: class {node.name}({', '.join(bases)})"
            arguments = {keyword.arg for keyword in node.keywords} - {"total"}  # of a TypedDict
            assert not arguments, f"{where} has a metaclass or class arguments"
            assert not any("Mixin" in name for name in [node.name, *bases]), f"{where} is a mixin"
            if node.name == "Network" or {"nn.Module", "torch.nn.Module"} & set(bases):
                assert bases == ["nn.Module"], f"{where}: the one base is nn.Module"


def test_every_model_file_has_its_inputs_its_network_and_build():
    """Inputs may be those of another model, by import: what is read the same is told once."""
    for name in model_names():
        top = ast.parse((MODELS / f"{name}.py").read_text()).body
        own = {node.name for node in top if hasattr(node, "name")}
        imported = {alias.name for node in top if isinstance(node, ast.ImportFrom) for alias in node.names}
        missing = {"Inputs", "Hyperparameters", "Network", "build"} - own - (imported & {"Inputs"})
        assert not missing, f"_backend/models/{name}.py lacks {', '.join(sorted(missing))}"


def test_nothing_is_registered_at_import():
    """No call for its effect and no change of a container while a module is imported; no subclass hooks."""

    def found() -> Iterator[tuple[Source, int, str]]:
        for source in sources():
            for node in source.tree.body:
                effect = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
                if effect or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)):
                    yield source, node.lineno, ast.unparse(node)
            for node in ast.walk(source.tree):
                if isinstance(node, ast.FunctionDef) and node.name == "__init_subclass__":
                    yield source, node.lineno, node.name

    assert not lines_where(found())


# Law 4: the verbs look alike


def test_every_verb_takes_two_positionals_at_most_and_names_every_other_argument():
    for verb in verbs():
        parameters = inspect.signature(verb.call).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        assert len(positional) <= 2, f"{verb}: {', '.join(p.name for p in positional)} are positional"
        for parameter in parameters:
            assert parameter.kind is not parameter.VAR_POSITIONAL, f"{verb}: *{parameter.name}"
            if parameter.kind is parameter.VAR_KEYWORD:
                typed = str(parameter.annotation).startswith("Unpack[")
                assert typed, f"{verb}: **{parameter.name} may only be a typed Unpack[...]"
            assert parameter.annotation is not parameter.empty, f"{verb}: {parameter.name} has no type"


def test_every_tool_writes_under_key_added_and_copies_on_request():
    for verb in of("tl"):
        if verb.name in MAKERS:
            assert str(inspect.signature(verb.call).return_annotation) == "AnnData", f"{verb} makes no object"
            continue
        signature = inspect.signature(verb.call)
        assert "key_added" in signature.parameters, f"{verb} has no key_added"
        assert "copy" in signature.parameters, f"{verb} has no copy"
        assert signature.parameters["copy"].default is False, f"{verb} copies by default"
        returned = set(str(signature.return_annotation).replace(" ", "").split("|"))
        assert "None" in returned, f"{verb} returns {returned}"
        assert returned - {"None"}, f"{verb} returns nothing with copy=True"
        assert returned <= {"AnnData", "MuData", "None"}, f"{verb} returns {returned}"


def test_get_and_pl_write_nothing_so_they_have_no_copy_and_no_key_added():
    for verb in (*of("get"), *of("pl")):
        assert not {"copy", "key_added"} & set(inspect.signature(verb.call).parameters), str(verb)


def test_one_verb_lives_in_one_file_of_its_name():
    for verb in verbs():
        home = f"scvi_pp.{verb.namespace}._{verb.name}"
        assert verb.call.__module__ == home, f"{verb} lives in {verb.call.__module__}"


# Law 5: nothing without docs and tests


@pytest.mark.parametrize("part", ["Parameters", "Examples"])
def test_every_verb_says_what_it_takes_and_shows_how_it_is_used(part: str):
    for verb in verbs():
        if part == "Parameters" and not inspect.signature(verb.call).parameters:
            continue
        assert re.search(rf"^{part}\n-+$", inspect.getdoc(verb.call) or "", re.MULTILINE), f"{verb} has no {part}"


def test_every_verb_has_a_line_in_the_api_page():
    listed = {line.strip() for line in (ROOT / "docs" / "api.md").read_text().splitlines()}
    assert not [str(verb) for verb in verbs() if str(verb) not in listed]


def test_the_api_page_lists_nothing_that_does_not_exist():
    text = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(rf"^\s*((?:{'|'.join(NAMESPACES)})\.\w+)$", text, re.MULTILINE))
    assert not listed - {str(verb) for verb in verbs()}


def test_every_model_can_be_found_when_it_was_stored():
    assert sorted(import_module("scvi_pp._backend.models").NAMES) == model_names()


def test_every_model_has_a_verb_a_page_and_tests():
    tools = {verb.name for verb in of("tl")}
    for name in model_names():
        assert name in tools, f"_backend/models/{name}.py has no verb tl.{name}"
        assert (ROOT / "docs" / "models" / f"{name}.md").is_file(), f"docs/models/{name}.md is missing"
        assert list((ROOT / "tests").rglob(f"test_{name}*.py")), f"no test_{name}.py in tests"


# Law 6: kernels


def test_every_kernel_has_a_reference_twin_and_a_test_of_values_and_gradients():
    """Of gradients, if any form of it says how they are passed on: rows that are gathered or sorted have none."""
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    for folder in sorted(path.parent for path in KERNELS.glob("*/__init__.py")):
        forms = {path.stem: path.read_text() for path in folder.glob("*.py") if path.stem != "__init__"}
        assert "reference" in forms, f"{folder.name} has no reference.py"
        assert len(forms) > 1, f"{folder.name} has a reference only: then it is no kernel"
        wanted = [rf"\b{folder.name}\b", r"\breference\b"]
        wanted += ["grad"] if any("def backward(" in source for source in forms.values()) else []
        about = [text for text in tests if all(re.search(pattern, text) for pattern in wanted)]
        assert about, f"no test compares {folder.name} with its reference ({', '.join(wanted)})"


# Law 7: nothing that runs what it reads


def test_nothing_in_the_package_can_run_what_it_reads():
    assert not imports_of(SERIALISERS, lambda source: True)

    def found() -> Iterator[tuple[Source, int, str]]:
        for source in sources():
            for written, node in calls(source):
                runs = written in {"eval", "exec", "compile", "__import__", "torch.load", "torch.save"}
                if runs or called(node) in {"read_pickle", "to_pickle"}:
                    yield source, node.lineno, written
                if any(keyword.arg == "allow_pickle" for keyword in node.keywords):
                    yield source, node.lineno, f"{written}(allow_pickle=...)"

    assert not lines_where(found())


# Style, where it is cheap to check


def python_files() -> list[Path]:
    return [path for folder in ("scvi_pp", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_file_is_longer_than_400_lines():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in python_files()}
    assert not {name: n for name, n in lengths.items() if n > 400}


def test_every_file_is_named_after_what_it_gives():
    assert not [path for path in python_files() if VAGUE & set(path.stem.strip("_").split("_"))]


def test_no_function_is_longer_than_60_lines():
    """Signature and docstring not counted: a verb has many arguments, and each is explained."""

    def found() -> Iterator[tuple[Source, int, str]]:
        for source in sources():
            for node in ast.walk(source.tree):
                if isinstance(node, ast.FunctionDef):
                    body = node.body[1:] if ast.get_docstring(node) else node.body
                    length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                    if length > 60:
                        yield source, node.lineno, f"{node.name} has {length} lines"

    assert not lines_where(found())


def test_no_names_are_made_or_guessed_at_run_time():
    """No hasattr, setattr, locals, globals, and no global that remembers. `settings` alone may: it checks each name."""
    banned = {"hasattr", "setattr", "locals", "globals", "vars"}

    def found() -> Iterator[tuple[Source, int, str]]:
        for source in sources():
            if source.name == "scvi_pp/_settings.py":
                continue
            yield from ((source, node.lineno, written) for written, node in calls(source) if written in banned)
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Global):
                    yield source, node.lineno, ast.unparse(node)

    assert not lines_where(found())


def test_the_package_logs_and_never_prints_or_warns():
    banned = {"print", "warnings.warn", "warn", "warnings.simplefilter", "warnings.filterwarnings"}
    assert not lines_where(
        (source, node.lineno, written) for source in sources() for written, node in calls(source) if written in banned
    )


def test_no_global_random_state_is_seeded():
    banned = {"random.seed", "np.random.seed", "numpy.random.seed"}
    assert not lines_where(
        (source, node.lineno, written) for source in sources() for written, node in calls(source) if written in banned
    )


# What is installed


def test_every_import_of_the_package_is_a_declared_dependency():
    import_names = {"scikit-learn": "sklearn"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["scale"]]
    declared = {re.match(r"[\w.-]+", requirement).group() for requirement in required}
    known = {import_names.get(name, name) for name in declared} | {"scvi_pp", "triton", *sys.stdlib_module_names}
    undeclared = {
        f"{source.name}:{line}: {name}"
        for source in sources()
        for name, line in imports(source)
        if name and name.split(".")[0] not in known
    }
    assert not undeclared


def test_the_version_has_a_changelog_entry_and_the_types_are_shipped():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "docs" / "changelog.md").read_text()
    assert (PACKAGE / "py.typed").is_file()
