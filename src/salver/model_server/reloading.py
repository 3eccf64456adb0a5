"""HandleReloadConfigRequest: other models from now on, and an answer when the new ones are there.

TensorFlow Serving's call waits for ever where a new model is nowhere to be found, and with it
every later one.  Ours changes the configuration at once and waits on the event loop, each call for
its own models; it ends before the caller's deadline, with a line for each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError

from salver.core.state_monitor import Wait
from salver.errors import (
    Aborted,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServingError,
)
from salver.metrics import Counter, Gauge, Metric, Metrics
from salver.model_server.model_config import ModelConfig, model_configs
from salver.model_server.server_core import Change, ModelProgress, ServerCore, did_not_load
from salver.protos import config_pb2
from salver.wire.calls import Answer

logger = logging.getLogger(__name__)

MAX_CALLS: Final = 64
"""Calls under way together; each keeps its request in memory for as long as it waits."""

MARGIN_S: Final = 0.5
MARGIN_SHARE: Final = 0.1
"""What is left of the caller's time for the answer's way back: the share, or at most the margin."""

MAX_LINES: Final = 100
"""Models that have a line of an answer for themselves."""

MAX_LOGGED_CHARS: Final = 4096


class Reloading:
    """Answers ModelService.HandleReloadConfigRequest; used from the event loop's thread."""

    def __init__(self, core: ServerCore, metrics: Metrics, *, wait_s: float) -> None:
        """``wait_s`` is how long a call without a deadline waits for its new models."""
        self._core = core
        self._metrics = metrics
        self._wait_s = wait_s
        self._calls = 0

    def reload(self, data: bytes, timeout_s: float | None) -> Answer:
        """Apply the configuration of a request, and answer when its new models are there."""
        request = _parsed(data)
        if request.config.WhichOneof("config") != "model_config_list":
            raise InvalidArgument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
                "ModelConfigList is currently supported"
            )
        if self._calls >= MAX_CALLS:
            raise ResourceExhausted(f"{MAX_CALLS} reloads are being waited for already")
        call = asyncio.ensure_future(self._reload(request, timeout_s))
        self._calls += 1  # now: many may be admitted before the first of them runs
        call.add_done_callback(self._done)
        return call

    def _done(self, _call: asyncio.Future[bytes]) -> None:
        self._calls -= 1

    async def _reload(
        self, request: config_pb2.ReloadConfigRequest, timeout_s: float | None
    ) -> bytes:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._patience_s(timeout_s)
        before = first_cells(self._metrics, request.metric_names)
        # Not on the loop: a thousand models take a while to check, and the log may be slow.
        change = await loop.run_in_executor(None, self._apply, request.config)
        await self._until_there(change, give_up_s - loop.time())
        is_out_of_time = loop.time() >= give_up_s
        await loop.run_in_executor(None, self._check, change, is_out_of_time)
        return _answer(before, first_cells(self._metrics, before))

    def _check(self, change: Change, is_out_of_time: bool) -> None:
        """See what a change came to; raise unless all is well."""
        error = outcome(self._core.progress(change), change.revision, is_out_of_time)
        if error is not None:
            logger.warning("HandleReloadConfigRequest: %s", str(error)[:MAX_LOGGED_CHARS])
            raise error

    def _patience_s(self, timeout_s: float | None) -> float:
        if timeout_s is None:
            return self._wait_s
        return timeout_s - min(MARGIN_S, timeout_s * MARGIN_SHARE)

    def _apply(self, config: config_pb2.ModelServerConfig) -> Change:
        configs: Sequence[ModelConfig] | None = model_configs(config, self._core.platforms())
        return self._core.configure(configs)

    async def _until_there(self, change: Change, timeout_s: float) -> None:
        """Wait until each new model is ready, has failed, or is known not to come."""
        loop = asyncio.get_running_loop()
        is_over = asyncio.Event()
        wait = self._core.when_there(change, partial(_call_soon, loop, is_over.set))
        # The next poll would find the new models, too; with a period of 0 there is none.
        looked = partial(self._looked, change, wait)
        self._core.look_soon(looked)
        try:
            await asyncio.wait_for(is_over.wait(), max(timeout_s, 0.0))
        except asyncio.TimeoutError:
            pass
        finally:
            wait.cancel()
            self._core.forget_look(looked)

    def _looked(self, change: Change, wait: Wait) -> None:
        wait.give_up(self._core.not_to_be_found(change))


def outcome(
    progress: Sequence[ModelProgress], revision: str, is_out_of_time: bool
) -> ServingError | None:
    """What a call that changed the configuration ends with, or None if all is well."""
    failed = [model.failed for model in progress if model.failed is not None]
    waiting = [model for model in progress if not model.is_ready and model.failed is None]
    if not waiting:
        return did_not_load(failed, "model") if failed else None
    # What a status text has room for is little: what is amiss comes first.
    shown = sorted(progress, key=_is_fine)[:MAX_LINES]
    lines = [f"{model.name}: {model.text}" for model in shown]
    if len(progress) > MAX_LINES:
        lines.append(f"and {len(progress) - MAX_LINES} more")
    ready = len(progress) - len(waiting) - len(failed)
    what = f"Configuration {revision} holds; {ready} of {len(progress)} new models are available.\n"
    return _kind(waiting, is_out_of_time)(what + "\n".join(lines))


def first_cells(metrics: Metrics, names: Iterable[str]) -> dict[str, int]:
    """The number in the first cell of each metric; 0 where there is none or it is no number."""
    known = metrics.by_name()
    return {name: _first_cell(known.get(name)) for name in names}


def _first_cell(metric: Metric | None) -> int:
    if not isinstance(metric, (Counter, Gauge)):
        return 0
    values = metric.values()
    return values[min(values)] if values else 0


def _is_fine(model: ModelProgress) -> bool:
    return model.is_ready


def _kind(waiting: Sequence[ModelProgress], is_out_of_time: bool) -> type[ServingError]:
    if is_out_of_time:
        return DeadlineExceeded
    return Aborted if any(model.is_superseded for model in waiting) else NotFound


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended: nobody waits any more
        loop.call_soon_threadsafe(callback)


def _parsed(data: bytes) -> config_pb2.ReloadConfigRequest:
    try:
        return config_pb2.ReloadConfigRequest.FromString(data)
    except DecodeError as error:
        raise Internal(
            f"the {len(data)} bytes received are no tensorflow.serving.ReloadConfigRequest: {error}"
        ) from error


def _answer(before: Mapping[str, int], after: Mapping[str, int]) -> bytes:
    response = config_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    for name, value in before.items():
        response.metric.add(name=name, int64_value_increase=after[name] - value)
    return response.SerializeToString()
