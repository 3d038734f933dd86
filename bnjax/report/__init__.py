"""A report on recordings of trainings, in words and pictures, for a person to read.

The files: `subject` (a recording and what it is called), `finding` (what a finding is), `findings`
(all of them), `drawing` (charts), `words` (numbers in sentences), `page` (HTML), `document` (the
report as text, page and notebook cell). Pictures need matplotlib, words do not.
"""

from bnjax.report.document import Report, make_report
from bnjax.report.finding import Finding
from bnjax.report.subject import Curve, Subject

__all__ = ["Curve", "Finding", "Report", "Subject", "make_report"]
