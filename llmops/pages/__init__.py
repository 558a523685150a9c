"""What every HTML page of the product is made with: rendering.py (Jinja2), base.html and parts.html, page.css,
charts.html (SVG) with charts.py, and numbers.py. A page's templates stand beside the code that prepares its values.
"""
