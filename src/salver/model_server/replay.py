"""A logged request, asked once more of a servable.

It runs like one from the wire: the verbs check it, so what a version cannot answer is found out.
"""

from __future__ import annotations

from salver.apis.prediction_log import (
    Answer,
    ClassifyLog,
    MultiInferenceLog,
    PredictionLog,
    PredictLog,
    RegressLog,
)
from salver.inference import classify, multi_inference, predict, regress
from salver.metrics import Metrics
from salver.model_server.measuring import TimedServable
from salver.servables.servable import Servable


class Replayer:
    """Asks logged requests; their runs are counted as those of requests are."""

    def __init__(self, metrics: Metrics, *, check_method_name: bool = False) -> None:
        self._metrics = metrics
        self._check_method_name = check_method_name

    def replay(self, servable: Servable, log: PredictionLog, timeout_s: float | None) -> Answer:
        """What the servable answers.

        The model and version that the log names are not looked at: it was meant for another one.

        Raises:
            ServingError: what a client would be told.
        """
        timed = TimedServable(servable)
        answer = self._asked(timed, log, timeout_s)
        self._metrics.graph_runs.increment()
        self._metrics.graph_run_time_usecs.increment(by=int(timed.took_us))
        if not isinstance(log, MultiInferenceLog):
            name = log.model_name
            self._metrics.runtime_latency.observe(timed.took_us, name, _api(log), "TF1")
        return answer

    def _asked(self, servable: Servable, log: PredictionLog, timeout_s: float | None) -> Answer:
        checks = self._check_method_name
        if isinstance(log, PredictLog):
            return predict(servable, log.request, timeout_s=timeout_s, check_method_name=checks)
        if isinstance(log, MultiInferenceLog):
            return multi_inference(
                servable, log.tasks, log.examples, timeout_s=timeout_s, check_method_name=checks
            )
        verb = classify if isinstance(log, ClassifyLog) else regress
        return verb(
            servable,
            log.signature_name,
            log.examples,
            timeout_s=timeout_s,
            check_method_name=checks,
        )


def _api(log: PredictLog | ClassifyLog | RegressLog) -> str:
    if isinstance(log, PredictLog):
        return "Predict"
    return "Classify" if isinstance(log, ClassifyLog) else "Regress"
