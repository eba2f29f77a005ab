"""Figures for papers, drawn by matplotlib: PDF, SVG and PNG in the sizes of columns."""
