"""Kernels for instruction sets this machine may lack compile to the instructions meant.

Running them is for the machines that have them (``test_sim_products.py`` runs all there are).
"""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest
from llvmlite import ir
from opennpe.sim import cpu, microkernel

pytestmark = pytest.mark.fast

PROCESSORS = {"avx512vnni": "icelake-server", "avx512": "skylake-avx512", "avx2": "haswell"}
INSTRUCTIONS = {
    ("avx512vnni", "u8"): "vpdpbusd",
    ("avx512vnni", "i16"): "vpdpwssd",
    ("avx512", "u8"): "vpmaddubsw",
    ("avx2", "u8"): "vpmaddubsw",
}


@pytest.mark.skipif("x86_64" not in llvm.get_default_triple(), reason="not an x86 machine")
@pytest.mark.parametrize("kind", microkernel.KINDS.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("isa", [i for i in cpu.ISAS if i.name in PROCESSORS], ids=lambda i: i.name)
def test_the_dot_product_is_one_instruction(isa: cpu.Isa, kind: microkernel.Kind) -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = ir.Module()
    module.triple = llvm.get_default_triple()
    microkernel._Builder(kind, isa).function(module).linkage = "external"
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=PROCESSORS[isa.name], opt=3
    )
    lines = machine.emit_assembly(parsed).splitlines()
    usual = "vfmadd" if kind.name == "f64" else "vpmaddwd"
    wanted = INSTRUCTIONS.get((isa.name, kind.name), usual)
    register = "zmm" if isa.vector_bits == 512 else "ymm"
    found = [line for line in lines if wanted in line and register in line]
    assert len(found) == isa.rows * microkernel.VECTORS
