"""Whether a version that is loaded could be asked anything at all.

An export without a signature loads well, takes the place of the version before it, and then answers
every request with an error; whoever exported it hears of that from clients.
"""

from __future__ import annotations

import logging
from typing import Final

from salver.errors import FailedPrecondition
from salver.model_server.rehearsal import Candidate, Pace

logger = logging.getLogger(__name__)

_OF_THE_LOADER: Final = frozenset({"__saved_model_init_op", "__saved_model_train_op"})
"""Signatures that TensorFlow writes for itself."""


class Askable:
    """The first thing a version goes through: has it a signature?"""

    def __init__(self, *, required: bool) -> None:
        """Without ``required`` a version that has none serves, and the log says so."""
        self._required = required

    def __call__(self, candidate: Candidate, pace: Pace) -> None:  # noqa: ARG002 -- nothing is run
        """Look at the signatures; nothing is run.

        Raises:
            FailedPrecondition: there is none, and one is required.
        """
        if not _OF_THE_LOADER.issuperset(candidate.servable.signatures):
            return
        text = (
            f"{candidate.path} has no signature, so no request can name one; export it with "
            "tf.saved_model.save(model, FOLDER, signatures=...) or a Keras model's export(FOLDER)"
        )
        if self._required:
            raise FailedPrecondition(text)
        logger.warning("Servable %s: %s", candidate.id, text)
