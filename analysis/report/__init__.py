"""Reports: run the analyses, collect findings, render them as a page that stands alone."""

from analysis.report.page import write_report
from analysis.report.sweep import write_sweep_report

__all__ = ["write_report", "write_sweep_report"]
