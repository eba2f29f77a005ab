"""The metadata of the Zarr groups around a store's arrays."""

# The root, for those who open it with Zarr alone. A group has the same, without attributes, in
# published/ and in each generation there.
GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
ROOT = {
    **GROUP,
    "attributes": {
        "about": "A store of Ontogeny. Its numbers are plain Zarr arrays along the training steps "
        "in published/<generation>/<measure>.<id>. The newest object in versions/ (the first by "
        "name) names the current one of each measure. Where Ontogeny is installed, "
        "xarray.open_datatree opens all; `ontogeny store export` copies all into one hierarchy."
    },
}
