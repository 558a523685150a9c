"""Reports for people: a comparison or a leaderboard as an HTML page, a Markdown comment or JUnit XML.

contents.py defines a report's contents. markdown.py, junit.py, html.py and leaderboard.py each turn them into text; the
shared code is in wording.py (verdicts in words), row_selection.py and llmops/pages.
"""
