"""Which row defines the name that stands here.

An `Index` holds the definitions of all modules; `references` walks a module's cells
with `ast` and finds, for each name and attribute, the definition it denotes. Names that
a function rebinds are skipped. The class of a value is followed where the source says
it: a constructor call, an annotation, a return type, an element of an annotated
iterable.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .rows import Definition, parse


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
class Reference:
    """A name in a cell that denotes a definition: line and columns from 0."""

    line: int
    column: int
    end: int
    target: Target


@dataclass(frozen=True)
class Type:
    """What is known of a value: an instance or the class of `name`, a module, elements.

    Attributes:
        kind: `instance`, `class`, `function`, `module` or `iterable`.
        module: module of the definition.
        name: qualified name in it.
        elements: types of the elements; one for an iterable, several for a tuple.
    """

    kind: str
    module: str = ""
    name: str = ""
    elements: tuple[Type | None, ...] = ()


@dataclass
class Module:
    """A module as the index sees it: its statements, its names, its targets."""

    name: str
    trees: list[ast.Module]
    init: bool = False
    targets: dict[str, Target] = field(default_factory=dict)
    nodes: dict[str, ast.AST] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    variables: dict[str, Type | None] = field(default_factory=dict)


class Index:
    """The definitions of all modules.

    Args:
        package: the package's name; imports from it are followed.
    """

    def __init__(self, package: str):
        self.package = package
        self.modules: dict[str, Module] = {}
        self._open: set[tuple[str, str]] = set()  # names on the way to being found

    def add(
        self,
        name: str,
        sources: Iterable[str],
        targets: Iterable[Target],
        init: bool = False,
    ) -> None:
        """Add a module.

        Args:
            name: dotted name.
            sources: its code cells; what a later one defines or imports wins.
            targets: its definitions with their places; a later one wins.
            init: whether it is a package's `__init__`, for its relative imports.
        """
        trees = [tree for source in sources if (tree := parse(source)) is not None]
        module = self.modules[name] = Module(name, trees, init)
        module.targets = {t.definition.name: t for t in targets}
        for tree in trees:
            module.imports |= _imports(tree.body, module, self.package)
            for node, qualified in _nodes(tree.body):
                module.nodes[qualified] = node

    def find(self, module: str, name: str) -> Target | None:
        """The target of a qualified name, base classes and re-exports included."""
        known = self.modules.get(module)
        if known is None or (module, name) in self._open:
            return None  # a class that is its own base, a re-export in a circle
        if name in known.targets:
            return known.targets[name]
        self._open.add((module, name))
        try:
            if name in known.imports:
                return self.find(*known.imports[name])
            owner, _, member = name.rpartition(".")
            node = known.nodes.get(owner)
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                kind = self.annotation(known, base)
                if kind is not None and kind.name:
                    hit = self.find(kind.module, f"{kind.name}.{member}")
                    if hit is not None:
                        return hit
            return None
        finally:
            self._open.discard((module, name))

    def node(self, module: str, name: str) -> tuple[Module, ast.AST] | None:
        """The syntax node of a qualified name and the module it stands in."""
        target = self.find(module, name)
        if target is None:
            return None
        found = self.modules[target.module]
        node = found.nodes.get(target.definition.name)
        return None if node is None else (found, node)

    def annotation(self, module: Module, node: ast.AST | None) -> Type | None:
        """The type an annotation names: an instance, an iterable, or None."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            tree = parse(node.value)
            first = tree.body[0] if tree and tree.body else None
            node = first.value if isinstance(first, ast.Expr) else None
        if isinstance(node, ast.BinOp):
            sides = (self.annotation(module, s) for s in (node.left, node.right))
            return next((side for side in sides if side), None)
        if isinstance(node, ast.Subscript):
            inner = node.slice
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            elements = tuple(self.annotation(module, item) for item in items)
            name = ast.unparse(node.value).rpartition(".")[2].lower()
            if name in ("dict", "mapping"):
                elements = elements[:1]
            known = any(elements)
            return Type("iterable", elements=elements) if known else None
        if isinstance(node, ast.Name | ast.Attribute):
            path = ast.unparse(node).split(".")
            place = self.resolve(module, path)
            if place is not None:
                target = self.find(*place)
                if target is not None and target.definition.kind == "class":
                    return Type("instance", target.module, target.definition.name)
        return None

    def resolve(self, module: Module, path: list[str]) -> tuple[str, str] | None:
        """Module and qualified name of a dotted path as written in a module."""
        head, rest = path[0], path[1:]
        if head in module.targets:
            return module.name, ".".join(path)
        if head in module.imports:
            where, name = module.imports[head]
            if not name and rest:
                return where, ".".join(rest)
            return where, ".".join([name, *rest])
        return None


def _imports(
    body: list[ast.stmt], module: Module, package: str
) -> dict[str, tuple[str, str]]:
    """Names that import statements bind to something of the package."""
    found: dict[str, tuple[str, str]] = {}
    for node in body:
        if isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.name.split(".")
                base = parts[: len(parts) - node.level + module.init]
                origin = ".".join([*base, origin]).strip(".")
            if origin.split(".")[0] == package:
                for alias in node.names:
                    found[alias.asname or alias.name] = (origin, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    whole = alias.name if alias.asname else package
                    found[alias.asname or package] = (whole, "")
        elif isinstance(node, ast.If | ast.With | ast.Try):
            found |= _imports(node.body, module, package)
    return found


def _nodes(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[ast.AST, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _nodes(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node, prefix + node.target.id
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node, prefix + node.targets[0].id


class _Scope:
    """Names bound in a function, with what is known of their values."""

    def __init__(self, parent: _Scope | None, names: set[str] = frozenset()):  # type: ignore[assignment]
        self.parent = parent
        self.names = set(names)
        self.types: dict[str, Type | None] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self.owner: str = parent.owner if parent else ""  # class of the method


class _Walker(ast.NodeVisitor):
    """Walks a module and collects references."""

    def __init__(self, index: Index, module: Module):
        self.index, self.module = index, module
        self.scope = _Scope(None)
        self.owner = ""
        self.found: list[Reference] = []
        self.source: list[str] = []

    # What an expression denotes.

    def member(self, kind: Type, name: str) -> tuple[Target | None, Type | None]:
        """The definition of an attribute and the type of its value."""
        if kind.kind == "module":
            return self.named(kind.module, name)
        if kind.kind in ("instance", "class"):
            return self.named(kind.module, f"{kind.name}.{name}")
        return None, None

    def named(self, where: str, name: str) -> tuple[Target | None, Type | None]:
        """The target of a module's name, and the type of what it denotes."""
        if not name:
            return None, Type("module", where)
        target = self.index.find(where, name)
        if target is None:
            inner = f"{where}.{name}"
            known = any(f"{m}.".startswith(f"{inner}.") for m in self.index.modules)
            return None, Type("module", inner) if known else None
        kind, module = target.definition.kind, target.module
        if kind in ("property", "field", "constant"):
            return target, self.value_of(target)
        shown = "class" if kind == "class" else "function"
        return target, Type(shown, module, target.definition.name)

    def value_of(self, target: Target) -> Type | None:
        """The type of a property, field or constant."""
        module = self.index.modules[target.module]
        node = module.nodes.get(target.definition.name)
        if isinstance(node, ast.FunctionDef):
            return self.index.annotation(module, node.returns)
        if isinstance(node, ast.AnnAssign):
            return self.index.annotation(module, node.annotation)
        return None

    def infer(self, node: ast.AST) -> Type | None:
        """What is known of an expression's value."""
        if isinstance(node, ast.Name):
            return self.name(node.id)[1]
        if isinstance(node, ast.Attribute):
            kind = self.infer(node.value)
            return self.member(kind, node.attr)[1] if kind else None
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.args:
                inner = node.func.id
                if inner in (
                    "next",
                    "iter",
                    "list",
                    "tuple",
                    "sorted",
                    "reversed",
                    "min",
                    "max",
                ):
                    kind = self.infer(node.args[0])
                    if inner in ("next", "min", "max"):
                        return self.element(kind)
                    return Type("iterable", elements=(self.element(kind),))
                if inner == "enumerate":
                    kind = self.element(self.infer(node.args[0]))
                    return Type(
                        "iterable", elements=(Type("iterable", elements=(None, kind)),)
                    )
                if inner == "zip":
                    kinds = tuple(self.element(self.infer(a)) for a in node.args)
                    return Type(
                        "iterable", elements=(Type("iterable", elements=kinds),)
                    )
            if isinstance(node.func, ast.Name) and node.func.id == "super":
                return self.parent()
            kind = self.infer(node.func)
            if kind is None:
                return None
            if kind.kind == "class":
                return Type("instance", kind.module, kind.name)
            if kind.kind == "function":
                return self.returned(kind)
            if kind.kind == "instance":
                call = (
                    self.member(kind, "__call__")[1] or self.member(kind, "forward")[1]
                )
                return self.returned(call) if call else None
        if isinstance(node, ast.Subscript):
            kind = self.infer(node.value)
            if kind and len(kind.elements) > 1 and isinstance(node.slice, ast.Constant):
                place = node.slice.value
                if isinstance(place, int) and -len(kind.elements) <= place < len(
                    kind.elements
                ):
                    return kind.elements[place]
            return self.element(kind)
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            return Type("iterable", elements=(self.comprehended(node),))
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return Type("iterable", elements=tuple(self.infer(e) for e in node.elts))
        if isinstance(node, ast.IfExp):
            return self.infer(node.body) or self.infer(node.orelse)
        if isinstance(node, ast.NamedExpr):
            return self.infer(node.value)
        return None

    def comprehended(
        self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp
    ) -> Type | None:
        self.scope = _Scope(self.scope)
        for part in node.generators:
            self.bind(part.target, self.element(self.infer(part.iter)))
        kind = self.infer(node.elt)
        self.scope = self.scope.parent or self.scope
        return kind

    def parent(self) -> Type | None:
        """What `super()` stands for: the first base class that the index knows."""
        node = self.module.nodes.get(self.scope.owner)
        bases = node.bases if isinstance(node, ast.ClassDef) else []
        kinds = (self.index.annotation(self.module, base) for base in bases)
        return next((kind for kind in kinds if kind), None)

    def returned(self, kind: Type) -> Type | None:
        """What a function of the package returns, by its annotation."""
        found = self.index.node(kind.module, kind.name)
        if found and isinstance(found[1], ast.FunctionDef):
            node = found[1]
            shown = node.returns
            if isinstance(shown, ast.Name) and shown.id == "Self":
                return Type("instance", kind.module, kind.name.rpartition(".")[0])
            return self.index.annotation(found[0], shown)
        return None

    def element(self, kind: Type | None) -> Type | None:
        """What iterating over a value yields."""
        if kind is None:
            return None
        if kind.elements:
            known = [e for e in kind.elements if e]
            return known[0] if len(set(known)) == 1 else None
        if kind.kind == "instance":
            for name in ("__iter__", "__next__", "__getitem__"):
                method = self.member(kind, name)[1]
                result = self.returned(method) if method else None
                if result is not None:
                    return result.elements[0] if result.elements else result
        return None

    def name(self, name: str) -> tuple[Target | None, Type | None]:
        """The definition that a name denotes in the current scope."""
        scope: _Scope | None = self.scope
        while scope is not None:
            if name in scope.imports:
                return self.named(*scope.imports[name])
            if name in scope.names:
                kind = scope.types.get(name)
                if kind is not None and kind.kind == "class":  # `cls`
                    return self.index.find(kind.module, kind.name), kind
                return None, kind
            scope = scope.parent
        target = self.module.targets.get(name)
        if target is not None and target.definition.kind != "constant":
            return self.named(self.module.name, name)
        if name in self.module.imports:
            return self.named(*self.module.imports[name])
        if name in self.module.variables:
            return target, self.module.variables[name]
        return target, None

    # What statements bind.

    def bind(self, target: ast.AST, kind: Type | None) -> None:
        if isinstance(target, ast.Name):
            if self.scope.parent is None:
                if kind is not None or target.id not in self.module.variables:
                    self.module.variables[target.id] = kind
            else:
                self.scope.names.add(target.id)
                if kind is not None:
                    self.scope.types[target.id] = kind
        elif isinstance(target, ast.Tuple | ast.List):
            parts = kind.elements if kind else ()
            for place, item in enumerate(target.elts):
                if len(parts) == len(target.elts):
                    self.bind(item, parts[place])
                else:
                    self.bind(item, self.element(kind))
        elif isinstance(target, ast.Starred):
            self.bind(target.value, None)

    def refer(self, node: ast.AST, name: str, end: bool, target: Target | None) -> None:
        if target is None:
            return
        row = (node.end_lineno if end else node.lineno) - 1  # type: ignore[attr-defined]
        text = self.source[row].encode()
        if end:
            last = len(text[: node.end_col_offset].decode())  # type: ignore[attr-defined]
            first = last - len(name)
        else:
            first = len(text[: node.col_offset].decode())  # type: ignore[attr-defined]
            last = first + len(name)
        self.found.append(Reference(row, first, last, target))

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.refer(node, node.id, False, self.name(node.id)[0])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        kind = self.infer(node.value)
        if kind is not None:
            self.refer(node, node.attr, True, self.member(kind, node.attr)[0])

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.bind(target, self.infer(node.value))
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
        kind = self.index.annotation(self.module, node.annotation)
        if not self.owner or self.scope.parent is not None:
            self.bind(node.target, kind)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.bind(node.target, self.infer(node.value))

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.bind(node.target, self.element(self.infer(node.iter)))
        for item in [*node.body, *node.orelse]:
            self.visit(item)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, self.infer(item.context_expr))
        for statement in node.body:
            self.visit(statement)

    def _comprehension(self, node: ast.AST) -> None:
        self.scope = _Scope(self.scope)
        for part in node.generators:  # type: ignore[attr-defined]
            self.visit(part.iter)
            self.bind(part.target, self.element(self.infer(part.iter)))
            for condition in part.ifs:
                self.visit(condition)
        for name in ("key", "value", "elt"):
            if getattr(node, name, None) is not None:
                self.visit(getattr(node, name))
        self.scope = self.scope.parent or self.scope

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = (
        _comprehension
    )

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.scope = _Scope(self.scope, {a.arg for a in _parameters(node.args)})
        self.visit(node.body)
        self.scope = self.scope.parent or self.scope

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        names = _imports([node], self.module, self.index.package)
        if self.scope.parent is not None:
            self.scope.imports |= names
        for alias in node.names:
            place = names.get(alias.asname or alias.name)
            if place is not None:
                target = self.named(*place)[0]
                self.refer(alias, alias.name, False, target)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        keywords = [keyword.value for keyword in node.keywords]
        for item in [*node.decorator_list, *node.bases, *keywords]:
            self.visit(item)
        before, self.owner = self.owner, f"{self.owner}{node.name}."
        for statement in node.body:
            self.visit(statement)
        self.owner = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for item in [*node.decorator_list, *node.args.defaults, *node.args.kw_defaults]:
            if item is not None:
                self.visit(item)
        parameters = list(_parameters(node.args))
        for parameter in parameters:
            if parameter.annotation is not None:
                self.visit(parameter.annotation)
        if node.returns is not None:
            self.visit(node.returns)
        if self.scope.parent is not None:
            self.scope.names.add(node.name)
        inner = _Scope(self.scope, {p.arg for p in parameters} | _bound(node))
        for parameter in parameters:
            kind = self.index.annotation(self.module, parameter.annotation)
            if kind is not None:
                inner.types[parameter.arg] = kind
        decorators = {ast.unparse(d) for d in node.decorator_list}
        if self.owner and self.scope.parent is None:
            inner.owner = self.owner.rstrip(".")
        if inner.owner and self.scope.parent is None and parameters:
            if "staticmethod" not in decorators:
                how = "class" if "classmethod" in decorators else "instance"
                itself = Type(how, self.module.name, inner.owner)
                inner.types[parameters[0].arg] = itself
        before = self.owner
        self.scope, self.owner = inner, ""
        for statement in node.body:
            self.visit(statement)
        self.scope, self.owner = inner.parent or self.scope, before

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_AsyncFor = visit_For
    visit_AsyncWith = visit_With


def _parameters(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    yield from (a for a in (arguments.vararg, arguments.kwarg) if a is not None)


INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _bound(function: ast.AST) -> set[str]:
    """Names that a function's own statements bind, those of inner scopes excluded."""
    names: set[str] = set()
    free: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                names.add(child.id)
            elif isinstance(child, ast.Global | ast.Nonlocal):
                free.update(child.names)
            elif isinstance(child, ast.alias):
                names.add((child.asname or child.name).split(".")[0])
            name = getattr(child, "name", None) or getattr(child, "rest", None)
            if isinstance(name, str) and not isinstance(child, ast.alias):
                names.add(name)  # functions, classes, `except as`, patterns
            if not isinstance(child, INNER + COMPREHENSIONS):
                visit(child)

    visit(function)
    return names - free


def references(index: Index, name: str, cells: list[str]) -> list[list[Reference]]:
    """References in each code cell of a module.

    Args:
        index: all definitions.
        name: dotted name of the module that the cells make up.
        cells: sources of its code cells, in order; later cells see earlier ones.

    Returns:
        For each cell its references, ordered by place.
    """
    walker = _Walker(index, index.modules[name])
    result = []
    for source in cells:
        walker.found, walker.source = [], source.split("\n")
        tree = parse(source)
        if tree is not None:
            walker.visit(tree)
        unique = {(r.line, r.column): r for r in walker.found}
        result.append([unique[place] for place in sorted(unique)])
    return result


__all__ = ["Index", "Reference", "Target", "references"]
