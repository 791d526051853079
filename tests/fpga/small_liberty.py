"""A library of four cells whose numbers are easy to foretell."""

from __future__ import annotations

__all__ = ["SMALL"]


def _table(word: str, values: str, template: str = "grid") -> str:
    return f"        {word} ({template}) {{ values ({values}); }}\n"


def _timing(pin: str, sense: str, kind: str = "") -> str:
    delay, slew = '"20, 60", "30, 70"', '"10, 50", "10, 50"'
    text = f'      timing () {{ related_pin : "{pin}"; timing_sense : {sense};{kind}\n'
    for edge in ("rise", "fall"):
        text += _table(f"cell_{edge}", delay) + _table(f"{edge}_transition", slew)
    return text + "      }\n"


def _power(pin: str) -> str:
    energy = '"4, 8", "4, 8"'
    text = f'      internal_power () {{ related_pin : "{pin}";\n'
    return text + _table("rise_power", energy) + _table("fall_power", energy) + "      }\n"


def _input(name: str, rest: str = "") -> str:
    return f"    pin ({name}) {{ direction : input; capacitance : 2; {rest}}}\n"


SMALL = (
    """library (small) {
  /* one line
     and another */
  time_unit : "0.001ns"; voltage_unit : "1V"; capacitive_load_unit (1, ff);
  leakage_power_unit : "1pW"; nom_voltage : 1.0; nom_temperature : 25;
  lu_table_template (grid) {
    variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;
    index_1 ("0, 100"); index_2 ("2, 10");
  }
  lu_table_template (checks) {
    variable_1 : constrained_pin_transition; variable_2 : related_pin_transition;
    index_1 ("0, 100"); index_2 ("0, 100");
  }
  operating_conditions (typical) { voltage : 1.0; }
"""
    + "  cell (INV) {\n    area : 1; cell_leakage_power : 100;\n"
    + _input("A")
    + '    pin (Y) { direction : output; function : "!A";\n'
    + _timing("A", "negative_unate")
    + "    }\n  }\n"
    + "  cell (BUF) {\n    area : 1.5; cell_leakage_power : 150;\n"
    + _input("A")
    + '    pin (Y) { direction : output; function : "A";\n'
    + _timing("A", "positive_unate")
    + "    }\n  }\n"
    + "  cell (NAND2) {\n    area : 2; cell_leakage_power : 500;\n"
    + _input("A")
    + _input("B")
    + '    pin (Y) { direction : output; function : "!(A*B)";\n'
    + _timing("A", "negative_unate")
    + _timing("B", "negative_unate")
    + _power("A")
    + "    }\n  }\n"
    + "  cell (DFF) {\n    area : 8; cell_leakage_power : 900;\n"
    + '    ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }\n'
    + _input("CK", "clock : true;")
    + _input(
        "D",
        'timing () { related_pin : "CK"; timing_type : setup_rising; '
        'rise_constraint (checks) { values ("30, 30", "30, 30"); } }',
    )
    + '    pin (Q) { direction : output; function : "IQ";\n'
    + _timing("CK", "non_unate", " timing_type : rising_edge;")
    + "    }\n  }\n}\n"
)
"""Delay 10 ps + slew / 10 + 5 ps a fF; slew 5 ps a fF; input pins of 2 fF; setup 30 ps."""
