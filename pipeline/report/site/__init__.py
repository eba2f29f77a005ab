"""The site of one run or several: static pages, one of them for each head."""

from pipeline.report.site.write import write_site

__all__ = ["write_site"]
