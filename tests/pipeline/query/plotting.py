"""Print the labels of two plots of stores that xarray opens, which this script imports alone.

python plotting.py STORE_WITH_HEAD_SCORES STORE_WITH_LOSSES
"""

import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import xarray as xr

if __name__ == "__main__":
    tree = xr.open_datatree(sys.argv[1])
    (line,) = tree["head_scores"]["induction"].isel(layer=0, head=1).plot()
    print(line.axes.get_xlabel(), line.axes.get_ylabel(), sep="; ")

    plt.figure()
    image = xr.open_datatree(sys.argv[2])["losses"]["loss"].isel(step=0).plot()
    print(image.colorbar.ax.get_ylabel(), image.axes.get_title(), sep="; ")
