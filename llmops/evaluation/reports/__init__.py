"""Reports that people look at: a comparison or a leaderboard as HTML page, Markdown comment or JUnit XML.

contents.py says what a report is made of. markdown.py, junit.py, html.py and leaderboard.py each turn that into text;
what they share is in wording.py (verdicts in words), row_selection.py and llmops/pages.
"""
