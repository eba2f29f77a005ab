"""The site of one run or several: static pages, one of them for each head."""
