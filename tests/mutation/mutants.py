"""Small changes to a module, each of which some test should notice.

A mutant changes one operator, constant, condition or statement. Docstrings, type
annotations, log lines and the texts of errors are left alone: their wording is no
behaviour that a unit test has to pin.
"""

import ast
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Mutant", "mutants"]

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}  # fmt: skip
QUIET = ("log", "_log", "metrics", "_metrics", "logger")
"""Calls on these report; they decide nothing."""


@dataclass(frozen=True)
class Mutant:
    """A changed module: `line` and `change` say where and what."""

    line: int
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    seen, quiet = {ast.unparse(tree)}, _quiet_parts(tree)
    for index, node in enumerate(ast.walk(tree)):
        if node in quiet:
            continue
        for number, change in enumerate(_changes(node)):
            changed = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(ast.walk(changed)) if i == index)
            list(_changes(target))[number].apply()
            text = ast.unparse(changed)
            if text not in seen:
                seen.add(text)
                yield Mutant(getattr(node, "lineno", 0), change.text, text)


@dataclass
class _Change:
    node: ast.AST
    text: str
    field: str
    value: object

    def apply(self) -> None:
        setattr(self.node, self.field, self.value)


def _changes(node: ast.AST) -> Iterator[_Change]:
    yield from _other_operators(node)
    match node:
        case ast.Constant(value=bool(value)):
            yield _Change(node, f"{value} to {not value}", "value", not value)
        case ast.Constant(value=int(value)):
            yield _Change(node, f"{value} to {value + 1}", "value", value + 1)
        case ast.If() | ast.While() | ast.IfExp():
            inverted = ast.UnaryOp(ast.Not(), node.test)
            yield _Change(node, "invert the condition", "test", inverted)
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield _Change(node, "return None", "value", ast.Constant(None))
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from _without_statements(node)


def _other_operators(node: ast.AST) -> Iterator[_Change]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            other = COMPARISONS[type(op)]()
            yield _Change(node, _named(op, other), "ops", [other])
        case ast.BoolOp(op=op):
            swapped = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield _Change(node, _named(op, swapped), "op", swapped)
            yield _Change(node, "drop the last operand", "values", node.values[:-1])
        case ast.BinOp(op=operator) if type(operator) in OPERATORS and not _is_text(
            node
        ):
            changed = OPERATORS[type(operator)]()
            yield _Change(node, _named(operator, changed), "op", changed)


def _without_statements(node: ast.AST) -> Iterator[_Change]:
    """Each plain call or assignment to an attribute left out, at any depth."""
    for parent in ast.walk(node):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(parent, field, None)
            if not isinstance(body, list):
                continue
            for index, statement in enumerate(body):
                if _is_effect(statement):
                    kept = [*body[:index], ast.Pass(), *body[index + 1 :]]
                    text = f"without {ast.unparse(statement)[:60]}"
                    yield _Change(parent, text, field, kept)


def _is_effect(statement: object) -> bool:
    match statement:
        case ast.Expr(value=ast.Call() | ast.Await()):
            return not _reports(statement)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AugAssign():
            return True
        case ast.Delete():
            return True
    return False


def _reports(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.Attribute | ast.Name)
        and (part.attr if isinstance(part, ast.Attribute) else part.id) in QUIET
        for part in ast.walk(node)
    )


def _quiet_parts(tree: ast.AST) -> set[ast.AST]:
    """Nodes inside log lines, raises, asserts, annotations and enumerations."""
    quiet: set[ast.AST] = set()
    for node in ast.walk(tree):
        roots: Sequence[ast.AST | None] = []
        match node:
            case ast.Raise() | ast.Assert():
                roots = [node]
            case ast.Expr(value=ast.Call()) if _reports(node):
                roots = [node]
            case ast.AnnAssign() | ast.arg():
                roots = [node.annotation]
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                roots = [node.returns]
            case ast.ClassDef():
                roots = [*node.keywords, *_members(node)]
        for root in roots:
            quiet.update(ast.walk(root) if root is not None else ())
    return quiet


def _members(node: ast.ClassDef) -> list[ast.stmt]:
    """The members of an enumeration: their values mean nothing."""
    if any("Enum" in ast.unparse(base) for base in node.bases):
        return [part for part in node.body if isinstance(part, ast.Assign)]
    return []


def _is_none(value: ast.expr) -> bool:
    """Whether to return it is as good as to return None: callers ask `if`."""
    return isinstance(value, ast.Constant) and value.value in (None, False)


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in sides
    )


def _named(before: ast.AST, after: ast.AST) -> str:
    return f"{type(before).__name__} to {type(after).__name__}"
