"""Packaging of Reflection-V. Tool settings (ruff, mypy, pytest) are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ["vlm", "reward", "data_construction", "train", "eval", "demo", "reflection_v", "configs"]

CORE = [
    "torch>=2.8",
    "torchvision>=0.23",  # transformers 5 and qwen-vl-utils import it
    "transformers>=5.23",
    "trl>=1.16",
    "accelerate>=1.10",
    "datasets>=4.0",
    "peft>=0.17",
    "qwen-vl-utils>=0.0.14",
    "pillow>=11",
    "numpy>=2.0",
    "scipy>=1.13",
    "math-verify>=0.9",
    "openai>=2.0",
    "pydantic>=2.11",
    "pyyaml>=6.0",
    "jinja2>=3.1",
    "typer>=0.29",
    "rich>=14.0",
    "matplotlib>=3.10",
    "scikit-learn>=1.7",
    "datasketch>=1.6",
]

EXTRAS = {
    "gpu": ["deepspeed>=0.18", "wandb>=0.22", "tensorboard>=2.20"],
    "demo": ["gradio>=6.0"],
    "serve": ["transformers[serving]>=5.23"],
    "vllm": ["vllm>=0.22.0,<=0.31.0"],  # what trl 1.16 supports
    "bench": ["lmms-eval>=0.5"],
    "dev": [
        "ruff>=0.14",
        "mypy>=1.18",
        "types-PyYAML>=6.0",
        "pytest>=8.4",
        "pytest-xdist>=3.8",
        "hypothesis>=6.140",
        "transformers[serving]>=5.23",  # tests/data_construction/test_served.py starts its server
        "deepspeed>=0.18",  # the launcher tests run it on two CPU ranks
        "wandb>=0.22",  # offline, in the logging tests
        "tensorboard>=2.20",
        "playwright>=1.50",  # drives the system's chromium in tests/browser; its own browsers are not downloaded
        "build>=1.3",
        "setuptools>=77",  # tests/test_wheel.py builds without isolation, so without a download
    ],
}

setup(
    name="reflection-v",
    version="0.1.0",
    description="Train vision-language models to look again: reflection traces from an agent loop, SFT, and GRPO with "
    "a visual-attention reward.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")]),
    # Folders without __init__.py (configs, prompts, templates, bundled models) are data of the package above them.
    package_data={
        "": [f"**/*.{ending}" for ending in ("yaml", "json", "jinja", "html", "css", "js", "txt")],
        "vlm": ["models/**/*"],
        "demo": ["examples/*"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["reflection-v = reflection_v.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
