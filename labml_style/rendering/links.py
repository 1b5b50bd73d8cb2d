"""Which row defines the name that stands here.

`references` walks a module's cells in reading order with `ast` and finds, for each name
and attribute, the definition it denotes: the last binding before the use. What a
function's body or an annotation names may also come after it. A binding that is no
definition, such as a loop's, hides the earlier ones.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from .index import NOTHING, Cell, Index, Known, Module, Target, Thing, Type, annotated

First = dict[tuple[Cell | None, str], Known]  # by name, and by cell for a solution's
INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
CHOOSING = ("next", "min", "max")  # builtins that return an element
FLUENT = ("double", "eval", "float", "requires_grad_", "to", "train")  # of nn.Module
PASSING = ("enumerate", "iter", "list", "reversed", "sorted", "tuple", "zip")


@dataclass(frozen=True)
class Reference:
    """A name in a cell that denotes a definition: line and columns from 0."""

    line: int
    column: int
    end: int
    target: Target


@dataclass(eq=False)
class _Scope:
    """Names of a module, class, function or comprehension, and what they denote.

    Attributes:
        parent: the scope around it, or None for a module.
        names: a function's are all there from the start, as the compiler sees them.
        open: whether what is bound in it is its own: not in a function, where a name
            that it lacks is global or nonlocal.
        owner: the class of the method.
        outside: names that a function declares global.
        declared: types of annotated names, which last when they are bound again.
    """

    parent: _Scope | None = None
    names: dict[str, Known] = field(default_factory=dict)
    open: bool = False
    owner: Thing | None = None
    outside: set[str] = field(default_factory=set)
    declared: dict[str, Type] = field(default_factory=dict)


class _Walker(ast.NodeVisitor):
    """Walks a module in reading order and collects references.

    Args:
        index: all definitions.
        module: the module.
        first: the first binding of each of its names, for uses that run later.
    """

    def __init__(self, index: Index, module: Module, first: First):
        self.index, self.module, self.first = index, module, first
        self.apart: Cell | None = None  # the solution that is walked
        self.root = self.scope = _Scope(open=True)
        self.seen = self.root  # what a function that is defined here sees
        self.late = False  # whether the code here runs after what follows it
        self.comprehended: dict[ast.AST, Type] = {}
        self.found: list[Reference] = []
        self.lines: list[str] = []

    def walk(self, cell: Cell, tree: ast.Module) -> list[Reference]:
        """References in a cell, ordered by place."""
        names = dict(self.root.names)
        self.apart = None if cell.rank else cell
        self.found, self.lines = [], cell.source.split("\n")
        with suppress(RecursionError):  # a sum of a thousand terms
            self.visit(tree)
        if self.apart:
            self.root.names = names
        unique = {(one.line, one.column): one for one in self.found}
        return [unique[place] for place in sorted(unique)]

    # What an expression denotes.

    def infer(self, node: ast.AST) -> Type | None:
        """What is known of an expression's value."""
        element = self.index.element
        if isinstance(node, ast.Name):
            return self.name(node.id)[1]
        if isinstance(node, ast.Attribute):
            return self.index.member(self.infer(node.value), node.attr)[1]
        if isinstance(node, ast.Call):
            return self.called(node)
        if isinstance(node, ast.Subscript):
            kind = self.infer(node.value)
            if kind and len(kind.elements) > 1 and isinstance(node.slice, ast.Constant):
                place, count = node.slice.value, len(kind.elements)
                if isinstance(place, int) and -count <= place < count:
                    return kind.elements[place]
            return element(kind)
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return Type("iterable", elements=tuple(self.infer(e) for e in node.elts))
        if isinstance(node, ast.IfExp):
            return self.infer(node.body) or self.infer(node.orelse)
        if isinstance(node, ast.NamedExpr):
            return self.infer(node.value)
        return self.comprehended.get(node)

    def called(self, node: ast.Call) -> Type | None:
        """What is known of what a call returns."""
        element = self.index.element
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "super":
            owner = self.scope.owner
            return next(iter(self.index.bases(owner)), None) if owner else None
        if node.args and name in CHOOSING + PASSING:
            parts = tuple(element(self.infer(one)) for one in node.args)
            if name in CHOOSING:
                return parts[0]
            if name in ("enumerate", "zip"):
                parts = (None, *parts) if name == "enumerate" else parts
                parts = (Type("iterable", elements=parts),)
            return Type("iterable", elements=parts[:1])
        if isinstance(node.func, ast.Attribute) and node.func.attr in FLUENT:
            base = self.infer(node.func.value)
            kind = self.index.member(base, node.func.attr)[1]
            return self.index.returned(kind) if kind else base
        kind = self.infer(node.func)
        if kind is not None and kind.kind == "class":
            return Type("instance", kind.thing)
        if kind is not None and kind.kind == "instance":
            for method in ("__call__", "forward"):
                call = self.index.member(kind, method)[1]
                if call is not None:
                    return self.index.returned(call)
        return self.index.returned(kind)

    @property
    def around(self) -> _Scope:
        """What a comprehension or a class sees here: of a class around it nothing."""
        outer = self.scope.parent
        return outer if outer is not None and self.scope.open else self.scope

    def holder(self, name: str) -> _Scope:
        """The scope that a name belongs to; the module's if no other has it."""
        scope = self.scope
        while scope.parent is not None and name not in scope.names:
            scope = self.root if name in scope.outside else scope.parent
        return scope

    def name(self, name: str) -> Known:
        """The definition that a name denotes here."""
        names = self.holder(name).names
        if name in names or not self.late:
            return names.get(name, NOTHING)
        later = self.first.get((None, name), NOTHING)
        return self.first.get((self.apart, name), later)

    # What statements bind.

    def put(self, name: str, known: Known = NOTHING) -> None:
        scope = self.scope if self.scope.open else self.holder(name)
        target, kind = known
        scope.names[name] = target, kind or scope.declared.get(name)
        if scope is self.root:
            self.first.setdefault((self.apart, name), scope.names[name])

    def bind(self, target: ast.AST, kind: Type | None = None) -> None:
        if isinstance(target, ast.Name):
            thing = self.module.things.get(target)
            self.put(target.id, (thing.target if thing else None, kind))
        elif isinstance(target, ast.Tuple | ast.List):
            parts = kind.elements if kind else ()
            if len(parts) != len(target.elts):
                parts = (self.index.element(kind),) * len(target.elts)
            for item, part in zip(target.elts, parts, strict=True):
                self.bind(item, part)
        elif isinstance(target, ast.Starred):
            self.bind(target.value)

    def refer(self, node: ast.AST, name: str, end: bool, target: Target | None) -> None:
        if target is None:
            return
        row = (node.end_lineno if end else node.lineno) - 1  # type: ignore[attr-defined]
        column = node.end_col_offset if end else node.col_offset  # type: ignore[attr-defined]
        first = len(self.lines[row].encode()[:column].decode())
        first -= len(name) if end else 0
        last = first + len(name)
        if self.lines[row][first:last] == name:  # Python 3.11 errs inside f-strings
            self.found.append(Reference(row, first, last, target))

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.refer(node, node.id, False, self.name(node.id)[0])
        elif isinstance(node.ctx, ast.Del):
            self.put(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        target = self.index.member(self.infer(node.value), node.attr)[0]
        self.refer(node, node.attr, True, target)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        kind = self.infer(node.value)
        for target in node.targets:
            self.bind(target, kind)
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        kind = self.annotation(node.annotation)
        if isinstance(node.target, ast.Name) and kind is not None:
            self.scope.declared[node.target.id] = kind
        if node.value is not None:
            self.visit(node.value)
            self.bind(node.target, kind)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        self.bind(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.bind(node.target, self.infer(node.value))

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.bind(node.target, self.index.element(self.infer(node.iter)))
        self.visit(node.target)
        for item in [*node.body, *node.orelse]:
            self.visit(item)

    def visit_withitem(self, node: ast.withitem) -> None:
        self.generic_visit(node)
        if node.optional_vars is not None:
            self.bind(node.optional_vars, self.infer(node.context_expr))

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name:
            self.put(node.name)
        for statement in node.body:
            self.visit(statement)

    def visit_MatchAs(
        self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping
    ) -> None:
        self.generic_visit(node)
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self.put(name)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias, name, entry in self.index.imports(node, self.module):
            known = self.index.meaning(entry)
            self.put(name, known)
            if isinstance(node, ast.ImportFrom):
                self.refer(alias, alias.name, False, known[0])

    visit_MatchStar = visit_MatchMapping = visit_MatchAs
    visit_ImportFrom = visit_Import
    visit_AsyncFor = visit_For

    @contextmanager
    def inside(
        self, scope: _Scope, seen: _Scope | None = None, late: bool = False
    ) -> Iterator[None]:
        """Visits another scope.

        Args:
            scope: the scope.
            seen: what functions in it see, if that is not the scope itself.
            late: whether its code runs later.
        """
        before = self.scope, self.seen, self.late
        self.scope, self.seen, self.late = scope, seen or scope, self.late or late
        try:
            yield
        finally:
            self.scope, self.seen, self.late = before

    def annotation(self, node: ast.expr | None) -> Type | None:
        """Visits an annotation; it may name what comes later, such as its own class."""
        if node is None:
            return None
        with self.inside(self.seen, late=True):
            self.visit(node)
            return annotated(node, self.infer)

    def _comprehension(self, node: ast.expr) -> None:
        first, *others = node.generators  # type: ignore[attr-defined]
        self.visit(first.iter)
        kind = self.infer(first.iter)
        nodes = (n for part in (first, *others) for n in ast.walk(part.target))
        names = dict.fromkeys(set().union(*map(_stored, nodes)), NOTHING)
        scope = _Scope(self.around, names, owner=self.scope.owner)
        with self.inside(scope, _Scope(self.seen, names)):
            for part in (first, *others):
                if part is not first:
                    self.visit(part.iter)
                    kind = self.infer(part.iter)
                self.bind(part.target, self.index.element(kind))
                for condition in part.ifs:
                    self.visit(condition)
            for part in ("key", "value", "elt"):
                if hasattr(node, part):
                    self.visit(getattr(node, part))
            if hasattr(node, "elt"):
                kinds = (self.infer(node.elt),)
                self.comprehended[node] = Type("iterable", elements=kinds)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = (
        _comprehension
    )

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for item in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(item)
        thing = self.module.things.get(node)
        known = self.index.meaning(thing)
        seen = self.seen  # a class in a class is no name of its own methods
        if self.scope is self.around:
            seen = _Scope(seen, {node.name: known})
        with self.inside(_Scope(self.around, open=True, owner=thing), seen):
            for statement in node.body:
                self.visit(statement)
        self.put(node.name, known)

    def visit_FunctionDef(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    ) -> None:
        decorators = getattr(node, "decorator_list", [])
        for item in [*decorators, *node.args.defaults, *node.args.kw_defaults]:
            if item is not None:
                self.visit(item)
        own, outside = _bound(node)
        inner = _Scope(self.seen, dict.fromkeys(own, NOTHING), outside=outside)
        inner.owner = self.scope.owner
        parameters = list(_parameters(node.args))
        for parameter in parameters:
            kind = self.annotation(parameter.annotation)
            inner.names[parameter.arg] = None, kind
            if kind is not None:
                inner.declared[parameter.arg] = kind
        if not isinstance(node, ast.Lambda):
            self.annotation(node.returns)
            marks = {ast.unparse(one) for one in decorators}
            owner = self.scope.owner if self.scope.open else None
            if owner is not None and parameters and "staticmethod" not in marks:
                itself = owner.target, Type("class", owner)
                if "classmethod" not in marks:
                    itself = None, Type("instance", owner)
                inner.names[parameters[0].arg] = itself
            self.put(node.name, self.index.meaning(self.module.things.get(node)))
        with self.inside(inner, late=True):
            for statement in node.body if isinstance(node.body, list) else [node.body]:
                self.visit(statement)

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef


def _parameters(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    yield from (a for a in (arguments.vararg, arguments.kwarg) if a is not None)


def _stored(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return {node.id}
    return set()


def _bound(function: ast.AST) -> tuple[set[str], set[str]]:
    """Names that a function's own statements bind, and those that it says are global.

    What inner scopes bind is excluded, but a comprehension's `:=` binds around it.
    """
    names: set[str] = set()
    outer: set[str] = set()
    outside: set[str] = set()

    def visit(node: ast.AST, comprehension: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.NamedExpr):
                names.add(child.target.id)
            elif isinstance(child, ast.Name) and not comprehension:
                names.update(_stored(child))
            elif isinstance(child, ast.Global | ast.Nonlocal):
                outer.update(child.names)
                outside.update(child.names if isinstance(child, ast.Global) else ())
            elif isinstance(child, ast.alias):
                names.add((child.asname or child.name).split(".")[0])
            name = getattr(child, "name", None) or getattr(child, "rest", None)
            if isinstance(name, str) and not isinstance(child, ast.alias):
                names.add(name)  # functions, classes, `except as`, patterns
            if not isinstance(child, INNER):
                visit(child, comprehension or isinstance(child, COMPREHENSIONS))

    visit(function, False)
    return names - outer, outside


def references(index: Index, module: Module) -> list[list[Reference]]:
    """References in each code cell of a module, ordered by place.

    Args:
        index: all definitions.
        module: the module, as `Index.add` returned it.
    """
    first: First = {}
    result: list[list[Reference]] = []
    for _ in range(2):  # the second time, what comes later is known
        walker = _Walker(index, module, first)
        result = [
            walker.walk(cell, tree) if tree else [] for cell, tree in module.cells
        ]
    return result


__all__ = ["Reference", "Target", "references"]
