"""`plan --html`: a plan as one page of HTML that needs nothing else."""

from __future__ import annotations

from ftadvise.rendering.plan_page.page import MARK, plan_page, shortfall_page

__all__ = ["MARK", "plan_page", "shortfall_page"]
