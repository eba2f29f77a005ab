"""Optional dependencies: which extra of this package installs a module, and for what."""

from importlib.util import find_spec

from pipeline.errors import InputError

# The modules that each extra installs, as pyproject.toml declares it, and what needs them.
_EXTRAS = {
    "engine": ("models and checkpoints", ("safetensors", "tokenizers", "torch", "transformers")),
    "flows": (
        "flows and a Prefect server (`analyze --serial` needs neither)",
        ("fastapi", "httpx", "prefect", "ray", "sqlalchemy", "starlette", "uvicorn"),
    ),
    "s3": ("places on S3", ("botocore", "s3fs")),
    "hub": ("runs on the Hugging Face Hub", ("huggingface_hub", "httpx2")),
    "adapters": ("LoRA adapters", ("peft",)),
    "parquet": ("Parquet, Arrow and .zst files", ("pyarrow",)),
    "dask": ("Dask clusters", ("distributed",)),
    "figures": ("figures for papers", ("matplotlib",)),
    "netcdf": ("netCDF files", ("h5netcdf", "h5py")),
    "pools": (
        "work pools of this kind",
        ("prefect_docker", "prefect_kubernetes", "prefect_slurm"),
    ),
}
_EXTRA_OF = {module: extra for extra, (_, modules) in _EXTRAS.items() for module in modules}


def require(*modules: str) -> None:
    """Raise InputError, with the extra to install, for the first of the modules that is absent."""
    for module in modules:
        if find_spec(module) is None:
            raise InputError(_sentence(module))


def missing_package(error: ImportError) -> str:
    """Return a sentence about a package of an extra that is not installed; "" for other errors."""
    module = (error.name or "").partition(".")[0]
    absent = isinstance(error, ModuleNotFoundError) and module in _EXTRA_OF
    return _sentence(module) if absent else ""


def _sentence(module: str) -> str:
    extra = _EXTRA_OF[module]
    return (
        f"{_EXTRAS[extra][0]} need the package {module}, which is not installed: "
        f"pip install 'ontogeny[{extra}]'"
    )
