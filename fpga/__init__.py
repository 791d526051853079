"""Synthesis: area, timing and power from our own gates, boards and bitstreams."""
