"""The optional packages that a training config needs. A missing one is reported, with its command, before anything loads."""

from typing import Any

from configs.errors import ConfigError, UserError
from configs.versions import extra_of, install_command, is_installed

TRACKERS = {"azure_ml": "azureml", "dagshub": "dagshub", "flyte": "flytekit", "neptune": "neptune"}
"""Import names of trackers that differ from their name under ``report_to``."""
OPTIMIZERS = {
    **{"galore": "galore_torch", "apollo": "apollo_torch", "lomo": "lomo_optim", "schedule_free": "schedulefree"},
    **{
        "grokadamw": "grokadamw",
        "stable_adamw": "optimi",
        "adamw_torch_4bit": "torchao",
        "adamw_torch_8bit": "torchao",
    },
    **dict.fromkeys(("bnb", "8bit", "paged", "lion", "ademamix"), "bitsandbytes"),
}
"""Substrings of the names of optimizers, and the module that each needs; the first match counts."""
DISTRIBUTIONS = {"azureml": "azureml-sdk", "optimi": "torch-optimi"}
"""Package names that do not follow from the module's name."""
BUILT_IN = ("kubeflow",)


def wanted_modules(args: Any, options: Any = None) -> list[tuple[str, str]]:
    """(setting, module) of the optional packages that a checked config needs.

    Args:
        args: TRL's arguments; options: this project's, of which ``lora.bits`` needs a package.

    Raises:
        ConfigError: ``report_to`` names a tracker that transformers does not know.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    wanted = [
        (bool(args.deepspeed), "deepspeed", "deepspeed"),
        (bool(getattr(args, "use_vllm", False)), "use_vllm", "vllm"),
        (bool(args.use_liger_kernel), "use_liger_kernel", "liger_kernel"),
        (bool(getattr(getattr(options, "lora", None), "bits", None)), "lora.bits", "bitsandbytes"),
    ]
    for name in args.report_to or []:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(f"'report_to' names '{name}': known are {', '.join(sorted(INTEGRATION_TO_CALLBACK))}.")
        wanted.append((name not in BUILT_IN, "report_to", TRACKERS.get(name, name)))
    optimizer = str(getattr(args.optim, "value", args.optim))
    module = next((module for part, module in OPTIMIZERS.items() if part in optimizer), None)
    wanted.append((module is not None, "optim", module or ""))
    return [(setting, module) for needed, setting, module in wanted if needed]


def needs(setting: str, module: str) -> str:
    """The message for a package that a setting needs and that is not installed."""
    extra = extra_of(module)
    command = f"pip install {DISTRIBUTIONS.get(module, module.replace('_', '-'))}"
    if extra is not None:
        command = install_command(extra)
    return f"'{setting}' needs the package {module}, which is not installed: {command}"


def missing_packages(args: Any, options: Any = None) -> list[str]:
    """One sentence for each package that a checked config needs and that is not installed."""
    return [needs(setting, module) for setting, module in wanted_modules(args, options) if not is_installed(module)]


def require_packages(args: Any, options: Any = None) -> None:
    """Refuse a config if one of its packages is not installed. The libraries would report it only after the model is loaded.

    Raises:
        UserError: a package is missing; names the first one.
    """
    for sentence in missing_packages(args, options):
        raise UserError(sentence)
