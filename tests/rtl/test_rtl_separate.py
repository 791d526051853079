"""Separate multiply-accumulate units, the baseline of ratios, against golden; and their sizes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import bench_streams as streams
import numpy as np
import pytest
from bench_batch import INDEX, Batch
from bench_expected import expect
from opennpe.golden import catalog
from opennpe.rtl import verilog
from opennpe.rtl.replay import Replayer
from opennpe.rtl.separate import Separate

pytestmark = pytest.mark.rtl

SPEC = catalog.EDGE_4X4
NAMES = SPEC.engine.mac.formats
WORDS = 10_000


@pytest.fixture(scope="module")
def text() -> str:
    return verilog.convert(Separate(SPEC.engine), verilog.TOP)


def replayer(text: str, folder: Path) -> Replayer:
    path = folder / "separate.v"
    path.write_text(text)
    return Replayer(SPEC, path)


def batch(name: str, seed: int) -> Batch:
    """At least 10,000 words of one format, rounded to it."""
    made = streams.random_sums((name, name), 2_900, 6, np.random.default_rng(seed))
    return replace(made, out=np.full(len(made), INDEX[name], dtype=made.out.dtype))


def wrong(units: Replayer, sums: Batch, underflow: str, seed: int | None) -> int:
    """Codes that are not golden's."""
    expected = expect(sums, underflow)
    given = {field.name: getattr(sums, field.name) for field in fields(Batch)}
    codes = units.run(**given, underflow=underflow, idle_seed=seed).codes
    return int(expected.wrong(codes).sum())


def test_every_format_and_changes_between_them_are_golden(text, tmp_path):
    units = replayer(text, tmp_path)
    each = [batch(name, 3 + i) for i, name in enumerate(NAMES)]
    for sums in each:
        assert len(sums.words_a) >= WORDS
        assert not wrong(units, sums, "zero", None)
        assert not wrong(units, sums, "minpos", 7)
    mixed = streams.concat(each).shuffled(np.random.default_rng(9))
    assert not wrong(units, mixed, "zero", None) and not wrong(units, mixed, "minpos", 5)


def test_a_unit_in_the_place_of_another_is_seen(tmp_path, monkeypatch):
    from opennpe.rtl import separate

    def swapped(spec, only):
        return engine(spec, only={"posit4": "fp4"}.get(only, only))

    engine = separate.Engine
    monkeypatch.setattr(separate, "Engine", swapped)
    text = verilog.convert(Separate(SPEC.engine), verilog.TOP)
    assert wrong(replayer(text, tmp_path), batch("posit4", 1), "zero", None)
