"""The optional compiled core (docs/performance.md). Everything else about the package is in pyproject.toml.

``optional`` lets an installation without a compiler go on without it: then the Python gaits do all the work.
"""

from setuptools import Extension, setup

SOURCES = (
    "capsules", "device", "doorbells", "inflight", "interrupts", "lane", "latency", "lock", "memory", "module", "pair",
    "request", "state",
)  # fmt: skip

setup(
    ext_modules=[
        Extension(
            "nvme_emu._core._native",
            sources=[f"nvme_emu/_core/{name}.c" for name in SOURCES],
            depends=["nvme_emu/_core/native.h", "nvme_emu/_core/pair.h"],
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
