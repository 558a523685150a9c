"""Reports that people look at: a comparison or a leaderboard as HTML page, Markdown comment or JUnit XML.

contents.py says what a report is made of. markdown.py, junit.py, html.py and leaderboard.py each turn that into text;
what they share is in wording.py (numbers and verdicts in words), row_selection.py, markup.py, charts.py and page.py.
"""
