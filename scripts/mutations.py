"""Small changes to a source text, each of which a good test suite should notice: what `make mutants` tries.

Operators (comparison, arithmetic, boolean, bits), conditions negated, numbers one up and one down, booleans flipped,
what is returned replaced by None, and single statements left out. Annotations, docstrings, text in f-strings,
decorators, imports and what is said in errors and warnings stay as they are.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NOT_MUTATED = (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)
_SIMPLE = (ast.Raise, ast.Continue, ast.Break, ast.Delete, ast.AugAssign)


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        source: The whole changed text.
        start, end: Lines of the statement that was changed (of a compound statement, its head), counted from 1.
        function: First and last line of the outermost function around it; None where importing the module runs it.
        before, after: Line that the change begins on, and what stands there instead.
    """

    source: str
    start: int
    end: int
    function: tuple[int, int] | None
    before: str
    after: str


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a source text that compiles to something else, in the order of the text."""
    seen, found = {ast.dump(ast.parse(source))}, []
    for node, new, statement, function in _changes(ast.parse(source)):
        changed = _spliced(source, node, new)
        try:
            meaning = ast.dump(ast.parse(changed))
        except SyntaxError:  # Where only the unchanged text can stand, as the target of a del.
            continue
        if meaning in seen:
            continue
        seen.add(meaning)
        body = getattr(statement, "body", None)
        end = max(statement.lineno, body[0].lineno - 1) if isinstance(body, list) else statement.end_lineno
        before = source.splitlines()[node.lineno - 1].strip()
        after = changed.splitlines()[node.lineno - 1].strip()
        found.append(Mutant(changed, statement.lineno, end or statement.lineno, function, before, after))
    return found


def _spliced(source: str, node: ast.AST, new: str) -> str:
    """The text with a node's own stretch of it replaced; columns in a syntax tree count bytes."""
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    first = starts[node.lineno - 1] + node.col_offset
    last = starts[node.end_lineno - 1] + node.end_col_offset
    # Kept on as many lines, so that lines of the changed text and of the tests' coverage agree.
    kept = b"\n" * source.encode()[first:last].count(b"\n")
    whole = source.encode()
    if isinstance(node, ast.expr):
        return (whole[:first] + b"(" + new.encode() + kept + b")" + whole[last:]).decode()
    return (whole[:first] + new.encode() + kept + whole[last:]).decode()


def _changes(
    node: ast.AST, statement: ast.stmt | None = None, function: tuple[int, int] | None = None
) -> Iterator[tuple[ast.AST, str, ast.stmt, tuple[int, int] | None]]:
    """(What is replaced, by what, in which statement, in which function) of a tree."""
    if isinstance(node, _NOT_MUTATED) or _speaks(node):
        if isinstance(node, ast.Raise):
            yield node, "pass", node, function
        return
    if isinstance(node, ast.stmt):
        statement = node
        yield from ((node, new, node, function) for new in _instead_of_statement(node))
    elif isinstance(node, ast.expr) and statement is not None:
        yield from ((node, new, statement, function) for new in _instead_of(node))
    condition = getattr(node, "test", None)
    if isinstance(condition, ast.expr) and statement is not None:
        yield condition, f"not ({ast.unparse(condition)})", statement, function
    for one in getattr(node, "ifs", ()):
        yield one, f"not ({ast.unparse(one)})", statement, function
    if isinstance(node, ast.FunctionDef):
        for default in [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]:
            yield from _changes(default, statement, function)
        inside = (node.lineno, node.end_lineno or node.lineno)
        for child in node.body:
            yield from _changes(child, statement, inside if function is None else function)
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "decorator_list", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _changes(child, statement, function)


def _speaks(node: ast.AST) -> bool:
    """Whether a node says something to a person: an error, a warning, a docstring."""
    if isinstance(node, ast.Raise):
        return True
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    warns = isinstance(value, ast.Call) and ast.unparse(value.func) == "warnings.warn"
    return warns or isinstance(value, ast.Constant)


def _instead_of_statement(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None"
    targets = node.targets if isinstance(node, ast.Assign) else []
    to_a_part = any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
    if isinstance(node, (ast.Expr, *_SIMPLE)) or to_a_part:
        yield "pass"
    if isinstance(node, ast.AugAssign):
        changed = copy.deepcopy(node)
        changed.op = _ARITHMETIC[type(node.op)]()
        yield ast.unparse(changed)


def _instead_of(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield str(not node.value)
        elif isinstance(node.value, int | float):
            yield from (repr(node.value + 1), repr(node.value - 1))
    elif isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[at] = _COMPARISONS[type(operator)]()
            yield ast.unparse(changed)
    elif isinstance(node, ast.BinOp):
        changed = copy.deepcopy(node)
        changed.op = _ARITHMETIC[type(node.op)]()
        yield ast.unparse(changed)
    elif isinstance(node, ast.BoolOp):
        changed = copy.deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.unparse(changed)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield ast.unparse(node.operand)
