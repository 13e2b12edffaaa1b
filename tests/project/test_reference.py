"""The pages that follow from the code are those of the code, and say something of everything."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from hpo_core.selection.early_stopping import RULES
from hpo_core.strategies.make import STRATEGIES
from hpo_core.study.callbacks import CALLBACKS
from hpo_core.study.spec import StudySpec
from hpo_flows.cli.app import app
from mkdocs_reference import commands, python, study_file
from mkdocs_reference.glossary import linked, terms
from mkdocs_reference.pages import ROOT, pages


def test_the_pages_are_up_to_date() -> None:
    old = [name for name, text in pages() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert old == [], "renew them by `make reference`, and look at what changes"


def test_words_of_the_glossary_are_linked_where_a_page_first_uses_them() -> None:
    """That pages are up to date says it of every page; here of what the links are made by."""
    assert {"incumbent", "rung", "fidelity", "lease", "claim", "acquisition"} <= set(terms())
    text = "# Rungs\n\n`rung` and [a rung](x.md), two fidelities on one rung.\n\n    rung\n"
    once = linked(text, "docs/how-to/x.md")
    assert once.count("(../reference/glossary.md#") == 2
    assert "on one [rung](../reference/glossary.md#rung)" in once and "two [fidelities](" in once
    assert linked(once, "docs/how-to/x.md") == once


def test_every_key_and_setting_is_described() -> None:
    page = study_file.page()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert set(StudySpec.model_fields) <= rows
    assert {"trials", "eta", "top", "low", "choices", "acquisition", "gamma", "outer", "patience"} <= rows
    assert all(f"### `{name}`" in page for name in (*STRATEGIES, *RULES, "float", "fixed", "schedule: cosine"))
    assert all(f"`{name}`" in page for name in CALLBACKS)
    assert "| `gamma` | number, > 0, ≤ 1 | `0.1` | The share of trials that counts as good. |" in page


def test_every_key_of_a_section_is_in_its_table() -> None:
    for path, model in study_file._sections(StudySpec):
        assert [row[0] for row in study_file._rows(model)] == [f"`{name}`" for name in model.model_fields], path


def test_every_command_and_option_is_described() -> None:
    page = commands.page()
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"## `hpo {command.name or command.callback.__name__}`" in page
    assert "| `--set KEY=VALUE` |  | Override a key: stop.minutes=5. May be repeated. |" in page
    assert "| `--verbose`, `-v` |" in page and "| `--port N` | `5000` |" in page
    assert all(f"### `{name}`" in page for name in ("up", "backup", "restore", "gc", "team"))


def test_every_public_name_is_described() -> None:
    page = python.page()
    for module in python.MODULES:
        assert f"## `{module}`" in page
        assert all(f"### `{name}`" in page for name in python.public(module)), module
    assert "#### `TrialContext.split`" in page and "| `best_config` |" in page and "finish_best" not in page


def test_what_has_no_description_is_an_error() -> None:
    class Section(BaseModel):
        silent: int = 0

    with pytest.raises(ValueError, match=r"Section\.silent has no description"):
        list(study_file._rows(Section))
