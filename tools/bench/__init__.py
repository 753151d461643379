"""The benchmark behind tools/bench.py: rows, references, sweeps and how they are shown."""

__all__ = ["cli", "fio", "limits", "measure", "ours", "processes", "report", "rows", "sweep"]
