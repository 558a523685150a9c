"""Show: the HTML report and Evidently's dashboard over time."""
