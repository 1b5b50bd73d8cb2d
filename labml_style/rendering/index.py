"""What the modules of a site define, and what is known of values.

An `Index` holds the definitions of all modules. The class of a value is followed where
the source says it: a class or a return type in an annotation, an element of an
annotated iterable, a base class, a re-export. What a name in an annotation or a base
means is what it meant there: the last definition before, else the module's own.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from .rows import Definition, first_line, parse

IMPORTING = (ast.Import, ast.ImportFrom, ast.If, ast.With, ast.Try)


@dataclass(frozen=True)
class Target:
    """A definition with its place: module, page and anchor.

    Attributes:
        module: dotted name of the module that defines it.
        definition: what is defined.
        page: source path of the page, such as `streams.ipynb`.
        anchor: id on that page.
    """

    module: str
    definition: Definition
    page: str
    anchor: str


@dataclass(frozen=True)
class Cell:
    """A code cell: its source, its tags, and what it defines."""

    source: str
    tags: frozenset[str] = frozenset()
    targets: tuple[Target, ...] = ()

    @property
    def rank(self) -> int:
        """Which of two definitions others mean: the higher one, then the later one.

        That is the module's own, not a demonstration's, and an exercise's stub, not its
        solution. What a solution binds, no other cell sees.
        """
        return 0 if "solution" in self.tags else 1 if "active-ipynb" in self.tags else 2


@dataclass(eq=False)
class Thing:
    """What a statement defines: a class, function, field or constant.

    Attributes:
        module: where it stands.
        node: the statement.
        target: its place, or None where no row shows it.
        before: what the module's names meant before it.
        owner: the class it is a member of.
        members: its own members, if it is a class.
    """

    module: Module
    node: ast.stmt
    target: Target | None
    before: dict[str, Entry]
    owner: Thing | None = None
    members: dict[str, Thing] = field(default_factory=dict)


# What a module's name means: a definition, module and name of an import from the
# package, or nothing that is known.
Entry = Thing | tuple[str, str] | None


@dataclass(frozen=True)
class Type:
    """What is known of a value: instance or class of `thing`, a module, its elements.

    Attributes:
        kind: `instance`, `class`, `function`, `module` or `iterable`.
        thing: the class or function.
        module: dotted name of the module.
        elements: types of the elements; one for an iterable, several for a tuple.
    """

    kind: str
    thing: Thing | None = None
    module: str = ""
    elements: tuple[Type | None, ...] = ()


Known = tuple[Target | None, Type | None]  # a name's definition, its value's type
NOTHING: Known = (None, None)


@dataclass(eq=False)
class Module:
    """A module as the index sees it.

    Attributes:
        name: its dotted name.
        init: whether it is a package's `__init__`, for its relative imports.
        cells: its code cells, each with its syntax tree if it is Python.
        names: what its names mean to others.
        things: what a statement, or a name that it assigns to, defines.
    """

    name: str
    init: bool = False
    cells: list[tuple[Cell, ast.Module | None]] = field(default_factory=list)
    names: dict[str, Entry] = field(default_factory=dict)
    things: dict[ast.AST, Thing] = field(default_factory=dict)


class Index:
    """The definitions of all modules.

    Args:
        package: the package's name; imports from it are followed.
    """

    def __init__(self, package: str):
        self.package = package
        self.modules: dict[str, Module] = {}
        self._open: set[tuple[object, str]] = set()  # names on the way to being found

    def add(self, name: str, cells: Iterable[Cell], init: bool = False) -> Module:
        """Add a module.

        Args:
            name: dotted name.
            cells: its code cells in reading order.
            init: whether it is a package's `__init__`, for its relative imports.
        """
        module = self.modules[name] = Module(name, init)
        before: dict[str, Entry] = {}
        ranked: list[tuple[int, str, Entry]] = []
        for cell in cells:
            tree = parse(cell.source)
            module.cells.append((cell, tree))
            places = {(t.definition.first, t.definition.name): t for t in cell.targets}
            here = dict(before)
            for statement in tree.body if tree else ():
                found = list(self._entries(statement, module, places, dict(here)))
                here |= found
                ranked += [(cell.rank, *entry) for entry in found]
            before = here if cell.rank else before
        ranked.sort(key=lambda entry: entry[0])
        module.names = {name: entry for _, name, entry in ranked}
        return module

    def _entries(
        self,
        node: ast.stmt,
        module: Module,
        places: dict[tuple[int, str], Target],
        before: dict[str, Entry],
        owner: Thing | None = None,
        prefix: str = "",
    ) -> Iterator[tuple[str, Entry]]:
        """The names that a statement gives a meaning."""
        names: dict[str, ast.AST] = {}
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {t.id: t for t in targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom) and owner is None:
            yield from ((name, entry) for _, name, entry in self.imports(node, module))
        elif isinstance(node, ast.If | ast.With | ast.Try):
            for inner in node.body:
                if isinstance(inner, IMPORTING):
                    yield from self._entries(inner, module, places, before, owner)
        for name, bound in names.items():
            target = places.get((first_line(node), prefix + name))
            thing = Thing(module, node, target, before, owner)
            if owner is not None and _continues(node):
                thing = owner.members.get(name, thing)
            module.things[bound] = thing
            yield name, thing
            if isinstance(node, ast.ClassDef):
                inside = f"{prefix}{name}."
                for item in node.body:
                    for member, entry in self._entries(
                        item, module, places, before, thing, inside
                    ):
                        if isinstance(entry, Thing):
                            thing.members[member] = entry

    def imports(
        self, node: ast.Import | ast.ImportFrom, module: Module
    ) -> Iterator[tuple[ast.alias, str, Entry]]:
        """Each name that an import binds, with its meaning if it is of the package."""
        for alias in node.names:
            name = alias.asname or alias.name.split(".")[0]
            origin, member = alias.name if alias.asname else name, ""
            if isinstance(node, ast.ImportFrom):
                origin, member = node.module or "", alias.name
                if node.level:
                    parts = module.name.split(".")
                    base = parts[: len(parts) - node.level + module.init]
                    origin = ".".join([*base, origin]).strip(".")
            ours = origin.split(".")[0] == self.package
            yield alias, name, (origin, member) if ours else None

    # What an expression denotes.

    def find(self, module: Module, name: str) -> Target | None:
        """The definition that a dotted name in a module's prose denotes."""
        head, *rest = name.split(".")
        target, kind = self.meaning(module.names.get(head))
        for part in rest:
            target, kind = self.member(kind, part)
        return target

    def meaning(self, entry: Entry) -> Known:
        """The definition of a module's name, and the type of what it denotes."""
        if entry is None:
            return NOTHING
        if isinstance(entry, tuple):
            return self._imported(*entry)
        kind = entry.target.definition.kind if entry.target else ""
        if kind in ("class", "function", "method"):
            return entry.target, Type("class" if kind == "class" else "function", entry)
        node = entry.node
        shown = getattr(node, "returns", None) or getattr(node, "annotation", None)
        return entry.target, annotated(shown, self._within(entry))

    def _imported(self, where: str, name: str) -> Known:
        if not name:
            return None, Type("module", module=where)
        known = self.modules.get(where)
        if known is not None and name in known.names:
            if (where, name) in self._open:
                return NOTHING  # a re-export in a circle
            self._open.add((where, name))
            try:
                return self.meaning(known.names[name])
            finally:
                self._open.discard((where, name))
        inner = f"{where}.{name}"
        if any(f"{m}.".startswith(f"{inner}.") for m in self.modules):
            return None, Type("module", module=inner)
        inside = (m for m in self.modules.values() if m.name.startswith(f"{where}."))
        found = [m.names[name] for m in inside if isinstance(m.names.get(name), Thing)]
        return self.meaning(found[0]) if known is None and len(found) == 1 else NOTHING

    def _within(
        self, thing: Thing, itself: bool = True
    ) -> Callable[[ast.expr], Type | None]:
        """How to infer a dotted name in the statement of a thing.

        Args:
            thing: what the statement defines.
            itself: whether the name of the thing, or of its class, means it already.
        """
        outer = thing.owner or thing

        def infer(node: ast.expr) -> Type | None:
            if isinstance(node, ast.Attribute):
                return self.member(infer(node.value), node.attr)[1]
            if not isinstance(node, ast.Name):
                return None
            if itself and node.id == getattr(outer.node, "name", ""):
                return self.meaning(outer)[1]
            names = outer.before if node.id in outer.before else thing.module.names
            return self.meaning(names.get(node.id))[1]

        return infer

    def member(self, kind: Type | None, name: str) -> Known:
        """The definition of an attribute and the type of its value."""
        if kind is None:
            return NOTHING
        if kind.kind == "module":
            return self._imported(kind.module, name)
        if kind.kind not in ("instance", "class") or kind.thing is None:
            return NOTHING
        if name in kind.thing.members:
            return self.meaning(kind.thing.members[name])
        if (kind.thing, name) in self._open:
            return NOTHING  # a class that is its own base
        self._open.add((kind.thing, name))
        try:
            known = (self.member(base, name) for base in self.bases(kind.thing))
            return next((one for one in known if one[0]), NOTHING)
        finally:
            self._open.discard((kind.thing, name))

    def bases(self, thing: Thing) -> list[Type]:
        """The base classes that the index knows."""
        nodes = thing.node.bases if isinstance(thing.node, ast.ClassDef) else []
        kinds = (annotated(node, self._within(thing, False)) for node in nodes)
        return [kind for kind in kinds if kind]

    def returned(self, kind: Type | None) -> Type | None:
        """What a function of the package returns, by its annotation."""
        if kind is None or kind.kind != "function" or kind.thing is None:
            return None
        shown = getattr(kind.thing.node, "returns", None)
        if isinstance(shown, ast.Name) and shown.id == "Self":
            return Type("instance", kind.thing.owner)
        return annotated(shown, self._within(kind.thing))

    def element(self, kind: Type | None) -> Type | None:
        """What iterating over a value yields."""
        if kind is None:
            return None
        if kind.elements:
            return kind.elements[0] if len(set(kind.elements)) == 1 else None
        if kind.kind == "instance":
            for name in ("__iter__", "__next__", "__getitem__"):
                result = self.returned(self.member(kind, name)[1])
                if result is not None:
                    return result.elements[0] if result.elements else result
        return None


def _continues(node: ast.stmt) -> bool:
    """Whether a definition is decorated by its own name, as a property's setter is."""
    own = f"{getattr(node, 'name', '')}."
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(one).startswith(own) for one in decorators)


def annotated(
    node: ast.expr | None, infer: Callable[[ast.expr], Type | None]
) -> Type | None:
    """The type of the values that an annotation allows: an instance, an iterable.

    Args:
        node: the annotation.
        infer: what is known of a name in it.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        tree = parse(node.value)
        first = tree.body[0] if tree and tree.body else None
        node = first.value if isinstance(first, ast.Expr) else None
    if isinstance(node, ast.BinOp):
        return annotated(node.left, infer) or annotated(node.right, infer)
    if isinstance(node, ast.Subscript):
        inner = node.slice
        items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        items = [one for one in items if ast.unparse(one) != "..."]
        elements = tuple(annotated(one, infer) for one in items)
        return Type("iterable", elements=elements) if any(elements) else None
    if isinstance(node, ast.Name | ast.Attribute):
        kind = infer(node)
        if kind is not None and kind.kind == "class":
            return Type("instance", kind.thing)
    return None


__all__ = ["Cell", "Index", "Module", "Target"]
