"""The study as something to look at: plots, one self-contained page, pictures. All made from the history alone."""

from flows.study_report.publish import Publisher, write_report

__all__ = ["Publisher", "write_report"]
