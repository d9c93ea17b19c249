"""report.html: a finished run as one page of HTML that needs nothing else."""

from __future__ import annotations

from ftadvise.rendering.report_page.page import MARK, report_page, write_report_page

__all__ = ["MARK", "report_page", "write_report_page"]
