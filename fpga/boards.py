"""Boards as data: device, clock, pins, and how large they are; pins come from amaranth-boards."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from opennpe.fpga import families
from opennpe.fpga.families import Family
from opennpe.fpga.toolchain import INSTALL
from opennpe.golden.errors import SpecError, ToolError
from opennpe.golden.serial_frames import DEFAULT_BAUD

__all__ = ["BOARDS", "LIGHTS", "Board", "Capacity", "Pin", "constraints", "get"]

LIGHTS = ("heartbeat", "error", "busy")
"""Lights of a design, the most telling first: a board may have fewer."""


@dataclass(frozen=True)
class Capacity:
    """What a device holds, in its family's own units (LUT4 or LUT6, block RAMs of its size)."""

    luts: int
    ffs: int
    brams: int
    dsps: int


@dataclass(frozen=True)
class Pin:
    """A pin of a board: the top's port that it carries, where it is, what it is told to be."""

    port: str
    site: str
    attributes: dict[str, str] = field(default_factory=dict)
    inverted: bool = False


@dataclass(frozen=True)
class Board:
    """A board.

    Attributes:
        name: as the command line calls it.
        title: as its maker calls it.
        family: a name of :data:`families.FAMILIES`.
        device: as its maker calls it, with package and speed grade.
        capacity: of the device.
        platform: module and class of amaranth-boards; "" if it does not know the board.
        clock_mhz: what the board gives.
        mhz: what a design runs at unless told otherwise.
        place: arguments of nextpnr that name the device.
        pack: arguments of the packer.
        loader: the board as openFPGALoader calls it; "" if it has no name for it.
        differential: whether the clock comes on two pins.
        baud: of the serial link unless told otherwise.
        memory_bytes: of block RAM given to main memory unless told otherwise.
    """

    name: str
    title: str
    family: str
    device: str
    capacity: Capacity
    platform: str
    clock_mhz: float
    mhz: float
    place: tuple[str, ...] = ()
    pack: tuple[str, ...] = ()
    loader: str = ""
    differential: bool = False
    baud: int = DEFAULT_BAUD
    memory_bytes: int = 65536

    @property
    def made_of(self) -> Family:
        """Its family."""
        return families.get(self.family)

    @property
    def memory_bits(self) -> int:
        """Bits of all block RAM."""
        return self.capacity.brams * self.made_of.bram_bits

    @property
    def lights(self) -> int:
        """Lights that a design can have."""
        return sum(pin.port in LIGHTS for pin in self.pins)

    @property
    def pins(self) -> tuple[Pin, ...]:
        """Clock, serial port and lights; none for a board whose pins nobody gave.

        Raises:
            ToolError: amaranth-boards is not installed.
        """
        return tuple(self._pins()) if self.platform else ()

    def _pins(self) -> Iterator[Pin]:
        module, name = self.platform.split(":")
        try:
            platform = getattr(importlib.import_module(module), name)()
        except ImportError as error:
            raise ToolError(f"amaranth-boards is missing: {INSTALL} brings it") from error
        resources = platform.resources
        yield _pin("clk_in", resources[platform.default_clk, 0])
        wires = {part.name: part for part in resources["uart", 0].ios}
        common = resources["uart", 0].attrs
        yield _pin("receive", wires["rx"], common)
        yield _pin("transmit", wires["tx"], common)
        for number, light in enumerate(LIGHTS):
            if ("led", number) in resources:
                yield _pin(light, resources["led", number])


def _pin(port: str, resource: Any, common: Any = None) -> Pin:
    """A resource of amaranth-boards as a pin; ``common`` attributes are those of its parent."""
    (ios,) = resource.ios
    attributes = {
        key: str(value)
        for key, value in {**(common or {}), **resource.attrs}.items()
        if key != "GLOBAL"
    }
    return Pin(port, ios.names[0], attributes, bool(ios.invert))


ECP5_85 = Capacity(luts=83640, ffs=83640, brams=208, dsps=156)
UP5K = Capacity(luts=5280, ffs=5280, brams=30, dsps=8)
GW1N_9 = Capacity(luts=8640, ffs=6480, brams=26, dsps=20)
XC7A100T = Capacity(luts=63400, ffs=126800, brams=135, dsps=240)
XCVU29P = Capacity(luts=1728000, ffs=3456000, brams=2688, dsps=12288)

BOARDS = {
    board.name: board
    for board in (
        Board(
            name="ulx3s",
            title="Radiona ULX3S 85F",
            family="ecp5",
            device="LFE5U-85F-6BG381C",
            capacity=ECP5_85,
            platform="amaranth_boards.ulx3s:ULX3S_85F_Platform",
            clock_mhz=25.0,
            mhz=50.0,
            place=("--85k", "--package", "CABGA381", "--speed", "6"),
            loader="ulx3s",
        ),
        Board(
            name="icebreaker",
            title="1BitSquared iCEBreaker",
            family="ice40",
            device="iCE40UP5K-SG48",
            capacity=UP5K,
            platform="amaranth_boards.icebreaker:ICEBreakerPlatform",
            clock_mhz=12.0,
            mhz=12.0,
            place=("--up5k", "--package", "sg48"),
            loader="ice40_generic",
        ),
        Board(
            name="tangnano9k",
            title="Sipeed Tang Nano 9K",
            family="gowin",
            device="GW1NR-LV9QN88PC6/I5",
            capacity=GW1N_9,
            platform="amaranth_boards.tang_nano_9k:TangNano9kPlatform",
            clock_mhz=27.0,
            mhz=27.0,
            place=("--device", "GW1NR-LV9QN88PC6/I5", "--vopt", "family=GW1N-9C"),
            pack=("-d", "GW1N-9C", "--sspi_as_gpio", "--mspi_as_gpio"),
            loader="tangnano9k",
        ),
        Board(
            name="artya7-100t",
            title="Digilent Arty A7-100T",
            family="xc7",
            device="xc7a100ticsg324-1L",
            capacity=XC7A100T,
            platform="amaranth_boards.arty_a7:ArtyA7_100Platform",
            clock_mhz=100.0,
            mhz=50.0,
            loader="arty_a7_100t",
        ),
        Board(
            name="vcu129",
            title="AMD VCU129",
            family="xcup",
            device="xcvu29p-fsga2577-2L-e",
            capacity=XCVU29P,
            platform="",
            clock_mhz=300.0,
            mhz=100.0,
            differential=True,
        ),
    )
}


def get(name: str) -> Board:
    """The board called ``name``.

    Raises:
        SpecError: there is none; the message lists those there are.
    """
    if name not in BOARDS:
        raise SpecError(f"unknown board '{name}': expected one of {', '.join(BOARDS)}")
    return BOARDS[name]


def constraints(board: Board) -> str:
    """The pins as the family's place and route reads them."""
    writers = {"ecp5": _lpf, "ice40": _pcf, "gowin": _cst, "xc7": _xdc, "xcup": _xdc}
    lines = [line for pin in board.pins for line in writers[board.family](pin)]
    return "\n".join(lines) + "\n"


def _lpf(pin: Pin) -> Iterator[str]:
    yield f'LOCATE COMP "{pin.port}" SITE "{pin.site}";'
    told = " ".join(f"{key}={value}" for key, value in pin.attributes.items())
    yield f'IOBUF PORT "{pin.port}" {told};'


def _pcf(pin: Pin) -> Iterator[str]:
    pulled = " -pullup yes" if pin.attributes.get("PULLUP") == "1" else ""
    yield f"set_io{pulled} {pin.port} {pin.site}"


def _cst(pin: Pin) -> Iterator[str]:
    yield f'IO_LOC "{pin.port}" {pin.site};'
    told = " ".join(f"{key}={value}" for key, value in pin.attributes.items())
    yield f'IO_PORT "{pin.port}" {told};'


def _xdc(pin: Pin) -> Iterator[str]:
    told = " ".join(f"{key} {value}" for key, value in pin.attributes.items())
    yield f"set_property -dict {{PACKAGE_PIN {pin.site} {told}}} [get_ports {{{pin.port}}}]"
