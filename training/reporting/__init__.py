"""Tools for reports, pages and plots: number formats, tables, drawings and records."""
