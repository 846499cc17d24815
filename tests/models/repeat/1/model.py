"""Answers one request many times."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._answer(request)

    def _answer(self, request: Any) -> None:
        times = pb_utils.get_input_tensor_by_name(request, "TIMES").as_numpy()[0]
        sender = request.get_response_sender()
        for step in range(1, times + 1):
            tensor = pb_utils.Tensor("STEP", np.array([step], dtype=np.int32))
            sender.send(pb_utils.InferenceResponse([tensor]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
