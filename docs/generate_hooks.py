"""Write docs/hooks.md from zoo/plugin/hookspecs.py and hookspecs_of_use.py: python docs/generate_hooks.py.

The source is read, not imported; a test asserts that the committed page is what this writes.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import dedent, indent

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = tuple(ROOT / "zoo" / "plugin" / name for name in ("hookspecs.py", "hookspecs_of_use.py"))
PAGE = ROOT / "docs" / "hooks.md"
EXAMPLES = ("ddpm", "gat", "gpt", "stylegan", "ia3")  # plugins that have every hook between them

HEAD = """\
# Hooks

Every hook that a plugin may implement. Written from the docstrings of `zoo/plugin/hookspecs.py` and
`hookspecs_of_use.py` by `docs/generate_hooks.py`: change those, not this page. [plugins.md](plugins.md) shows the hooks
at work and says how the contract [evolves](plugins.md#how-the-contract-evolves). The examples are functions as a table
names them; in the plugin's own module they are decorated with `@zoo.hookimpl`.
"""


@dataclass(frozen=True)
class Hook:
    """One function of the contract, as its source has it.

    Attributes:
        name: the hook's.
        arguments: (name, type) of each.
        returns: the type of its result.
        summary: the first line of its docstring; text: what follows.
        example: the lines of an implementation's body.
    """

    name: str
    arguments: tuple[tuple[str, str], ...]
    returns: str
    summary: str
    text: str
    example: str

    @property
    def signature(self) -> str:
        """The hook with the types of its arguments and its result."""
        written = ", ".join(f"{name}: {kind}" for name, kind in self.arguments)
        return f"{self.name}({written}) -> {self.returns}"

    def implementation(self) -> str:
        """Return the example as a whole function, which takes all arguments that the hook has."""
        names = ", ".join(name for name, _ in self.arguments)
        return f"def {self.name}({names}):\n{indent(self.example, '    ')}\n"


def contract(paths: Sequence[Path] = CONTRACT) -> tuple[str, list[Hook]]:
    """Return the contract's introduction (Markdown, without its first line) and its hooks, in their order."""
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    nodes = [node for module in modules for node in module.body]
    hooks = [_hook(node) for node in nodes if isinstance(node, ast.FunctionDef) and _is_hook(node)]
    introduction = (ast.get_docstring(modules[0]) or "").partition("\n\n")[2]
    return introduction, hooks


def page() -> str:
    """Return the text of docs/hooks.md."""
    introduction, hooks = contract()
    answers = {hook.name: _implementers(hook.name) for hook in hooks}
    rows = "\n".join(f"| [`{hook.name}`](#{hook.name}) | {_code(hook.summary).rstrip('.')} |" for hook in hooks)
    parts = [HEAD, _markdown(introduction), f"| hook | what it does |\n|---|---|\n{rows}\n"]
    for hook in hooks:
        seen = answers[hook.name]
        parts.append(
            f"## {hook.name}\n\n{_code(hook.summary)}\n\n```py\n{hook.signature}\n```\n\n{hook.text}\n\n"
            f"```py\n{hook.implementation()}```\n" + (f"\nSee it in {', '.join(seen)}.\n" if seen else "")
        )
    return "\n".join(parts)


def _is_hook(node: ast.FunctionDef) -> bool:
    return any("hookspec" in ast.unparse(decorator) for decorator in node.decorator_list)


def _hook(node: ast.FunctionDef) -> Hook:
    arguments = tuple((one.arg, ast.unparse(one.annotation) if one.annotation else "Any") for one in node.args.args)
    told, _, example = (ast.get_docstring(node) or "").partition("::\n\n")
    summary, _, text = told.partition("\n\n")
    if not (summary and text and example and node.returns):
        raise SystemExit(f"{CONTRACT[0].name}: {node.name} lacks a summary, a text, an example after '::', or a result")
    return Hook(node.name, arguments, ast.unparse(node.returns), summary, _code(text) + ":", dedent(example).rstrip())


def _markdown(text: str) -> str:
    """Return Markdown for reStructuredText as the introduction uses it: literals, and indented blocks after `::`."""
    made = []
    for indented, paragraphs in groupby(text.split("\n\n"), key=lambda paragraph: paragraph.startswith("    ")):
        joined = "\n\n".join(paragraphs)
        made.append(f"```\n{dedent(joined)}\n```" if indented else _code(joined.removesuffix(":")))
    return "\n\n".join(made) + "\n"


def _code(text: str) -> str:
    return inspect.cleandoc(text).replace("``", "`")


def _implementers(hook: str) -> list[str]:
    """Return links to the implementations of a hook in `EXAMPLES`: a new plugin must not change the page."""
    packages = [ROOT / "plugins" / name / f"zoo_{name}" for name in EXAMPLES]
    found = {package: _table(package / "__init__.py") for package in packages}
    files = [package / f"{rows[hook]}.py" for package, rows in found.items() if hook in rows]
    return [f"[{path.parent.name[4:]}](../{path.relative_to(ROOT).as_posix()})" for path in files]


def _table(path: Path) -> dict[str, str]:
    """Return hook → module of the table in a plugin's module."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    rows = [row for call in calls if ast.unparse(call.func) == "zoo.hooks" for row in call.keywords]
    return {str(row.arg): ast.literal_eval(row.value).partition(":")[0].strip(".") for row in rows}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
