"""Show an evaluation in tables, charts, galleries and HTML pages."""
