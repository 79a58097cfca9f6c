"""A thin subclass of TRL's ``GRPOTrainer`` with rewards for the attention of each response to its image.

What it overrides, and why:

- Rows of the data set are problem numbers. Prompts are built when they are used and encoded once, by ``vlm.chat``, so training
  and inference see the same tokens and the same pixels.
- The attention mass is recorded while transformers generates (one query row per step), or, with vLLM, in the pass that
  computes the old log-probabilities. Neither needs an additional forward.
- Rewards are computed per row, gathered, and only then combined: unjudged rows, controls and the bound of the grounding
  penalty need the whole group, of which one process may hold only a part.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor

from configs.errors import ConfigError, UserError
from reward.aggregate import KNOWN, Term, batch_rows, combine, metrics, source_of, terms_of
from reward.claim_check import ClaimChecker
from reward.rewards import Rollout
from reward.user import UserReward, is_user_reward
from train.checkpoints import EpochSampler
from train.completion_log import logged_columns, reward_sums
from train.config import GrpoOptions
from train.data import reader_of
from train.distributed import drop_empty_images
from train.finite import NUMBERS, FiniteTrainer, shortened
from train.information import information, mismatched_pairs
from train.prompts import image_token, one_token_per_image, problem_messages
from train.stand_ins import encoded_once, named_stand_in, without_image_tokens
from train.vllm_engine import arguments_added, engine_arguments, forget_image_features, read_as_trained
from train.zoom_rollout import (
    ZoomEnvironment,
    ZoomTrainer,
    check_zoom,
    image_masses,
    joined_rows,
    own_positions,
    read_own_turns,
    rollout_calls,
    zoom_stand_in,
)
from vlm.attention import AttentionMass, response_mass
from vlm.backends import make_backend
from vlm.chat import encode
from vlm.generate import image_token_ids
from vlm.images import blank, fit_image, open_image
from vlm.load import VLM
from vlm.problem import Problem
from vlm.tools import Change, tool_schemas


class VisualGRPOTrainer(FiniteTrainer, ZoomTrainer):
    """TRL's trainer on problems with images; the module's docstring lists what differs.

    Args:
        vlm: the model to train.
        problems: the problems to train on.
        options: this project's keys of the config (rewards, attention, style).
        args: TRL's arguments; ``reward_weights`` and ``generation_kwargs["suppress_tokens"]`` are set here.

    Raises:
        ConfigError: continuous batching, or vLLM without its importance correction: the mass could not be recorded.
        UserError: an attention layer that the model does not have.
    """

    def __init__(self, vlm: VLM, problems: Sequence[Problem], options: GrpoOptions, args: Any, **kwargs: Any) -> None:
        if args.use_transformers_continuous_batching:
            raise ConfigError(
                "use_transformers_continuous_batching bypasses the model's own attention, so the mass on the image cannot be "
                "recorded: remove it, or use vLLM."
            )
        if args.use_vllm and not args.vllm_importance_sampling_correction:
            raise ConfigError(
                "With vLLM the mass on the image is recorded in the pass of its importance correction: set "
                "vllm_importance_sampling_correction: true."
            )
        self.problems, self.options = list(problems), options
        self.reader, self.full_processor = reader_of(vlm), vlm.processor
        self.composition = terms_of(options.rewards)
        self.terms = list(dict.fromkeys([*KNOWN, *self.composition]))
        self._prepare_rewards()
        self.recorded: list[tuple[Tensor, Tensor]] = []
        self.by_image: list[Tensor] = []
        self.offered = tool_schemas() if options.zoom else ()
        self.change: Change | None = None
        AttentionMass(vlm.model, layers=options.attention_layers)  # raises here if a layer does not exist
        args.reward_weights = [self.composition.get(term, Term()).weight for term in self.terms]
        args.generation_kwargs = without_image_tokens(args, image_token_ids(vlm.model.config))
        self.image_token = image_token(vlm.model.config)
        drop_empty_images(vlm.model)
        stand_in = encoded_once(vlm.processor)
        if options.zoom:
            check_zoom(vlm, args)
            if (
                args.max_tool_calling_iterations is None
            ):  # as in ``vlm.zoom``: a turn for each look, one to say that none is left
                args.max_tool_calling_iterations = options.zoom.max_looks + 1
            stand_in = zoom_stand_in(stand_in, self.reader)
            make = partial(ZoomEnvironment, options.zoom, vlm.processor, lambda: self.change)
            kwargs = {**kwargs, "environment_factory": make}
        with arguments_added(engine_arguments(self.problems, vlm, args)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using 'environment_factory'", UserWarning)
            super().__init__(
                model=vlm.model,
                reward_funcs=list(map(named_stand_in, self.terms)),
                args=args,
                train_dataset=Dataset.from_dict({"index": list(range(len(self.problems)))}),
                processing_class=stand_in,
                **kwargs,
            )
        if options.zoom:  # by their schemas, as at inference: the environment's method takes the call as it was written
            self._env_tools: dict[Any, Any] = {name: list(self.offered) for name in self._env_tools}
        if self.ref_model is not None:
            drop_empty_images(self.accelerator.unwrap_model(self.ref_model))
        # TRL gathers images only from ranks whose batch has some, and waits forever for a rank whose batch is text only.
        self.shows_images, self.log_multimodal = self.log_multimodal and self.log_completions, False

    def _prepare_rewards(self) -> None:
        """Prepare what the rewards need besides the response, so that errors appear before the first step."""
        sources, options = {source_of(name) for name in self.composition}, self.options
        folder = Path(options.reward_folder or ".")
        self.own = {
            name: UserReward(name, folder, options.reward_seconds) for name in sorted(sources) if is_user_reward(name)
        }
        for reward in self.own.values():
            reward.start()
        self.mismatched = mismatched_pairs(self.problems) if "image_information" in sources else None
        self.claim_checker = ClaimChecker()
        if "process_claims" in sources:
            responder, extractor = options.responder, options.claim_extractor
            self.claim_checker = ClaimChecker(
                None if responder is None else make_backend(responder),
                None if extractor is None else make_backend(extractor, text_only=True),
            )
            if responder is None and not any(problem.facts for problem in self.problems):
                raise UserError(
                    "'process_claims' has nothing to check claims against: no problem states meta.facts. Name a responder."
                )

    model: Any  # TRL's type hints allow None
    processing_class: Any

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in TRL, with conversations as text: wandb's tables refuse a message whose parts differ in shape."""
        for name in ("prompt", "completion"):
            logged: Any = self._logs[name]
            logged.extend([conversation_text(logged.popleft()) for _ in range(len(logged))])
        super().log(logs, start_time)

    # Prompts

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        opened: dict[str, Any] = {}
        examples = [self._example(row["index"], opened) for row in inputs]
        batch = super()._generate_and_score_completions(examples)
        batch[NUMBERS] = torch.tensor([row["index"] for row in inputs])
        if self.shows_images:
            shown: Any = self._logs["images"]
            shown.extend(gather_object([example["images"] for example in examples]))
        if self.log_completions:  # TRL's own text lacks tags that are special tokens
            logged: Any = self._logs["completion"]
            for _ in range(min(len(logged), len(self.written))):
                logged.pop()
            logged.extend(self.written)
        return batch

    def _example(self, index: int, opened: dict[str, Any]) -> dict[str, Any]:
        """TRL's columns for a problem. ``opened`` caches images by path, since a group shows the same ones."""
        problem = self.problems[index]
        for path in problem.images:
            if path not in opened:
                image = open_image(path)
                opened[path] = blank(image) if self.options.blank_pictures else image
        turns = problem_messages(problem, self.options.style, self.reader)
        return {"index": index, "prompt": turns, "images": [opened[path] for path in problem.images]}

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], list[Any] | None, dict[str, Any]]:
        """As in TRL, but by ``vlm.chat.encode``: the tokens of inference, and no control token can come from user text."""
        images = [
            [part["image"] for turn in turns for part in turn["content"] if part["type"] == "image"]
            for turns in prompts
        ]
        batch = encode(self.reader, prompts, images, tools=self.offered)
        self.processing_class.encoded = batch
        mask = batch["attention_mask"].bool()
        fields = {}
        for key, value in batch.items():
            per_token = value.shape == mask.shape  # unpadded here, because TRL pads them again
            fields[key] = [row[kept].tolist() for row, kept in zip(value, mask, strict=True)] if per_token else value
        prompt_ids = fields.pop("input_ids")
        fields.pop("attention_mask")
        # None and not [] for text only: TRL's vLLM code takes the first image of every list.
        return prompt_ids, [row or None for row in images] if any(images) else None, fields

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)
        return EpochSampler(sampler, self.args.seed, lambda: self.state) if self.shuffle_dataset else sampler

    # The mass

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """As in TRL, but colocated vLLM gets shortened prompts; training continues with ``prompt_ids`` as given.

        vLLM replaces one image token per image by as many as the image has, so a prompt must have one per image. A vLLM server
        needs all of them: TRL sends it the features, placed on these tokens.
        """
        if self.use_vllm:
            trained = prompt_ids
            if self.vllm_mode == "colocate" and self.state.global_step != self._last_loaded_step:
                forget_image_features(self.vllm_generation)  # TRL sends the new weights next
            if images is not None:
                images = self._as_read(images)
                if self.vllm_mode == "colocate":
                    prompt_ids = one_token_per_image(prompt_ids, images, self.image_token)
            with read_as_trained(self.vllm_generation, trained, self.image_token):
                return super()._generate_single_turn(prompt_ids, images, *args, **kwargs)
        generate = partial(super()._generate_single_turn, prompt_ids, images, *args, **kwargs)
        rows = self.continued_rows()
        by_image = self.options.zoom is not None
        with AttentionMass(self.model, layers=self.options.attention_layers, per_token=by_image) as probe:
            completion_ids, logprobs = self.finite_sample(generate)
        parts = [probe.mass, probe.lift]
        if by_image and probe.token_mass is not None:
            parts += image_masses(probe.token_mass, prompt_ids, self.image_token)
        self._keep(parts, completion_ids, rows)
        return completion_ids, logprobs

    def _as_read(self, images: Sequence[Sequence[Any] | None]) -> list[list[Any] | None]:
        """The images in training's size. The engine's limits let them pass as they are (``engine_arguments``)."""
        fitted = {id(one): fit_image(one, self.full_processor) for row in images for one in row or ()}
        return [[fitted[id(one)] for one in row] if row else None for row in images]

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """With vLLM, record the mass in the first pass without gradients over the sampled responses."""
        compute = partial(super()._get_per_token_logps_and_entropies, model, *args, **kwargs)
        if not self.use_vllm or torch.is_grad_enabled() or self.recorded or model is not self.model:
            return compute()
        return self._recording_pass(compute, *args[:3])

    def _recording_pass(self, compute: Callable[[], Any], ids: Tensor, mask: Tensor, logits_to_keep: int) -> Any:
        """Run a forward over prompt and completion, and record the query rows of a generation: 1 + completion per sequence."""
        with AttentionMass(self.model, layers=self.options.attention_layers, rows=logits_to_keep + 1) as probe:
            result = compute()
        mass, lift = (torch.cat([getattr(part, name) for part in probe.recordings], dim=1) for name in ("mass", "lift"))
        kept = mask[:, -logits_to_keep:].bool()
        rows = [row[chosen].tolist() for row, chosen in zip(ids[:, -logits_to_keep:], kept, strict=True)]
        self._keep([mass, lift], rows)
        return result

    def _keep(
        self, quantities: Sequence[Tensor], completion_ids: Sequence[Sequence[int]], rows: Sequence[int] | None = None
    ) -> None:
        """Store the (T,) mass and lift of each response, averaged over layers, without the end-of-turn token.

        Args:
            quantities: mass, lift, and the mass of each image if these are recorded.
            rows: the responses that these tokens continue, after a tool's result; None if they begin all responses.
        """
        counts = [self._token_count(ids) for ids in completion_ids]
        parts = [response_mass(values, counts, rows=self.options.attention_rows) for values in quantities]
        found = [[one.mean(0).float().cpu() for one in row] for row in zip(*parts, strict=True)]
        if rows is None:
            self.recorded, self.by_image = [], []
        for row, (mass, lift, *images) in zip(rows or range(len(found)), found, strict=True):
            own = [one for one in images if not one.isnan().all()]  # another response may have more images
            seen = torch.stack(own, 1) if own else torch.empty(len(mass), 0)
            if rows is None:
                self.recorded.append((mass, lift))
                self.by_image.append(seen)
            else:
                before = self.recorded[row]
                self.recorded[row] = torch.cat([before[0], mass]), torch.cat([before[1], lift])
                self.by_image[row] = joined_rows(self.by_image[row], seen)

    def _token_count(self, ids: Sequence[int]) -> int:
        return len(ids) - self._finished(ids)

    def _finished(self, ids: Sequence[int]) -> bool:
        return bool(ids) and ids[-1] in self.eos_token_ids

    def row_names(self, numbers: Sequence[int]) -> str:
        ids = [self.problems[number].id for number in numbers]
        return "problems " + shortened(list(dict.fromkeys(ids)))

    # Rewards

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        problems = [self.problems[row["index"]] for row in inputs]
        rollouts = [
            self._rollout(row, problem, ids)
            for row, (problem, ids) in enumerate(zip(problems, completion_ids_list, strict=True))
        ]
        self.recorded = []
        self._measure_information(rollouts, [row["index"] for row in inputs], completion_ids_list)
        self.claim_checker.prepare(rollouts, [problem.images for problem in problems])
        own = batch_rows(rollouts, self.options.lift_floor, self.own)
        self.rows = rows = gather_object(own)
        mode = "train" if self.model.training else "eval"
        size: Any = self.num_generations if mode == "train" else self.num_generations_eval
        options = self.options
        columns = combine(
            rows, self.composition, size, self.args.seed + self.state.global_step, options.drop_in_constant_groups
        )
        for name, column in columns.items():
            if column.isinf().any():  # TRL would silently set every advantage of that group to 0
                raise UserError(
                    f"At step {self.state.global_step + 1} the reward '{name}' is infinite for a response, so its group would have no "
                    "advantage: set its weight to 0, and report it with the last row of log.jsonl."
                )
        for name, value in metrics(rows, size).items():
            self._metrics[mode][name].append(value)
        rewards = torch.stack([columns[term] for term in self.terms], dim=1).to(self.accelerator.device)
        if self.log_completions:
            self.written = gather_object([rollout.text for rollout in rollouts])
            begin = self.accelerator.process_index * len(own)
            paid = reward_sums(rewards, self.reward_weights)[begin : begin + len(own)]
            # With calls, text and tokens of a response each have parts that the other lacks.
            called = [bool(rollout.calls) for rollout in rollouts]
            ids = [[] if calls else own for own, calls in zip(completion_ids_list, called, strict=True)]
            logged = logged_columns(problems, rollouts, ids, paid, self.reader.tokenizer)
            for name, values in logged.items():
                self._log_completion_extra(name, values)
        return rewards

    def _rollout(self, row: int, problem: Problem, ids: list[int]) -> Rollout:
        tokenizer, (mass, lift) = self.reader.tokenizer, self.recorded[row]
        turns = own_positions(ids, self.tool_masks[row] if self.tool_masks else None, self.eos_token_ids)
        count = sum(map(len, turns))
        text, thought = read_own_turns(tokenizer, [[ids[at] for at in turn] for turn in turns])
        zoomed = rollout_calls(self, row, count, len(problem.images)) if self.options.zoom else {}
        return Rollout(
            text=text,
            domain=problem.domain,
            gold=problem.answer,
            choices=problem.choices,
            decimal=problem.decimal,
            token_count=count,
            finished=self._finished(ids),
            n_images=len(problem.images),
            mass=mass[:count],  # TRL cuts what exceeds the limit after a result
            lift=lift[:count],
            thought=thought,
            thinks=self.options.style == "think",
            facts=problem.facts,
            question=problem.question,
            **zoomed,
        )

    def _measure_information(self, rollouts: list[Rollout], indices: list[int], completion_ids: Any) -> None:
        """If ``image_information`` is among the rewards, also with weight 0: three forwards over the responses."""
        if self.mismatched is None:
            return
        problems = [self.problems[index] for index in indices]
        rows = [
            (problem, self.problems[self.mismatched[index]] if index in self.mismatched else None)
            for problem, index in zip(problems, indices, strict=True)
        ]
        turns = [problem_messages(problem, self.options.style, self.reader) for problem in problems]
        responses = [ids[: rollout.token_count] for ids, rollout in zip(completion_ids, rollouts, strict=True)]
        with self.accelerator.autocast():
            found = information(self.model, self.reader, rows, turns, responses, self.accelerator.device)
        for rollout, (other, empty) in zip(rollouts, found, strict=True):
            rollout.information, rollout.information_blank = other, empty

    # Saving

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # the loaded processor, not its stand-in (encoded_once)
            self.full_processor.save_pretrained(output_dir or self.args.output_dir)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Left out: it would describe the run as TRL's example."""


def conversation_text(turns: str | list[dict[str, Any]]) -> str:
    """A conversation as plain text, with ``<image>`` for an image; a text is returned as it is."""
    if isinstance(turns, str):
        return turns
    contents = ([{"type": "text", "text": c}] if isinstance(c := turn["content"], str) else c for turn in turns)
    return "\n".join("".join(part.get("text", f"<{part['type']}>") for part in parts) for parts in contents)
