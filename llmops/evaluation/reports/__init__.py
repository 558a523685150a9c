"""Reports for people: a comparison or a leaderboard as an HTML page, a Markdown comment or JUnit XML.

contents.py defines a report's contents. markdown.py, junit.py and html.py each turn them into text; the shared code is
in wording.py (verdicts in words, and which rows are shown) and llmops/pages.
"""
