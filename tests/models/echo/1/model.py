"""Answers with the tensors and the parameters of the request."""

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        parameters = request.parameters()
        # So that a caller can be less patient than the model.
        time.sleep(json.loads(parameters).get("delay_ms", 0) / 1000)
        said = np.array([parameters.encode()], dtype=np.object_)
        return pb_utils.InferenceResponse(
            output_tensors=[
                *(
                    pb_utils.Tensor(tensor.name(), tensor.as_numpy())
                    for tensor in request.inputs()
                ),
                pb_utils.Tensor("PARAMETERS", said),
            ]
        )
