"""Packaging of Reflection-V. Tool settings (ruff, mypy, pytest) are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = ["vlm", "reward", "data_construction", "train", "eval", "demo", "reflection_v", "configs"]

# Libraries whose private parts the project overrides, or whose forwards it hooks, stay below the next minor release: a later
# one is installed by "make test-newest", and the bound is raised when its tests pass. requirements/README.md says how.
TRANSFORMERS = ">=5.23,<5.25"
DEEPSPEED = "deepspeed>=0.18,<0.20"

CORE = [
    "torch>=2.13,<2.15",
    "torchvision>=0.28,<0.30",  # of the same release as torch; transformers 5 and qwen-vl-utils import it
    f"transformers{TRANSFORMERS}",
    "trl>=1.16,<1.17",
    "accelerate>=1.10",
    "datasets>=4.7",
    "peft>=0.18,<0.22",
    "qwen-vl-utils>=0.0.14",
    "pillow>=11",
    "numpy>=2.0",
    "scipy>=1.13",
    "math-verify>=0.9",
    "openai>=2.0,<4",  # its body is written here, and handed to post()
    "pydantic>=2.11",
    "pyyaml>=6.0.1",
    "jinja2>=3.1.6",
    "typer>=0.29",
    "rich>=14.0",
    "matplotlib>=3.10",
    "scikit-learn>=1.7",
    "datasketch>=1.6",
]

EXTRAS = {
    "gpu": [DEEPSPEED, "wandb>=0.22", "tensorboard>=2.20"],
    "demo": ["gradio>=6.24,<6.32"],
    "qlora": ["bitsandbytes>=0.50"],  # a download of 43 MB, only for lora: {bits: 4}
    "serve": [f"transformers[serving]{TRANSFORMERS}"],
    # trl 1.16 supports 0.22 to 0.31, and of these 0.30 alone takes transformers 5.23 and 5.24. It brings a torch of its own.
    "vllm": ["vllm>=0.30,<0.31"],
    "bench": ["lmms-eval>=0.5"],
    "dev": [
        "ruff>=0.14",
        "mypy>=1.18",
        "types-PyYAML>=6.0",
        "pytest>=8.4",
        "pytest-xdist>=3.8",
        "hypothesis>=6.140",
        f"transformers[serving]{TRANSFORMERS}",  # tests/data_construction/test_served.py starts its server
        DEEPSPEED,  # the launcher tests run it on two CPU ranks
        "wandb>=0.22",  # offline, in the logging tests
        "tensorboard>=2.20",
        "playwright>=1.50",  # drives the system's chromium in tests/browser; its own browsers are not downloaded
        "build>=1.3",
        "uv>=0.9",  # make lock, test-newest and test-lowest resolve with it
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
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
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
