"""Prints what the source of ``hpfree_jax`` measures, and what exceeds its limits.

    python benchmarks/code_figures.py

Lines of the package, import circles, imports that go around a subpackage's door, long
functions, cyclomatic complexity and public names without an entry in the reference.
``tests/test_code_figures.py`` holds the package to the limits below. Nothing is
imported from the package: all is read from its syntax trees.
"""

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = "hpfree_jax"
MAX_LINES = 18_200
MAX_FUNCTION_LINES = 60
MAX_COMPLEXITY = 20
MAX_COMPLEXITY_P95 = 8
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Import(NamedTuple):
    """One name that a module of the package imports from another.

    Attributes:
      importer: the module that imports, dotted.
      line: of the import.
      module: the module that is imported from, or the imported module itself.
      name: the name taken from ``module``; ``None`` if it is the module.
      is_deferred: whether the import runs in a function, or for type checkers alone.
      is_exported: whether the name is handed on, ``import x as x``.
    """

    importer: str
    line: int
    module: str
    name: str | None
    is_deferred: bool
    is_exported: bool = False

    def __str__(self) -> str:
        taken = self.module if self.name is None else f"{self.module}.{self.name}"
        return f"{self.importer}:{self.line} takes {taken}"


class Function(NamedTuple):
    """A function or method; functions inside it count with it.

    Attributes:
      size: lines of code, or cyclomatic complexity.
      module: dotted.
      name: ``Class.method`` for a method.
    """

    size: int
    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.size:4d}  {self.module}.{self.name}"


def read_sources() -> dict[str, str]:
    """Returns the source of each module of the package, by its dotted name.

    A subpackage goes by its own name: ``hpfree_jax.data`` is ``data/__init__.py``.
    """
    sources = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        sources[".".join(parts).removesuffix(".__init__")] = path.read_text()
    return sources


def count_lines(sources: dict[str, str]) -> int:
    return sum(len(source.splitlines()) for source in sources.values())


# Imports.


def read_imports(sources: dict[str, str]) -> list[Import]:
    return [
        imported
        for module, source in sources.items()
        for node, is_deferred in _walk(ast.parse(source), is_deferred=False)
        for imported in _imports_of(node, module, is_deferred, sources)
    ]


def _walk(node: ast.AST, is_deferred: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        deferred = is_deferred or isinstance(child, (*_FUNCTION, ast.Lambda))
        deferred |= isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(
            child.test
        )
        yield child, deferred
        yield from _walk(child, deferred)


def _imports_of(
    node: ast.AST, importer: str, is_deferred: bool, modules: dict[str, str]
) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if _is_ours(alias.name):
                yield Import(importer, node.lineno, alias.name, None, is_deferred)
    elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            module, name = node.module, alias.name
            if submodule in modules:
                module, name = submodule, None
            is_exported = alias.asname == alias.name
            yield Import(importer, node.lineno, module, name, is_deferred, is_exported)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def _subpackage(module: str, sources: dict[str, str]) -> str:
    """Returns the subpackage of a module, such as "data"; "" for the top level."""
    parts = module.split(".")
    is_inside = len(parts) > 2 or any(
        other.startswith(f"{module}.") for other in sources if len(parts) > 1
    )
    return parts[1] if is_inside else ""


def find_private_imports(
    sources: dict[str, str], imports: list[Import]
) -> list[Import]:
    """Returns the imports of names or modules that are private to someone else.

    A module may import the private modules of its own subpackage and those of the top
    level; from another subpackage, what its ``__init__`` exports. A name that starts
    with an underscore belongs to its module alone.
    """
    found = []
    for imported in imports:
        home, other = (
            _subpackage(module, sources)
            for module in (imported.importer, imported.module)
        )
        steps_around_the_door = other not in ("", home) and any(
            part.startswith("_") for part in imported.module.split(".")[2:]
        )
        if steps_around_the_door or _is_private(imported.name or ""):
            found.append(imported)
    return found + _find_private_attributes(sources, imports)


def _find_private_attributes(
    sources: dict[str, str], imports: list[Import]
) -> list[Import]:
    """Returns the uses of ``module._name`` where ``module`` is a module of ours."""
    modules = {(i.importer, i.module.rpartition(".")[2]) for i in imports if not i.name}
    return [
        Import(module, node.lineno, node.value.id, node.attr, True)
        for module, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and _is_private(node.attr)
        and (module, node.value.id) in modules
    ]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def find_circles(
    sources: dict[str, str], imports: list[Import], with_deferred: bool = False
) -> list[list[str]]:
    """Returns the groups of modules that import each other, largest first.

    Importing a module runs the ``__init__`` of its subpackage first, which counts as an
    import, but for modules of that same subpackage.
    """
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for imported in imports:
        if imported.is_deferred and not with_deferred:
            continue
        targets = {imported.module}
        other = _subpackage(imported.module, sources)
        if other != _subpackage(imported.importer, sources) and other:
            targets.add(f"{PACKAGE}.{other}")
        graph[imported.importer] |= targets & graph.keys() - {imported.importer}
    reach = {module: _reachable(graph, module) for module in graph}
    circles = {
        tuple(other for other in graph if module in reach[other] and other in found)
        for module, found in reach.items()
        if module in found
    }
    return sorted(map(list, circles), key=len, reverse=True)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead += new
    return found


# Functions.


def measure_functions(sources: dict[str, str]) -> list[Function]:
    """Returns each outermost function by its lines of code, longest first.

    Comments, blank lines and docstrings do not count.
    """
    found = []
    for module, source in sources.items():
        code_lines = _code_lines(source)
        for name, node in _functions_of(ast.parse(source)):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            size = len(code_lines.intersection(lines))
            found.append(Function(size, module, name))
    return sorted(found, reverse=True)


def _code_lines(source: str) -> set[int]:
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT}
    no_code |= {tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in no_code:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


def _functions_of(
    node: ast.AST, prefix: str = "", with_inner: bool = False
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, _FUNCTION):
            yield prefix + child.name, child
            if not with_inner:
                continue
        if isinstance(child, (*_FUNCTION, ast.ClassDef)):
            inner = f"{prefix}{child.name}."
        yield from _functions_of(child, inner, with_inner)


def measure_complexity(sources: dict[str, str]) -> list[Function]:
    """Returns each function by its cyclomatic complexity, worst first.

    Counts as ``radon cc`` does, and functions inside a function on their own as well.
    """
    found = []
    for module, source in sources.items():
        for name, node in _functions_of(ast.parse(source), with_inner=True):
            found.append(Function(1 + _branches(node.body), module, name))
    return sorted(found, reverse=True)


def _branches(body: Iterable[ast.AST]) -> int:
    """Counts the decisions of statements, without those of functions inside them."""
    count = 0
    for node in body:
        if isinstance(node, _FUNCTION):
            continue
        match node:
            case ast.If() | ast.IfExp() | ast.Assert():
                count += 1
            case ast.For() | ast.AsyncFor() | ast.While():
                count += 1 + bool(node.orelse)
            case ast.Try():
                count += len(node.handlers) + bool(node.orelse)
            case ast.BoolOp():
                count += len(node.values) - 1
            case ast.comprehension():
                count += 1 + len(node.ifs)
            case ast.Match():
                catch_all = any(map(_is_catch_all, node.cases))
                count += len(node.cases) - catch_all
        count += _branches(ast.iter_child_nodes(node))
    return count


def _is_catch_all(case: ast.match_case) -> bool:
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


def percentile(functions: list[Function], percent: int) -> int:
    sizes = [function.size for function in functions]
    return round(statistics.quantiles(sizes, n=100, method="inclusive")[percent - 1])


# The reference.


def public_names(sources: dict[str, str], imports: list[Import]) -> dict[str, str]:
    """Returns where each public name is defined: ``{"hpfree_jax.agd": definition}``.

    Public are the names that the package and its public subpackages import in their
    ``__init__``, each defined once but often exported twice.
    """
    doors = {PACKAGE} | {
        f"{PACKAGE}.{subpackage}"
        for module in sources
        if (subpackage := _subpackage(module, sources))
        and not subpackage.startswith("_")
    }
    exported = {}
    for door in doors:
        for i in _exports(door, imports):
            if i.name and i.is_exported:
                exported[f"{door}.{i.name}"] = f"{i.module}.{i.name}"

    def definition(name: str) -> str:
        while name in exported:
            name = exported[name]
        return name

    return {name: definition(name) for name in exported}


def _exports(module: str, imports: list[Import]) -> Iterator[Import]:
    for imported in imports:
        if imported.importer == module and imported.name == "*":
            yield from _exports(imported.module, imports)
        elif imported.importer == module:
            yield imported


def find_undocumented(names: dict[str, str], reference: str) -> list[str]:
    """Returns the public names that have no directive in the reference."""
    documented, module = set(), ""
    directive = re.compile(r"\.\. (currentmodule|auto\w+|py:data):: ([\w.]+)")
    for kind, target in directive.findall(reference):
        if kind == "currentmodule":
            module = target
        else:
            name = target if _is_ours(target) else f"{module}.{target}"
            documented.add(names.get(name, name))
    missing: dict[str, str] = {}
    for name, definition in names.items():
        if definition not in documented:
            missing.setdefault(definition, name)  # the shortest path comes first
    return sorted(missing.values())


def main() -> None:
    sources = read_sources()
    imports = read_imports(sources)
    print(f"lines: {count_lines(sources):,} (at most {MAX_LINES:,})")
    for title, with_deferred in (
        ("import circles", False),
        ("import circles with the imports inside functions", True),
    ):
        circles = find_circles(sources, imports, with_deferred)
        _print_list(title, [" <-> ".join(circle) for circle in circles])
    private = find_private_imports(sources, imports)
    _print_list("private imports", list(map(str, private)))
    functions = measure_functions(sources)
    long = [str(f) for f in functions if f.size > MAX_FUNCTION_LINES]
    _print_list(f"functions above {MAX_FUNCTION_LINES} lines of code", long)
    complexity = measure_complexity(sources)
    print(
        f"\ncyclomatic complexity of {len(complexity):,} functions: "
        f"p50 {percentile(complexity, 50)}, "
        f"p95 {percentile(complexity, 95)} (at most {MAX_COMPLEXITY_P95}), "
        f"largest {complexity[0].size} (at most {MAX_COMPLEXITY}); the worst ten:"
    )
    print("\n".join(f"  {function}" for function in complexity[:10]))
    names = public_names(sources, imports)
    reference = (ROOT / "docs" / "reference.md").read_text()
    missing = find_undocumented(names, reference)
    total = len(set(names.values()))
    _print_list(f"of {total} public names, not in the reference", missing)


def _print_list(title: str, lines: list[str]) -> None:
    print(f"\n{title}: {len(lines)}")
    for line in lines:
        print(f"  {line}")


if __name__ == "__main__":
    main()
