"""perfkit: drive load exactly, keep every request as a row, judge runs honestly."""

__version__ = "0.1.0"
