"""Starts Prefect's temporary server: as early as possible, so that it comes up while everything else is loaded.

Nothing here imports prefect, which would take longer than to start the process.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

from hpo_flows.base.stopping import ENDINGS

NAMES = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE")
"""The variables that may name a server, or forbid a temporary one."""

SETTINGS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""What Prefect sets for the temporary servers that it starts itself."""

END_SECONDS = 1.0
"""How long the server may take to end by itself; all that it knows is in its database by then."""


UVICORN = """
import os, signal, sys, threading, time

def watch():
    os.read(0, 1)  # returns once the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os._exit(1)

threading.Thread(target=watch, daemon=True).start()
import uvicorn
uvicorn.main(sys.argv[1:])
"""
"""What the server's process runs. It ends with the process that started it, also if that is killed: nobody else would
end it, and each holds 250 MB."""


class TemporaryServer:
    """A Prefect server without a UI, which lives as long as this process and may not respond yet."""

    def __init__(self) -> None:
        package = find_spec("prefect")
        assert package is not None and package.origin is not None
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        command = ["--app-dir", str(Path(package.origin).parents[1]), "--factory"]
        command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--log-level", "error", "--lifespan", "on"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", UVICORN, *command], env=os.environ | SETTINGS, stdin=subprocess.PIPE
        )
        ENDINGS.append(self.process.kill)
        atexit.register(self.end)

    @property
    def api_url(self) -> str:
        """The address that clients use."""
        return f"http://127.0.0.1:{self.port}/api"

    def end(self) -> None:
        """End the process, by force if it does not end soon."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


_server: TemporaryServer | None = None

_starting = threading.Lock()
"""Held while the server is started: studies in several threads share one, and two would set up one database at once."""


def temporary_server() -> TemporaryServer:
    """The temporary server of this process, which is started if it is not running.

    Raises:
        OSError: No further process can be started.
    """
    global _server
    with _starting:
        if _server is None or _server.process.poll() is not None:
            _server = TemporaryServer()
        return _server


def start_early() -> None:
    """Start the temporary server if certainly no other is named: neither in the environment nor in a settings file.

    In doubt nothing is started; Prefect's own settings decide later.
    """
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    files = (home / "profiles.toml", Path("prefect.toml"), Path("pyproject.toml"), Path(".env"))
    if not any(name in os.environ for name in NAMES) and not any(file.exists() for file in files):
        try:
            temporary_server()
        except OSError:
            return  # tried again later, where it is told if it fails
