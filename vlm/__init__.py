"""Vision-language models: loading, images, chat, generation, the attention-mass probe, backends."""
