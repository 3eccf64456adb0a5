"""Variables that Keras 3 leaves empty, filled from their twins.

``tf.saved_model.save`` gives each variable of a Keras 3 model a twin that starts as its copy, lets
the checkpoint restore the twins, and lets the signatures read the originals.  TensorFlow's Python
package makes the objects anew and does not notice.  A session does: TensorFlow Serving loads such a
model, and then fails every request with "Could not find variable".

Only what is empty after the load is filled, and only from a variable that was restored and whose
initializer says that it is a copy.  The two share their memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from salver.protos.session_bundle_pb2 import SaverDef
from salver.saved_model_files import SAVER_DEF, nested
from salver.servables.libtensorflow import LibTensorFlow, Output
from salver.servables.tensorflow_graph import run_op
from salver.servables.tensorflow_session import Session

_COPY: Final = "/Initializer/ReadVariableOp"
"""What the reading of another variable is called, in a variable that starts as a copy of it."""

_VALUE: Final = "/Read/ReadVariableOp"
_ADDED: Final = "salver_twins"


def fill_from_twins(session: Session, meta_graph: memoryview) -> None:
    """Fill the empty variables of a session that has restored its checkpoint.

    Raises:
        ServingError: what TensorFlow says.
    """
    graph = _Graph(session)
    values = graph.values_of_twins(restore_op(meta_graph))
    empty = graph.empty(tuple(values))
    if empty:
        graph.fill({variable: values[variable] for variable in empty})


def restore_op(meta_graph: memoryview) -> str:
    """The op that reads the checkpoint; none is called ``""``."""
    saver = SaverDef()
    for start, end in nested(meta_graph, 0, len(meta_graph), (SAVER_DEF,)):
        saver.MergeFromString(bytes(meta_graph[start:end]))
    return saver.restore_op_name


class _Graph:
    """The graph of a session, read and added to."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._library: LibTensorFlow = session.library

    def values_of_twins(self, restore: str) -> dict[str, int]:
        """What to fill a variable with that the checkpoint has only a twin of: an op, by name."""
        restored = self._inputs(self._operation(restore))
        found = {}
        for twin in restored:
            copied = self._inputs(self._operation(twin + _COPY))
            value = self._operation(twin + _VALUE)
            if value and len(copied) == 1 and copied[0] not in restored:
                found[copied[0]] = value
        return found

    def empty(self, variables: Sequence[str]) -> list[str]:
        """Those of the variables that nothing has filled."""
        if not variables:
            return []
        names = [f"{_ADDED}/is_filled/{name}" for name in variables]
        for name, variable in zip(names, variables, strict=True):
            self._add("VarIsInitializedOp", name, [self._operation(variable)])
        plan = self._session.plan((), names)
        try:
            are_filled = self._session.run(plan, (), in_caller_thread=True)
        finally:
            plan.close()
        return [
            variable
            for variable, is_filled in zip(variables, are_filled, strict=True)
            if not is_filled
        ]

    def fill(self, values: Mapping[str, int]) -> None:
        """Give each variable the value of an op, all in one run."""
        assigned = [
            self._add("AssignVariableOp", f"{_ADDED}/fill/{name}", [self._operation(name), value])
            for name, value in values.items()
        ]
        run_op(self._session, self._add("NoOp", f"{_ADDED}/fill", after=assigned), [])

    def _operation(self, name: str) -> int:
        """The operation ``name``; 0 if there is none."""
        found: int | None = self._library["TF_GraphOperationByName"](
            self._session.graph, name.encode()
        )
        return found or 0

    def _inputs(self, operation: int) -> list[str]:
        """The operations that an operation takes something of."""
        if not operation:
            return []
        library = self._library
        inputs = [
            library["TF_OperationInput"](Output(operation, index))
            for index in range(library["TF_OperationNumInputs"](operation))
        ]
        return [library["TF_OperationName"](found.operation).decode() for found in inputs]

    def _add(
        self, kind: str, name: str, inputs: Sequence[int] = (), *, after: Sequence[int] = ()
    ) -> int:
        """A new operation on the first outputs of others."""
        library = self._library
        added = library["TF_NewOperation"](self._session.graph, kind.encode(), name.encode())
        for operation in inputs:
            library["TF_AddInput"](added, Output(operation, 0))
        for operation in after:
            library["TF_AddControlInput"](added, operation)
        status = library.take_status()
        finished: int = library["TF_FinishOperation"](added, status)
        library.check(status)
        return finished
