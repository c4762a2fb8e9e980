"""The page of a report: one HTML file with its tables, plots and every sample, which opens from disk without a network.

`build.py` writes it. `page.js` and `page.css` are built from `tools/build_page/`.
"""
