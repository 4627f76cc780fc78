"""Notebooks executed with parameters by papermill, and made into one HTML file that loads nothing.

`make_report` is the way from a run to its report; `execute` does the same for any notebook. Papermill only
warns of a parameter it does not know; here that is refused, with the nearest name. A notebook that fails is
still written, both as .ipynb and as HTML with a link to the cell that broke.
"""

from perfkit.report.html import render, render_again
from perfkit.report.making import execute, make_comparison_report, make_report, make_report_of_several
from perfkit.report.parameters import Parameter, check_parameters, notebook_path, parameters_of

__all__ = [
    "Parameter",
    "check_parameters",
    "execute",
    "make_comparison_report",
    "make_report",
    "make_report_of_several",
    "notebook_path",
    "parameters_of",
    "render",
    "render_again",
]
