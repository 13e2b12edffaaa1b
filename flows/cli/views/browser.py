"""Opens an address in a browser."""

from __future__ import annotations

import webbrowser

import typer


def show(address: str) -> None:
    """Open an address, or say that no browser could be started."""
    if not webbrowser.open(address):
        typer.echo("no browser could be started", err=True)
