"""The machine's versions and card, and torch's settings: figures for information, run first."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from tests.gpu.report import Report

PACKAGES = ("torch", "transformers", "numpy", "safetensors", "jaxtyping", "ray", "zarr")


def run(report: Report) -> None:
    report.figure("device", report.device)
    report.figure("python", platform.python_version())
    for package in PACKAGES:
        report.figure(package, _version(package))
    matmul = torch.backends.cuda.matmul
    report.figure("TF32 in products", torch.get_float32_matmul_precision() != "highest")
    report.figure("TF32 in convolutions", torch.backends.cudnn.allow_tf32)
    report.figure("bf16 sums reduced", str(matmul.allow_bf16_reduced_precision_reduction))
    report.figure("fp16 sums reduced", str(matmul.allow_fp16_reduced_precision_reduction))
    if report.device == "cuda":
        _card(report)


def _card(report: Report) -> None:
    if not torch.cuda.is_available():
        report.fail("no CUDA device", "torch.cuda.is_available() is false")
        return
    card = torch.cuda.get_device_properties(0)
    report.figure("card", card.name)
    report.figure("cards", torch.cuda.device_count())
    report.figure("capability", f"{card.major}.{card.minor}")
    report.figure("memory", round(card.total_memory / 2**30, 1), "GiB")
    report.figure("memory free", round(torch.cuda.mem_get_info()[0] / 2**30, 1), "GiB")
    report.figure("CUDA of torch", str(torch.version.cuda))
    report.figure("driver", _driver())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.split("\n")[0].strip()
