"""The identity of a model: a fingerprint of its files' content, whatever their folder is called."""

from pathlib import Path

from configs.identity import content_digest
from configs.paths import user_path

MODEL_FILES = (
    *(
        "*.safetensors",
        "*.bin",
        "*.pt",
        "*.pth",
        "*.index.json",
        "*config*.json",
        "*token*.json",
        "vocab*",
        "merges.txt",
    ),
    *("*.model", "*.tiktoken", "chat_template*", "*.jinja"),
)
NOT_MODEL = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "training_args*")
"""Files of a checkpoint that only training needs."""
SCHEME = "blocks:"
"""Prefix of a model's fingerprint, since earlier versions computed it differently (``configs.identity.fingerprint``)."""


def model_identity(name: str | Path) -> str | None:
    """The fingerprint of the files of a bundled model or a local folder; None for a hub name or a served model.

    A model that was trained further in place has another one; a folder that was moved or copied has the same.

    Raises:
        UserError: a bundled model whose folder is not there.
    """
    folder = model_folder(name)
    return None if folder is None else SCHEME + content_digest(folder, _model_files(folder))


def model_folder(name: str | Path) -> Path | None:
    """The folder of a bundled or local model; None for a hub name or a served model. Errors as ``model_identity``."""
    from vlm.load import BUNDLED, bundled_model

    # A folder named "tiny" wins over the bundled model, as it does when the model is loaded.
    folder = user_path(name)
    if folder.is_dir():
        return folder
    return bundled_model(str(name)) if str(name) in BUNDLED else None


def _model_files(folder: Path) -> list[Path]:
    files = {file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    return sorted(file for file in files if not any(file.match(pattern) for pattern in NOT_MODEL))
