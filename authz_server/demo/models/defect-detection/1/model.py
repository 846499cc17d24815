"""Triton's entry point: tensors in, tensors out; the computation is in `defects`."""

import numpy as np
import triton_python_backend_utils as pb_utils

import defects


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        image = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
        if image.size == 0:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("IMAGE is empty"))
        boxes, scores = defects.find_defects(image)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("COUNT", np.array([len(boxes)], dtype=np.int32)),
                pb_utils.Tensor("BOXES", boxes),
                pb_utils.Tensor("SCORES", scores),
            ]
        )
