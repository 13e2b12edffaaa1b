"""Writes ``python.md``: every public name of the packages that users import, read from the source.

Nothing is imported, since some of these modules load TensorFlow.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mkdocs_reference.text import Row, cell, prose, section, summary, table

ROOT = Path(__file__).parents[1]

INTRODUCTION = """# Python

What may be imported, and from where; other modules may change without notice. `run_study` returns a `StudyResult`,
and `load_study` gives the same for a study that ran elsewhere. `open_study` gives an `AskedStudy`, for [loops of your
own](../how-to/ask-and-tell.md). Results show themselves as a card in a notebook, and as six
lines where they are printed:

```python
from hpo_flows import load_study

result = load_study("digits")  # in MLFLOW_TRACKING_URI, or at the address that is given as well
print(result)
```"""

BOOSTING = "[Boosting](../how-to/boosting.md) tells how it is used."
TORCH = "[PyTorch, Lightning, Transformers](../how-to/torch.md) tells how it is used."

MODULES = {
    "hpo_flows": "",
    "hpo_flows.sklearn": "",
    "hpo_flows.keras": "[Keras](../how-to/keras.md) tells how they are used.",
    "hpo_flows.objectives.metrics": "",
    **dict.fromkeys(("hpo_flows.xgboost", "hpo_flows.lightgbm", "hpo_flows.catboost"), BOOSTING),
    **dict.fromkeys(("hpo_flows.torch", "hpo_flows.lightning", "hpo_flows.transformers"), TORCH),
    "hpo_flows.hypergradient": "[Gradients](../how-to/gradient.md) tells how they are used.",
    "hpo_flows.hypergradient.closed_form": "Needs no TensorFlow.",
}
PARAMETERS = {"Boolean", "Choice", "Fixed", "Float", "Int", "Ordinal"}
"""Whose fields are keys of the study file."""

INTERNAL = {
    "check_hypergradient",
    "end_if_stopped",
    "finish_best",
    "finish_checkpoint",
    "for_champion",
    "reserve",
    "use",
}
"""What the worker and the command line call."""

Definition = ast.FunctionDef | ast.ClassDef


def page() -> str:
    """The whole page in Markdown."""
    parts = [INTRODUCTION]
    for module, note in MODULES.items():
        parts += [f"## `{module}`", note]
        for name in public(module):
            parts += _entry(name, *found(module, name))
    return "\n\n".join(part for part in parts if part) + "\n"


@cache
def tree(module: str) -> ast.Module:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def public(module: str) -> list[str]:
    """The names of ``__all__``, or else the functions and classes that are defined here."""
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return [node.name for node in tree(module).body if isinstance(node, Definition) and node.name[0] != "_"]


def found(module: str, name: str) -> tuple[str, Definition]:
    """Where a name is defined, by following imports; also those for the type checker alone."""
    for node in ast.walk(tree(module)):
        if isinstance(node, Definition) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and any(each.name == name for each in node.names):
            return found(node.module, name)
    raise LookupError(f"{module} has no {name}")


def _entry(name: str, module: str, node: Definition) -> Iterator[str]:
    doc = ast.get_docstring(node)
    if not doc and not isinstance(node, ast.ClassDef):
        raise ValueError(f"{module}.{name} has no docstring")
    yield f"### `{name}`"
    if name in PARAMETERS:
        yield f"{summary(doc)} Its arguments are the keys of [`{name.lower()}`](study-file.md#{name.lower()})."
        return
    yield summary(doc)
    if known := [each.id for each in _bases(node) if each.id in public_names()]:
        yield f"Has all that [`{known[0]}`](#{known[0].lower()}) has."
    if isinstance(node, ast.FunctionDef):
        yield from _call(node, doc)
        return
    members = {each.name: each for each in _members(module, node)}
    constructor = members.pop("__init__", None)
    described = section(doc, "Args")
    if constructor is not None and described:
        yield _arguments(constructor, described)
    elif described:
        yield table(["argument", "meaning"], [(f"`{each}`", cell(text)) for each, text in described.items()])
    values = [*_attributes(module, node), *_properties(members)]
    if values:
        yield table(["attribute", "meaning"], [(f"`{each}`", cell(text)) for each, text in values])
    for each in members.values():
        if not _is_property(each):
            yield f"#### `{name}.{each.name}`"
            yield summary(ast.get_docstring(each))
            yield from _call(each, ast.get_docstring(each))


def _attributes(module: str, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """The entries of ``Attributes:``; inherited ones first."""
    for base in _described_here(module, node):
        yield from _attributes(*base)
    yield from section(ast.get_docstring(node), "Attributes").items()


def _described_here(module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
    """The bases of this project that have no entry of their own."""
    for base in _bases(node):
        try:
            home, definition = found(module, base.id)
        except (LookupError, FileNotFoundError):
            continue  # of another package
        if base.id not in public_names() and isinstance(definition, ast.ClassDef):
            yield home, definition


def _members(module: str, node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Public methods and properties with a docstring, and the constructor; inherited ones first."""
    for base in _described_here(module, node):
        yield from _members(*base)
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and (
            each.name == "__init__" or (each.name[0] != "_" and ast.get_docstring(each) and each.name not in INTERNAL)
        ):
            yield each


def _bases(node: Definition) -> list[ast.Name]:
    return [each for each in getattr(node, "bases", ()) if isinstance(each, ast.Name)]


@cache
def public_names() -> frozenset[str]:
    return frozenset(name for module in MODULES for name in public(module))


def _is_property(node: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(each) for each in node.decorator_list)


def _properties(members: dict[str, ast.FunctionDef]) -> Iterator[tuple[str, str]]:
    for each in members.values():
        if _is_property(each):
            yield each.name, " ".join(summary(ast.get_docstring(each)).split())


def _call(node: ast.FunctionDef, doc: str | None) -> Iterator[str]:
    yield _arguments(node, section(doc, "Args"))
    if returns := prose(doc, "Returns"):
        yield f"Returns: {cell(returns)}"
    if raises := section(doc, "Raises"):
        yield "Raises: " + "; ".join(f"`{error}`: {cell(text).rstrip('.')}" for error, text in raises.items()) + "."


def _arguments(node: ast.FunctionDef, meanings: dict[str, str]) -> str:
    given = node.args
    ordered = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(ordered) - len(given.defaults)) + list(given.defaults)
    pairs = [*zip(ordered, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    rows: list[Row] = []
    for argument, default in pairs:
        if argument.arg not in ("self", "cls"):
            shown = "*required*" if default is None else f"`{ast.unparse(default)}`"
            rows.append((f"`{argument.arg}`", _type(argument), shown, cell(meanings.get(argument.arg, ""))))
    if given.kwarg:
        rows.append((f"`**{given.kwarg.arg}`", "", "", cell(meanings.get(given.kwarg.arg, ""))))
    return table(["argument", "type", "default", "meaning"], rows) if rows else ""


def _type(argument: ast.arg) -> str:
    return "" if argument.annotation is None else f"`{ast.unparse(argument.annotation)}`".replace("|", "\\|")
