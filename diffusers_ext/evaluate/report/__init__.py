"""What an evaluation shows: tables, charts, galleries and HTML pages."""
