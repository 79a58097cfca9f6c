"""In place of the vision towers that transformers takes from the package timm, which need not be installed: one convolution."""

from typing import Any

import torch
import transformers
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class TowerConfig(transformers.Gemma3nVisionConfig):
    """A kind of Gemma 3n's own vision config, because its model takes no other.

    Attributes:
        patch_size: pixels of a patch's side.
        as_map: whether the features are a map (channels, rows, columns), or a list of tokens.
    """

    model_type = "tiny_tower"
    hidden_size: int = 16
    patch_size: int = 4
    as_map: bool = True


class Tower(PreTrainedModel):
    config_class = TowerConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        self.patches = torch.nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        features = self.patches(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=features if self.config.as_map else features.flatten(2).mT)


AutoModel.register(TowerConfig, Tower)
