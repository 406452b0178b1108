"""Results become a page and a table. Reads only what ``results.json`` holds."""
