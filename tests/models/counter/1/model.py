"""Keeps a sum for each sequence."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, _: dict[str, str]) -> None:
        self._sums: dict[int, int] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        number, start, sequence = (
            int(pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0])
            for name in ("NUMBER", "START", "SEQUENCE")
        )
        before = 0 if start else self._sums[sequence]
        self._sums[sequence] = before + number
        total = np.array([self._sums[sequence]], dtype=np.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", total)])
