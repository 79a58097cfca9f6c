"""The models of the roles: for each role its model, connection and sampling settings."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from configs.api_key import refuse_secrets
from configs.schema import KeyVariable, ModelName, StrictModel
from data_construction.prompts import Prompts
from data_construction.records import ROLES, Role
from vlm.backends import RequestShape, check_key
from vlm.protocol import Backend

SentKey = Literal["max_tokens", "temperature", "top_p", "seed"]


class RequestConfig(StrictModel):
    """How the body of a request to a server differs from the usual one.

    Attributes:
        drop: keys that are not sent: of ``max_tokens``, ``temperature``, ``top_p``, ``seed``.
        rename: key -> the server's name for it, e.g. ``{max_tokens: max_completion_tokens}``.
    """

    drop: list[SentKey] = Field(default_factory=list)
    rename: dict[SentKey, str] = Field(default_factory=dict)


class RoleConfig(StrictModel):
    """Settings of one role. A missing one comes from ``roles.reasoner`` (for the three text roles), then from the loop.

    Attributes:
        model: overrides ``model`` (responder) or ``reasoner`` (the others).
        api_key_env: the environment variable that holds the server's key.
        temperature, top_p, max_tokens: of every call of this role; override ``loop.temperature`` and ``loop.tokens``.
        extra_body: further keys for a server, e.g. ``{chat_template_kwargs: {enable_thinking: false}, top_k: 20}``. They win over
            the settings above.
        request: see ``RequestConfig``.
        max_image_pixels: larger images are scaled down to this before they are sent to a server.
        timeout: seconds for one attempt; max_retries: further attempts after 429, 5xx, a timeout or a lost connection.
        concurrency: most requests to the server at the same time. Roles with the same model and settings share it.
    """

    model: ModelName | None = None
    api_key_env: KeyVariable = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    extra_body: Annotated[dict[str, Any], AfterValidator(refuse_secrets)] = Field(default_factory=dict)
    request: RequestConfig = RequestConfig()
    max_image_pixels: int | None = Field(default=None, ge=1)
    timeout: float = Field(default=120.0, gt=0)
    max_retries: int = Field(default=4, ge=0)
    concurrency: int = Field(default=128, ge=1)


class RolesConfig(StrictModel):
    """The settings of the roles; ``reasoner`` stands for requester, summarizer and rewriter together."""

    reasoner: RoleConfig = RoleConfig()
    requester: RoleConfig = RoleConfig()
    responder: RoleConfig = RoleConfig()
    summarizer: RoleConfig = RoleConfig()
    rewriter: RoleConfig = RoleConfig()

    def of(self, role: Role) -> RoleConfig:
        """The settings of a role, completed by those of ``reasoner``."""
        own: RoleConfig = getattr(self, role)
        if role == "responder":
            return own
        given = {key: getattr(own, key) for key in own.model_fields_set}
        if own.model is not None:  # another model may be another server, which must not get the reasoner's key
            given.setdefault("api_key_env", None)
        return self.reasoner.model_copy(update=given)


@dataclass(frozen=True)
class Roles:
    """The backends of the roles.

    Attributes:
        reasoner: plays requester, summarizer and rewriter.
        others: the backends of roles with their own model or connection.
        alone: held by a look with the zoom tool while a model in this process writes its turns, which are no batch.
    """

    reasoner: Backend
    responder: Backend
    prompts: Prompts
    settings: RolesConfig = field(default_factory=RolesConfig)
    others: dict[Role, Backend] = field(default_factory=dict)
    alone: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False, repr=False)

    def backend(self, role: Role) -> Backend:
        return self.others.get(role) or (self.responder if role == "responder" else self.reasoner)

    async def aclose(self) -> None:
        for backend in {id(one): one for one in (self.reasoner, self.responder, *self.others.values())}.values():
            await backend.aclose()


def check_role_keys(model: str, reasoner: str, settings: RolesConfig) -> None:
    """Check the API keys that ``open_roles`` would read. Raises ConfigError as ``configs.api_key.read_key`` does."""
    for role in ROLES:
        one = settings.of(role)
        check_key(_model_of(role, one, model, reasoner), one.api_key_env)


def _model_of(role: Role, settings: RoleConfig, model: str, reasoner: str) -> str:
    return settings.model or (model if role == "responder" else reasoner)


def open_roles(
    make: Callable[..., Backend],
    model: str,
    reasoner: str,
    settings: RolesConfig,
    prompts: Prompts,
    batch_size: int,
    dtype: str = "float32",
) -> Roles:
    """Open the backends of all roles. Roles with the same model and connection share one.

    Args:
        make: ``vlm.backends.make_backend``.
        model, reasoner: names of the responder's model and of the text model.
        batch_size, dtype: of models in this process.

    Raises:
        ConfigError, UserError: as ``make`` does.
    """
    opened: dict[tuple[Any, ...], Backend] = {}

    def backend(role: Role) -> Backend:
        one = settings.of(role)
        name = _model_of(role, one, model, reasoner)
        renamed = {str(key): name for key, name in one.request.rename.items()}
        connection = {
            "api_key_env": one.api_key_env,
            "timeout": one.timeout,
            "max_retries": one.max_retries,
            "concurrency": one.concurrency,
            "shape": RequestShape(tuple(one.request.drop), renamed, one.max_image_pixels),
        }
        # The settings of a connection do not matter for a model in this process, so it is loaded only once.
        text_only = role != "responder"
        key = (name, repr(connection)) if name.startswith("openai:") else (name, text_only)
        if key not in opened:
            opened[key] = make(name, batch_size=batch_size, dtype=dtype, text_only=text_only, **connection)
        return opened[key]

    players = {role: backend(role) for role in ROLES}
    own: dict[Role, Backend] = {role: one for role, one in players.items() if one is not players["requester"]}
    responder = own.pop("responder", players["requester"])
    return Roles(players["requester"], responder, prompts, settings, own)
