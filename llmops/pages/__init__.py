"""Common parts of all HTML pages of the product: rendering.py (Jinja2), base.html and parts.html, page.css,
charts.html (SVG), and numbers.py. A page's templates are beside the code that prepares its values.
"""
