"""Evaluations as one HTML file that needs nothing else. `page.evaluation_report` makes it.

Needs the extra `report` (jinja2, matplotlib), so nothing here is imported before it is asked for.
"""
