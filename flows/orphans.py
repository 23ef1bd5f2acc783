"""Servers that a killed run left behind: found by the home they were started for, ended by their id."""

from __future__ import annotations

import psutil

from flows.settings import Settings

SERVERS = ("prefect.server", "prefect server", "rustac")
"""Words in the command lines of what an embedded run starts and ends itself, unless it is killed."""


def end_orphans(settings: Settings) -> int:
    """End servers of this home whose run is gone; returns how many.

    Only a process whose environment names this home's Prefect folder, and whose parent has died, is touched.
    """
    home, ended = str(settings.root / "prefect"), 0
    if any("ringmoe" in word for word in psutil.Process(1).cmdline()):
        return 0  # in a container whose first process is a run, its live servers look like orphans
    for process in psutil.process_iter(["ppid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if process.info["ppid"] != 1 or not any(word in line for word in SERVERS):
            continue
        try:
            if process.environ().get("PREFECT_HOME") == home:
                process.terminate()
                ended += 1
        except psutil.Error:
            continue  # gone already, or another user's
    return ended
